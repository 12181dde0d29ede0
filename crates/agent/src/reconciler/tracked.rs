//! What the reconciler knows of one attachment.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use link::Diagnosis;
use netdevice::Attachment;
use store::Namespace;

use super::process_ends::{Key, key};

/// How long the reconciler waits for a hook or an event of the runtime that is due. It arrives within milliseconds, or much
/// later.
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// A physical device appears on the host some 150 ms after its namespace ended.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Whether the namespace of a virtual device is kept open: it must not end before the device was returned.
#[derive(Debug)]
pub(super) enum Hold {
    /// To be opened, not before that time. Whether that is necessary is found out then.
    Wanted {
        after: Instant,
    },
    /// Not necessary.
    Unneeded,
    Kept(Arc<Namespace>),
}

/// One attachment.
#[derive(Debug)]
pub(super) struct Tracked {
    /// Cookie of its namespace, and its container.
    attachment: (u64, String),
    pub(super) process: Option<Key>,
    pub(super) hold: Hold,
    /// Whether a mount of its namespace was seen.
    pub(super) saw_mounts: bool,
    pub(super) is_running: bool,
    /// Since when it is not healthy.
    pub(super) unhealthy_since: Option<Instant>,
    /// When it is to be checked again at the latest.
    pub(super) next_check: Option<Instant>,
    /// Before that time nothing is tried.
    not_before: Option<Instant>,
    retry: Duration,
    /// The failure that was reported.
    reported: Option<String>,
}

/// What follows from a diagnosis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    Repair,
}

impl Tracked {
    pub(super) fn new(record: &Attachment, now: Instant) -> Self {
        let hold = if record.needs_namespace() { Hold::Wanted { after: now } } else { Hold::Unneeded };
        Self {
            attachment: attachment(record),
            process: record.process.map(key),
            hold,
            saw_mounts: false,
            is_running: false,
            unhealthy_since: None,
            next_check: None,
            not_before: None,
            retry: FIRST_RETRY,
            reported: None,
        }
    }

    /// Whether a record is of this attachment.
    pub(super) fn is_of(&self, record: &Attachment) -> bool {
        self.attachment == attachment(record)
    }

    pub(super) fn cookie(&self) -> u64 {
        self.attachment.0
    }

    /// Whether its namespace is to be opened now.
    pub(super) fn wants_hold(&self, now: Instant) -> bool {
        !self.is_running && matches!(self.hold, Hold::Wanted { after } if after <= now)
    }

    /// Decides what follows from a diagnosis. `is_gone`: the Pod no longer exists.
    pub(super) fn decide(&mut self, record: &Attachment, diagnosis: Diagnosis, is_gone: bool, now: Instant) -> Next {
        self.next_check = None;
        if diagnosis == Diagnosis::Healthy && !is_gone {
            self.unhealthy_since = None;
            return Next::Nothing;
        }
        let since = *self.unhealthy_since.get_or_insert(now);
        // the runtime reports a sandbox's end, some runtimes after its namespace is gone
        let is_reported = diagnosis != Diagnosis::SandboxEnded || record.owner.outlives_containers();
        let due = if is_reported && !is_gone { since + GRACE } else { since };
        let due = self.not_before.map_or(due, |not_before| due.max(not_before));
        if self.is_running {
            return Next::Nothing;
        }
        if due <= now {
            return Next::Repair;
        }
        self.next_check = Some(due);
        Next::Nothing
    }

    /// Nothing is tried for that time.
    pub(super) fn wait(&mut self, wait: Duration, now: Instant) {
        self.not_before = Some(now + wait);
        self.next_check = self.not_before;
    }

    /// A repair failed. Returns whether the reason is new, so that it is to be reported.
    pub(super) fn fail(&mut self, reason: &str, now: Instant) -> bool {
        self.wait(self.retry, now);
        self.retry = (self.retry * 2).min(LAST_RETRY);
        let is_new = self.reported.as_deref() != Some(reason);
        self.reported = Some(reason.to_owned());
        is_new
    }

    /// When something is due at the latest.
    pub(super) fn next_time(&self) -> Option<Instant> {
        let hold = match self.hold {
            Hold::Wanted { after } if !self.is_running => Some(after),
            _ => None,
        };
        self.next_check.into_iter().chain(hold).min()
    }
}

fn attachment(record: &Attachment) -> (u64, String) {
    (record.sandbox.cookie, record.owner.id().to_owned())
}

#[cfg(test)]
mod tests {
    use netdevice::fixture;

    use super::*;

    fn record(container: &str) -> Attachment {
        let mut record = fixture::record("dev0");
        record.owner = fixture::owner(container);
        record
    }

    /// After how many seconds a device with that diagnosis is repaired; none if never.
    fn due(container: &str, diagnosis: Diagnosis, is_gone: bool) -> Option<u64> {
        let (record, now) = (record(container), Instant::now());
        let mut tracked = Tracked::new(&record, now);
        match tracked.decide(&record, diagnosis, is_gone, now) {
            Next::Repair => Some(0),
            Next::Nothing => {
                let next = tracked.next_check?;
                assert_eq!(tracked.decide(&record, diagnosis, is_gone, next), Next::Repair);
                Some((next - now).as_secs())
            }
        }
    }

    #[test]
    fn a_hook_or_the_runtime_is_waited_for_where_one_is_due() {
        assert_eq!(due("container", Diagnosis::Healthy, false), None);
        assert_eq!(due("container", Diagnosis::Healthy, true), Some(0));
        assert_eq!(due("container", Diagnosis::Unfinished, false), Some(2));
        assert_eq!(due("container", Diagnosis::HolderEnded, false), Some(2));
        assert_eq!(due("container", Diagnosis::SandboxEnded, false), Some(0));
        // CRI-O unmounts a sandbox's namespace before it reports the sandbox's end
        assert_eq!(due("sandbox", Diagnosis::SandboxEnded, false), Some(2));
    }

    #[test]
    fn a_failure_is_reported_once_and_tried_again_at_growing_intervals() {
        let (record, mut now) = (record("container"), Instant::now());
        let mut tracked = Tracked::new(&record, now);
        let mut pauses = Vec::new();
        for attempt in 0..10 {
            assert_eq!(tracked.decide(&record, Diagnosis::SandboxEnded, false, now), Next::Repair);
            assert_eq!(tracked.fail("no descriptor is left", now), attempt == 0);
            assert_eq!(tracked.decide(&record, Diagnosis::SandboxEnded, false, now), Next::Nothing);
            pauses.push(tracked.next_check.unwrap() - now);
            now = tracked.next_check.unwrap();
        }
        assert!(pauses.is_sorted() && pauses[0] == FIRST_RETRY && pauses[9] == LAST_RETRY, "{pauses:?}");
        assert!(tracked.fail("another reason", now));
    }

    #[test]
    fn a_device_with_a_running_task_gets_no_second_one() {
        let (record, now) = (record("container"), Instant::now());
        let mut tracked = Tracked::new(&record, now);
        tracked.is_running = true;
        assert_eq!(tracked.decide(&record, Diagnosis::SandboxEnded, true, now), Next::Nothing);
        assert!(!tracked.wants_hold(now));
    }
}
