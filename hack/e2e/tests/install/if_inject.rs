//! `/if-inject` of the installed agent: it works in the node's mount namespace, with the capabilities of install.yaml.

use e2e::{BUSYBOX_IMAGE, Node, Output};
use serde_json::{Value, json};

use super::lock;

const AGENT: [&str; 6] = ["exec", "--stdin", "--namespace=kube-system", "ds/netdevice-agent", "--", "/if-inject"];

fn if_inject(node: &Node, args: &[&str], input: &str) -> Output {
    node.run_with([&["kubectl"], &AGENT[..], args].concat(), input)
}

/// A Pod that waits for its end.
fn start_pod(node: &Node) {
    node.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: injected}}, spec: {{terminationGracePeriodSeconds: 0, containers: [
        {{name: c, image: '{BUSYBOX_IMAGE}', command: [sleep, '1000000']}}]}}}}"
    ));
    node.wait_until_ready("injected");
}

/// Deletes the Pod, and the agent frees what it had of this network.
#[track_caller]
fn end_pod(node: &Node, network: &str) {
    node.delete(&["pod/injected"]);
    e2e::wait_for("the address is free", || node.cni_leases(network), |leases| leases.is_empty());
    e2e::wait_for("the result is gone", || node.cni_results(network), |results| results.is_empty());
    node.run(["ip", "link", "delete", "injected0"]).text();
}

/// A network of a bridge, which has more fields, and of other plugins.
fn list(name: &str, bridge: &Value, others: &[Value]) -> String {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.40.1.0/24"}]]});
    let mut first = json!({"type": "bridge", "bridge": "injected0", "isGateway": true, "ipam": ipam});
    first.as_object_mut().expect("an object").extend(bridge.as_object().expect("an object").clone());
    let plugins = [&[first], others].concat();
    json!({"cniVersion": "1.0.0", "name": name, "plugins": plugins}).to_string()
}

#[test]
fn interfaces_are_added_from_the_agents_container_by_the_plugins_of_the_node() {
    let node = lock();
    start_pod(&node);
    let namespace = if_inject(&node, &["netns", "-pod", "injected"], "");
    assert!(namespace.text().starts_with("/var/run/netns/"), "{namespace}");
    let list = list("injected", &json!({}), &[json!({"type": "tuning", "mtu": 1400})]);
    let add = ["add", "-pod", "injected", "-spec", "-"];
    let added = if_inject(&node, &add, &list);
    assert_eq!(added.json()["ips"][0]["address"], "10.40.1.2/24", "{added}");
    let inside = || node.exec("injected", &["ip", "address", "show", "dev", "net1"]);
    let shown = inside();
    assert!(shown.stdout.contains("10.40.1.2/24") && shown.stdout.contains("mtu 1400"), "{shown}");
    // on the node, not in the container
    assert_eq!((node.cni_leases("injected").len(), node.cni_results("injected").len()), (1, 1));
    let checked = if_inject(&node, &["check", "-pod", "injected", "-spec", "-"], &list);
    assert!(checked.success(), "{checked}");
    let deleted = if_inject(&node, &["del", "-pod", "injected"], "");
    assert!(deleted.success() && !inside().success(), "{deleted}");
    assert!(node.cni_leases("injected").is_empty() && node.cni_results("injected").is_empty());
    // the agent in the same container, at the Pod's end
    assert!(if_inject(&node, &add, &list).success());
    end_pod(&node, "injected");
}

#[test]
#[ignore = "it needs iptables with DNAT: hack/test runs it where that is there"]
fn portmap_and_masquerade_find_the_nodes_iptables_from_the_agents_container() {
    let node = lock();
    start_pod(&node);
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    let list = list("mapped", &json!({"ipMasq": true}), &[portmap]);
    let rules = || node.run(["iptables-save", "-t", "nat"]).text().to_owned();
    let before = rules();
    let added = if_inject(&node, &["add", "-pod", "injected", "-spec", "-", "-portmap", "18084:80"], &list);
    assert!(added.success(), "{added}");
    let there = rules();
    assert!(there.contains("18084") && there.contains("MASQUERADE"), "{before}\n{there}");
    end_pod(&node, "mapped");
    assert!(!rules().contains("18084"), "{}", rules());
}
