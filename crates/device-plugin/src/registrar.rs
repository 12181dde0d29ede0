//! Serves on a fresh socket and registers it, again and again, for as long as the plugin runs.
//!
//! A registration is a socket, a server on it, a call of Register and the kubelet's stream. It ends when the kubelet's
//! socket is another one (a new kubelet removed our socket), when our socket is gone, or when the kubelet closed the
//! stream; the next one never uses anything of it again.

use std::{path::PathBuf, pin::pin, sync::Arc, time::Duration};

use netdevice::View;
use proto::deviceplugin::{
    DevicePluginOptions, RegisterRequest, VERSION, device_plugin_server::DevicePluginServer,
    registration_client::RegistrationClient,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server};

use crate::{
    backoff::Backoff,
    config::Config,
    dial::connect,
    error::Error,
    identity::FileIdentity,
    offer::List,
    service::{Published, Service, Shared, Streams},
    socket::PluginSocket,
    stats::Trouble,
};

/// A registration that lasts as long is none of a series of failures.
const STABLE: Duration = Duration::from_secs(10);

/// How long the old connection gets to end before the kubelet hears of the new socket. The kubelet looks clients up by
/// resource name: an end that comes late ends the new one (`runClient` of kubelet 1.36).
const OLD_STREAM: Duration = Duration::from_millis(50);

/// Keeps the plugin registered.
pub(crate) struct Registrar {
    pub(crate) config: Config,
    pub(crate) shared: Arc<Shared>,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) look: watch::Receiver<()>,
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
    /// Registers once the CDI file was looked after, until it is stopped.
    pub(crate) async fn run(self) -> Result<(), Error> {
        let mut published = self.shared.published.subscribe();
        let is_first_published = tokio::select! {
            () = self.stop.cancelled() => false,
            first = published.wait_for(Option::is_some) => first.is_ok(),
        };
        if is_first_published {
            self.register_again_and_again().await;
        }
        Ok(())
    }

    async fn register_again_and_again(&self) {
        let resource = &self.shared.resource;
        let stats = self.shared.stats.clone();
        let mut trouble = Trouble::new(&stats);
        let mut backoff = Backoff::new(self.config.timing.poll);
        let mut is_absence_told = false;
        while !self.stop.is_cancelled() {
            let Some(kubelet) = FileIdentity::of(&self.kubelet_socket()) else {
                if !std::mem::replace(&mut is_absence_told, true) {
                    tracing::info!(%resource, "waiting for the kubelet at {}", self.kubelet_socket().display());
                }
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = self.until_replaced(None) => {}
                }
                continue;
            };
            is_absence_told = false;
            let began = Instant::now();
            let end = self.registration(kubelet, &mut trouble).await;
            self.shared.stats.set_registered(false);
            self.config.report_waker.notify_one();
            if began.elapsed() >= STABLE {
                backoff.reset();
            }
            match end {
                End::Stopped => return,
                End::KubeletReplaced => {
                    tracing::info!(%resource, "the kubelet was started anew");
                    backoff.reset();
                    continue;
                }
                End::SocketRemoved => tracing::info!(%resource, "the socket of the plugin was removed"),
                End::StreamClosed => tracing::info!(%resource, "the kubelet ended its watch"),
                End::Failed(error) => trouble.failed(resource, &error),
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = sleep(backoff.next()) => {}
                () = self.until_replaced(Some(kubelet)) => backoff.reset(),
            }
        }
    }

    async fn registration(&self, kubelet: FileIdentity, trouble: &mut Trouble<'_>) -> End {
        let kubelet_socket = self.kubelet_socket();
        let connecting = timeout(self.config.timing.register, connect(&kubelet_socket));
        let channel = tokio::select! {
            () = self.stop.cancelled() => return End::Stopped,
            () = self.until_replaced(Some(kubelet)) => return End::KubeletReplaced,
            channel = connecting => match channel {
                Ok(Ok(channel)) => channel,
                Ok(Err(error)) => return End::Failed(error),
                Err(_) => return End::Failed(Error::RegisterTimedOut(self.config.timing.register)),
            },
        };
        let folder = &self.config.paths.device_plugins;
        let (socket, listener) = match PluginSocket::bind(folder, &self.shared.resource) {
            Ok(bound) => bound,
            Err(error) => return End::Failed(error),
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
            ended = &mut server => End::Failed(Error::ServeFailed(ended.err())),
            end = self.register_and_stay(channel, &socket, &streams, trouble) => end,
            () = self.until_removed(&socket) => End::SocketRemoved,
            () = self.until_replaced(Some(kubelet)) => End::KubeletReplaced,
            () = self.keep_forwarding(&list) => End::Stopped,
        };
        // streams end behind the last list, and the server with them
        self.forward(&list);
        drop(list);
        closing.cancel();
        let is_last = matches!(end, End::Stopped);
        let patience = if is_last { self.config.timing.shutdown } else { OLD_STREAM };
        drop(timeout(patience, server).await);
        end
    }

    /// Ends when the registration does.
    async fn register_and_stay(
        &self,
        channel: Channel,
        socket: &PluginSocket,
        streams: &watch::Sender<Streams>,
        trouble: &mut Trouble<'_>,
    ) -> End {
        let deadline = self.config.timing.register;
        let request = RegisterRequest {
            version: VERSION.into(),
            endpoint: socket.file_name(),
            resource_name: self.shared.resource.to_string(),
            options: Some(DevicePluginOptions { pre_start_required: false, get_preferred_allocation_available: true }),
        };
        let mut client = RegistrationClient::new(channel);
        match timeout(deadline, client.register(request)).await {
            Err(_) => return End::Failed(Error::RegisterTimedOut(deadline)),
            Ok(Err(status)) => return End::Failed(Error::RegisterRefused(Box::new(status))),
            Ok(Ok(_)) => {}
        }
        drop(client);
        self.shared.stats.set_registered(true);
        self.config.report_waker.notify_one();
        trouble.passed();
        tracing::info!(resource = %self.shared.resource, socket = socket.file_name(), "registered with the kubelet");
        let mut streams = streams.subscribe();
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

    /// Ends when the kubelet's socket is there and not that one.
    async fn until_replaced(&self, known: Option<FileIdentity>) {
        self.until(|| FileIdentity::of(&self.kubelet_socket()).is_some_and(|now| Some(now) != known)).await;
    }

    async fn until_removed(&self, socket: &PluginSocket) {
        self.until(|| !socket.is_there()).await;
    }

    async fn until(&self, is_so: impl Fn() -> bool) {
        let mut look = self.look.clone();
        loop {
            look.mark_unchanged();
            if is_so() {
                return;
            }
            // without a sender the plugin ends
            if look.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Gives the streams what was published, until the plugin is stopped.
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
