//! The kubelet's side of a registration: Register, dialling back, and the stream.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prost::Message;
use proto::deviceplugin::{
    Device, Empty, ListAndWatchResponse, RegisterRequest, VERSION, device_plugin_client::DevicePluginClient,
    registration_server::Registration,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming, transport::Channel};

use crate::state::KubeletState;

/// How long the kubelet waits for a plugin that it dials.
const DIAL: Duration = Duration::from_secs(10);

/// What the kubelet does when a plugin registers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// What it should.
    #[default]
    Right,
    /// It never answers.
    Hang,
    /// It refuses with this text.
    Refuse(String),
    /// It closes each stream as soon as the first list came.
    CloseStreams,
}

/// A plugin that registered.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) plugin: DevicePluginClient<Channel>,
    connected: CancellationToken,
}

/// One run of the kubelet: what dies with its process.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    folder: PathBuf,
    pub(crate) state: Arc<watch::Sender<KubeletState>>,
    behaviour: watch::Receiver<Behaviour>,
    /// By resource name, and only so: this is where the kubelet mixes up two instances.
    clients: Arc<Mutex<HashMap<String, Client>>>,
    tasks: TaskTracker,
    pub(crate) end: CancellationToken,
}

impl Run {
    pub(crate) fn new(
        folder: &Path,
        state: Arc<watch::Sender<KubeletState>>,
        behaviour: watch::Receiver<Behaviour>,
        tasks: TaskTracker,
    ) -> Self {
        let (clients, end) = (Arc::default(), CancellationToken::new());
        Self { folder: folder.to_owned(), state, behaviour, clients, tasks, end }
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<String, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plugin that Allocate goes to.
    pub(crate) fn client(&self, resource: &str) -> Option<Client> {
        self.clients().get(resource).cloned()
    }

    async fn take(&self, request: RegisterRequest) -> Result<(), Status> {
        if request.version != VERSION {
            return Err(Status::invalid_argument(format!("version {} is not supported", request.version)));
        }
        let mut plugin = dial(self.folder.join(&request.endpoint)).await?;
        let options = plugin.get_device_plugin_options(Empty {}).await?.into_inner();
        let client = Client { plugin: plugin.clone(), connected: self.end.child_token() };
        self.clients().insert(request.resource_name.clone(), client.clone());
        self.state.send_modify(|state| {
            let resource = state.resources.entry(request.resource_name.clone()).or_default();
            resource.endpoint = request.endpoint;
            resource.registrations += 1;
            resource.has_preference = options.get_preferred_allocation_available;
        });
        self.tasks.spawn(self.clone().watch(request.resource_name, client));
        Ok(())
    }

    /// `runClient` of the kubelet: when this stream ends, the present client of that name is disconnected.
    async fn watch(self, resource: String, mut client: Client) {
        if let Ok(lists) = client.plugin.list_and_watch(Empty {}).await {
            self.change(&resource, |resource| resource.is_connected = true);
            tokio::select! {
                () = client.connected.cancelled() => {}
                () = self.follow(&resource, lists.into_inner()) => {}
            }
        }
        if let Some(client) = self.clients().remove(&resource) {
            client.connected.cancel();
        }
        self.change(&resource, |resource| resource.is_connected = false);
    }

    async fn follow(&self, resource: &str, mut lists: Streaming<ListAndWatchResponse>) {
        while let Ok(Some(list)) = lists.message().await {
            let Ok(devices) = list.devices.into_iter().map(Device::decode).collect() else { return };
            self.change(resource, |resource| resource.lists.push(devices));
            if *self.behaviour.borrow() == Behaviour::CloseStreams {
                return;
            }
        }
    }

    fn change(&self, resource: &str, change: impl FnOnce(&mut crate::Resource)) {
        if !self.end.is_cancelled() {
            self.state.send_modify(|state| change(state.resources.entry(resource.to_owned()).or_default()));
        }
    }
}

#[tonic::async_trait]
impl Registration for Run {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let behaviour = self.behaviour.borrow().clone();
        match behaviour {
            Behaviour::Hang => {
                self.end.cancelled().await;
                Err(Status::unavailable("the kubelet ends"))
            }
            Behaviour::Refuse(reason) => Err(Status::unknown(reason)),
            Behaviour::Right | Behaviour::CloseStreams => {
                self.take(request.into_inner()).await?;
                Ok(Response::new(Empty {}))
            }
        }
    }
}

/// Messages may have at most 4 MiB, as in the kubelet's gRPC library.
async fn dial(socket: PathBuf) -> Result<DevicePluginClient<Channel>, Status> {
    let connected = kubelet::connect(&socket, DIAL).await;
    let failed = |error| Status::unknown(format!("failed to dial the device plugin: {error}"));
    connected.map(DevicePluginClient::new).map_err(failed)
}
