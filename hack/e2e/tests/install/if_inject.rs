//! `/if-inject` of the installed agent: it works in the node's mount namespace, with the capabilities of install.yaml.

use e2e::{BUSYBOX_IMAGE, Node, Output};
use serde_json::json;

use super::lock;

const AGENT: [&str; 6] = ["exec", "--stdin", "--namespace=kube-system", "ds/netdevice-agent", "--", "/if-inject"];

fn if_inject(node: &Node, args: &[&str], input: &str) -> Output {
    node.run_with([&["kubectl"], &AGENT[..], args].concat(), input)
}

#[test]
fn interfaces_are_added_from_the_agents_container_by_the_plugins_of_the_node() {
    let node = lock();
    node.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: injected}}, spec: {{terminationGracePeriodSeconds: 0, containers: [
        {{name: c, image: '{BUSYBOX_IMAGE}', command: [sleep, '1000000']}}]}}}}"
    ));
    node.wait_until_ready("injected");
    let namespace = if_inject(&node, &["netns", "-pod", "injected"], "");
    assert!(namespace.text().starts_with("/var/run/netns/"), "{namespace}");
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.40.1.0/24"}]]});
    let bridge = json!({"type": "bridge", "bridge": "injected0", "isGateway": true, "ipMasq": true, "ipam": ipam});
    let plugins =
        json!([bridge, {"type": "tuning", "mtu": 1400}, {"type": "portmap", "capabilities": {"portMappings": true}}]);
    let list = json!({"cniVersion": "1.0.0", "name": "injected", "plugins": plugins}).to_string();
    let add = ["add", "-pod", "injected", "-spec", "-", "-portmap", "8080:80"];
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
    node.delete(&["pod/injected"]);
    e2e::wait_for("the address is free", || node.cni_leases("injected"), |leases| leases.is_empty());
    e2e::wait_for("the result is gone", || node.cni_results("injected"), |results| results.is_empty());
    node.run(["ip", "link", "delete", "injected0"]).text();
}
