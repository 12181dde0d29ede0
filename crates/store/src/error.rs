//! What can go wrong with the state directory, in the words that a Pod's author reads.

use std::{io, path::PathBuf};

use netdevice::{Owner, record_text::MAX_RECORD};

/// Why something was not read from or written to the state directory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory cannot be read or written.
    #[error("cannot read or write its record {}: {error}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A record that is too large to be read again.
    #[error("it has too many addresses and routes: its record would have {0} bytes, the limit is {MAX_RECORD}")]
    RecordTooLarge(usize),
    /// A record that this program cannot follow.
    #[error(
        "its record {} cannot be used ({reason}): use the program that wrote it, or restore the device by hand as the record says and remove the file",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A record that cannot be used was put aside, now or before.
    #[error(
        "its record was moved to {} because it cannot be used ({reason}): check that the interface is on the node and as it should be, then remove that file",
        path.display()
    )]
    Quarantined {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The device is on the host, and something of its Pod is on it that cannot be removed.
    #[error(
        "it is on the node, down and quarantined: {reason}. Remove that and move {} back to the records, or remove that file to use the device as it is",
        path.display()
    )]
    Unclean {
        /// The record, put aside.
        path: PathBuf,
        /// What is on the device.
        reason: String,
    },
    /// Somebody else has it, or a right to it.
    #[error("it is held by {0}: delete that pod or choose another device")]
    Held(Box<Owner>),
    /// The claim that it is to be attached for has no right to it (any longer).
    #[error("it is not reserved for {0}: the claim is not prepared on this node")]
    NotPrepared(Box<Owner>),
    /// A device that was created on it is in a sandbox.
    #[error("{0} has a device that was created on it: delete that pod or choose another device")]
    Parent(Box<Owner>),
}

impl Error {
    /// Whether it failed only because the process or the system has no descriptor or memory left.
    pub fn is_shortage(&self) -> bool {
        matches!(self, Self::Record { error, .. } if is_shortage(error))
    }
}

/// Whether a call failed only because the process or the system has no descriptor or memory left: it says nothing of what
/// was asked for.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS))
}
