//! The protocol of a plugin of the Node Resource Interface (NRI). What the plugin does with Pods is its user's [`Plugin`].
//!
//! ```text
//! runtime ◄─ unix socket ─► trunk ─► mux ─┬─ connection 1 ─► ttrpc, server ─► service ─► Plugin
//!                                         └─ connection 2 ─► ttrpc, client ─► RegisterPlugin
//! ```
//!
//! What always holds: a request is answered before the runtime stops waiting, because a runtime that stops waiting
//! continues as if the plugin had agreed. Work that was started is never dropped half way, whatever happens to the
//! connection. Reading never waits for a handler. All memory that the other side can make this process use has a limit.
//!
//! There is no ttrpc crate underneath: ttrpc-rust drops a handler at its deadline and answers unknown methods with
//! NOT_FOUND, which fails every Pod of the node; no crate writes frames that the runtime's reader can read.

mod caller;
mod config;
mod connector;
mod deadline;
mod error;
mod identity;
mod mux;
mod plugin;
mod pod;
mod pre_launched;
mod progress;
mod request;
mod service;
mod session;
#[cfg(feature = "stand-in")]
pub mod stand_in;
mod state;
mod synchronize;
mod trunk;
mod ttrpc;

pub use config::{Config, DEFAULT_SOCKET};
pub use connector::Connector;
pub use error::Error;
pub use identity::{PluginIndex, PluginName};
pub use plugin::{Plugin, Refusal, Runtime};
pub use pod::{Container, PodSandbox};
pub use state::ConnectionState;
