//! The networks of running Pods by annotation, in a real cluster with real CNI plugins and without Multus; and with a
//! stand-in of Multus' daemon.

mod attach;
mod defects;
mod devices;
mod ends;
mod from_start;
mod killed;
mod many;
mod multus;
mod requests;
mod upstream;
mod who_may;

use e2e::{Agent, Kind, Node, NodeGuard, PLUGINS, SharedNode, wait_for};
use serde_json::{Value, json};

static NODE: SharedNode = SharedNode::new("networks", Kind::Cluster);

/// The device that macvlan interfaces are made on.
const MASTER: &str = "dnmaster0";

/// The cluster, with the definitions of networks and the device.
fn lock() -> NodeGuard<'static> {
    let node = NODE.lock();
    node.prepare_networks();
    node.sh(&format!(
        "mkdir -p {PLUGINS}; ip link show {MASTER} >/dev/null 2>&1 || ip link add {MASTER} type ifb
        ip link set {MASTER} up"
    ));
    node
}

/// The agent with its controller, which answers.
fn agent<'n>(node: &'n Node, args: &[&str]) -> Agent<'n> {
    let agent = node.networks_agent(args);
    wait_for("the agent answers", || (agent.get("/healthz").status, agent.output()), |(status, _)| *status == 200);
    agent
}

fn macvlan(ipam: Value) -> Value {
    json!({"type": "macvlan", "master": MASTER, "mode": "bridge", "ipam": ipam})
}

/// A network without addresses.
fn layer2() -> Value {
    json!({"cniVersion": "0.3.0", "type": "macvlan", "master": MASTER, "mode": "bridge", "disableCheck": true})
}

/// A network with leases of host-local.
fn leased(name: &str, subnet: &str) -> Value {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": subnet}]]});
    let mut network = macvlan(ipam);
    network["cniVersion"] = "1.0.0".into();
    network["name"] = name.into();
    network
}

/// A network whose addresses and MAC are those of the request.
fn as_requested(name: &str) -> Value {
    let mut first = macvlan(json!({"type": "static"}));
    first["capabilities"] = json!({"ips": true});
    let second = json!({"type": "tuning", "capabilities": {"mac": true}});
    json!({"cniVersion": "0.4.0", "name": name, "plugins": [first, second]})
}

#[test]
fn the_flow_of_the_original_readme() {
    let node = lock();
    // neither names of networks nor what the plugins need not know are in it, as there
    let first = json!({"type": "macvlan", "capabilities": {"ips": true}, "master": MASTER, "mode": "bridge",
        "ipam": {"type": "static"}});
    let configuration =
        json!({"cniVersion": "0.3.1", "plugins": [first, {"type": "tuning", "capabilities": {"mac": true}}]});
    node.define_network("macvlan1-config", &configuration);
    let config =
        json!({"criSocketPath": "/run/containerd/containerd.sock", "criType": "containerd", "multusSocketPath": ""});
    let controller = node.networks_controller(&config);
    let pod = node.networked_pod("macvlan1-worker1", "");

    let one = json!({"name": "macvlan1-config", "interface": "ens4", "ips": ["10.1.1.11/24"]});
    pod.request(&json!([one]));
    pod.wait_for_status(&[("default/macvlan1-config", "ens4")]);
    pod.wait_for_interfaces(&["ens4"]);
    assert_eq!(pod.network().addresses("ens4"), ["10.1.1.11/24"], "{}", controller.output());
    assert_eq!(pod.status_of("ens4")["ips"], json!(["10.1.1.11"]));
    let added = "pod [default/macvlan1-worker1]: added interface ens4 to network: macvlan1-config(ips: [10.1.1.11/24], mac: , cni-args: <nil>)";
    pod.wait_for_event("AddedInterface", added);

    let two =
        json!({"name": "macvlan1-config", "interface": "ens5", "ips": ["10.1.1.12/24"], "mac": "02:00:00:00:00:12"});
    pod.request(&json!([one, two]));
    pod.wait_for_status(&[("default/macvlan1-config", "ens4"), ("default/macvlan1-config", "ens5")]);
    assert_eq!(pod.status_of("ens5")["mac"], "02:00:00:00:00:12");
    let mac = pod.network().interface("ens5").unwrap_or_default()["address"].clone();
    assert_eq!(mac, "02:00:00:00:00:12");

    pod.request(&json!([two]));
    pod.wait_for_status(&[("default/macvlan1-config", "ens5")]);
    pod.wait_for_interfaces(&["ens5"]);
    let removed = "pod [default/macvlan1-worker1]: removed interface ens4 from network: macvlan1-config";
    pod.wait_for_event("RemovedInterface", removed);

    pod.request_text("");
    pod.wait_for_status(&[]);
    pod.wait_for_interfaces(&[]);
    pod.delete();
    drop(controller);
}
