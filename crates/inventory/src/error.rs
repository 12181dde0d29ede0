//! What can keep the inventory from knowing the links.

use std::io;

use crate::state::Part;

/// Why the inventory could not be read or followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket, or one without an option that is needed.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// A multicast group was refused.
    #[error("cannot subscribe to rtnetlink group {0}")]
    Subscribe(u32, #[source] io::Error),
    /// A request did not leave.
    #[error("cannot ask the kernel for its {0}")]
    Request(Part, #[source] io::Error),
    /// The kernel answered a request with an error.
    #[error("the kernel does not list its {0}")]
    Refused(Part, #[source] io::Error),
    /// An answer did not arrive.
    #[error("cannot receive the kernel's {0}")]
    Answer(Part, #[source] io::Error),
    /// Notifications did not arrive.
    #[error("cannot receive rtnetlink notifications")]
    Receive(#[source] io::Error),
    /// The thread that follows the kernel, or what ends it, could not be made.
    #[error("cannot start the thread that follows rtnetlink")]
    Thread(#[source] io::Error),
    /// The thread ended without a word: it panicked.
    #[error("the thread that follows rtnetlink ended unexpectedly")]
    Ended,
}
