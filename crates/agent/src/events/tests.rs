//! Events beside a small API server.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet};

use super::{occurrence::tests::refused, *};
use crate::api_server::stand_in::{Reply, StandIn};

/// A poster for that server, without pauses.
fn poster(api_server: ApiServer, metrics: &Arc<Metrics>) -> Poster {
    let delays: &[Duration] = &[Duration::ZERO, Duration::ZERO];
    Poster::new(api_server, delays, Some("node-1".into()), metrics.clone())
}

/// Posts occurrences to a server that gives these answers. What it was asked, and what was counted.
async fn post(occurrences: &[Occurrence], answers: &[u16]) -> (Vec<(String, String)>, Vec<Value>, String) {
    let (server, mut tasks, metrics) = (StandIn::default(), JoinSet::new(), Arc::new(Metrics::default()));
    server.reply(answers.iter().copied().map(Reply::Status));
    let mut poster = poster(server.start(&mut tasks).await, &metrics);
    for occurrence in occurrences {
        poster.post(occurrence).await;
    }
    let (lines, bodies) = server.asked().into_iter().map(|asked| ((asked.method, asked.path), asked.body)).unzip();
    (lines, bodies, counted(&metrics))
}

/// A server on a port of this machine, with a token that is not checked.
fn on_port(port: u16) -> (ApiServer, tempfile::NamedTempFile) {
    let token = tempfile::NamedTempFile::new().unwrap();
    (ApiServer::of_test(port, token.path()), token)
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
async fn a_lost_device_is_reported_for_the_pod_and_for_the_node() {
    let device = "eth2".parse().unwrap();
    let lost = Occurrence::Lost { device, pod: Some(occurrence::tests::pod()) };
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
            (StandIn { closes, ..Default::default() }, JoinSet::new(), Arc::new(Metrics::default()));
        let mut poster = poster(server.start(&mut tasks).await, &metrics);
        for reason in ["one", "two", "three"] {
            poster.post(&refused(reason)).await;
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
async fn an_event_that_the_api_server_deleted_is_created_again() {
    let same = refused("no such device");
    let (lines, _, counts) = post(&[same.clone(), same], &[201, 404]).await;
    assert_eq!(lines.iter().map(|(method, _)| method.as_str()).collect::<Vec<_>>(), ["POST", "PATCH", "POST"]);
    assert_eq!(counts, "2 0 0 0");
}

#[tokio::test]
async fn a_busy_api_server_is_asked_again_and_one_that_refuses_is_not() {
    let occurrence = [refused("no such device")];
    let (lines, _, counts) = post(&occurrence, &[503, 429]).await;
    assert_eq!((lines.len(), counts.as_str()), (3, "1 0 0 0"));
    let (lines, _, counts) = post(&occurrence, &[500, 500, 500]).await;
    assert_eq!((lines.len(), counts.as_str()), (3, "0 0 1 0"), "not for ever");
    for status in [401, 403, 404, 422] {
        let (lines, _, counts) = post(&occurrence, &[status]).await;
        assert_eq!((lines.len(), counts.as_str()), (1, "0 0 1 0"), "{status}");
    }
}

#[tokio::test]
async fn an_event_that_is_there_already_is_one_whose_answer_was_lost() {
    let (lines, _, counts) = post(&[refused("no such device")], &[500, 409]).await;
    assert_eq!((lines.len(), counts.as_str()), (2, "1 0 0 0"));
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_costs_the_event_and_nothing_else() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let metrics = Arc::new(Metrics::default());
    let (api_server, _token) = on_port(free);
    let mut poster = poster(api_server, &metrics);
    poster.post(&refused("no such device")).await;
    assert_eq!(counted(&metrics), "0 0 1 0");
    assert!(!poster.is_connected(), "the next one begins anew");
}

#[tokio::test]
async fn a_full_queue_drops_and_does_not_wait_and_shutdown_does_not_wait_either() {
    // it takes connections and never answers
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metrics = Arc::new(Metrics::default());
    let (api_server, _token) = on_port(silent.local_addr().unwrap().port());
    let (events, task) = with_poster(poster(api_server, &metrics), &metrics);
    for n in 0..QUEUE + 3 {
        events.report(refused(&n.to_string()));
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
async fn the_task_posts_what_is_reported_and_runs_on_when_no_reporter_is_left() {
    let (server, mut tasks, metrics) = (StandIn::default(), JoinSet::new(), Arc::new(Metrics::default()));
    let api_server = server.start(&mut tasks).await;
    let (events, task) = with_poster(poster(api_server, &metrics), &metrics);
    let (mut running, shutdown) = (JoinSet::new(), CancellationToken::new());
    running.spawn(task.run(shutdown.clone()));
    events.report(refused("no such device"));
    drop(events);
    while counted(&metrics) != "1 0 0 0" {
        tokio::task::yield_now().await;
    }
    assert!(running.try_join_next().is_none(), "a task that ends unasked ends the agent");
    shutdown.cancel();
    assert!(running.join_next().await.unwrap().unwrap().is_ok());
}
