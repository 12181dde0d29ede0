//! The admin endpoint: `/healthz`, `/readyz` and `/metrics` over HTTP/1.1.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{hook_file, metrics::Metrics};

/// Clients at a time; more wait in the listener's queue.
const MAX_CLIENTS: usize = 16;
/// How long a client may take for everything.
const MAX_TIME: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

/// Serves until `shutdown`. An address that another instance still has is waited for: during a rolling update on one
/// node the old instance ends a moment after the new one began.
pub(crate) async fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    hook: watch::Receiver<hook_file::State>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listener = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        listener = listen(address) => listener,
    };
    let mut clients: JoinSet<()> = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Some(_) = clients.join_next(), if !clients.is_empty() => {}
            accepted = listener.accept(), if clients.len() < MAX_CLIENTS => match accepted {
                Ok((stream, _)) => _ = clients.spawn(talk(stream, metrics.clone(), hook.clone())),
                // out of files, most likely: the next one may fare better
                Err(error) => {
                    warn!("the admin endpoint cannot accept: {error}");
                    sleep(RETRY).await;
                }
            }
        }
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                info!(%address, "the admin endpoint is up");
                return listener;
            }
            Err(error) => {
                if !told {
                    warn!(%address, "the admin endpoint cannot be opened, trying again: {error}");
                    told = true;
                }
                sleep(RETRY).await;
            }
        }
    }
}

async fn talk(stream: TcpStream, metrics: Arc<Metrics>, hook: watch::Receiver<hook_file::State>) {
    let service = service_fn(move |request| {
        let response = answer(&request, &metrics, *hook.borrow());
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    // a client that breaks off or is slow is no matter of ours
    let _ = timeout(MAX_TIME, connection).await;
}

const PLAIN: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn answer(request: &Request<Incoming>, metrics: &Metrics, hook: hook_file::State) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, PLAIN, "ok\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => {
            let mut obstacles = metrics.obstacles();
            if hook == hook_file::State::Missing {
                obstacles.push("the hook is not installed".into());
            }
            if obstacles.is_empty() {
                (StatusCode::OK, PLAIN, "ok\n".to_owned())
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, PLAIN, obstacles.join("\n") + "\n")
            }
        }
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, OPEN_METRICS, metrics.text()),
        (&Method::GET | &Method::HEAD, _) => {
            (StatusCode::NOT_FOUND, PLAIN, "/healthz, /readyz or /metrics\n".to_owned())
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, PLAIN, "GET only\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
