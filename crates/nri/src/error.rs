//! What can fail between a plugin and its runtime.

use std::{ffi::OsString, fmt::Write as _, io, path::PathBuf, time::Duration};

/// An operation that failed, with its subject.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A runtime would not take this name.
    #[error("invalid name '{0}' of an NRI plugin: letters, digits, '_', '.', '+' and '-' are allowed")]
    InvalidName(String),
    /// A runtime would not take this index.
    #[error("invalid index '{0}' of an NRI plugin: two digits are needed, such as 10")]
    InvalidIndex(String),
    /// The environment names a socket that is none.
    #[error("NRI_PLUGIN_SOCKET={} is not an open socket", .number.display())]
    AdoptFailed {
        /// What the environment says.
        number: OsString,
        /// Why.
        source: io::Error,
    },
    /// No runtime listens.
    #[error("cannot connect to the runtime at {}", .path.display())]
    ConnectFailed {
        /// Its socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The runtime said no.
    #[error("the runtime refused the registration: {0}")]
    RegisterRefused(String),
    /// The runtime said nothing.
    #[error("the runtime did not answer the registration within {0:?}")]
    RegisterTimedOut(Duration),
    /// The runtime took the plugin, and then said nothing.
    #[error("the runtime did not configure the plugin within {0:?}")]
    NotConfigured(Duration),
    /// The runtime configured the plugin, and then said nothing.
    #[error("the runtime did not list its pods within {0:?}")]
    NotSynchronized(Duration),
    /// The runtime closed the connection, or ended.
    #[error("the runtime closed the connection")]
    Closed,
    /// The socket broke.
    #[error("cannot read from the runtime")]
    ReadFailed(#[source] io::Error),
    /// The socket broke.
    #[error("cannot write to the runtime")]
    WriteFailed(#[source] io::Error),
    /// A frame that is longer than any that a runtime writes: the stream is not in step any more.
    #[error("the runtime sent a frame of {0} bytes: the connection is out of step")]
    FrameTooLong(u32),
    /// A part of the plugin panicked.
    #[error("a task of the NRI plugin failed")]
    TaskFailed(#[from] tokio::task::JoinError),
}

impl Error {
    /// The error with all its causes, in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(text, ": {error}").expect("a string takes any text");
            cause = error.source();
        }
        text
    }
}
