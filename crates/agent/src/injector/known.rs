//! The sandboxes that exist, from the runtime: a list for each connection, which is evaluated later, and single events.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// How long a Pod is refused because it is not known whether it shares a claim that another one has. A Pod without claims is
/// among those that wait: nothing on the node tells it from the others.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A connection, by the number of connections before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Connection(u64);

/// Sandboxes that the runtime has named in this connection.
#[derive(Debug, Default)]
pub(super) struct KnownSandboxes {
    connection: Connection,
    sandboxes: BTreeSet<String>,
    /// Those of them that were made in this connection.
    new: BTreeSet<String>,
    /// Sandboxes whose Pods' shared claims were checked, and until when that counts. None: always.
    checked: BTreeMap<String, Option<Instant>>,
    /// Since when it is not known whether Pods share a claim, by UID: the sandbox of a Pod that is refused may be another one
    /// the next time.
    unknown: BTreeMap<String, Instant>,
}

impl KnownSandboxes {
    /// Adds a list of sandboxes. Others that were created since stay known.
    pub(super) fn add_list(&mut self, sandboxes: impl IntoIterator<Item = String>) -> Connection {
        self.sandboxes.extend(sandboxes);
        self.connection
    }

    /// A sandbox is being created.
    pub(super) fn add(&mut self, sandbox: &str) {
        self.sandboxes.insert(sandbox.to_owned());
        self.new.insert(sandbox.to_owned());
    }

    /// A sandbox was removed.
    pub(super) fn remove(&mut self, sandbox: &str) {
        self.sandboxes.remove(sandbox);
        self.new.remove(sandbox);
        self.checked.remove(sandbox);
    }

    /// The shared claims of a sandbox's Pod were checked: for which Pods a claim is reserved does not change for a Pod that
    /// runs. What was not found out is checked again at that time.
    pub(super) fn set_checked(&mut self, sandbox: &str, until: Option<Instant>) {
        self.checked.insert(sandbox.to_owned(), until);
    }

    /// Whether a Pod waits for the answer whether it shares a claim: its sandbox was made in this connection, and no more than
    /// [`PATIENCE`] has passed. A Pod that runs already waits for nothing.
    pub(super) fn waits(&mut self, sandbox: &str, pod: &str, now: Instant) -> bool {
        self.unknown.retain(|_, since| now.saturating_duration_since(*since) < 10 * PATIENCE);
        let since = *self.unknown.entry(pod.to_owned()).or_insert(now);
        self.new.contains(sandbox) && now.saturating_duration_since(since) < PATIENCE
    }

    pub(super) fn is_checked(&self, sandbox: &str, now: Instant) -> bool {
        self.checked.get(sandbox).is_some_and(|until| until.is_none_or(|until| now < until))
    }

    /// Ends the connection: what the runtime named in it no longer counts.
    pub(super) fn end_connection(&mut self) {
        *self = Self { connection: Connection(self.connection.0 + 1), ..Self::default() };
    }

    /// Whether a sandbox has ended without an event: it is not known, and the connection of that list has not ended.
    pub(super) fn has_ended(&self, sandbox: &str, list: Connection) -> bool {
        self.connection == list && !self.sandboxes.contains(sandbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(known: &mut KnownSandboxes, sandboxes: &[&str]) -> Connection {
        known.add_list(sandboxes.iter().map(|sandbox| (*sandbox).to_owned()))
    }

    #[test]
    fn claims_that_were_checked_in_part_are_checked_again_later() {
        let (mut known, now) = (KnownSandboxes::default(), Instant::now());
        let later = now + Duration::from_secs(5);
        let checked = |known: &KnownSandboxes| [now, later].map(|time| known.is_checked("a", time));
        assert_eq!(checked(&known), [false, false]);
        known.set_checked("a", Some(later));
        assert_eq!(checked(&known), [true, false]);
        known.set_checked("a", None);
        assert_eq!(checked(&known), [true, true]);
        known.remove("a");
        assert_eq!(checked(&known), [false, false]);
    }

    #[test]
    fn a_new_pod_waits_for_the_answer_and_not_for_ever_and_a_pod_that_runs_does_not_wait() {
        let (mut known, now) = (KnownSandboxes::default(), Instant::now());
        list(&mut known, &["listed"]);
        known.add("made");
        let late = now + PATIENCE;
        assert!(!known.waits("listed", "pod-1", now));
        assert!(known.waits("made", "pod-2", now) && known.waits("made", "pod-2", late - Duration::from_secs(1)));
        // its sandbox was refused and made anew
        known.remove("made");
        known.add("another");
        assert!(!known.waits("another", "pod-2", late) && known.waits("another", "pod-3", late));
        known.end_connection();
        list(&mut known, &["another"]);
        assert!(!known.waits("another", "pod-3", late));
        assert!(!known.waits("another", "pod-2", late + 11 * PATIENCE) && known.unknown.len() == 1);
    }

    #[test]
    fn a_sandbox_that_is_neither_listed_nor_made_has_ended() {
        let mut known = KnownSandboxes::default();
        let connection = list(&mut known, &["listed"]);
        known.add("made");
        known.add("removed");
        known.remove("removed");
        let ended = ["listed", "made", "removed", "gone"].map(|sandbox| known.has_ended(sandbox, connection));
        assert_eq!(ended, [false, false, true, true]);
    }

    #[test]
    fn a_sandbox_that_was_made_before_the_list_was_dealt_with_stays_known() {
        let mut known = KnownSandboxes::default();
        known.add("made");
        let connection = list(&mut known, &[]);
        assert!(!known.has_ended("made", connection));
    }

    #[test]
    fn a_list_of_a_connection_that_has_ended_says_nothing_and_the_next_one_all() {
        let mut known = KnownSandboxes::default();
        known.add("of the first");
        let first = list(&mut known, &["listed"]);
        known.end_connection();
        assert!(!known.has_ended("gone", first));
        let second = list(&mut known, &["listed"]);
        let ended = ["of the first", "listed"].map(|sandbox| known.has_ended(sandbox, second));
        assert_eq!(ended, [true, false]);
    }
}
