//! Connections that are used again. A request has one to itself until its answer ends: a watch for minutes.

use std::sync::Arc;

use hyper::{
    Request, Response, StatusCode,
    body::Bytes,
    header::{AUTHORIZATION, HOST, HeaderValue},
    http::request::Parts,
};
use kube::client::Body;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::{
    connection::{Connection, Server},
    credentials::bearer,
    error::SendError,
    idle::Idle,
    limits::TIMEOUT,
    response::{Answer, Bounds, Exchange},
};

/// Requests at a time, watches included. More of them wait.
const MAX_CONNECTIONS: usize = 8;

/// All connections of this process to the API server.
pub(super) struct Pool {
    server: Server,
    permits: Arc<Semaphore>,
    idle: Arc<Idle>,
}

impl Pool {
    pub(super) fn new(server: Server) -> Arc<Self> {
        Arc::new(Self { server, permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)), idle: Arc::default() })
    }

    /// The answer to a request. Its body is read as it comes.
    pub(super) async fn send(self: Arc<Self>, request: Request<Body>) -> Result<Response<Answer>, SendError> {
        let deadline = Instant::now() + TIMEOUT;
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await.map_err(|error| SendError::Request(Box::new(error)))?;
        let bearer = bearer(&self.server.token)?;
        let sent = self.clone().send_as(&head, &body, &bearer, deadline).await?;
        if sent.status() != StatusCode::UNAUTHORIZED {
            return Ok(sent);
        }
        // the kubelet may have replaced the token since it was read
        let newest = self::bearer(&self.server.token)?;
        if newest == bearer { Ok(sent) } else { self.send_as(&head, &body, &newest, deadline).await }
    }

    async fn send_as(
        self: Arc<Self>,
        head: &Parts,
        body: &Bytes,
        bearer: &HeaderValue,
        deadline: Instant,
    ) -> Result<Response<Answer>, SendError> {
        let mut request = Request::new(Body::from(body.to_vec()));
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.headers_mut() = head.headers.clone();
        let host = HeaderValue::try_from(self.server.authority()).map_err(SendError::Header)?;
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(AUTHORIZATION, bearer.clone());
        let exchange = async {
            let permit = self.permits.clone().acquire_owned().await.ok();
            let mut connection = self.connection().await?;
            let response = connection.exchange(request).await?;
            Ok((permit, connection, response))
        };
        let (permit, connection, response) = timeout_at(deadline, exchange).await.map_err(SendError::Timeout)??;
        let is_watch = head.uri.query().is_some_and(|query| query.split('&').any(|part| part == "watch=true"));
        let bounds = if is_watch { Bounds::watch() } else { Bounds::until(deadline) };
        let exchange = Exchange { connection, idle: self.idle.clone(), _permit: permit };
        Ok(response.map(|body| Answer::new(body, exchange, bounds)))
    }

    /// An idle connection, or a new one.
    async fn connection(&self) -> Result<Connection, SendError> {
        match self.idle.take().await {
            Some(connection) => Ok(connection),
            None => self.server.connect().await,
        }
    }
}
