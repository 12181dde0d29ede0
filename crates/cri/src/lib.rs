//! A client of the Container Runtime Interface (CRI v1): which runtime this node has, and where a running Pod's network is.
//!
//! ```text
//! flag, environment, /etc/crictl.yaml, known sockets ─► Candidates ─► Client ─► find_sandbox ─► FoundSandbox ─► link
//! ```
//!
//! What always holds: connecting and each call have a deadline, and an answer has a limit. Nothing is retried, and nothing is
//! changed: no request of this crate starts or stops anything.

mod candidates;
mod client;
mod connection;
mod endpoint;
mod error;
mod sandbox;
#[cfg(feature = "stand-in")]
pub mod stand_in;

pub use candidates::{Candidates, read_crictl_configuration};
pub use client::{Client, Deadlines, Runtime, RuntimeState};
pub use endpoint::{CRICTL_CONFIGURATION, ENVIRONMENT, Endpoint, Origin};
pub use error::{ConnectError, Error};
pub use sandbox::{FoundSandbox, ListedSandbox};
