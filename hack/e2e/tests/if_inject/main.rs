//! `if-inject` on a real node: interfaces of Pods that run, by real CNI plugins and from the node's devices.

mod cnitool;
mod commands;
mod conformance;
mod failures;
mod killed;
mod leases;
mod several;

use e2e::{Kind, NodeGuard, SharedNode};
use serde_json::{Value, json};

static NODE: SharedNode = SharedNode::new("inject", Kind::Containerd);

/// The node, without Pods of an earlier test.
fn lock() -> NodeGuard<'static> {
    let node = NODE.lock();
    node.remove_all_pods();
    node
}

/// A network of one ptp interface for each Pod, with leases of host-local.
fn ptp(network: &str, subnet: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": network, "type": "ptp", "ipam": host_local(subnet)})
}

fn host_local(subnet: &str) -> Value {
    json!({"type": "host-local", "ranges": [[{"subnet": subnet}]]})
}
