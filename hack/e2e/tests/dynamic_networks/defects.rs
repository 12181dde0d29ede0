//! What goes wrong with multus-dynamic-networks-controller, one test for each defect.

use e2e::{Action, wait_for};
use serde_json::json;

use crate::{MASTER, agent, as_requested, layer2, leased, lock};

#[test]
fn an_element_without_an_interface_gets_the_next_free_name_and_keeps_it() {
    let node = lock();
    let agent = agent(&node, &[]);
    node.define_network("free-name", &layer2());
    let network = "default/free-name";
    let pod = node.networked_pod("free-name", "");
    pod.request(&json!([{"name": "free-name"}, {"name": "free-name", "interface": "net2"}, {"name": "free-name"}]));
    pod.wait_for_interfaces(&["net1", "net2", "net3"]);
    pod.request_text("free-name");
    pod.wait_for_status(&[(network, "net1")]);
    let mac = pod.status_of("net1")["mac"].clone();
    pod.request_text("free-name@other,free-name");
    pod.wait_for_interfaces(&["net1", "other"]);
    assert_eq!(pod.status_of("net1")["mac"], mac, "it is the same interface\n{}", agent.output());
    pod.delete();
    drop(agent);
}

#[test]
fn an_element_that_asks_for_eth0_does_not_touch_eth0() {
    let node = lock();
    let agent = agent(&node, &[]);
    node.define_network("greedy", &layer2());
    let pod = node.networked_pod("greedy", "");
    let before = pod.network().interface("eth0").expect("every pod has it");
    pod.request(&json!([{"name": "greedy", "interface": "eth0"}, {"name": "greedy", "interface": "good0"}]));
    pod.wait_for_status(&[("default/greedy", "good0")]);
    pod.wait_for_event("FailedAddingInterface", "eth0");
    pod.request(&json!([]));
    pod.wait_for_status(&[]);
    pod.wait_for_interfaces(&[]);
    let now = pod.network().interface("eth0").expect("it is still there");
    assert_eq!((&now["ifindex"], &now["address"]), (&before["ifindex"], &before["address"]), "{}", agent.output());
    assert_eq!(pod.network().addresses("eth0").len(), 1);
    pod.delete();
    drop(agent);
}

#[test]
fn after_a_partial_failure_the_status_has_what_the_pod_has() {
    let node = lock();
    let agent = agent(&node, &[]);
    node.define_network("works", &layer2());
    let mut missing = layer2();
    missing["master"] = "dnmissing0".into();
    node.define_network("fails", &missing);
    let pod = node.networked_pod("partial", "");
    let elements = json!([{"name": "works", "interface": "a0"}, {"name": "fails", "interface": "b0"},
        {"name": "works", "interface": "c0"}]);
    pod.request(&elements);
    pod.wait_for_event("FailedAddingInterface", "failed adding interface b0 to network: fails");
    pod.wait_for_status(&[("default/works", "a0"), ("default/works", "c0")]);
    assert_eq!(pod.interfaces(), ["a0", "c0"], "{}", agent.output());
    let mac = pod.status_of("a0")["mac"].clone();
    // and it is tried again
    node.sh("ip link add dnmissing0 type ifb; ip link set dnmissing0 up");
    wait_for("b0 is plugged", || pod.plugged(), |plugged| plugged.len() == 3);
    assert_eq!(pod.status_of("a0")["mac"], mac, "a0 was left alone\n{}", agent.output());
    pod.delete();
    node.sh("ip link delete dnmissing0");
    drop(agent);
}

#[test]
fn a_network_that_was_deleted_does_not_block_an_unplug() {
    let node = lock();
    let agent = agent(&node, &[]);
    node.define_network("deleted", &leased("deleted", "10.61.1.0/24"));
    let pod = node.networked_pod("deleted", "");
    pod.request(&json!([{"name": "deleted", "interface": "x0"}]));
    pod.wait_for_status(&[("default/deleted", "x0")]);
    assert_eq!(node.cni_leases("deleted").len(), 1);
    node.delete(&["net-attach-def/deleted"]);
    pod.request(&json!([]));
    pod.wait_for_status(&[]);
    pod.wait_for_interfaces(&[]);
    assert!(node.cni_leases("deleted").is_empty(), "{}", agent.output());
    pod.delete();
    drop(agent);
}

