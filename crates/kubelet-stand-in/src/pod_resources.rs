//! The PodResources API: what Pods have, as the tests say.

use std::{fs, io, path::Path, sync::Arc};

use proto::podresources as wire;
use proto::podresources::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};
use tokio::{net::UnixListener, sync::watch, task::JoinSet};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// A server of the PodResources API; it ends when it is dropped.
#[derive(Debug)]
pub struct PodResources {
    lister: Lister,
    _server: JoinSet<Result<(), tonic::transport::Error>>,
}

#[derive(Debug, Clone)]
struct Lister {
    pods: Arc<watch::Sender<Vec<wire::PodResources>>>,
    answers: Arc<watch::Sender<usize>>,
}

impl PodResources {
    /// Serves on that socket; there is no Pod yet.
    ///
    /// # Errors
    ///
    /// When the socket cannot be made.
    pub fn start(socket: &Path) -> io::Result<Self> {
        if let Some(folder) = socket.parent() {
            fs::create_dir_all(folder)?;
        }
        let listener = UnixListenerStream::new(UnixListener::bind(socket)?);
        let lister = Lister { pods: Arc::default(), answers: Arc::default() };
        let mut server = JoinSet::new();
        server.spawn(Server::builder().serve_with_incoming(PodResourcesListerServer::new(lister.clone()), listener));
        Ok(Self { lister, _server: server })
    }

    /// From now on there are these Pods, each with one container that has these devices of the resource.
    pub fn set_pods(&self, resource: &str, pods: &[(&str, &[&str])]) {
        let pod = |(name, ids): &(&str, &[&str])| wire::PodResources {
            name: (*name).into(),
            namespace: "default".into(),
            containers: vec![wire::ContainerResources {
                name: "c".into(),
                devices: vec![wire::ContainerDevices {
                    resource_name: resource.into(),
                    device_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
                }],
            }],
        };
        self.lister.pods.send_replace(pods.iter().map(pod).collect());
    }

    /// Follows how often it was asked.
    pub fn answers(&self) -> watch::Receiver<usize> {
        self.lister.answers.subscribe()
    }
}

#[tonic::async_trait]
impl PodResourcesLister for Lister {
    async fn list(
        &self,
        _: Request<wire::ListPodResourcesRequest>,
    ) -> Result<Response<wire::ListPodResourcesResponse>, Status> {
        let pod_resources = self.pods.borrow().clone();
        self.answers.send_modify(|answers| *answers += 1);
        Ok(Response::new(wire::ListPodResourcesResponse { pod_resources }))
    }
}
