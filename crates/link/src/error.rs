//! What can go wrong between a host and a sandbox, in the words that a Pod's author reads.

use std::{io, path::PathBuf};

use netdevice::{DeviceId, InterfaceName, exclusion::Exclusion};
use store::is_shortage;

use crate::socket::KernelError;

/// Why an attachment, a detachment or the reading of either failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No link of that name is on the host.
    #[error("the node has no such interface: it was removed or renamed; choose another device")]
    NotThere,
    /// The rule about the node's own connectivity.
    #[error("it is never handed out because {0}: choose another device")]
    Excluded(Exclusion),
    /// The same rule about the interface that a device is to be created on.
    #[error("no device is created on {0} because {1}: choose another device, or set allowUplinkParent in its pool")]
    ExcludedParent(InterfaceName, Exclusion),
    /// The target is the node itself.
    #[error(
        "the pod uses the node's own network (hostNetwork), to which the device belongs already: remove hostNetwork or the device"
    )]
    HostNetwork,
    /// The sandbox has a link of that name, or with that alternative name.
    #[error("the name {0} is taken in the pod's network namespace: rename the device on the node")]
    NameTaken(String),
    /// The sandbox has a link of the name that the Pod asks for, or with that alternative name.
    #[error("the name {0} is taken in the pod's network namespace: choose another new_name")]
    NewNameTaken(InterfaceName),
    /// The name cannot be given inside.
    #[error(transparent)]
    Name(#[from] netdevice::InterfaceNameError),
    /// The kernel refused the move.
    #[error("the kernel refused to move it: {0}")]
    Move(KernelError),
    /// The kernel refused to create it.
    #[error("the kernel refused to create it: {0}")]
    Create(KernelError),
    /// The kernel refused to delete it.
    #[error("the kernel refused to delete it: {0}")]
    Delete(KernelError),
    /// The interface that it is to be created on.
    #[error("its parent {0} is down: set it up, then try again")]
    ParentDown(InterfaceName),
    /// A VLAN of the parent, on the node or in a namespace.
    #[error("VLAN {1} of {0} exists already: choose another id, or delete that link")]
    VlanTaken(InterfaceName, u16),
    /// What the parent is used for excludes what is to be created (`rx_handler` of the kernel).
    #[error("its parent {0} is used in another way, as a port or by links of another kind: choose another device")]
    ParentInUse(InterfaceName),
    /// An MTU larger than the parent's.
    #[error("mtu {mtu} is larger than that of its parent {parent}, {limit}: request at most that")]
    ParentMtu {
        /// The parent.
        parent: InterfaceName,
        /// Its MTU.
        limit: u32,
        /// What was requested.
        mtu: u32,
    },
    /// An id of the form `parent:number` is of a device that is created, any other one of a device that is moved.
    #[error("an id with a number is of a device that is created, any other id of one that is moved")]
    WrongAcquisition,
    /// The kernel refused to configure it.
    #[error("cannot set {what}: {error}")]
    Configure {
        /// What was to be set.
        what: String,
        /// The kernel's answer.
        error: KernelError,
    },
    /// Something that the Pod asked for.
    #[error("cannot apply {what}, which the pod requests: {reason}")]
    NotApplied {
        /// What was asked for.
        what: String,
        /// Why it is not there.
        reason: String,
    },
    /// Two devices of one Pod.
    #[error("the pod requests two devices with the name {0}: give one of them another name")]
    SameName(String),
    /// The caller wants no more of it.
    #[error("stopped: the pod is being deleted, or attaching its devices took too long")]
    Stopped,
    /// A file below `/proc/sys/net`.
    #[error("cannot write {what}: {error}")]
    Sysctl {
        /// The setting.
        what: String,
        /// What the system said.
        error: io::Error,
    },
    /// Another program does not finish.
    #[error("it is being attached or detached: try again in a moment")]
    Busy,
    /// The device left the place where it was put.
    #[error("it disappeared during the move")]
    Vanished,
    /// The kernel refused to say.
    #[error("cannot read {what}: {error}")]
    Read {
        /// What was asked for.
        what: &'static str,
        /// The kernel's answer.
        error: KernelError,
    },
    /// A socket or thread failed.
    #[error("cannot access {what}: {error}")]
    Io {
        /// What was asked for.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The sandbox's namespace.
    #[error("cannot enter the network namespace {}: {error}", path.display())]
    Namespace {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The device's record or reservation.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The sandbox may be there and cannot be seen from here.
    #[error(
        "cannot find the network namespace of its pod{}",
        .0.as_ref().map_or_else(String::new, |error| format!(": {error}"))
    )]
    OutOfSight(Option<io::Error>),
    /// The device is neither on the host nor where the record says.
    #[error("device {0} is neither on the node nor in the pod's network namespace: something moved it on")]
    Away(DeviceId),
}

impl Error {
    /// Whether it failed only because the process or the system has no descriptor or memory left.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Io { error, .. } | Self::Namespace { error, .. } => is_shortage(error),
            Self::Store(error) => error.is_shortage(),
            Self::OutOfSight(error) => error.as_ref().is_some_and(is_shortage),
            _ => false,
        }
    }

    /// Whether the device's record was put in quarantine: an administrator has to look at it, and nobody gets the device until
    /// then.
    pub fn is_quarantined(&self) -> bool {
        matches!(self, Self::Store(store::Error::Quarantined { .. } | store::Error::Unclean { .. }))
    }
}

/// Names what a system call was for.
pub(crate) trait WithSubject<T> {
    fn subject(self, what: &'static str) -> Result<T, Error>;
}

impl<T> WithSubject<T> for io::Result<T> {
    fn subject(self, what: &'static str) -> Result<T, Error> {
        self.map_err(|error| Error::Io { what, error })
    }
}
