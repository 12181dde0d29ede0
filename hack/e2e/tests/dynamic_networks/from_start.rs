//! Annotations that are there when the Pod starts, without Multus.

use e2e::{BUSYBOX_IMAGE, NETWORKS, wait_for};
use serde_json::json;

use crate::{agent, leased, lock};

#[test]
fn with_nri_the_interfaces_are_there_before_the_first_container() {
    let node = lock();
    let agent = agent(&node, &["-nri"]);
    agent.wait_until_connected();
    node.define_network("early", &leased("early", "10.63.1.0/24"));
    let pod =
        node.networked_pod("early", &json!([{"name": "early", "interface": "x0"}, {"name": "early"}]).to_string());
    // the container lists its interfaces first
    node.wait_for_logs(&[pod.name()], &["x0@", "net1@"]);
    pod.wait_for_status(&[("default/early", "x0"), ("default/early", "net1")]);
    pod.delete();
    wait_for("the leases are free", || (node.cni_leases("early").len(), agent.output()), |(count, _)| *count == 0);
}

#[test]
fn with_nri_a_pod_does_not_start_without_its_network_and_says_why() {
    let node = lock();
    let agent = agent(&node, &["-nri"]);
    agent.wait_until_connected();
    let pod = node.begin_networked_pod(
        "refused-early",
        &json!([{"name": "later", "interface": "x0"}]).to_string(),
        &json!({}),
    );
    let described = || node.kubectl(&["describe", "pod", pod.name()]).stdout;
    wait_for("the reason is shown", described, |text| text.contains("default/later"));
    assert_ne!(node.get(&["pod", pod.name()])["status"]["phase"], "Running", "{}", agent.output());
    node.define_network("later", &leased("later", "10.63.2.0/24"));
    node.wait_until_ready(pod.name());
    pod.wait_for_status(&[("default/later", "x0")]);
    pod.delete();
    drop(agent);
}

#[test]
fn with_nri_a_pod_on_the_nodes_network_runs() {
    let node = lock();
    let agent = agent(&node, &["-nri"]);
    agent.wait_until_connected();
    let host_network = json!({"hostNetwork": true});
    let pod = node.begin_networked_pod("host-early", &json!([{"name": "any"}]).to_string(), &host_network);
    node.wait_until_ready(pod.name());
    pod.wait_for_event("InterfaceAddRejected", "will not add interface to host networked pod");
    assert_eq!(pod.status(), [] as [serde_json::Value; 0], "{}", agent.output());
    let rejections: Vec<_> = pod.events().into_iter().filter(|it| it.0 == "InterfaceAddRejected").collect();
    assert!(matches!(&rejections[..], [(_, _, 1)]), "{rejections:?}");
    pod.delete();
    drop(agent);
}

#[test]
fn a_sandbox_that_is_made_anew_gets_everything_again() {
    let node = lock();
    let agent = agent(&node, &[]);
    node.define_network("anew", &leased("anew", "10.63.3.0/24"));
    let pod = node.networked_pod("anew", &json!([{"name": "anew", "interface": "x0"}]).to_string());
    pod.wait_for_status(&[("default/anew", "x0")]);
    let sandbox = || {
        let pods = node.crictl(&["pods", "--name=^anew$", "--state=ready", "--output=json"]).json();
        pods["items"][0]["id"].as_str().unwrap_or_default().to_owned()
    };
    let first = sandbox();
    pod.request(&json!([{"name": "anew", "interface": "x0"}, {"name": "anew", "interface": "x1"}]));
    pod.wait_for_status(&[("default/anew", "x0"), ("default/anew", "x1")]);
    node.sh(&format!("kill -KILL $(crictl inspectp --output go-template --template '{{{{.info.pid}}}}' {first})"));
    wait_for("a new sandbox", sandbox, |now| !now.is_empty() && *now != first);
    wait_for("it has both", || (pod.interfaces(), agent.output()), |(names, _)| *names == ["x0", "x1"]);
    let of_new = |owners: &Vec<String>| owners.len() == 2 && owners.iter().all(|id| *id == sandbox());
    let owners = || node.cni_leases("anew").into_values().map(|(id, _)| id).collect();
    wait_for("the old leases are free", owners, of_new);
    let address = |name: &str| pod.network().addresses(name).concat().trim_end_matches("/24").to_owned();
    wait_for(
        "the status has the new addresses",
        || pod.status(),
        |status| {
            status.len() == 2
                && status.iter().all(|it| it["ips"] == json!([address(it["interface"].as_str().unwrap_or_default())]))
        },
    );
    pod.delete();
    drop(agent);
}

#[test]
fn a_static_pod_is_plugged_by_its_manifest_and_by_its_mirror() {
    let node = lock();
    let agent = agent(&node, &[]);
    node.define_network("static", &leased("static", "10.63.4.0/24"));
    let manifest = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "fixed", "annotations": {NETWORKS: json!([{"name": "static", "interface": "x0"}]).to_string()}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "c", "image": BUSYBOX_IMAGE, "command": ["sleep", "1000000"]}]}});
    node.static_pod("fixed", &manifest.to_string());
    let name = format!("fixed-{}", node.name());
    wait_for("the kubelet made the mirror", || node.get(&["pod", &name]), |pod| !pod.is_null());
    let pod = node.known_pod(&name);
    pod.wait_for_status(&[("default/static", "x0")]);
    pod.wait_for_interfaces(&["x0"]);
    let mac = pod.status_of("x0")["mac"].clone();
    // the kubelet leaves annotations of the mirror alone
    pod.request(&json!([{"name": "static", "interface": "x0"}, {"name": "static", "interface": "x1"}]));
    pod.wait_for_status(&[("default/static", "x0"), ("default/static", "x1")]);
    pod.wait_for_interfaces(&["x0", "x1"]);
    assert_eq!(pod.status_of("x0")["mac"], mac, "{}", agent.output());
    pod.wait_for_event("AddedInterface", "added interface x1 to network: static");
    node.remove_static_pod("fixed");
    wait_for("the leases are free", || (node.cni_leases("static").len(), agent.output()), |(count, _)| *count == 0);
    drop(agent);
}
