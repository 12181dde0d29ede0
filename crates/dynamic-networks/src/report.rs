//! What happened, for users: an Event each.

use std::{fmt, sync::Arc};

use netdevice::Pod;

/// What happened to a Pod's interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The Pod.
    pub pod: Pod,
    /// The Event's reason, such as `AddedInterface`.
    pub reason: &'static str,
    /// Whether users should act.
    pub is_warning: bool,
    /// The text.
    pub note: String,
}

/// Receives reports. Never waits.
#[derive(Clone)]
pub struct Reporter(Arc<dyn Fn(Report) + Send + Sync>);

impl Reporter {
    /// One that calls a function.
    pub fn new(report: impl Fn(Report) + Send + Sync + 'static) -> Self {
        Self(Arc::new(report))
    }

    pub(crate) fn report(&self, report: Report) {
        (self.0)(report);
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Reporter")
    }
}
