//! Events beside a small API server that speaks HTTP, and answers as it is told.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, HOST},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    happening::tests::refused,
    transport::{Security, Server},
    *,
};

/// One request: its method, its path, its body.
type Asked = (String, String, Value);

/// The API server's side: what was asked, and the statuses to answer with; 201 when there is none left.
#[derive(Clone, Default)]
struct ApiServer {
    asked: Arc<Mutex<Vec<Asked>>>,
    answers: Arc<Mutex<VecDeque<u16>>>,
    connections: Arc<AtomicUsize>,
    /// Whether each connection is closed after one answer.
    closes: bool,
}

impl ApiServer {
    /// Serves on a free port, which it says.
    async fn start(&self, tasks: &mut JoinSet<()>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = self.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (server, keeps) = (server.clone(), !server.closes);
                server.connections.fetch_add(1, Ordering::Relaxed);
                let service = service_fn(move |request| server.clone().answer(request));
                let connection =
                    http1::Builder::new().keep_alive(keeps).serve_connection(TokioIo::new(stream), service);
                connections.spawn(connection);
            }
        });
        port
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        assert_eq!(head.headers[AUTHORIZATION], "Bearer secret");
        assert!(head.headers[HOST].to_str().unwrap().starts_with("127.0.0.1:"), "{:?}", head.headers);
        let body = body.collect().await.unwrap().to_bytes();
        let value: Value = serde_json::from_slice(&body).unwrap();
        self.asked.lock().unwrap().push((head.method.to_string(), head.uri.path().to_owned(), value));
        let status = self.answers.lock().unwrap().pop_front().unwrap_or(201);
        let answer = if status < 300 {
            body
        } else {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "No", "code": status});
            Bytes::from(status.to_string())
        };
        Ok(Response::builder().status(status).body(Full::new(answer)).unwrap())
    }
}

/// A poster that talks to a port of this machine, and waits for nothing.
fn poster(port: u16, metrics: &Arc<Metrics>) -> Poster {
    let mut token = tempfile::NamedTempFile::new().unwrap();
    token.write_all(b"secret\n").unwrap();
    let connect = move || {
        let server = Server { host: "127.0.0.1".into(), port, security: Security::None, token: token.path().into() };
        Ok(client::client(server))
    };
    let delays: &[Duration] = &[Duration::ZERO, Duration::ZERO];
    Poster::new(Box::new(connect), delays, Some("node-1".into()), metrics.clone())
}

/// Posts happenings to a server that gives these answers. What it was asked, and what was counted.
async fn post(happenings: &[Happening], answers: &[u16]) -> (Vec<(String, String)>, Vec<Value>, String) {
    let (server, mut tasks, metrics) = (ApiServer::default(), JoinSet::new(), Arc::new(Metrics::default()));
    server.answers.lock().unwrap().extend(answers);
    let mut poster = poster(server.start(&mut tasks).await, &metrics);
    for happening in happenings {
        poster.tell(happening).await;
    }
    let asked = server.asked.lock().unwrap().clone();
    let (lines, bodies) = asked.into_iter().map(|(method, path, body)| ((method, path), body)).unzip();
    (lines, bodies, counted(&metrics))
}

