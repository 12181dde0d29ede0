//! The admin endpoint: `/healthz`, `/readyz` and `/metrics` over HTTP/1.1.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Bytes, header::CONTENT_TYPE, server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::Metrics;

/// Clients at a time. More of them wait in the listener's queue.
const MAX_CLIENTS: usize = 16;
/// How long a client may take for everything.
const MAX_TIME: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

/// Serves until `shutdown`. Waits for an address that another instance still uses: during a rolling update the old instance
/// ends a moment after the new one has started.
pub(crate) async fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
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
                Ok((stream, _)) => _ = clients.spawn(serve_client(stream, metrics.clone())),
                // out of file descriptors, most likely: the next one may succeed
                Err(error) => {
                    warn!("cannot accept a connection to the admin endpoint: {error}");
                    sleep(RETRY).await;
                }
            }
        }
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    let mut is_logged = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                info!(%address, "the admin endpoint is listening");
                return listener;
            }
            Err(error) => {
                if !is_logged {
                    warn!(%address, "cannot listen on the address of the admin endpoint, trying again: {error}");
                    is_logged = true;
                }
                sleep(RETRY).await;
            }
        }
    }
}

async fn serve_client(stream: TcpStream, metrics: Arc<Metrics>) {
    let service = service_fn(move |request| {
        let response = answer(&request, &metrics);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    // a client that disconnects or is slow is not an error of the agent
    let _ = timeout(MAX_TIME, connection).await;
}

const PLAIN: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn answer<T>(request: &Request<T>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, PLAIN, "ok\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => {
            let problems = metrics.problems();
            let lines: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
            if problems.iter().any(|problem| problem.kind.is_obstacle()) {
                (StatusCode::SERVICE_UNAVAILABLE, PLAIN, lines)
            } else {
                (StatusCode::OK, PLAIN, format!("ok\n{lines}"))
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

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use netdevice::View;
    use tokio::sync::watch;

    use super::*;
    use crate::problem::Kind;

    async fn ready(metrics: &Metrics) -> (u16, String) {
        let request = Request::get("/readyz").body(()).unwrap();
        let response = answer(&request, metrics);
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readyz_has_the_reasons_one_a_line_and_warnings_beside_ok() {
        let metrics = Metrics::default();
        assert_eq!(ready(&metrics).await, (503, "the interfaces of the node have not been read yet\n".into()));
        metrics.set_views(watch::channel(Arc::new(View::default())).1);
        assert_eq!(ready(&metrics).await, (200, "ok\n".into()));
        metrics.report(Kind::Descriptors, vec!["too few".into()]);
        assert_eq!(ready(&metrics).await, (200, "ok\nwarning: too few\n".into()));
        metrics.report(Kind::Hook, vec!["the hook is not installed".into(), "no room".into()]);
        let both = "the hook is not installed\nno room\nwarning: too few\n";
        assert_eq!(ready(&metrics).await, (503, both.into()));
    }
}
