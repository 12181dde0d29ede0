//! What the controller knows of one Pod, and when it works on it next.

use std::time::Duration;

use tokio::time::Instant;
use wake::Backoff;

use crate::{report::Report, watch::WatchedPod};

/// The pause after a failure: of a plugin, or of a network that does not exist.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// The pause after devices of the node have changed, for a Pod that waits for one.
pub(crate) const AFTER_CHANGE: Duration = Duration::from_secs(1);
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
    /// Only devices that others have, or that are not offered, are missing.
    pub(crate) waits_for_devices: bool,
    /// Devices of the node have changed while it was worked on.
    pub(crate) is_view_new: bool,
    /// The reports of invalid annotations that were made.
    pub(crate) invalid: Vec<Report>,
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
            waits_for_devices: false,
            is_view_new: false,
            invalid: Vec::new(),
            is_rejected: false,
            has_own,
        }
    }

    /// Whether there can be anything to do.
    pub(crate) fn is_relevant(&self, uses_multus: bool) -> bool {
        let has_status = uses_multus && !self.watched.status.is_empty();
        !self.watched.is_deleted && !self.is_rejected && (self.watched.requests_any() || self.has_own || has_status)
    }

    /// Devices of the node have changed: soon it may have what it waits for. Not at once: devices may change often.
    pub(crate) fn devices_changed(&mut self) {
        self.is_view_new |= self.is_running;
        if self.waits_for_devices && !self.is_running {
            let soon = Instant::now() + AFTER_CHANGE;
            self.next = self.next.map(|next| next.min(soon));
        }
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
