//! What can go wrong between a host and a sandbox, in the words that a Pod's author reads.

use std::{io, path::PathBuf};

use netdevice::{DeviceId, Holder, InterfaceName, exclusion::Exclusion, record::MAX_RECORD};

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
    /// Somebody else has it.
    #[error("it is held by {0}: delete that pod or choose another device")]
    Held(Holder),
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
    /// The folder of the records.
    #[error("cannot keep its record {}: {source}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A record that nobody would read again.
    #[error(
        "it has too many addresses and routes: its record would have {0} bytes, more than {MAX_RECORD} are not kept"
    )]
    RecordTooLarge(usize),
    /// A record that this program cannot follow.
    #[error(
        "its record {} cannot be followed ({reason}): with the program that wrote it, or see there what the device was, put it right by hand and remove the file",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A record that nobody can follow was put aside, now or before.
    #[error(
        "its record was put aside as {}, since it cannot be followed ({reason}): see that the interface is on the node and as it should be, then remove that file",
        path.display()
    )]
    Quarantined {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The device is on the host, and something of its Pod is on it that cannot be taken off.
    #[error(
        "it is on the node, down and quarantined: {reason}. Take that off and move {} back to the records, or remove that file to use the device as it is",
        path.display()
    )]
    Unclean {
        /// The record, put aside.
        path: PathBuf,
        /// What is on the device.
        reason: String,
    },
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
            Self::Io { source, .. } | Self::Namespace { source, .. } | Self::Record { source, .. } => {
                is_shortage(source)
            }
            Self::OutOfSight(source) => source.as_ref().is_some_and(is_shortage),
            _ => false,
        }
    }
}

/// Whether a call failed only because the process or the system has no descriptor or memory left: it says nothing of what
/// was asked for.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS))
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
