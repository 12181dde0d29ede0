//! What the controller works with.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use cni::Cache;
use cri::Candidates;
use networks::Networks;

use crate::device::Devices;

/// What the controller works with.
#[derive(Debug)]
pub struct Settings {
    /// The node's name.
    pub node: String,
    /// Where the container runtime is.
    pub runtime: Candidates,
    /// The CNI networks of this node. With a [`cni::Delegate`], Multus runs the plugins.
    pub networks: Networks,
    /// Multus' results, if Multus runs the plugins.
    pub multus_cache: Option<Cache>,
    /// Where the configuration of a definition with an empty spec is.
    pub configuration_dir: PathBuf,
    /// The devices of this node that networks of type `host-device` can name.
    pub devices: Arc<dyn Devices>,
    /// Whether a Pod may use only the definitions of its own namespace, and of the global ones (`namespaceIsolation` of
    /// Multus).
    pub is_isolated: bool,
    /// The global namespaces.
    pub global_namespaces: BTreeSet<String>,
}

impl Settings {
    /// Whether Multus runs the plugins.
    pub(crate) fn uses_multus(&self) -> bool {
        self.networks.runtime.delegate.is_some()
    }
}