/// `ok joined failed dropped`
fn counted(metrics: &Metrics) -> String {
    let text = metrics.text();
    let count = |result: &str| {
        let name = format!("netdevice_events_total{{result=\"{result}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or("-").to_owned()
    };
    ["ok", "joined", "failed", "dropped"].map(count).join(" ")
}

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn post_line() -> (String, String) {
    ("POST".into(), EVENTS.into())
}

#[tokio::test]
async fn a_lost_device_is_told_at_the_pod_and_at_the_node() {
    let device = "eth2".parse().unwrap();
    let lost = Happening::Lost { device, pod: Some(happening::tests::pod()) };
    let (lines, bodies, counts) = post(&[lost], &[]).await;
    assert_eq!(lines, [post_line(), post_line()]);
    let kinds: Vec<&Value> = bodies.iter().map(|body| &body["regarding"]["kind"]).collect();
    assert_eq!(kinds, ["Pod", "Node"]);
    assert!(bodies.iter().all(|body| body["reason"] == "DeviceLost" && body["type"] == "Warning"), "{bodies:?}");
    assert_eq!(counts, "2 0 0 0");
}

#[tokio::test]
async fn one_connection_carries_many_events_and_one_that_the_server_closed_is_replaced() {
    for (closes, connections) in [(false, 1), (true, 3)] {
        let (server, mut tasks, metrics) =
            (ApiServer { closes, ..Default::default() }, JoinSet::new(), Arc::new(Metrics::default()));
        let mut poster = poster(server.start(&mut tasks).await, &metrics);
        for reason in ["one", "two", "three"] {
            poster.tell(&refused(reason)).await;
        }
        assert_eq!(counted(&metrics), "3 0 0 0");
        assert_eq!(server.connections.load(Ordering::Relaxed), connections);
    }
}

#[tokio::test]
async fn the_same_refusal_again_raises_the_count_of_its_event() {
    let same = refused("no such device");
    let (lines, bodies, counts) = post(&[same.clone(), same.clone(), same], &[]).await;
    let name = bodies[0]["metadata"]["name"].as_str().unwrap();
    assert_eq!(lines, [post_line(), ("PATCH".into(), format!("{EVENTS}/{name}"))]);
    assert_eq!(bodies[1]["series"]["count"], 2);
    assert_eq!(counts, "2 1 0 0");
}

#[tokio::test]
async fn an_event_that_the_api_server_forgot_is_made_anew() {
    let same = refused("no such device");
    let (lines, _, counts) = post(&[same.clone(), same], &[201, 404]).await;
    assert_eq!(lines.iter().map(|(method, _)| method.as_str()).collect::<Vec<_>>(), ["POST", "PATCH", "POST"]);
    assert_eq!(counts, "2 0 0 0");
}

#[tokio::test]
async fn a_busy_api_server_is_asked_again_and_one_that_refuses_is_not() {
    let happening = [refused("no such device")];
    let (lines, _, counts) = post(&happening, &[503, 429]).await;
    assert_eq!((lines.len(), counts.as_str()), (3, "1 0 0 0"));
    let (lines, _, counts) = post(&happening, &[500, 500, 500]).await;
    assert_eq!((lines.len(), counts.as_str()), (3, "0 0 1 0"), "not for ever");
    for status in [401, 403, 404, 422] {
        let (lines, _, counts) = post(&happening, &[status]).await;
        assert_eq!((lines.len(), counts.as_str()), (1, "0 0 1 0"), "{status}");
    }
}

#[tokio::test]
async fn an_event_that_is_there_already_is_one_whose_answer_was_lost() {
    let (lines, _, counts) = post(&[refused("no such device")], &[500, 409]).await;
    assert_eq!((lines.len(), counts.as_str()), (2, "1 0 0 0"));
}

#[tokio::test]
async fn an_api_server_that_is_away_costs_the_event_and_nothing_else() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let metrics = Arc::new(Metrics::default());
    let mut poster = poster(free, &metrics);
    poster.tell(&refused("no such device")).await;
    assert_eq!(counted(&metrics), "0 0 1 0");
    assert!(!poster.is_connected(), "the next one begins anew");
}

#[tokio::test]
async fn a_full_queue_drops_and_does_not_wait_and_shutdown_does_not_wait_either() {
    // it takes connections and never answers
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metrics = Arc::new(Metrics::default());
    let (events, task) = with_poster(poster(silent.local_addr().unwrap().port(), &metrics), &metrics);
    for n in 0..QUEUE + 3 {
        events.tell(refused(&n.to_string()));
    }
    assert_eq!(counted(&metrics), "0 0 0 3");
    let (mut tasks, shutdown) = (JoinSet::new(), CancellationToken::new());
    tasks.spawn(task.run(shutdown.clone()));
    let (connection, _) = silent.accept().await.unwrap();
    shutdown.cancel();
    assert!(tasks.join_next().await.unwrap().unwrap().is_ok());
    drop(connection);
}

#[tokio::test]
async fn the_task_posts_what_is_told_and_stays_when_nobody_tells_any_more() {
    let (server, mut tasks, metrics) = (ApiServer::default(), JoinSet::new(), Arc::new(Metrics::default()));
    let port = server.start(&mut tasks).await;
    let (events, task) = with_poster(poster(port, &metrics), &metrics);
    let (mut running, shutdown) = (JoinSet::new(), CancellationToken::new());
    running.spawn(task.run(shutdown.clone()));
    events.tell(refused("no such device"));
    drop(events);
    while counted(&metrics) != "1 0 0 0" {
        tokio::task::yield_now().await;
    }
    assert!(running.try_join_next().is_none(), "a task that ends unasked ends the agent");
    shutdown.cancel();
    assert!(running.join_next().await.unwrap().unwrap().is_ok());
}
