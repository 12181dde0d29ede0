//! The cluster of these rows: its API server has an audit log, and the agent that is built for release runs on its node.

use std::time::Duration;

use anyhow::{Context, Result};
use e2e::{Action, Kind, Node};
use link::run_inside;
use serde_json::Value;
use store::Namespace;

use crate::{
    api::{
        agent::RunningAgent,
        audit::{Audit, policy},
        proxy::{Proxy, WHOLE},
    },
    bench::Bench,
    kernel::Kernel,
};

/// The devices of most rows: `d0` to `d99`.
pub(super) const DEVICES: usize = 100;
/// Selects them.
pub(super) const SELECTED: &str = "-interfaces=^d[0-9]";
const BETWEEN_LISTS: Duration = Duration::from_millis(500);
/// Where the slices are.
pub(super) const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";

/// A cluster.
pub(super) struct Cluster<'b> {
    pub(super) bench: &'b Bench,
    pub(super) node: Node,
    pub(super) proxy: Proxy,
    pub(super) audit: Audit,
    /// The node's.
    pub(super) network: Namespace,
}

impl<'b> Cluster<'b> {
    pub(super) fn start(bench: &'b Bench) -> Result<Self> {
        let node = Node::start_as("benchc", Kind::Cluster);
        node.write("/etc/kubernetes/audit-policy.yaml", &policy(node.agent_user()));
        node.apiserver(Action::Restart);
        node.prepare_claims();
        let network = Namespace::open(format!("/proc/{}/ns/net", node.init_pid())).context("the node's network")?;
        let audit = Audit(node.path("/run/rig/audit.log"));
        let cluster = Self { proxy: Proxy::start(&node)?, bench, node, audit, network };
        let kernel = cluster.kernel()?;
        kernel.add_ifbs((0..DEVICES).map(|number| format!("d{number}")))?;
        (0..DEVICES).try_for_each(|number| kernel.set_up(&format!("d{number}")))?;
        Ok(cluster)
    }

    /// Changes links of the node.
    pub(super) fn kernel(&self) -> Result<Kernel> {
        run_inside(&self.network, Kernel::open)?
    }

    /// Starts the agent with claims.
    pub(super) fn start_agent(&self, args: &[&str]) -> RunningAgent {
        let agent = self.bench.programs.agent.to_string_lossy();
        let hook = self.bench.programs.hook.to_string_lossy();
        let own = [&*agent, "-dra", "-nri", "-hook-source", &*hook];
        RunningAgent(self.node.spawn_networks_agent(self.node.name(), &[&own, args].concat()))
    }

    /// The same, and waits until the kubelet has taken the driver and so many devices are in slices.
    pub(super) fn start_publishing(&self, devices: usize, args: &[&str]) -> Result<RunningAgent> {
        let agent = self.start_agent(args);
        self.wait_until_publishing(&agent, devices)?;
        Ok(agent)
    }

    /// Waits until the kubelet has taken the driver and so many devices are in slices.
    pub(super) fn wait_until_publishing(&self, agent: &RunningAgent, devices: usize) -> Result<()> {
        agent.0.wait_for_output("claims: registered with the kubelet");
        self.wait_for_devices(devices).with_context(|| agent.0.output())
    }

    /// Waits until the slices on the API server have so many devices.
    fn wait_for_devices(&self, wanted: usize) -> Result<()> {
        let count = || {
            let list: Value = serde_json::from_str(&self.proxy.get(&self.slices(), WHOLE).ok()?).ok()?;
            let of = |slice: &Value| slice["spec"]["devices"].as_array().map_or(0, Vec::len);
            let count: usize = list["items"].as_array()?.iter().map(of).sum();
            if count != wanted {
                // a list of 10,000 devices has 20 MB
                std::thread::sleep(BETWEEN_LISTS);
            }
            (count == wanted).then_some(())
        };
        e2e::eventually(Duration::from_secs(120), count).with_context(|| format!("{wanted} devices are in slices"))
    }

    /// The list of the node's slices.
    pub(super) fn slices(&self) -> String {
        format!("{SLICES}?fieldSelector=spec.nodeName%3D{}", self.node.name())
    }
}
