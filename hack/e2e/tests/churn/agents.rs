//! The agent, which is killed and replaced, and what it did over all its lives.

use e2e::{Agent, Node};

use crate::fleet::SELECTION;

const REPAIRED: &str = "returned to the host: no hook had done so";
const RENAMED: &str = "returned to the host as ";
const LOST: &str = "lost: the virtual link was deleted with its sandbox";
const FAILED: &str = "cannot be returned to the host";

/// What agents said that they did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Deeds {
    pub(crate) repaired: usize,
    pub(crate) renamed: usize,
    pub(crate) lost: usize,
    pub(crate) failed: usize,
}

impl Deeds {
    fn of(agent: &Agent<'_>) -> Self {
        let log = agent.output();
        let count = |words: &str| log.matches(words).count();
        Self { repaired: count(REPAIRED), renamed: count(RENAMED), lost: count(LOST), failed: count(FAILED) }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            repaired: self.repaired + other.repaired,
            renamed: self.renamed + other.renamed,
            lost: self.lost + other.lost,
            failed: self.failed + other.failed,
        }
    }
}

/// The agent of a node, or none for a while.
pub(crate) struct Agents<'n> {
    node: &'n Node,
    current: Option<Agent<'n>>,
    before: Deeds,
    /// How many have begun.
    pub(crate) begun: u32,
}

impl<'n> Agents<'n> {
    pub(crate) fn new(node: &'n Node) -> Self {
        Self { node, current: None, before: Deeds::default(), begun: 0 }
    }

    /// Begins one, unless there is one.
    pub(crate) fn begin(&mut self) {
        if self.current.is_none() {
            self.current = Some(self.start());
        }
    }

    fn start(&mut self) -> Agent<'n> {
        self.begun += 1;
        self.node.agent(&["-interfaces", SELECTION])
    }

    pub(crate) fn kill(&mut self) {
        if let Some(agent) = self.current.take() {
            self.before = self.before.plus(Deeds::of(&agent));
            agent.kill();
        }
    }

    /// A newer one begins, and then the older one is told to end.
    pub(crate) fn replace(&mut self) {
        let newer = self.start();
        newer.wait_for_output("waiting for the kubelet");
        if let Some(older) = self.current.replace(newer) {
            self.before = self.before.plus(Deeds::of(&older));
            assert!(older.stop().success(), "an agent that is told to end ends well");
        }
    }

    pub(crate) fn wait_until_offered(&self, devices: &[&str]) {
        self.current().wait_until_offered(devices);
    }

    pub(crate) fn deeds(&self) -> Deeds {
        self.before.plus(self.current.as_ref().map_or_else(Deeds::default, Deeds::of))
    }

    pub(crate) fn log(&self) -> String {
        self.current.as_ref().map_or_else(String::new, |agent| agent.output())
    }

    /// Its pid as this machine knows it.
    pub(crate) fn pid(&self) -> i32 {
        self.current().pid()
    }

    fn current(&self) -> &Agent<'n> {
        self.current.as_ref().expect("it was begun")
    }
}