#[test]
fn a_network_that_was_edited_is_unplugged_as_it_was_plugged() {
    let node = lock();
    let agent = agent(&node, &[]);
    node.define_network("edited", &leased("edited-before", "10.61.2.0/24"));
    let pod = node.networked_pod("edited", "");
    pod.request(&json!([{"name": "edited", "interface": "x0"}]));
    pod.wait_for_status(&[("default/edited", "x0")]);
    let mac = pod.status_of("x0")["mac"].clone();
    node.define_network("edited", &leased("edited-after", "10.61.3.0/24"));
    // what is there stays as it was made, what comes is as it is now
    pod.request(&json!([{"name": "edited", "interface": "x0"}, {"name": "edited", "interface": "x1"}]));
    pod.wait_for_status(&[("default/edited", "x0"), ("default/edited", "x1")]);
    assert_eq!(pod.status_of("x0")["mac"], mac, "{}", agent.output());
    wait_for("the new one has the new addresses", || node.cni_leases("edited-after"), |leases| leases.len() == 1);
    pod.request(&json!([{"name": "edited", "interface": "x1"}]));
    pod.wait_for_status(&[("default/edited", "x1")]);
    assert!(node.cni_leases("edited-before").is_empty(), "{}", agent.output());
    pod.delete();
    drop(agent);
}

#[test]
fn a_change_of_addresses_or_of_the_mac_plugs_again() {
    let node = lock();
    let agent = agent(&node, &[]);
    node.define_network("changed", &as_requested("changed"));
    let pod = node.networked_pod("changed", "");
    let element = |ip: &str, mac: &str| json!({"name": "changed", "interface": "x0", "ips": [ip], "mac": mac});
    let other = json!({"name": "changed", "interface": "x1", "ips": ["10.61.4.9/24"]});
    pod.request(&json!([element("10.61.4.1/24", "02:00:00:00:61:01"), other]));
    pod.wait_for_status(&[("default/changed", "x0"), ("default/changed", "x1")]);
    let mac = pod.status_of("x1")["mac"].clone();
    for (ip, new) in [("10.61.4.2/24", "02:00:00:00:61:01"), ("10.61.4.2/24", "02:00:00:00:61:02")] {
        pod.request(&json!([element(ip, new), other]));
        let address = ip.trim_end_matches("/24");
        wait_for("the status has it", || pod.status_of("x0"), |it| it["ips"] == json!([address]) && it["mac"] == new);
        assert_eq!(pod.network().addresses("x0"), [ip], "{}", agent.output());
        assert_eq!(pod.network().interface("x0").unwrap_or_default()["address"], new);
    }
    assert_eq!(pod.status_of("x1")["mac"], mac, "the other one was left alone\n{}", agent.output());
    // an address that cannot be given: the Pod keeps what it has
    pod.request(&json!([element("10.61.4.300/24", "02:00:00:00:61:02"), other]));
    wait_for("it is reported", || pod.events(), |events| events.iter().any(|it| it.0 == "InvalidNetworksAnnotation"));
    assert_eq!(pod.network().addresses("x0"), ["10.61.4.2/24"], "{}", agent.output());
    pod.delete();
    drop(agent);
}

#[test]
fn what_changed_while_the_agent_was_down_is_done_by_the_next_one() {
    let node = lock();
    let first = agent(&node, &[]);
    node.define_network("down", &leased("down", "10.61.5.0/24"));
    let pod = node.networked_pod("down", "");
    pod.request(&json!([{"name": "down", "interface": "x0"}, {"name": "down", "interface": "x1"}]));
    pod.wait_for_status(&[("default/down", "x0"), ("default/down", "x1")]);
    let mac = pod.status_of("x1")["mac"].clone();
    first.kill();
    pod.request(&json!([{"name": "down", "interface": "x1"}, {"name": "down", "interface": "x2"}]));
    let second = agent(&node, &[]);
    pod.wait_for_status(&[("default/down", "x1"), ("default/down", "x2")]);
    pod.wait_for_interfaces(&["x1", "x2"]);
    assert_eq!(pod.status_of("x1")["mac"], mac, "{}", second.output());
    assert_eq!(node.cni_leases("down").len(), 2);
    // the annotation removed
    second.kill();
    pod.request_text("");
    let third = agent(&node, &[]);
    pod.wait_for_status(&[]);
    pod.wait_for_interfaces(&[]);
    assert!(node.cni_leases("down").is_empty(), "{}", third.output());
    pod.delete();
    drop(third);
}

