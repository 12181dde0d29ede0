//! Connects to a gRPC server on a unix socket.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::error::Error;

/// Connects within the deadline. The channel's authority is `localhost`, which gRPC servers in Go accept.
///
/// # Errors
///
/// When no process listens there, or it does not accept in time.
pub async fn connect(socket: &Path, deadline: Duration) -> Result<Channel, Error> {
    let connected = timeout(deadline, connect_without_deadline(socket)).await;
    connected.map_err(|_| Error::ConnectTimedOut { socket: socket.to_owned(), deadline }).flatten()
}

async fn connect_without_deadline(socket: &Path) -> Result<Channel, Error> {
    // connected here: tonic would report an error of the connector only as "transport error"
    let first = UnixStream::connect(socket).await;
    let first = first.map_err(|cause| Error::ConnectFailed { socket: socket.to_owned(), cause })?;
    let first = Arc::new(Mutex::new(Some(first)));
    let connector = tower::service_fn({
        let socket = socket.to_owned();
        move |_: Uri| {
            let (first, socket) = (first.lock().unwrap_or_else(PoisonError::into_inner).take(), socket.clone());
            async move {
                let stream = match first {
                    Some(first) => Ok(first),
                    None => UnixStream::connect(socket).await,
                };
                stream.map(TokioIo::new)
            }
        }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
    channel.map_err(|cause| Error::HandshakeFailed { socket: socket.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_socket_that_nobody_serves_is_named_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("kubelet.sock");
        let path = socket.display();
        let error = connect(&socket, Duration::from_secs(20)).await.unwrap_err();
        let absent = format!("cannot connect to the kubelet at {path}: No such file or directory (os error 2)");
        assert_eq!(error.to_string(), absent);
        drop(UnixListener::bind(&socket).unwrap());
        let error = connect(&socket, Duration::from_secs(20)).await.unwrap_err();
        let stale = format!("cannot connect to the kubelet at {path}: Connection refused (os error 111)");
        assert_eq!(error.to_string(), stale);
    }
}
