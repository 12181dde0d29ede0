//! The end of Pods, of agents and of sandboxes.

use e2e::{Action, wait_for};
use serde_json::json;

use crate::{agent, leased, lock};

#[test]
fn the_lease_of_a_deleted_pod_is_free_also_when_the_agent_was_down() {
    let node = lock();
    let first = agent(&node, &[]);
    node.define_network("ends", &leased("ends", "10.62.1.0/24"));
    let elements = json!([{"name": "ends", "interface": "x0"}]);
    let (one, two) = (node.networked_pod("ends-one", ""), node.networked_pod("ends-two", ""));
    for pod in [&one, &two] {
        pod.request(&elements);
        pod.wait_for_status(&[("default/ends", "x0")]);
    }
    assert_eq!(node.cni_leases("ends").len(), 2);
    one.delete();
    wait_for("the lease is free", || (node.cni_leases("ends").len(), first.output()), |(count, _)| *count == 1);
    first.kill();
    two.delete();
    assert_eq!(node.cni_leases("ends").len(), 1, "containerd frees nothing");
    let second = agent(&node, &[]);
    wait_for("the lease is free", || (node.cni_leases("ends").len(), second.output()), |(count, _)| *count == 0);
    wait_for("the results are gone", || node.cni_results("ends"), |results| results.is_empty());
    drop(second);
}

#[test]
fn the_api_server_may_be_restarted_at_any_time() {
    let node = lock();
    let agent = agent(&node, &[]);
    node.define_network("restarted", &leased("restarted", "10.62.2.0/24"));
    let pod = node.networked_pod("restarted", "");
    pod.request(&json!([{"name": "restarted", "interface": "x0"}]));
    pod.wait_for_status(&[("default/restarted", "x0")]);
    let mac = pod.status_of("x0")["mac"].clone();
    node.apiserver(Action::Stop);
    node.apiserver(Action::Start);
    pod.request(&json!([{"name": "restarted", "interface": "x0"}, {"name": "restarted", "interface": "x1"}]));
    pod.wait_for_status(&[("default/restarted", "x0"), ("default/restarted", "x1")]);
    assert_eq!(pod.status_of("x0")["mac"], mac, "{}", agent.output());
    pod.request_text("");
    pod.wait_for_status(&[]);
    assert!(node.cni_leases("restarted").is_empty());
    pod.delete();
    drop(agent);
}
