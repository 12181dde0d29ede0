//! One HTTP/1.1 connection to the API server.
//!
//! kube has a transport of its own, for everything that a kubeconfig may contain. This one does what is needed in a Pod.

use std::{
    fmt, io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::error::SendError;

/// How long a peer may be silent before the kernel probes it, and how many probes may fail: a watch may be silent for
/// minutes.
const KEEPALIVE: Duration = Duration::from_secs(30);
const PROBES: u32 = 3;

/// The address of the API server, and how this process authenticates.
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) security: Security,
    /// The file with the token.
    pub(super) token: Arc<Path>,
}

/// How a connection is protected.
pub(super) enum Security {
    /// By TLS, with a certificate of this name.
    Tls(TlsConnector, ServerName<'static>),
    /// Not at all.
    #[cfg(test)]
    None,
}

/// An open connection. Nothing works on it but the request or the answer that is being sent.
pub(super) struct Connection {
    sender: SendRequest<Body>,
    work: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
    /// Whether the server closed it, or it failed: `work` must no longer be polled.
    has_ended: bool,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Server {
    /// `host:port`, as in a `Host` header.
    pub(super) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    pub(super) async fn connect(&self) -> Result<Connection, SendError> {
        let stream = self.dial().await.map_err(SendError::Connect)?;
        let (sender, work) = http1::handshake(TokioIo::new(stream)).await.map_err(SendError::Http)?;
        Ok(Connection { sender, work: Box::pin(work), has_ended: false })
    }

    async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, KEEPALIVE)?;
        sockopt::set_tcp_keepintvl(&stream, KEEPALIVE / PROBES)?;
        sockopt::set_tcp_keepcnt(&stream, PROBES)?;
        Ok(match &self.security {
            Security::Tls(connector, name) => Box::new(connector.connect(name.clone(), stream).await?),
            #[cfg(test)]
            Security::None => Box::new(stream),
        })
    }
}

impl Connection {
    /// Returns the connection unless the server closed it meanwhile.
    pub(super) async fn if_open(mut self) -> Option<Self> {
        tokio::select! {
            biased;
            _ = &mut self.work => None,
            ready = self.sender.ready() => ready.is_ok().then_some(self),
        }
    }

    /// The head of the answer to a request.
    pub(super) async fn exchange(&mut self, request: Request<Body>) -> Result<Response<Incoming>, SendError> {
        let answer = self.sender.send_request(request);
        tokio::pin!(answer);
        let head = tokio::select! {
            biased;
            head = &mut answer => head,
            // the answer may have been read before
            _ = &mut self.work => {
                self.has_ended = true;
                answer.await
            }
        };
        head.map_err(SendError::Http)
    }

    /// Reads and writes what there is to read and write.
    pub(super) fn poll_work(&mut self, context: &mut Context<'_>) {
        if !self.has_ended {
            self.has_ended = matches!(self.work.as_mut().poll(context), Poll::Ready(_));
        }
    }

    /// Whether another request can be sent.
    pub(super) fn is_open(&self) -> bool {
        !self.has_ended && !self.sender.is_closed()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.authority())
    }
}
