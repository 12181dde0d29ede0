//! rtnetlink messages: bytes to values of the domain and back. No socket, so that the synchronous routine of the hook
//! and the watcher of the agent share it.
//!
//! Only what we use is taken apart, without a copy of the rest: a storm of 10,000 links is read at the kernel's pace.
//! Shapes and numbers are those of `include/uapi/linux/{netlink,rtnetlink,if_link,if_addr,neighbour,nexthop,fib_rules}.h`;
//! numbers are in the machine's byte order unless said otherwise.

pub mod action;
pub mod address;
pub mod attribute;
mod field;
pub mod link;
pub mod message;
pub mod neighbour;
pub mod neighbour_table;
pub mod nexthop;
pub mod nsid;
pub mod qdisc;
pub mod request;
pub mod route;
pub mod rule;

pub use attribute::{Attribute, attributes};
pub use message::{Answer, Malformed, Message, messages};
pub use request::{Batch, Request};
