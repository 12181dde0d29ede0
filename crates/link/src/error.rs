//! What can go wrong between a host and a sandbox, in the words that a Pod's author reads.

use std::{io, path::PathBuf};

use netdevice::{DeviceId, InterfaceName, exclusion::Exclusion};
use store::is_shortage;

use crate::socket::KernelError;

/// Why an attachment, a detachment or a look at either failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No link of that name is on the host.
    #[error("no such interface is on the node: it was removed or renamed, choose another device")]
    NotThere,
    /// The rule about the node's own connectivity.
    #[error("it is never handed out because {0}: choose another device")]
    Excluded(Exclusion),
    /// The target is the node itself.
    #[error(
        "the pod uses the node's own network (hostNetwork), to which the device belongs already: remove hostNetwork or the device"
    )]
    HostNetwork,
    /// The runtime gave up, or was killed, while it waited for us.
    #[error("its container ended before it started: nobody would give the device back")]
    ContainerEnded,
    /// The sandbox has a link of that name, or with that alternative name.
    #[error("the name {0} is taken in the pod's network namespace: rename the device on the node")]
    NameTaken(String),
    /// The sandbox has a link of the name that the Pod asks for, or with that alternative name.
    #[error("the name {0} is taken in the pod's network namespace: ask for another new_name")]
    NewNameTaken(InterfaceName),
    /// The name cannot be given inside.
    #[error(transparent)]
    Name(#[from] netdevice::InterfaceNameError),
    /// The kernel refused the move.
    #[error("the kernel does not move it: {0}")]
    Move(#[source] KernelError),
    /// The kernel refused to configure it.
    #[error("cannot set {what} of it: {source}")]
    Configure {
        /// What was to be set.
        what: String,
        /// The kernel's answer.
        source: KernelError,
    },
    /// Something that the Pod asked for.
    #[error("cannot give it {what}, which the pod asks for: {reason}")]
    NotApplied {
        /// What was asked for.
        what: String,
        /// Why it is not there.
        reason: String,
    },
    /// Two devices of one Pod.
    #[error("the pod asks for two devices that would both be called {0}: give one of them another name")]
    SameName(String),
    /// The caller wants no more of it.
    #[error("stopped: the sandbox is going away, or its devices took too long")]
    Stopped,
    /// A file below `/proc/sys/net`.
    #[error("cannot write {what} of it: {source}")]
    Sysctl {
        /// The setting.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The device left the place where it was put.
    #[error("it vanished while it was being moved")]
    Vanished,
    /// The kernel did not tell.
    #[error("cannot read {what} of it: {source}")]
    Read {
        /// What was asked for.
        what: &'static str,
        /// The kernel's answer.
        source: KernelError,
    },
    /// A socket or thread failed.
    #[error("cannot reach {what}: {source}")]
    Io {
        /// What was asked for.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The sandbox's namespace.
    #[error("cannot enter the network namespace {}: {source}", path.display())]
    Namespace {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The device's record, or somebody's right to it.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The sandbox may be there and cannot be seen from here.
    #[error(
        "its pod's network namespace cannot be found from here{}",
        .0.as_ref().map_or_else(String::new, |error| format!(": {error}"))
    )]
    OutOfSight(#[source] Option<io::Error>),
    /// The device is neither on the host nor where the record says.
    #[error("device {0} is neither on the node nor in the pod's network namespace: something moved it on")]
    Away(DeviceId),
}

impl Error {
    /// Whether it failed only because the process or the system has no descriptor or memory left.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::Namespace { source, .. } => is_shortage(source),
            Self::Store(error) => error.is_shortage(),
            Self::OutOfSight(source) => source.as_ref().is_some_and(is_shortage),
            _ => false,
        }
    }
}

/// Names what a system call was for.
pub(crate) trait WithSubject<T> {
    fn subject(self, what: &'static str) -> Result<T, Error>;
}

impl<T> WithSubject<T> for io::Result<T> {
    fn subject(self, what: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Io { what, source })
    }
}
