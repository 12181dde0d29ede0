//! The state of the connection to the runtime, for readiness and metrics.

use std::sync::Arc;

use crate::plugin::Runtime;

/// Whether there is a runtime that sends events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ConnectionState {
    /// Not connected, and no attempt has failed yet.
    #[default]
    Starting,
    /// Connected; the runtime has not yet accepted, configured and synchronised the plugin.
    Registering,
    /// Registered, configured and, where the runtime does that, synchronised: events arrive.
    Active(Arc<Runtime>),
    /// The last connection, or the attempt to connect, ended for this reason.
    Disconnected(Arc<str>),
}

impl ConnectionState {
    /// The runtime that sends events.
    pub fn runtime(&self) -> Option<&Runtime> {
        match self {
            Self::Active(runtime) => Some(runtime),
            Self::Starting | Self::Registering | Self::Disconnected(_) => None,
        }
    }
}
