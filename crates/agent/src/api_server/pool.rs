//! Connections that are used again. A request has one for itself until its answer ends: a watch for minutes.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

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
    response::{Answer, Bounds, Exchange},
};

/// How long one request may take, from the wait for a connection to the end of the answer; of a watch, to its beginning.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// How many requests may be sent at a time, watches included. More of them wait.
const MAX_CONNECTIONS: usize = 8;
/// How many connections are kept open without a request.
const MAX_IDLE: usize = 2;

/// All connections of this process to the API server.
pub(super) struct Pool {
    server: Server,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    pub(super) fn new(server: Server) -> Arc<Self> {
        Arc::new(Self { server, permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)), idle: Mutex::default() })
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
        let exchange = Exchange { connection, pool: self, _permit: permit };
        Ok(response.map(|body| Answer::new(body, exchange, bounds)))
    }

    /// One that is open already, or a new one.
    async fn connection(&self) -> Result<Connection, SendError> {
        loop {
            // no lock is held while it is checked
            let idle = self.idle().pop();
            let Some(connection) = idle else { return self.server.connect().await };
            if let Some(open) = connection.if_open().await {
                return Ok(open);
            }
        }
    }

    /// Takes a connection back whose answer was read to its end.
    pub(super) fn give_back(&self, connection: Connection) {
        let mut idle = self.idle();
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
