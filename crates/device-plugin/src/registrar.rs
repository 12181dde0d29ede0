//! Serves on a fresh socket and registers it, repeatedly, for as long as the plugin runs.
//!
//! A registration is a socket, a server on it, a call of Register and the kubelet's stream. It ends when the kubelet's
//! socket is a different one (a new kubelet removed the plugin's socket), when the plugin's socket is gone, or when the
//! kubelet closed the stream; the next registration uses no part of it.

use std::{path::PathBuf, pin::pin, sync::Arc, time::Duration};

use kubelet::{DevicePlugin, DevicePluginRegistry, PluginSocket};
use netdevice::View;
use proto::deviceplugin::{DevicePluginOptions, device_plugin_server::DevicePluginServer};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use wake::{Backoff, FileIdentity};

use crate::{
    config::Config,
    error::Error,
    offer::List,
    service::{Service, Streams},
    shared::{Published, Shared},
    socket,
    stats::FailureLog,
};

/// After a registration of this length, earlier failures no longer count.
const STABLE: Duration = Duration::from_secs(10);

/// The pause after the second failure in a row.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// How long the old connection may take to end before the new socket is registered. The kubelet finds clients by resource
/// name: if the old connection ends later, the kubelet ends the new one (`runClient` of kubelet 1.36).
const OLD_STREAM: Duration = Duration::from_millis(50);

/// Keeps the plugin registered.
pub(crate) struct Registrar {
    pub(crate) config: Config,
    pub(crate) shared: Arc<Shared>,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) sockets_changed: watch::Receiver<()>,
    pub(crate) stop: CancellationToken,
}

/// Why a registration ended.
#[derive(Debug)]
enum End {
    Stopped,
    KubeletReplaced,
    SocketRemoved,
    StreamClosed,
    Failed(Error),
}

impl Registrar {
    /// Registers once the CDI file was checked, until it is stopped.
    pub(crate) async fn run(self) -> Result<(), Error> {
        let mut published = self.shared.published.subscribe();
        let is_first_published = tokio::select! {
            () = self.stop.cancelled() => false,
            first = published.wait_for(Option::is_some) => first.is_ok(),
        };
        if is_first_published {
            self.keep_registered().await;
        }
        Ok(())
    }

