//! Errors at the kubelet's sockets.

use std::{io, path::PathBuf, time::Duration};

/// An operation that failed, with its subject. Each text contains its cause: there is no `source`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No process listens on the socket.
    #[error("cannot connect to the kubelet at {}: {cause}", .socket.display())]
    ConnectFailed {
        /// The kubelet's socket.
        socket: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The process that listens on the socket does not speak gRPC.
    #[error("cannot connect to the kubelet at {}: {}", .socket.display(), innermost(.cause))]
    HandshakeFailed {
        /// The kubelet's socket.
        socket: PathBuf,
        /// Why.
        cause: tonic::transport::Error,
    },
    /// The kubelet did not accept the connection in time.
    #[error("cannot connect to the kubelet at {}: timed out after {deadline:?}", .socket.display())]
    ConnectTimedOut {
        /// The kubelet's socket.
        socket: PathBuf,
        /// The limit.
        deadline: Duration,
    },
    /// The kubelet refused a device plugin.
    #[error("the kubelet refused the registration: {}", .0.message())]
    RegisterRefused(Box<tonic::Status>),
    /// The kubelet did not answer a registration in time.
    #[error("the kubelet did not answer the registration within {0:?}")]
    RegisterTimedOut(Duration),
    /// The kubelet refused to list the Pods.
    #[error("the kubelet did not list the pods and their devices: {}", .0.message())]
    ListFailed(Box<tonic::Status>),
    /// The kubelet did not list the Pods in time.
    #[error("the kubelet did not list the pods and their devices within {0:?}")]
    ListTimedOut(Duration),
    /// A plugin's socket could not be created.
    #[error("cannot listen on {}: {cause}", .socket.display())]
    BindFailed {
        /// The plugin's socket.
        socket: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The path of a socket has more than the 107 bytes that the kernel allows.
    #[error("the socket path {} is too long: choose a shorter directory", .0.display())]
    SocketPathTooLong(PathBuf),
    /// The server of a plugin's socket ended.
    #[error("cannot serve on {}: {}", .socket.display(), innermost(.cause))]
    ServeFailed {
        /// The plugin's socket.
        socket: PathBuf,
        /// Why.
        cause: tonic::transport::Error,
    },
}

/// The text of tonic's error is only "transport error"; the innermost source has the cause.
fn innermost(error: &tonic::transport::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
