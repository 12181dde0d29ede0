//! What the driver needs of the rest of the agent.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use kube::Client;
use netdevice::{InterfaceName, Pod, View, claims::DRIVER};
use store::Records;
use tokio::sync::watch;

/// Everything that the driver needs.
pub struct Settings {
    /// The name of the Node, which is that of our pool.
    pub node: String,
    /// UID of the agent's Pod, so that two instances serve side by side during an update; none without a Pod.
    pub instance: Option<String>,
    /// Where things are.
    pub paths: Paths,
    /// What is on disk.
    pub records: Records,
    /// The devices of this node.
    pub views: watch::Receiver<Arc<View>>,
    /// The API server.
    pub client: Client,
    /// Whether this agent attaches the devices of claims when a sandbox starts.
    pub runtime: Arc<dyn Fn() -> RuntimeState + Send + Sync>,
    /// Receives what happens; must not block.
    pub reporter: Arc<dyn Fn(Report) + Send + Sync>,
}

/// Directories and files of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The kubelet's `plugins_registry`.
    pub registry: PathBuf,
    /// The driver's own directory in the kubelet's `plugins`.
    pub plugin: PathBuf,
    /// Where the container runtime reads CDI files.
    pub cdi: PathBuf,
    /// The hook, absolute.
    pub hook: String,
    /// The directory of the records, for the hook; none if it is the default.
    pub state_dir: Option<String>,
}

impl Paths {
    /// The usual paths below the kubelet's directory, `/var/lib/kubelet`.
    pub fn of_kubelet(directory: &Path) -> Self {
        Self {
            registry: directory.join("plugins_registry"),
            plugin: directory.join("plugins").join(DRIVER),
            cdi: "/var/run/cdi".into(),
            hook: "/var/lib/netdevice/netdevice-hook".into(),
            state_dir: None,
        }
    }
}

/// Whether devices of claims are attached when a sandbox starts, before its first container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeState {
    /// They are.
    Connected,
    /// Not at this moment: why.
    Disconnected(String),
    /// This agent does not connect to the runtime.
    Off,
}

/// Something that happened to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The claim.
    pub claim: ClaimName,
    /// The Pod that it was prepared for, if it is known.
    pub pod: Option<Pod>,
    /// What.
    pub outcome: Outcome,
}

/// A claim by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimName {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is prepared.
    Prepared,
    /// It is not prepared, for this reason; the kubelet tries again after 60 to 90 s.
    Refused(String),
    /// It is unprepared. These interfaces are on the host again.
    Unprepared(Vec<InterfaceName>),
    /// It is not unprepared, for this reason; the kubelet tries again after 10 to 15 s.
    NotUnprepared(String),
}