    async fn keep_registered(&self) {
        let resource = &self.shared.resource;
        let stats = self.shared.stats.clone();
        let mut failures = FailureLog::new(&stats);
        let mut backoff = Backoff::new(SHORTEST_PAUSE, self.config.timing.poll).with_first_at_once();
        let mut is_absence_logged = false;
        while !self.stop.is_cancelled() {
            let Some(kubelet) = FileIdentity::of(&self.kubelet_socket()) else {
                if !std::mem::replace(&mut is_absence_logged, true) {
                    tracing::info!(%resource, "waiting for the kubelet at {}", self.kubelet_socket().display());
                }
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = self.until_replaced(None) => {}
                }
                continue;
            };
            is_absence_logged = false;
            let began = Instant::now();
            let end = self.registration(kubelet, &mut failures).await;
            self.shared.stats.set_registered(false);
            self.config.report_waker.notify_one();
            if began.elapsed() >= STABLE {
                backoff.reset();
            }
            match end {
                End::Stopped => return,
                End::KubeletReplaced => {
                    tracing::info!(%resource, "the kubelet restarted");
                    backoff.reset();
                    continue;
                }
                End::SocketRemoved => tracing::info!(%resource, "the socket of the plugin was removed"),
                End::StreamClosed => tracing::info!(%resource, "the kubelet closed the stream of devices"),
                End::Failed(error) => failures.failed(resource, &error),
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = sleep(backoff.next_pause()) => {}
                () = self.until_replaced(Some(kubelet)) => backoff.reset(),
            }
        }
    }

    async fn registration(&self, kubelet: FileIdentity, failures: &mut FailureLog<'_>) -> End {
        let kubelet_socket = self.kubelet_socket();
        let registry = tokio::select! {
            () = self.stop.cancelled() => return End::Stopped,
            () = self.until_replaced(Some(kubelet)) => return End::KubeletReplaced,
            registry = DevicePluginRegistry::connect(&kubelet_socket, self.config.timing.register) => match registry {
                Ok(registry) => registry,
                Err(error) => return End::Failed(error.into()),
            },
        };
        let (socket, listener) = match socket::bind(&self.config.paths.device_plugins, &self.shared.resource) {
            Ok(bound) => bound,
            Err(error) => return End::Failed(error.into()),
        };
        let list = watch::Sender::new(List::default());
        let streams = Arc::new(watch::Sender::new(Streams::default()));
        self.forward(&list);
        let service = Service {
            shared: self.shared.clone(),
            view: self.view.clone(),
            list: list.subscribe(),
            streams: streams.clone(),
        };
        let closing = CancellationToken::new();
        let mut server = pin!(Server::builder().serve_with_incoming_shutdown(
            DevicePluginServer::new(service),
            UnixListenerStream::new(listener),
            closing.clone().cancelled_owned(),
        ));
        let end = tokio::select! {
            ended = &mut server => match ended {
                Ok(()) => End::SocketRemoved,
                Err(cause) => {
                    let socket = socket.path().to_owned();
                    End::Failed(kubelet::Error::ServeFailed { socket, cause }.into())
                }
            },
            end = self.register_and_wait(registry, &socket, &streams, failures) => end,
            () = self.until_removed(&socket) => End::SocketRemoved,
            () = self.until_replaced(Some(kubelet)) => End::KubeletReplaced,
            () = self.keep_forwarding(&list) => End::Stopped,
        };
        // the streams end after the last list, and then the server
        self.forward(&list);
        drop(list);
        closing.cancel();
        let is_last = matches!(end, End::Stopped);
        let limit = if is_last { self.config.timing.shutdown } else { OLD_STREAM };
        drop(timeout(limit, server).await);
        end
    }

    /// Registers, and returns at the end of the registration.
    async fn register_and_wait(
        &self,
        registry: DevicePluginRegistry,
        socket: &PluginSocket,
        streams: &watch::Sender<Streams>,
        failures: &mut FailureLog<'_>,
    ) -> End {
        let plugin = DevicePlugin {
            resource: self.shared.resource.to_string(),
            endpoint: socket.file_name(),
            options: DevicePluginOptions { pre_start_required: false, get_preferred_allocation_available: true },
        };
        if let Err(error) = registry.register(plugin).await {
            return End::Failed(error.into());
        }
        self.shared.stats.set_registered(true);
        self.config.report_waker.notify_one();
        failures.succeeded();
        tracing::info!(resource = %self.shared.resource, socket = socket.file_name(), "registered with the kubelet");
        let (mut streams, deadline) = (streams.subscribe(), self.config.timing.register);
        if timeout(deadline, streams.wait_for(|streams| streams.were_opened())).await.is_err() {
            return End::Failed(Error::NotWatched(deadline));
        }
        match streams.wait_for(|streams| streams.are_closed()).await {
            Ok(_) => End::StreamClosed,
            Err(_) => End::Stopped,
        }
    }

    fn kubelet_socket(&self) -> PathBuf {
        self.config.paths.device_plugins.join("kubelet.sock")
    }

    /// Waits until there is another socket of a kubelet than `known`.
    async fn until_replaced(&self, known: Option<FileIdentity>) {
        self.until(|| FileIdentity::of(&self.kubelet_socket()).is_some_and(|now| Some(now) != known)).await;
    }

    async fn until_removed(&self, socket: &PluginSocket) {
        self.until(|| !socket.is_there()).await;
    }

    async fn until(&self, is_so: impl Fn() -> bool) {
        let mut changes = self.sockets_changed.clone();
        loop {
            changes.mark_unchanged();
            if is_so() {
                return;
            }
            // there is no sender: the plugin ends
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Forwards what is published to the streams, until the plugin is stopped.
    async fn keep_forwarding(&self, list: &watch::Sender<List>) {
        let mut published = self.shared.published.subscribe();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                Ok(()) = published.changed() => self.forward(list),
            }
        }
    }

    fn forward(&self, list: &watch::Sender<List>) {
        let published: Option<Published> = self.shared.published.borrow().clone();
        let Some(now) = published.map(|published| published.list) else { return };
        list.send_if_modified(|list| {
            let is_new = *list != now;
            *list = now;
            is_new
        });
    }
}
