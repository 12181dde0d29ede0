//! The cluster of these rows: its API server has an audit log, and the agent that is built for release runs on its node.

use std::time::Duration;

use anyhow::{Context, Result};
use e2e::{Action, Kind, NETWORK_STATUS, NETWORKS, Node};
use serde_json::{Value, json};

use super::{
    audit::{Audit, policy},
    proxy::{METADATA, Proxy, Times},
    watcher::Watcher,
};
pub(super) use crate::api::agent::RunningAgent;
use crate::bench::Bench;

/// The device that macvlan interfaces are made on.
const MASTER: &str = "benchmaster0";
/// The agent's user.
const ACCOUNT: &str = "system:serviceaccount:kube-system:dynamic-networks-controller";
/// The network whose configuration [`configuration`] is.
pub(super) const NETWORK: &str = "bench";

/// A cluster.
pub(super) struct Cluster<'b> {
    pub(super) bench: &'b Bench,
    pub(super) node: Node,
    pub(super) proxy: Proxy,
    pub(super) audit: Audit,
}

impl<'b> Cluster<'b> {
    pub(super) fn start(bench: &'b Bench) -> Result<Self> {
        let node = Node::start_as("benchd", Kind::Cluster);
        node.write("/etc/kubernetes/audit-policy.yaml", &policy(ACCOUNT));
        node.apiserver(Action::Restart);
        node.prepare_networks();
        node.run(["sh", "-ec", &format!("ip link add {MASTER} type ifb; ip link set {MASTER} up")]).text();
        node.define_network(NETWORK, &configuration());
        let audit = Audit(node.path("/run/rig/audit.log"));
        Ok(Self { proxy: Proxy::start(&node)?, bench, node, audit })
    }

    /// Starts the agent, for the Pods of a Node.
    pub(super) fn start_agent(&self, node: &str, args: &[&str]) -> RunningAgent {
        let agent = self.bench.programs.agent.to_string_lossy();
        let hook = self.bench.programs.hook.to_string_lossy();
        let own = [&*agent, "-interfaces=^no-device$", "-hook-source", &*hook];
        let process = self.node.spawn_networks_agent(node, &[&own, args].concat());
        process.wait_for_output("registered with the kubelet");
        RunningAgent(process)
    }

    /// Starts the agent with the controller, and waits until it follows the Pods and the definitions.
    pub(super) fn start_controller(&self, node: &str) -> Result<RunningAgent> {
        let position = self.audit.position().unwrap_or(0);
        let agent = self.start_agent(node, &["-dynamic-networks", "-cni-path=/opt/cni/bin"]);
        let watches = || self.audit.since(position).is_ok_and(|requests| requests.timeouts.len() >= 2);
        e2e::wait_for("the agent watches", watches, |both| *both);
        Ok(agent)
    }

    /// Edits the annotation of a Pod; none removes it.
    pub(super) fn edit(&self, pod: &str, networks: Option<&Value>) -> Result<Times> {
        let networks = networks.map(Value::to_string);
        self.proxy.patch(&pod_path(pod), &json!({"metadata": {"annotations": {NETWORKS: networks}}}))
    }

    /// Waits until the status of a Pod has these interfaces.
    pub(super) fn wait_for_status(&self, pod: &str, interfaces: &[&str]) -> Result<()> {
        let read = || {
            let object: Value = serde_json::from_str(&self.proxy.get(&pod_path(pod), METADATA).ok()?).ok()?;
            let status = object["metadata"]["annotations"][NETWORK_STATUS].as_str().unwrap_or("[]");
            let entries: Vec<Value> = serde_json::from_str(status).ok()?;
            let names: Vec<&str> = entries.iter().filter_map(|entry| entry["interface"].as_str()).collect();
            (names == interfaces).then_some(())
        };
        e2e::eventually(Duration::from_secs(30), read)
            .with_context(|| format!("the status of {pod} has {interfaces:?}"))
    }

    /// Follows the Pods of a Node as the controller does.
    pub(super) fn watch_pods(&self, node: &str) -> Result<Watcher> {
        let path = format!("/api/v1/pods?watch=true&allowWatchBookmarks=true&fieldSelector=spec.nodeName%3D{node}");
        Watcher::start(&self.proxy, &path, METADATA)
    }
}

/// The configuration of the network: macvlan as in the original's README.
pub(super) fn configuration() -> Value {
    json!({"cniVersion": "1.0.0", "name": NETWORK, "type": "macvlan", "master": MASTER, "mode": "bridge",
        "ipam": {"type": "static", "addresses": [{"address": "10.66.0.2/16"}]}})
}

/// The annotation of one interface.
pub(super) fn one(interface: &str) -> Value {
    json!([{"name": NETWORK, "interface": interface}])
}

fn pod_path(pod: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{pod}")
}
