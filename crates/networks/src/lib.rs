//! CNI networks of running Pods: what `if-inject` does on a command, and the agent at a Pod's end.
//!
//! What always holds: one operation at a time for one Pod; `eth0`, and an interface that somebody else made, is never touched;
//! no plugin takes a device that the node needs itself, or that another owner has; what was added is deleted when its Pod
//! has ended, also when the program that added it was killed.
//!
//! Attachments are kept in libcni's cache, and nowhere else. Synchronous; paths are those of the calling thread's mount
//! namespace, which must be the node's ([`store::run_in_mounts_of_init`]).

mod attachment;
mod ended;
mod error;
mod node_devices;
mod operations;

pub use attachment::{Boot, is_without_link};
pub use ended::{Collected, Ended};
pub use error::Error;
pub use node_devices::find_links;
pub use operations::{AddRequest, Deleted, Networks, PRIMARY, Place, ReadNode};
