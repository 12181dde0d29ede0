//! One HTTP/1 connection to the API server, used again as long as the server keeps it.
//!
//! kube comes with a transport of its own, for whatever a kubeconfig may say. This is the little that is needed within a Pod.

use std::{io, path::Path, pin::Pin, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response,
    body::Bytes,
    client::conn::http1::{self, SendRequest},
    header::{AUTHORIZATION, HOST, HeaderValue, InvalidHeaderValue},
};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{error::Elapsed, timeout},
};
use tokio_rustls::TlsConnector;

/// How long one request may take, from the connection to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer in bytes: it repeats an Event, or says why not.
const MAX_ANSWER: usize = 1 << 20;

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("the service account's token cannot be read")]
    Token(#[source] io::Error),
    #[error("the API server's address or the token cannot be in a header")]
    Header(#[from] InvalidHeaderValue),
    #[error("no connection to the API server")]
    Connect(#[source] io::Error),
    #[error("the exchange with the API server broke off")]
    Http(#[source] hyper::Error),
    #[error("the API server's answer cannot be read")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer from the API server in {} s", TIMEOUT.as_secs())]
    Timeout(#[from] Elapsed),
}

/// Where the API server is, and what it is shown.
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) security: Security,
    /// The file with the token, which is another one every now and then.
    pub(super) token: Box<Path>,
}

/// How the connection is kept from others.
pub(super) enum Security {
    /// By TLS, with a certificate of this name.
    Tls(TlsConnector, ServerName<'static>),
    /// Not at all.
    #[cfg(test)]
    None,
}

/// What requests go through, one at a time.
pub(super) struct Transport {
    server: Server,
    connection: Option<Connection>,
}

/// An open connection. Nothing works on it but a request that is under way.
struct Connection {
    sender: SendRequest<Body>,
    work: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Transport {
    pub(super) fn new(server: Server) -> Self {
        Self { server, connection: None }
    }

    /// The answer to a request, all of it.
    pub(super) async fn send(&mut self, mut request: Request<Body>) -> Result<Response<Full<Bytes>>, SendError> {
        self.server.introduce(&mut request)?;
        timeout(TIMEOUT, self.exchange(request)).await?
    }

    /// A connection on which something went wrong, or not to its end, is not used again.
    async fn exchange(&mut self, request: Request<Body>) -> Result<Response<Full<Bytes>>, SendError> {
        let kept = match self.connection.take() {
            Some(connection) => connection.if_open().await,
            None => None,
        };
        let connection = match kept {
            Some(connection) => connection,
            None => self.server.connect().await?,
        };
        let (response, connection) = connection.exchange(request).await?;
        self.connection = connection;
        Ok(response)
    }
}

impl Server {
    /// What each request says of where it goes and from whom it comes.
    fn introduce(&self, request: &mut Request<Body>) -> Result<(), SendError> {
        let token = std::fs::read_to_string(&self.token).map_err(SendError::Token)?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.trim()))?;
        bearer.set_sensitive(true);
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        request.headers_mut().insert(HOST, HeaderValue::try_from(format!("{host}:{}", self.port))?);
        request.headers_mut().insert(AUTHORIZATION, bearer);
        Ok(())
    }

    async fn connect(&self) -> Result<Connection, SendError> {
        let (sender, work) = http1::handshake(TokioIo::new(self.dial().await.map_err(SendError::Connect)?))
            .await
            .map_err(SendError::Http)?;
        Ok(Connection { sender, work: Box::pin(work) })
    }

    async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        Ok(match &self.security {
            Security::Tls(connector, name) => Box::new(connector.connect(name.clone(), stream).await?),
            #[cfg(test)]
            Security::None => Box::new(stream),
        })
    }
}

impl Connection {
    /// Itself, unless the server closed it meanwhile.
    async fn if_open(mut self) -> Option<Self> {
        tokio::select! {
            biased;
            _ = &mut self.work => None,
            ready = self.sender.ready() => ready.is_ok().then_some(self),
        }
    }

    /// An answer, and the connection unless the server closed it.
    async fn exchange(self, request: Request<Body>) -> Result<(Response<Full<Bytes>>, Option<Self>), SendError> {
        let Self { mut sender, mut work } = self;
        let (response, is_open) = {
            let answer = answer(&mut sender, request);
            tokio::pin!(answer);
            tokio::select! {
                biased;
                response = &mut answer => (response, true),
                // what was read before is still to be had
                _ = &mut work => (answer.await, false),
            }
        };
        Ok((response?, is_open.then_some(Self { sender, work })))
    }
}

async fn answer(sender: &mut SendRequest<Body>, request: Request<Body>) -> Result<Response<Full<Bytes>>, SendError> {
    let (head, body) = sender.send_request(request).await.map_err(SendError::Http)?.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(SendError::Answer)?;
    Ok(Response::from_parts(head, Full::new(body.to_bytes())))
}
