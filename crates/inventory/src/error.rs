//! What can fail when the inventory reads or follows the kernel.

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
    /// A request could not be sent.
    #[error("cannot request the {0} from the kernel")]
    Request(Part, #[source] io::Error),
    /// The kernel answered a request with an error.
    #[error("the kernel refused to list the {0}")]
    Refused(Part, #[source] io::Error),
    /// An answer could not be received.
    #[error("cannot receive the list of {0} from the kernel")]
    Answer(Part, #[source] io::Error),
    /// Notifications could not be received.
    #[error("cannot receive rtnetlink notifications")]
    Receive(#[source] io::Error),
    /// The thread that follows the kernel, or the descriptor that ends it, could not be created.
    #[error("cannot start the thread that follows rtnetlink")]
    Thread(#[source] io::Error),
    /// The thread panicked.
    #[error("the thread that follows rtnetlink ended unexpectedly")]
    Ended,
}
