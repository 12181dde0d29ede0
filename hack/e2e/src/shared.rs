//! One node for all tests of a test binary, one test at a time.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard};

use crate::node::{Kind, Node};

/// A node that is started for the first test that locks it and serves the others too:
/// `static NODE: SharedNode = SharedNode::new("attach", Kind::Containerd);`
///
/// After a test that panicked the next one gets a fresh node. A static is never dropped: the node is ended right after
/// the test process.
#[derive(Debug)]
pub struct SharedNode {
    name: &'static str,
    kind: Kind,
    node: Mutex<Option<Node>>,
}

/// The node, held by one test.
#[derive(Debug)]
pub struct NodeGuard<'a>(MutexGuard<'a, Option<Node>>);

impl SharedNode {
    /// Names the node; nothing starts yet.
    #[must_use]
    pub const fn new(name: &'static str, kind: Kind) -> SharedNode {
        SharedNode { name, kind, node: Mutex::new(None) }
    }

    /// Waits for the other tests and takes the node.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn lock(&self) -> NodeGuard<'_> {
        let mut node = self.node.lock().unwrap_or_else(|poisoned| {
            self.node.clear_poison();
            let mut node = poisoned.into_inner();
            *node = None;
            node
        });
        node.get_or_insert_with(|| Node::start_as(self.name, self.kind));
        NodeGuard(node)
    }
}

impl Deref for NodeGuard<'_> {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.0.as_ref().expect("lock() put it there")
    }
}
