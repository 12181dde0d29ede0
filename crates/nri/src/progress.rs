//! How far a connection has come. Its steps have no order: Configure can come before the answer of RegisterPlugin.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{plugin::Runtime, state::ConnectionState};

/// What comes before a connection's first event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Registration, configuration, synchronisation.
    Synchronized,
    /// Registration and configuration: a runtime with NRI before 0.7 (containerd 1.7.24) does not list its Pods to
    /// the plugins that it starts itself.
    Configured,
}

/// Steps of one connection, and where they are published.
#[derive(Debug)]
pub(crate) struct Progress {
    opening: Opening,
    steps: watch::Sender<Steps>,
    state: watch::Sender<ConnectionState>,
}

#[derive(Debug, Default)]
struct Steps {
    is_registered: bool,
    is_synchronized: bool,
    runtime: Option<Arc<Runtime>>,
}

/// What a runtime does after it has accepted a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Configure,
    Synchronize,
}

impl Progress {
    /// A connection has begun.
    pub(crate) fn new(opening: Opening, state: watch::Sender<ConnectionState>) -> Self {
        state.send_replace(ConnectionState::Registering);
        Self { opening, steps: watch::Sender::default(), state }
    }

    pub(crate) fn registered(&self) {
        self.change(|steps| steps.is_registered = true);
    }

    pub(crate) fn configured(&self, runtime: Runtime) {
        self.change(|steps| steps.runtime = Some(Arc::new(runtime)));
    }

    pub(crate) fn synchronized(&self) {
        self.change(|steps| steps.is_synchronized = true);
    }

    /// Whether the plugin was configured.
    pub(crate) fn is_configured(&self) -> bool {
        self.steps.borrow().runtime.is_some()
    }

    /// Waits until the runtime has done that; returns at once for a step that this runtime may leave out.
    pub(crate) async fn wait_for(&self, step: Step) {
        let is_done = |steps: &Steps| match step {
            Step::Configure => steps.runtime.is_some(),
            Step::Synchronize => steps.is_synchronized || self.opening == Opening::Configured,
        };
        // the sender lives as long as this
        let _ = self.steps.subscribe().wait_for(is_done).await;
    }

    fn change(&self, change: impl FnOnce(&mut Steps)) {
        self.steps.send_modify(|steps| {
            change(steps);
            self.tell(steps);
        });
    }

    fn tell(&self, steps: &Steps) {
        let Steps { is_registered: true, is_synchronized, runtime: Some(runtime) } = steps else { return };
        if !is_synchronized && self.opening == Opening::Synchronized {
            return;
        }
        let active = ConnectionState::Active(runtime.clone());
        let changed = self.state.send_if_modified(|state| {
            let changed = *state != active;
            *state = active;
            changed
        });
        if changed {
            tracing::info!(runtime = runtime.name, version = runtime.version, "registered with the runtime");
        }
    }
}
