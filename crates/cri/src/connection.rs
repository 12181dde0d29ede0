//! Connects to a gRPC server on a unix socket.

use std::{
    fs, io,
    os::unix::fs::FileTypeExt,
    sync::{Arc, Mutex, PoisonError},
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Uri};

use crate::{endpoint::Endpoint, error::ConnectError};

/// Connects, without a deadline. The channel's authority is `localhost`, which gRPC servers in Go accept. It connects again
/// when the runtime was restarted.
pub(crate) async fn connect(endpoint: &Endpoint) -> Result<Channel, ConnectError> {
    let path = endpoint.path();
    // to the kernel a file that is not a socket is one that nobody listens on
    if !fs::metadata(path).map_err(ConnectError::Socket)?.file_type().is_socket() {
        return Err(ConnectError::NotASocket);
    }
    // connected here: tonic would report an error of the connector only as "transport error"
    let first = UnixStream::connect(path).await.map_err(|error| ConnectError::Socket(explained(error)))?;
    let first = Arc::new(Mutex::new(Some(first)));
    let path = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (first, path) = (first.lock().unwrap_or_else(PoisonError::into_inner).take(), path.clone());
        async move {
            let stream = match first {
                Some(first) => Ok(first),
                None => UnixStream::connect(path).await,
            };
            stream.map(TokioIo::new)
        }
    });
    let localhost = tonic::transport::Endpoint::from_static("http://localhost");
    localhost.connect_with_connector(connector).await.map_err(ConnectError::Handshake)
}

fn explained(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            io::Error::new(error.kind(), "connection refused: no process listens there")
        }
        io::ErrorKind::PermissionDenied => io::Error::new(error.kind(), "permission denied: run as root"),
        _ => error,
    }
}