#[test]
fn a_slow_plugin_blocks_only_its_pod() {
    let node = lock();
    let slow = "#!/bin/sh\n[ \"$CNI_COMMAND\" != ADD ] || while [ ! -e /run/rig/go ]; do sleep 0.05; done\nexec /opt/cni/bin/macvlan\n";
    node.write("/run/rig/plugins/slow", slow);
    node.sh("chmod +x /run/rig/plugins/slow; rm -f /run/rig/go");
    let agent = agent(&node, &[]);
    let mut network = layer2();
    network["type"] = "slow".into();
    node.define_network("slow", &network);
    node.define_network("fast", &layer2());
    let (waits, works) = (node.networked_pod("slow", ""), node.networked_pod("fast", ""));
    waits.request(&json!([{"name": "slow", "interface": "x0"}]));
    wait_for("the plugin runs", || node.run(["pgrep", "-f", "plugins/slow"]).success(), |runs| *runs);
    works.request(&json!([{"name": "fast", "interface": "x0"}]));
    works.wait_for_status(&[("default/fast", "x0")]);
    works.request(&json!([]));
    works.wait_for_status(&[]);
    assert!(waits.interfaces().is_empty(), "{}", agent.output());
    // the API server goes away while the plugin runs, and the status is written when it is back
    node.apiserver(Action::Stop);
    node.write("/run/rig/go", "");
    waits.wait_for_interfaces(&["x0"]);
    node.apiserver(Action::Start);
    waits.wait_for_status(&[("default/slow", "x0")]);
    // and the watches go on
    waits.request(&json!([{"name": "fast", "interface": "x1"}]));
    waits.wait_for_status(&[("default/fast", "x1")]);
    waits.wait_for_interfaces(&["x1"]);
    waits.delete();
    works.delete();
    drop(agent);
}

#[test]
fn a_pod_on_the_nodes_network_is_refused_once() {
    let node = lock();
    let agent = agent(&node, &[]);
    node.define_network("refused", &layer2());
    let elements = json!([{"name": "refused", "interface": "x0"}]).to_string();
    let pod = node.begin_networked_pod("on-host", &elements, &json!({"hostNetwork": true}));
    let refusal = "pod [default/on-host]: will not add interface to host networked pod";
    pod.wait_for_event("InterfaceAddRejected", refusal);
    for label in ["a=1", "a=2"] {
        node.kubectl(&["label", "--overwrite", "pod", pod.name(), label]).text();
    }
    // what comes after these changes is done: so are they
    let other = node.networked_pod("not-on-host", "");
    other.request_text(&elements);
    other.wait_for_status(&[("default/refused", "x0")]);
    other.wait_for_event("AddedInterface", "x0");
    let events = pod.events();
    assert_eq!(events, [("InterfaceAddRejected".to_owned(), refusal.to_owned(), 1)], "{}", agent.output());
    assert!(!node.has_link("x0") && node.has_link(MASTER));
    pod.delete();
    other.delete();
    drop(agent);
}

#[test]
fn entries_of_other_writers_stay_in_the_status_and_in_their_order() {
    let node = lock();
    let agent = agent(&node, &[]);
    node.define_network("ordered", &layer2());
    let pod = node.networked_pod("ordered", "");
    let others = json!([{"name": "cluster", "interface": "eth0", "ips": ["192.0.2.1"], "default": true, "dns": {}},
        {"name": "file-network", "interface": "eth0", "dns": {}, "x.example.com/key": 1}]);
    let status = format!("{}={others}", e2e::NETWORK_STATUS);
    node.kubectl(&["annotate", "--overwrite", "pod", pod.name(), &status]).text();
    let names: Vec<String> = (0..6).map(|number| format!("x{number}")).collect();
    let elements: Vec<_> = names.iter().map(|name| json!({"name": "ordered", "interface": name})).collect();
    pod.request(&json!(elements));
    let entries: Vec<(&str, &str)> = names.iter().map(|name| ("default/ordered", name.as_str())).collect();
    pod.wait_for_status(&[&[("file-network", "eth0")], &entries[..]].concat());
    pod.request(&json!(elements[3..]));
    pod.wait_for_status(&[&[("file-network", "eth0")], &entries[3..]].concat());
    let now = pod.status();
    assert_eq!(now[..2], others.as_array().expect("it is a list")[..], "{}", agent.output());
    pod.delete();
    drop(agent);
}
