//! What can fail in a device plugin.

use std::{fmt::Write as _, io, path::PathBuf, time::Duration};

/// An operation that failed, with its subject.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Our socket could not be made.
    #[error("cannot listen on {}", .path.display())]
    BindFailed {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel takes 107 bytes for the path of a socket.
    #[error("{} is too long for the path of a socket: choose a shorter folder", .0.display())]
    SocketPathTooLong(PathBuf),
    /// The kubelet does not listen.
    #[error("cannot connect to the kubelet at {}", .path.display())]
    ConnectFailed {
        /// Its socket.
        path: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The kubelet said no.
    #[error("the kubelet refused the registration: {}", .0.message())]
    RegisterRefused(Box<tonic::Status>),
    /// The kubelet said nothing.
    #[error("the kubelet did not answer the registration within {0:?}")]
    RegisterTimedOut(Duration),
    /// The kubelet registered us and never asked for the list.
    #[error("the kubelet did not ask for the devices within {0:?} of the registration")]
    NotWatched(Duration),
    /// Our server ended.
    #[error("the server of the device plugin ended")]
    ServeFailed(#[source] Option<tonic::transport::Error>),
    /// The CDI file could not be written or removed.
    #[error("cannot write the CDI file {}", .path.display())]
    CdiWriteFailed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// PodResources could not be asked.
    #[error("cannot ask the kubelet for pod resources: {}", .0.message())]
    PodResourcesFailed(Box<tonic::Status>),
    /// The kernel gave no timer.
    #[error("cannot make a timer")]
    TimerFailed(#[source] io::Error),
    /// A part of the plugin panicked.
    #[error("a task of the device plugin broke")]
    TaskFailed(#[from] tokio::task::JoinError),
}

impl Error {
    /// The error with all its causes, in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let part = error.to_string();
            // some wrappers repeat what they wrap
            if !text.ends_with(&part) {
                write!(text, ": {part}").expect("a string takes any text");
            }
            cause = error.source();
        }
        text
    }
}
