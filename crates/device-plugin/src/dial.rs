//! Connects to a gRPC server on a unix socket.

use std::path::Path;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::error::Error;

/// Connects once; the channel's authority is `localhost`, which gRPC servers in Go take.
pub(crate) async fn connect(socket: &Path) -> Result<Channel, Error> {
    let dial = tower::service_fn({
        let socket = socket.to_owned();
        move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }
    });
    let connected = Endpoint::from_static("http://localhost").connect_with_connector(dial).await;
    connected.map_err(|source| Error::ConnectFailed { path: socket.to_owned(), source })
}
