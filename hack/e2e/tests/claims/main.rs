//! Devices by ResourceClaim, in a real cluster: API server, scheduler, controllers, kubelet, containerd and the agent.
//!
//! One cluster and one agent serve all tests. Tests run side by side, each with devices, claims and Pods of its own names; a
//! test that stops something that the others need has the cluster alone.

mod admission;
mod away;
mod children;
mod conformance;
mod faults;
mod life;
mod main_path;
mod many;
mod peers;
mod requests;
mod slow;
mod status;

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use e2e::{Action, Agent, Kind, Node};

/// What the agent offers: each test makes devices of its own whose names begin so. The other ends of their wires have a dash.
const POOLS: &str = "pools:
- resource: example.com/shared
  offer: claims
  select: {names: ['^clparent[0-9]$']}
  children: {kind: macvlan, count: 2}
- resource: example.com/kids
  select: {names: ['^clkids[0-9]$']}
  annotations: true
  children: {kind: macvlan, count: 2}
- resource: networking.k8s.io/netdevice
  offer: claims
  annotations: true
  select: {names: ['^cl[A-Za-z0-9._]*$']}
";
const CONFIG: &str = "/run/rig/claims-pools.yaml";

static ALONE: RwLock<()> = RwLock::new(());
static NODE: OnceLock<Node> = OnceLock::new();
static AGENT: Mutex<Option<Agent<'static>>> = Mutex::new(None);

/// The cluster, and what keeps other tests from it or with it.
struct Held<G> {
    node: &'static Node,
    _guard: G,
}

impl<G> Deref for Held<G> {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.node
    }
}

/// The cluster without the agent, beside other tests.
fn cluster() -> Held<RwLockReadGuard<'static, ()>> {
    let guard = ALONE.read().unwrap_or_else(|poisoned| {
        drop(poisoned);
        repair();
        ALONE.read().expect("it was repaired")
    });
    Held { node: node(), _guard: guard }
}

/// The cluster with the running agent, beside other tests.
fn side_by_side() -> Held<RwLockReadGuard<'static, ()>> {
    let held = cluster();
    drop(agent());
    held
}

/// The cluster with the running agent, and no other test beside this one.
fn alone() -> Held<RwLockWriteGuard<'static, ()>> {
    let held = cluster_alone();
    drop(agent());
    held
}

/// The cluster without the agent, and no other test beside this one.
fn cluster_alone() -> Held<RwLockWriteGuard<'static, ()>> {
    let guard = ALONE.write().unwrap_or_else(|poisoned| {
        drop(poisoned);
        repair();
        ALONE.write().expect("it was repaired")
    });
    Held { node: node(), _guard: guard }
}

/// A test that had the cluster alone failed: what it may have stopped is started.
fn repair() {
    let _first = AGENT.lock().unwrap_or_else(PoisonError::into_inner);
    ALONE.clear_poison();
    if let Some(node) = NODE.get() {
        node.apiserver(Action::Start);
        node.kubelet(Action::Start);
        node.containerd(Action::Start);
    }
}

/// The node of all tests, started for the first one.
fn node() -> &'static Node {
    NODE.get_or_init(|| {
        let node = Node::start_as("claims", Kind::Cluster);
        node.prepare_claims();
        node.write(CONFIG, POOLS);
        node
    })
}

/// The agent of all tests; started if it does not run.
fn agent() -> MutexGuard<'static, Option<Agent<'static>>> {
    let mut agent = AGENT.lock().unwrap_or_else(|poisoned| {
        AGENT.clear_poison();
        poisoned.into_inner()
    });
    if !agent.as_mut().is_some_and(|agent| agent.runs()) {
        *agent = Some(start_agent());
    }
    agent
}

/// One more agent, which is connected to the runtime and registered with the kubelet.
fn start_agent() -> Agent<'static> {
    let agent = begin_agent();
    agent.wait_until_connected();
    agent.wait_for_output("claims: registered with the kubelet");
    agent
}

/// One more agent; not waited for.
fn begin_agent() -> Agent<'static> {
    node().claims_agent(&arguments().iter().map(String::as_str).collect::<Vec<_>>())
}

/// The arguments of one more agent. As the agents of a DaemonSet have, each has sockets of its own.
fn arguments() -> Vec<String> {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let uid = format!("instance-{}", STARTED.fetch_add(1, Ordering::Relaxed));
    ["-config", CONFIG, "-pod-uid", &uid].map(str::to_owned).into()
}

/// What a Pod's first container says of a link of its own.
#[track_caller]
fn inside(node: &Node, pod: &str, link: &str) -> String {
    node.exec(pod, &["ip", "address", "show", "dev", link]).text().to_owned()
}
