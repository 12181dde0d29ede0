//! Which sandboxes there are, by what the runtime tells in whatever order: a list for each connection, dealt with a while
//! after it came, and one by one.

use std::collections::BTreeSet;

/// A connection, by how many have ended before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Connection(u64);

/// Sandboxes that the runtime has told of in this connection.
#[derive(Debug, Default)]
pub(super) struct Known {
    connection: Connection,
    sandboxes: BTreeSet<String>,
}

impl Known {
    /// A list of sandboxes. Others may have been made since: they stay known.
    pub(super) fn add_list(&mut self, sandboxes: impl IntoIterator<Item = String>) -> Connection {
        self.sandboxes.extend(sandboxes);
        self.connection
    }

    /// A sandbox is being made.
    pub(super) fn add(&mut self, sandbox: &str) {
        self.sandboxes.insert(sandbox.to_owned());
    }

    /// A sandbox is gone.
    pub(super) fn remove(&mut self, sandbox: &str) {
        self.sandboxes.remove(sandbox);
    }

    /// What was told in this connection counts for nothing any more.
    pub(super) fn end_connection(&mut self) {
        *self = Self { connection: Connection(self.connection.0 + 1), sandboxes: BTreeSet::new() };
    }

    /// Whether a sandbox has ended without our being told: it is not known, and the connection that told its list lasts.
    pub(super) fn has_ended(&self, sandbox: &str, list: Connection) -> bool {
        self.connection == list && !self.sandboxes.contains(sandbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(known: &mut Known, sandboxes: &[&str]) -> Connection {
        known.add_list(sandboxes.iter().map(|sandbox| (*sandbox).to_owned()))
    }

    #[test]
    fn a_sandbox_that_is_neither_listed_nor_made_has_ended() {
        let mut known = Known::default();
        let connection = list(&mut known, &["listed"]);
        known.add("made");
        known.add("removed");
        known.remove("removed");
        let ended = ["listed", "made", "removed", "gone"].map(|sandbox| known.has_ended(sandbox, connection));
        assert_eq!(ended, [false, false, true, true]);
    }

    #[test]
    fn a_sandbox_that_was_made_before_the_list_was_dealt_with_stays_known() {
        let mut known = Known::default();
        known.add("made");
        let connection = list(&mut known, &[]);
        assert!(!known.has_ended("made", connection));
    }

    #[test]
    fn a_list_of_a_connection_that_has_ended_says_nothing_and_the_next_one_all() {
        let mut known = Known::default();
        known.add("of the first");
        let first = list(&mut known, &["listed"]);
        known.end_connection();
        assert!(!known.has_ended("gone", first));
        let second = list(&mut known, &["listed"]);
        let ended = ["of the first", "listed"].map(|sandbox| known.has_ended(sandbox, second));
        assert_eq!(ended, [true, false]);
    }
}
