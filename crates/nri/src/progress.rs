//! How far a connection has come. Its steps have no order: Configure can come before the answer of RegisterPlugin.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::{plugin::Runtime, state::State};

/// What comes before a connection's first event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Registration, configuration, synchronisation.
    Synchronized,
    /// Registration and configuration: a runtime with NRI before 0.7 (containerd 1.7.24) tells nothing of its Pods to
    /// the plugins that it starts itself.
    Configured,
}

/// Steps of one connection, and where they are told.
#[derive(Debug)]
pub(crate) struct Progress {
    opening: Opening,
    steps: Mutex<Steps>,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct Steps {
    is_registered: bool,
    is_synchronized: bool,
    runtime: Option<Arc<Runtime>>,
}

impl Progress {
    /// A connection has begun.
    pub(crate) fn new(opening: Opening, state: watch::Sender<State>) -> Self {
        state.send_replace(State::Registering);
        Self { opening, steps: Mutex::default(), state }
    }

    pub(crate) fn registered(&self) {
        let mut steps = self.steps();
        steps.is_registered = true;
        self.tell(&steps);
    }

    pub(crate) fn configured(&self, runtime: Runtime) {
        let mut steps = self.steps();
        steps.runtime = Some(Arc::new(runtime));
        self.tell(&steps);
    }

    pub(crate) fn synchronized(&self) {
        let mut steps = self.steps();
        steps.is_synchronized = true;
        self.tell(&steps);
    }

    /// Whether the plugin was told of the runtime.
    pub(crate) fn is_configured(&self) -> bool {
        self.steps().runtime.is_some()
    }

    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, steps: &Steps) {
        let Steps { is_registered: true, is_synchronized, runtime: Some(runtime) } = steps else { return };
        if !is_synchronized && self.opening == Opening::Synchronized {
            return;
        }
        let active = State::Active(runtime.clone());
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
