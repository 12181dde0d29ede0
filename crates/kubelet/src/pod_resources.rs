//! The kubelet's list of Pods and their devices (API v1 on `pod-resources/kubelet.sock`).

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use proto::podresources::{
    self as wire, ListPodResourcesRequest, pod_resources_lister_client::PodResourcesListerClient,
};
use tokio::time::timeout;
use wake::FileIdentity;

use crate::{connection::connect, error::Error};

/// Where the kubelet serves it.
pub const DEFAULT_SOCKET: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";

/// How long one call may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest answer that is read, in bytes (the same as in Multus).
const MAX_ANSWER: usize = 16 << 20;

/// The kubelet's PodResources socket. It need not exist.
#[derive(Debug, Clone)]
pub struct PodResources {
    socket: PathBuf,
}

/// A Pod that the kubelet knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name. The kubelet does not report the UID.
    pub name: String,
    /// The devices of its containers.
    pub devices: Vec<Devices>,
}

/// Devices of one resource that a container has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices {
    /// The container.
    pub container: String,
    /// The resource.
    pub resource: String,
    /// The ids that Allocate was called with.
    pub ids: Vec<String>,
}

impl PodResources {
    /// A client that is not connected yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The kubelet's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// All Pods; none without a kubelet on this node. For a second after its start a kubelet lists no Pod.
    ///
    /// # Errors
    ///
    /// When there is a kubelet and it does not answer within 10 s.
    pub async fn list(&self) -> Result<Option<Vec<Pod>>, Error> {
        if FileIdentity::of(&self.socket).is_none() {
            return Ok(None);
        }
        let pods = timeout(DEADLINE, self.ask()).await.map_err(|_| Error::ListTimedOut(DEADLINE))??;
        Ok(Some(pods.into_iter().map(Pod::from).collect()))
    }

    async fn ask(&self) -> Result<Vec<wire::PodResources>, Error> {
        let channel = connect(&self.socket, DEADLINE).await?;
        let mut client = PodResourcesListerClient::new(channel).max_decoding_message_size(MAX_ANSWER);
        let answer = client.list(ListPodResourcesRequest {}).await;
        Ok(answer.map_err(|status| Error::ListFailed(Box::new(status)))?.into_inner().pod_resources)
    }
}

impl Pod {
    /// The ids of all its devices, or of those of one resource.
    pub fn ids<'a>(&'a self, resource: Option<&'a str>) -> impl Iterator<Item = &'a str> {
        let devices = self.devices.iter().filter(move |devices| resource.is_none_or(|name| devices.resource == name));
        devices.flat_map(|devices| &devices.ids).map(String::as_str)
    }
}

impl From<wire::PodResources> for Pod {
    fn from(pod: wire::PodResources) -> Self {
        let wire::PodResources { name, namespace, containers } = pod;
        let of_container = |container: wire::ContainerResources| {
            let of_resource = move |devices: wire::ContainerDevices| Devices {
                container: container.name.clone(),
                resource: devices.resource_name,
                ids: devices.device_ids,
            };
            container.devices.into_iter().map(of_resource)
        };
        Self { namespace, name, devices: containers.into_iter().flat_map(of_container).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_without_a_kubelet_is_not_an_error_and_a_kubelet_that_is_down_is() {
        let directory = tempfile::tempdir().unwrap();
        let pod_resources = PodResources::new(directory.path().join("kubelet.sock"));
        assert_eq!(pod_resources.list().await.unwrap(), None);
        drop(tokio::net::UnixListener::bind(pod_resources.socket()).unwrap());
        assert!(matches!(pod_resources.list().await, Err(Error::ConnectFailed { .. })));
    }

    #[test]
    fn ids_are_those_of_all_containers_and_of_one_resource_if_asked() {
        let devices = |container: &str, resource: &str, ids: &[&str]| Devices {
            container: container.into(),
            resource: resource.into(),
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        };
        let devices = vec![
            devices("c", "r/a", &["eth0", "eth1"]),
            devices("d", "r/b", &["gpu0"]),
            devices("d", "r/a", &["eth2"]),
        ];
        let pod = Pod { namespace: "default".into(), name: "web".into(), devices };
        assert_eq!(pod.ids(None).count(), 4);
        assert_eq!(pod.ids(Some("r/a")).collect::<Vec<_>>(), ["eth0", "eth1", "eth2"]);
    }
}
