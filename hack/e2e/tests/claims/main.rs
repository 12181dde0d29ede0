//! Devices by ResourceClaim, in a real cluster: API server, scheduler, controllers, kubelet, containerd and the agent.
//!
//! One cluster serves all tests. Tests run side by side, each with devices, claims and Pods of its own names; a
//! test that stops something that the others need has the cluster alone.

mod admission;

use std::ops::Deref;
use std::sync::{OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use e2e::{Action, Kind, Node};

static ALONE: RwLock<()> = RwLock::new(());
static NODE: OnceLock<Node> = OnceLock::new();

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
        node
    })
}
