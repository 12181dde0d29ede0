//! What the controller knows of one Pod, and when it works on it next.

use std::time::Duration;

use tokio::time::Instant;
use wake::Backoff;

use crate::watch::WatchedPod;

/// The pause after a failure: of a plugin, or of a network that does not exist.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// The pause while a Pod has no sandbox yet.
const WITHOUT_SANDBOX: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));

/// One Pod of the node.
pub(crate) struct Entry {
    pub(crate) watched: WatchedPod,
    pub(crate) is_running: bool,
    /// Changed while it is worked on.
    pub(crate) is_dirty: bool,
    pub(crate) next: Option<Instant>,
    pub(crate) failures: Backoff,
    pub(crate) missing: Backoff,
    /// How often the status has lagged behind Multus in a row.
    pub(crate) lags: u32,
    pub(crate) sandbox: Option<String>,
    /// The sandbox in which everything was there once.
    pub(crate) complete_in: Option<String>,
    pub(crate) is_failed: bool,
    pub(crate) is_rejected: bool,
    pub(crate) has_own: bool,
}

impl Entry {
    pub(crate) fn new(watched: WatchedPod, has_own: bool) -> Self {
        Self {
            watched,
            is_running: false,
            is_dirty: false,
            next: None,
            failures: Backoff::new(AFTER_FAILURE.0, AFTER_FAILURE.1),
            missing: Backoff::new(WITHOUT_SANDBOX.0, WITHOUT_SANDBOX.1),
            lags: 0,
            sandbox: None,
            complete_in: None,
            is_failed: false,
            is_rejected: false,
            has_own,
        }
    }

    /// Whether there can be anything to do.
    pub(crate) fn is_relevant(&self, uses_multus: bool) -> bool {
        let has_status = uses_multus && !self.watched.status.is_empty();
        let is_wanted = !self.watched.networks.trim().is_empty();
        !self.watched.is_deleted && !self.is_rejected && (is_wanted || self.has_own || has_status)
    }

    /// Works on it now, or again when the work that runs has ended.
    pub(crate) fn wake(&mut self) {
        if self.is_running {
            self.is_dirty = true;
        } else {
            self.next = Some(Instant::now());
        }
    }
}
