//! Why an interface is not added, checked or deleted.

use std::{io, time::Duration};

use netdevice::{DeviceId, InterfaceName, exclusion::Exclusion};

/// Why an operation on a Pod's network failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Pod's own network.
    #[error("{0} is the pod's primary interface: choose another name")]
    Primary(InterfaceName),
    /// The name is taken.
    #[error("the name {0} is taken in the pod's network namespace: choose another one, or delete that interface first")]
    NameTaken(InterfaceName),
    /// The interface is there, and nothing says that a CNI plugin of ours made it.
    #[error("{interface} is not an interface of network {network} that was added here: it is not touched")]
    NotAdded {
        /// The interface.
        interface: InterfaceName,
        /// The network that it was to be deleted from.
        network: String,
    },
    /// The container runtime made it.
    #[error("{0} was made by the container runtime: it is not touched")]
    OfRuntime(InterfaceName),
    /// A plugin would take a device that the node needs.
    #[error("plugin {plugin} would take {link} away from the node, which is never handed out because {exclusion}")]
    Excluded {
        /// The plugin's type.
        plugin: String,
        /// The device.
        link: InterfaceName,
        /// Why not.
        exclusion: Exclusion,
    },
    /// A plugin would take a device that another owner has.
    #[error("plugin {plugin} would take device {device}: {error}")]
    Held {
        /// The plugin's type.
        plugin: String,
        /// The device.
        device: DeviceId,
        /// Who has it.
        error: Box<store::Error>,
    },
    /// Another program works on that device.
    #[error("plugin {plugin} would take device {device}, which is being attached or detached: try again in a moment")]
    Busy {
        /// The plugin's type.
        plugin: String,
        /// The device.
        device: DeviceId,
    },
    /// The devices of the node.
    #[error("cannot read the interfaces of this node: {0}")]
    Node(Box<dyn std::error::Error + Send + Sync>),
    /// Another program works on the Pod.
    #[error("another program works on this pod, and did not end within {0:?}")]
    PodBusy(Duration),
    /// A program cleans the networks.
    #[error("another program cleans the networks of this node, and did not end within {0:?}")]
    NetworksBusy(Duration),
    /// The locks.
    #[error("cannot lock: {0}")]
    Lock(io::Error),
    /// The network namespace.
    #[error("cannot read the pod's network namespace: {0}")]
    Namespace(io::Error),
    /// The links in it.
    #[error("cannot read the pod's interfaces: {0}")]
    Links(Box<link::Error>),
    /// The Pod's default route.
    #[error("cannot change the pod's default route: {0}")]
    DefaultRoute(Box<link::Error>),
    /// An ADD.
    #[error(transparent)]
    Add(Box<cni::AddError>),
    /// Another operation of the plugins.
    #[error(transparent)]
    Cni(Box<cni::Error>),
    /// There is nothing to check.
    #[error("{interface} of this pod was not added to network {network} here: there is no result to compare with")]
    Unchecked {
        /// The interface.
        interface: InterfaceName,
        /// The network.
        network: String,
    },
}

impl From<cni::AddError> for Error {
    fn from(error: cni::AddError) -> Self {
        Self::Add(Box::new(error))
    }
}

impl From<cni::Error> for Error {
    fn from(error: cni::Error) -> Self {
        Self::Cni(Box::new(error))
    }
}

impl From<cni::CacheError> for Error {
    fn from(error: cni::CacheError) -> Self {
        Self::Cni(Box::new(error.into()))
    }
}
