//! The end of Pods: what was added is deleted by the agent, or by `if-inject gc`, and nothing else is.

use e2e::{Agent, Node, wait_for};

use crate::{lock, ptp};

const DELETIONS: &str = "netdevice_network_deletions_total{result=\"ok\"}";

/// An agent that offers nothing.
fn agent(node: &Node) -> Agent<'_> {
    let agent = node.agent(&["-interfaces", "^no-device$"]);
    wait_for("the agent answers", || agent.get("/healthz").status, |status| *status == 200);
    agent
}

/// The ids of the containers that have leases in a network.
fn owners(node: &Node, network: &str) -> Vec<String> {
    node.cni_leases(network).into_values().map(|(container, _)| container).collect()
}

#[track_caller]
fn wait_until_gone(node: &Node, network: &str, kept: &[String]) {
    wait_for("the lease of the Pod that ended is free", || owners(node, network), |owners| owners == kept);
    wait_for("its result is gone", || node.cni_results(network), |results| results.len() == kept.len());
}

#[test]
fn the_agent_frees_what_pods_had_that_end_and_keeps_what_pods_have_that_run() {
    let node = lock();
    let (ends, runs) = (node.running_pod("ends"), node.running_pod("runs"));
    let spec = node.cni_spec("ends.json", &ptp("ends", "10.34.1.0/24"));
    let running = agent(&node);
    for pod in [&ends, &runs] {
        assert!(pod.plug("add", "net1", &spec).success());
    }
    let kept = [runs.id().to_owned()];
    assert_eq!(owners(&node, "ends").len(), 2);
    ends.end();
    wait_until_gone(&node, "ends", &kept);
    wait_for("it is counted", || running.metric(DELETIONS), |count| *count == Some(1));
    running.kill();
    // a Pod that ends while no agent runs
    let ends = node.running_pod("ends-alone");
    assert!(ends.plug("add", "net1", &spec).success());
    ends.end();
    assert_eq!(owners(&node, "ends").len(), 2, "containerd frees nothing");
    let restarted = agent(&node);
    wait_until_gone(&node, "ends", &kept);
    restarted.stop();
    assert_eq!(runs.addresses("net1").len(), 1);
    assert!(runs.plug("check", "net1", &spec).success());
    assert!(runs.plug("del", "net1", &spec).success() && owners(&node, "ends").is_empty());
}

#[test]
fn without_an_agent_gc_frees_what_pods_had_that_ended() {
    let node = lock();
    let (ends, runs) = (node.running_pod("gone"), node.running_pod("here"));
    let spec = node.cni_spec("gc.json", &ptp("gc", "10.34.2.0/24"));
    for pod in [&ends, &runs] {
        assert!(pod.plug("add", "net1", &spec).success() && pod.plug("add", "net2", &spec).code == Some(1));
    }
    let (ended, kept) = (ends.id().to_owned(), [runs.id().to_owned()]);
    ends.end();
    let collected = node.if_inject(&["gc"]).json();
    let networks = collected["networks"].as_array().unwrap();
    assert_eq!(
        (networks.len(), &networks[0]["sandbox"], &networks[0]["pod"]),
        (1, &ended.into(), &"default/gone".into())
    );
    wait_until_gone(&node, "gc", &kept);
    let collected = node.if_inject(&["gc"]).json();
    assert!(collected["networks"].as_array().is_some_and(Vec::is_empty), "{collected}");
    assert_eq!(runs.addresses("net1").len(), 1);
    // by its name, though it no longer runs
    let ends = node.running_pod("gone");
    assert!(ends.plug("add", "net1", &spec).success());
    ends.end();
    assert!(node.if_inject(&["del", "-pod", "gone"]).success());
    wait_until_gone(&node, "gc", &kept);
    // a lease of host-device, whose plugin does not call its IPAM plugin any more
    node.sh("ip link add hdgone type veth peer name hdgone-p");
    let device = serde_json::json!({"cniVersion": "1.0.0", "name": "gc-device", "type": "host-device", "device": "hdgone",
        "ipam": crate::host_local("10.34.3.0/24")});
    let device = node.cni_spec("gc-device.json", &device);
    let ends = node.running_pod("had-device");
    assert!(ends.plug("add", "net1", &device).success());
    assert_eq!(owners(&node, "gc-device"), [ends.id()]);
    ends.end();
    assert!(node.if_inject(&["gc"]).success());
    wait_until_gone(&node, "gc-device", &[]);
}
