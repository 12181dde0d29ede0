//! How things stand with the runtime, for readiness and metrics.

use std::sync::Arc;

use crate::plugin::Runtime;

/// Whether there is a runtime that sends events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum State {
    /// No connection, and none before it has failed.
    #[default]
    Starting,
    /// Connected; the runtime has not taken us, configured us and synchronised yet.
    Registering,
    /// Registered, configured and, where the runtime does that, synchronised: events come.
    Active(Arc<Runtime>),
    /// The last connection, or the attempt to make one, ended for this reason.
    Disconnected(Arc<str>),
}

impl State {
    /// The runtime that sends events.
    pub fn runtime(&self) -> Option<&Runtime> {
        match self {
            Self::Active(runtime) => Some(runtime),
            Self::Starting | Self::Registering | Self::Disconnected(_) => None,
        }
    }
}
