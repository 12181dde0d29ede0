//! A small API server for tests. It speaks HTTP and gives the answers that a test sets.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Bytes, Frame, Incoming},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use super::ApiServer;

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    /// What it accepts, or what its body is.
    pub(crate) media_type: String,
    pub(crate) body: Value,
}

/// What is answered.
pub(crate) enum Reply {
    /// The body of the request, with this status; or a failure, if it is one.
    Status(u16),
    /// This text.
    Text(String),
    /// What comes, piece by piece.
    Stream(mpsc::Receiver<Bytes>),
}

/// The server. It answers 201 when no other reply is left.
#[derive(Clone)]
pub(crate) struct StandIn {
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
    pub(crate) replies: Arc<Mutex<VecDeque<Reply>>>,
    /// How many connections there were.
    pub(crate) connections: Arc<AtomicUsize>,
    /// Whether each connection is closed after one answer.
    pub(crate) closes: bool,
    /// The token that it takes; 401 for any other.
    pub(crate) token: Arc<Mutex<String>>,
    /// Whether the client's token is replaced by the right one when it is refused.
    pub(crate) replaces_token: bool,
    /// The file with the client's token.
    pub(crate) token_file: Arc<NamedTempFile>,
}

impl Default for StandIn {
    fn default() -> Self {
        let token_file = Arc::new(NamedTempFile::new().unwrap());
        fs::write(token_file.path(), "secret\n").unwrap();
        Self {
            asked: Arc::default(),
            replies: Arc::default(),
            connections: Arc::default(),
            closes: false,
            replaces_token: false,
            token: Arc::new(Mutex::new("secret".into())),
            token_file,
        }
    }
}

impl StandIn {
    /// Serves on a free port, and says where.
    pub(crate) async fn start(&self, tasks: &mut JoinSet<()>) -> ApiServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = self.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (server, keeps) = (server.clone(), !server.closes);
                server.connections.fetch_add(1, Ordering::Relaxed);
                let service = service_fn(move |request| server.clone().answer(request));
                connections
                    .spawn(http1::Builder::new().keep_alive(keeps).serve_connection(TokioIo::new(stream), service));
            }
        });
        ApiServer::of_test(port, self.token_file.path())
    }

    pub(crate) fn reply(&self, replies: impl IntoIterator<Item = Reply>) {
        self.replies.lock().unwrap().extend(replies);
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
        let (head, body) = request.into_parts();
        assert!(head.headers[HOST].to_str().unwrap().starts_with("127.0.0.1:"), "{:?}", head.headers);
        let body = body.collect().await.unwrap().to_bytes();
        let header = |name| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        let accepts = header(ACCEPT);
        self.asked.lock().unwrap().push(Asked {
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            media_type: if body.is_empty() { accepts } else { header(CONTENT_TYPE) },
            body: serde_json::from_slice(&body).unwrap_or_default(),
        });
        let reply = if header(AUTHORIZATION) == format!("Bearer {}", self.token.lock().unwrap()) {
            self.replies.lock().unwrap().pop_front().unwrap_or(Reply::Status(201))
        } else {
            if self.replaces_token {
                fs::write(self.token_file.path(), &*self.token.lock().unwrap()).unwrap();
            }
            Reply::Status(401)
        };
        let (status, body) = match reply {
            Reply::Status(status @ ..300) => (status, Full::new(body).boxed()),
            Reply::Status(code) => {
                let reason = if code == 404 { "NotFound" } else { "No" };
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": reason, "code": code});
                (code, Full::new(Bytes::from(status.to_string())).boxed())
            }
            Reply::Text(text) => (200, Full::new(Bytes::from(text)).boxed()),
            Reply::Stream(pieces) => {
                (200, StreamBody::new(ReceiverStream::new(pieces).map(|piece| Ok(Frame::data(piece)))).boxed())
            }
        };
        Ok(Response::builder().status(status).body(body).unwrap())
    }
}
