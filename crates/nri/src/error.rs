//! What can fail between a plugin and its runtime.

use std::{ffi::OsString, io, path::PathBuf, time::Duration};

/// An operation that failed, with its subject. Each text is complete: no source hides behind it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A runtime would not take this name.
    #[error("invalid name '{0}' of an NRI plugin: letters, digits, '_', '.', '+' and '-' are allowed")]
    InvalidName(String),
    /// A runtime would not take this index.
    #[error("invalid index '{0}' of an NRI plugin: two digits are needed, such as 10")]
    InvalidIndex(String),
    /// The environment names a descriptor that is not a socket.
    #[error("NRI_PLUGIN_SOCKET={} is not an open socket: {cause}", .number.display())]
    AdoptFailed {
        /// What the environment says.
        number: OsString,
        /// Why.
        cause: io::Error,
    },
    /// No runtime listens.
    #[error("cannot connect to the runtime at {}: {cause}", .path.display())]
    ConnectFailed {
        /// Its socket.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The runtime refused the plugin.
    #[error("the runtime refused the registration: {0}")]
    RegisterRefused(String),
    /// The runtime did not answer in time.
    #[error("the runtime did not answer the registration within {0:?}")]
    RegisterTimedOut(Duration),
    /// The runtime accepted the plugin and did not configure it in time.
    #[error("the runtime did not configure the plugin within {0:?}")]
    NotConfigured(Duration),
    /// The runtime configured the plugin and did not list its Pods in time.
    #[error("the runtime did not list its pods within {0:?}")]
    NotSynchronized(Duration),
    /// The runtime closed the connection, or ended.
    #[error("the runtime closed the connection")]
    Closed,
    /// Reading from the socket failed.
    #[error("cannot read from the runtime: {0}")]
    ReadFailed(io::Error),
    /// Writing to the socket failed.
    #[error("cannot write to the runtime: {0}")]
    WriteFailed(io::Error),
    /// A frame that is longer than any that a runtime writes: the bytes are not frames any more.
    #[error("the runtime sent an invalid frame of {0} bytes")]
    FrameTooLong(u32),
    /// A part of the plugin panicked.
    #[error("a task of the NRI plugin failed: {0}")]
    TaskFailed(tokio::task::JoinError),
}

impl From<tokio::task::JoinError> for Error {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::TaskFailed(error)
    }
}
