//! With Multus' daemon, which a stand-in takes the place of: the program `multus-stand-in`.

use e2e::{Node, Process, wait_for};
use serde_json::{Value, json};

use crate::{agent, as_requested, leased, lock};

const SOCKET: &str = "/run/multus/multus.sock";
pub(crate) const FLAG: &str = "-multus-socket=/run/multus/multus.sock";

pub(crate) fn multus(node: &Node) -> Process {
    let process = node.spawn([env!("CARGO_BIN_EXE_multus-stand-in"), SOCKET, "/opt/cni/bin"]);
    process.wait_for_output("listening");
    process
}

/// The requests that it got: command, interface, status.
pub(crate) fn requests(multus: &Process) -> Vec<(String, String, u64)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let lines = multus.output();
    let requests = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    requests.map(|it| (text(&it["command"]), text(&it["interface"]), it["status"].as_u64().unwrap_or(0))).collect()
}

#[test]
fn multus_plugs_and_unplugs_and_the_controller_never_sends_what_it_need_not() {
    let node = lock();
    let multus = multus(&node);
    let agent = agent(&node, &[FLAG]);
    node.define_network("by-multus", &as_requested("by-multus"));
    let pod = node.networked_pod("by-multus", "");
    let element = json!({"name": "by-multus", "ips": ["10.64.1.1/24"], "mac": "02:00:00:00:64:01"});
    let second = json!({"name": "by-multus", "interface": "x0", "ips": ["10.64.1.2/24"]});
    pod.request(&json!([element, second]));
    pod.wait_for_status(&[("default/by-multus", "net1"), ("default/by-multus", "x0")]);
    assert_eq!(pod.network().addresses("net1"), ["10.64.1.1/24"], "{}", agent.output());
    assert_eq!(pod.status_of("net1")["mac"], "02:00:00:00:64:01");
    pod.request(&json!([element, {"name": "by-multus", "interface": "eth0", "ips": ["10.64.1.3/24"]}]));
    pod.wait_for_event("FailedAddingInterface", "eth0");
    pod.wait_for_status(&[("default/by-multus", "net1")]);
    assert_eq!(pod.network().addresses("eth0").len(), 1);
    pod.request(&json!([]));
    pod.wait_for_status(&[]);
    pod.wait_for_interfaces(&[]);
    let sent = requests(&multus);
    assert!(!sent.iter().any(|(_, interface, _)| interface == "eth0" || interface.is_empty()), "{sent:?}");
    let good = |verb: &str| sent.iter().filter(|it| it.0 == verb && it.2 == 200).count();
    assert_eq!((good("ADD"), good("DEL")), (2, 2), "{sent:?}");
    pod.delete();
    drop(agent);
}

#[test]
fn what_is_requested_while_multus_is_away_is_done_when_it_is_back() {
    let node = lock();
    let first = multus(&node);
    let agent = agent(&node, &[FLAG]);
    node.define_network("away", &leased("away", "10.64.2.0/24"));
    let pod = node.networked_pod("away", "");
    pod.request(&json!([{"name": "away", "interface": "x0"}]));
    pod.wait_for_status(&[("default/away", "x0")]);
    drop(first);
    node.sh(&format!("rm -f {SOCKET}"));
    pod.request(&json!([{"name": "away", "interface": "x1"}]));
    pod.wait_for_event("FailedAddingInterface", "x1");
    assert_eq!(pod.interfaces(), ["x0"], "{}", agent.output());
    let second = multus(&node);
    pod.wait_for_status(&[("default/away", "x1")]);
    pod.wait_for_interfaces(&["x1"]);
    assert_eq!(node.cni_leases("away").len(), 1, "{:?}\n{}", requests(&second), agent.output());
    pod.delete();
    drop(agent);
}

#[test]
fn the_lease_of_a_deleted_pod_is_free_although_multus_no_longer_knows_the_pod() {
    let node = lock();
    let multus = multus(&node);
    let first = agent(&node, &[FLAG]);
    node.define_network("gone", &leased("gone", "10.64.3.0/24"));
    let (one, two) = (node.networked_pod("gone-one", ""), node.networked_pod("gone-two", ""));
    for pod in [&one, &two] {
        pod.request(&json!([{"name": "gone", "interface": "x0"}]));
        pod.wait_for_status(&[("default/gone", "x0")]);
    }
    one.delete();
    wait_for("the lease is free", || (node.cni_leases("gone").len(), first.output()), |(count, _)| *count == 1);
    first.kill();
    two.delete();
    let second = agent(&node, &[FLAG]);
    let seen = || (node.cni_leases("gone").len(), requests(&multus), second.output());
    wait_for("the lease is free", seen, |(count, _, _)| *count == 0);
    let results = || node.run(["sh", "-c", "ls /var/lib/cni/multus/results 2>/dev/null | grep -c ^gone-"]).stdout;
    wait_for("the results are gone", results, |count| count.trim() == "0");
    drop(second);
}
