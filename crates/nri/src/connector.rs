//! Keeps a plugin connected to its runtime.

use std::{os::unix::net, path::Path, sync::Arc, time::Duration};

use tokio::{net::UnixStream, sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wake::Backoff;

use crate::{
    config::{Config, Way},
    error::Error,
    plugin::Plugin,
    progress::Opening,
    session::{End, Sessions},
    state::ConnectionState,
    synchronize::Synchronizer,
};

/// The first pause after a failure, and the longest one.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection that lasts this long ends a series of failures.
const STABLE: Duration = Duration::from_secs(10);

/// A plugin and how it connects to the runtime.
#[derive(Debug)]
pub struct Connector<P> {
    config: Config,
    plugin: Arc<P>,
    state: watch::Sender<ConnectionState>,
}

impl<P: Plugin> Connector<P> {
    /// Prepares; nothing is connected yet.
    pub fn new(config: Config, plugin: Arc<P>) -> Self {
        Self { config, plugin, state: watch::Sender::default() }
    }

    /// The state of the connection, for readiness and metrics.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    /// Connects, registers and serves until `shutdown`. A plugin that connects by itself does so again after each end of a
    /// connection; one that the runtime started ends when the runtime closes the connection.
    ///
    /// Requests that arrived before `shutdown` are answered. Returns when all handlers that were started have ended; one
    /// that never ends keeps it from returning, and only then may the future be dropped.
    ///
    /// # Errors
    ///
    /// For a plugin that the runtime started: why the connection ended, unless the runtime closed it.
    /// [`Error::TaskFailed`] when [`Plugin::synchronize`] panicked.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { config: Config { name, index, way }, plugin, state } = self;
        let stop = shutdown.child_token();
        // whatever ends this function, the synchronizer ends too
        let _guard = stop.clone().drop_guard();
        let (synchronizer, handlers) = (Arc::new(Synchronizer::default()), TaskTracker::new());
        let synchronizing = handlers.spawn({
            let (synchronizer, plugin, stop) = (synchronizer.clone(), plugin.clone(), stop.clone());
            async move { synchronizer.run(&*plugin, stop).await }
        });
        let sessions = Sessions { name, index, plugin, state, synchronizer, handlers: handlers.clone(), shutdown };
        let serving = async {
            match way {
                Way::External(socket) => sessions.external(&socket).await,
                Way::PreLaunched(socket) => sessions.pre_launched(socket).await,
            }
        };
        let result = tokio::select! {
            result = serving => result,
            Err(broken) = synchronizing => Err(Error::from(broken)),
        };
        stop.cancel();
        handlers.close();
        handlers.wait().await;
        result
    }
}

impl<P: Plugin> Sessions<P> {
    async fn external(&self, path: &Path) -> Result<(), Error> {
        let mut backoff = Backoff::new(SHORTEST_PAUSE, LONGEST_PAUSE);
        let mut logged = None;
        while !self.shutdown.is_cancelled() {
            let began = Instant::now();
            let end = match UnixStream::connect(path).await {
                Ok(socket) => self.run(socket, Opening::Synchronized).await,
                Err(cause) => End::Failed(Error::ConnectFailed { path: path.to_owned(), cause }),
            };
            // a connection that never got this far, however long it took, is the same failure again
            if began.elapsed() >= STABLE && self.state.borrow().runtime().is_some() {
                backoff.reset();
                logged = None;
            }
            if let Some(reason) = self.publish_end(end) {
                // once per change, not once per attempt
                if logged.as_ref() != Some(&reason) {
                    tracing::warn!(socket = %path.display(), "{reason}");
                    logged = Some(reason);
                }
                self.pause(backoff.next_pause()).await;
            }
        }
        Ok(())
    }

    async fn pre_launched(&self, socket: net::UnixStream) -> Result<(), Error> {
        let adopted = socket.set_nonblocking(true).and_then(|()| UnixStream::from_std(socket));
        let end = match adopted {
            Ok(socket) => self.run(socket, Opening::Configured).await,
            Err(source) => End::Failed(Error::ReadFailed(source)),
        };
        match end {
            End::Failed(error @ Error::Closed) => {
                self.publish_end(End::Failed(error));
                Ok(())
            }
            End::Failed(error) => Err(error),
            End::Stopped => Ok(()),
        }
    }

    /// Publishes the state, and returns what there is to log.
    fn publish_end(&self, end: End) -> Option<String> {
        let reason = match end {
            End::Stopped => return None,
            End::Failed(error) => error.to_string(),
        };
        self.state.send_replace(ConnectionState::Disconnected(reason.as_str().into()));
        Some(reason)
    }
}
