//! One connection to a runtime, from its first byte to its last.

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use proto::nri::{RUNTIME_SERVICE, RegisterPluginRequest};
use tokio::{
    net::UnixStream,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    caller::{CallError, Caller},
    deadline,
    error::Error,
    identity::{PluginIndex, PluginName},
    mux::{self, Connection},
    plugin::Plugin,
    progress::{Opening, Progress, Step},
    service::Service,
    state::ConnectionState,
    synchronize::Synchronizer,
    trunk::{self, Outbox},
};

/// The version of NRI that this was written for.
const NRI_VERSION: &str = "v0.12.5";

/// How long a runtime may take to answer the registration. It takes one plugin after another, and waits 5 s for each.
const REGISTER: Duration = Duration::from_secs(10);
/// How long it may then take to configure the plugin. It does so at once.
const CONFIGURE: Duration = Duration::from_secs(10);
/// How long it may then take to list its Pods. containerd waits until no Pod is being started.
const SYNCHRONIZE: Duration = Duration::from_secs(60);

/// What all connections of a plugin have in common.
#[derive(Debug)]
pub(crate) struct Sessions<P> {
    pub(crate) name: PluginName,
    pub(crate) index: PluginIndex,
    pub(crate) plugin: Arc<P>,
    pub(crate) state: watch::Sender<ConnectionState>,
    pub(crate) synchronizer: Arc<Synchronizer>,
    pub(crate) handlers: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The plugin was asked to stop.
    Stopped,
    Failed(Error),
}

impl<P: Plugin> Sessions<P> {
    /// Registers and serves on a connected socket. Nothing of one connection is used in the next.
    pub(crate) async fn run(&self, socket: UnixStream, opening: Opening) -> End {
        let (reader, writer) = socket.into_split();
        let (outbox, queue) = Outbox::new(mux::encode);
        let progress = Arc::new(Progress::new(opening, self.state.clone()));
        let runtime = Caller::new(Connection::Runtime, outbox.clone());
        let (synchronizer, handlers) = (self.synchronizer.clone(), self.handlers.clone());
        let mut service = Service::new(self.plugin.clone(), outbox, progress.clone(), synchronizer, handlers);
        let answers = service.answers();
        let reading = trunk::read(reader, |connection, message| match connection {
            Connection::Plugin => service.take(message),
            Connection::Runtime => runtime.take(message),
        });
        // serving begins with the first poll of `reading`: Configure need not wait for the registration's answer
        let end = tokio::select! {
            error = reading => End::Failed(error),
            error = trunk::write(writer, queue) => End::Failed(error),
            error = self.register(&runtime, &progress) => End::Failed(error),
            () = self.finish(&answers) => End::Stopped,
        };
        runtime.end();
        if progress.is_configured() {
            self.plugin.disconnected();
        }
        end
    }

    /// Registers and waits until the runtime has done its part; returns only if that failed.
    async fn register(&self, runtime: &Caller, progress: &Progress) -> Error {
        let request = RegisterPluginRequest {
            plugin_name: self.name.to_string(),
            plugin_idx: self.index.to_string(),
            nri_version: NRI_VERSION.to_owned(),
        };
        let method = (RUNTIME_SERVICE, "RegisterPlugin");
        match runtime.call(method, request.encode_to_vec(), REGISTER).await {
            Ok(_) => {
                progress.registered();
                if timeout(CONFIGURE, progress.wait_for(Step::Configure)).await.is_err() {
                    return Error::NotConfigured(CONFIGURE);
                }
                if timeout(SYNCHRONIZE, progress.wait_for(Step::Synchronize)).await.is_err() {
                    return Error::NotSynchronized(SYNCHRONIZE);
                }
                std::future::pending().await
            }
            Err(CallError::Refused(status)) => Error::RegisterRefused(status.message),
            Err(CallError::TimedOut(patience)) => Error::RegisterTimedOut(patience),
            Err(CallError::Ended) => Error::Closed,
        }
    }

    /// Once the plugin is stopped: until all requests are answered, and no longer than a runtime would wait.
    async fn finish(&self, answers: &TaskTracker) {
        self.shutdown.cancelled().await;
        answers.close();
        // the runtime no longer waits for the answers that are still missing
        let _ = timeout(deadline::DEFAULT_REQUEST_TIMEOUT, answers.wait()).await;
    }

    /// Waits, or ends early when the plugin is stopped.
    pub(crate) async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = sleep(pause) => {}
            () = self.shutdown.cancelled() => {}
        }
    }
}
