//! What an operation is for.

use netdevice::InterfaceName;

use crate::{capability::CapabilityArguments, name::ContainerId};

/// What an operation is for: an interface of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// `CNI_CONTAINERID`: for Kubernetes the sandbox's id.
    pub container: ContainerId,
    /// `CNI_IFNAME`.
    pub interface: InterfaceName,
    /// `CNI_NETNS`: the path of the network namespace, in the mount namespace of the calling thread. Empty for a DEL after the
    /// namespace is gone.
    pub namespace: String,
    /// `CNI_ARGS`.
    pub arguments: Vec<(String, String)>,
    /// Each is given to the plugins that have the capability.
    pub capabilities: CapabilityArguments,
}

impl Target {
    /// An interface without further arguments.
    pub fn new(container: ContainerId, interface: InterfaceName, namespace: impl Into<String>) -> Self {
        let (namespace, arguments, capabilities) = (namespace.into(), Vec::new(), CapabilityArguments::new());
        Self { container, interface, namespace, arguments, capabilities }
    }
}
