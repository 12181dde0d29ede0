//! Requests of all kinds beside a small API server.

use std::{fs, pin::pin, sync::atomic::Ordering, time::Duration};

use hyper::body::Bytes;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Error, ResourceExt,
    api::{ListParams, Patch, PatchParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet, time::timeout};
use tokio_stream::StreamExt;

use super::{
    ApiServer,
    limits::{MAX_ANSWER, MAX_OBJECT},
    stand_in::{Reply, StandIn},
};

const SOON: Duration = Duration::from_secs(20);

fn pod(name: &str, version: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "resourceVersion": version}})
}

async fn pods(server: &StandIn, tasks: &mut JoinSet<()>) -> Api<Pod> {
    Api::namespaced(server.start(tasks).await.client().unwrap(), "default")
}

fn code(error: &Error) -> Option<u16> {
    match error {
        Error::Api(status) => Some(status.code),
        _ => None,
    }
}

#[tokio::test]
async fn objects_and_their_metadata_are_read_and_listed_over_one_connection() {
    let (server, mut tasks) = (StandIn::default(), JoinSet::new());
    let pods = pods(&server, &mut tasks).await;
    let metadata =
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "web"}});
    let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "7"}, "items": [pod("web", "5"), pod("db", "6")]});
    server.reply([pod("web", "5"), metadata, list].map(|reply| Reply::Text(reply.to_string())));
    server.reply([Reply::Status(404)]);
    assert_eq!(pods.get("web").await.unwrap().resource_version().as_deref(), Some("5"));
    assert_eq!(pods.get_metadata("web").await.unwrap().metadata.name.as_deref(), Some("web"));
    let listed = pods.list(&ListParams::default().fields("spec.nodeName=node-1")).await.unwrap();
    assert_eq!(listed.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["web", "db"]);
    assert!(pods.get_opt("gone").await.unwrap().is_none());
    let asked = server.asked();
    assert_eq!(asked[0].path, "/api/v1/namespaces/default/pods/web");
    assert!(asked[1].media_type.contains("as=PartialObjectMetadata"), "{asked:?}");
    assert!(asked[2].query.contains("fieldSelector=spec.nodeName%3Dnode-1"), "{asked:?}");
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_watch_is_read_as_it_comes_and_leaves_room_for_other_requests() {
    let (server, mut tasks) = (StandIn::default(), JoinSet::new());
    let api_server = server.start(&mut tasks).await;
    let nodes: Api<Node> = Api::all(api_server.client().unwrap());
    let (events, stream) = mpsc::channel(1);
    server.reply([Reply::Stream(stream)]);
    let mut watch = pin!(nodes.watch(&WatchParams::default(), "7").await.unwrap());
    let event = |kind: &str, version: &str| {
        let node =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "resourceVersion": version}});
        json!({"type": kind, "object": node}).to_string() + "\n"
    };
    let added = event("ADDED", "8");
    for piece in [&added[..20], &added[20..]] {
        events.send(Bytes::from(piece.to_owned())).await.unwrap();
    }
    let added = timeout(SOON, watch.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(&added, WatchEvent::Added(node) if node.resource_version().as_deref() == Some("8")), "{added:?}");
    // another client of the same server, while the watch goes on
    let pods: Api<Pod> = Api::namespaced(api_server.client().unwrap(), "default");
    server.reply([Reply::Text(pod("web", "9").to_string()), Reply::Text(pod("web", "9").to_string())]);
    pods.get("web").await.unwrap();
    pods.get("web").await.unwrap();
    assert_eq!(server.connections.load(Ordering::Relaxed), 2);
    events.send(event("DELETED", "10").into()).await.unwrap();
    assert!(matches!(timeout(SOON, watch.next()).await.unwrap(), Some(Ok(WatchEvent::Deleted(_)))));
    drop(events);
    assert!(timeout(SOON, watch.next()).await.unwrap().is_none(), "the server ended it");
    assert!(server.asked()[0].query.contains("watch=true") && server.asked()[0].query.contains("resourceVersion=7"));
}

#[tokio::test]
async fn objects_are_patched_and_applied_and_a_conflict_is_reported() {
    let (server, mut tasks) = (StandIn::default(), JoinSet::new());
    let pods = pods(&server, &mut tasks).await;
    let answer = || Reply::Text(pod("web", "9").to_string());
    server.reply([answer(), answer(), Reply::Status(409)]);
    let merge = json!({"metadata": {"resourceVersion": "8", "annotations": {"a": "b"}}});
    let patched = pods.patch("web", &PatchParams::default(), &Patch::Merge(&merge)).await.unwrap();
    assert_eq!(patched.resource_version().as_deref(), Some("9"));
    let applied = pod("web", "9");
    let manager = PatchParams::apply("netdevice").force();
    pods.patch_status("web", &manager, &Patch::Apply(&applied)).await.unwrap();
    let conflict = pods.patch("web", &PatchParams::default(), &Patch::Merge(&merge)).await.unwrap_err();
    assert_eq!(code(&conflict), Some(409));
    let asked = server.asked();
    assert_eq!((asked[0].method.as_str(), asked[0].media_type.as_str()), ("PATCH", "application/merge-patch+json"));
    assert_eq!(
        (asked[1].path.as_str(), asked[1].media_type.as_str()),
        ("/api/v1/namespaces/default/pods/web/status", "application/apply-patch+yaml")
    );
    assert!(asked[1].query.contains("fieldManager=netdevice") && asked[1].query.contains("force=true"), "{asked:?}");
    assert_eq!(asked[2].body["metadata"]["resourceVersion"], "8");
}

#[tokio::test]
async fn a_token_is_read_each_time_and_again_when_it_is_refused() {
    let (server, mut tasks) = (StandIn::default(), JoinSet::new());
    let pods = pods(&server, &mut tasks).await;
    let answer = || Reply::Text(pod("web", "9").to_string());
    server.reply([answer(), answer()]);
    pods.get("web").await.unwrap();
    // the kubelet replaces it while nothing is sent
    *server.token.lock().unwrap() = "next".into();
    fs::write(server.token_file.path(), "next").unwrap();
    pods.get("web").await.unwrap();
    *server.token.lock().unwrap() = "another".into();
    let before = server.asked().len();
    assert_eq!(code(&pods.get("web").await.unwrap_err()), Some(401));
    assert_eq!(server.asked().len(), before + 1, "the same token again would be refused again");
    let absent = server.token_file.path().to_owned();
    fs::remove_file(&absent).unwrap();
    let error = format!("{:#}", anyhow::Error::from(pods.get("web").await.unwrap_err()));
    assert!(error.contains("cannot read the token of the service account"), "{error}");
}

#[tokio::test]
async fn a_token_that_is_replaced_during_a_request_is_sent_once_more() {
    let (server, mut tasks) = (StandIn { replaces_token: true, ..StandIn::default() }, JoinSet::new());
    let pods = pods(&server, &mut tasks).await;
    *server.token.lock().unwrap() = "next".into();
    server.reply([Reply::Text(pod("web", "9").to_string())]);
    pods.get("web").await.unwrap();
    assert_eq!(server.asked().len(), 2);
    assert_eq!(
        server.connections.load(Ordering::Relaxed),
        2,
        "an answer that nobody read to its end costs its connection"
    );
}

#[tokio::test]
async fn answers_and_objects_that_are_too_large_are_errors() {
    let (server, mut tasks) = (StandIn::default(), JoinSet::new());
    let pods = pods(&server, &mut tasks).await;
    let text = |error: Error| format!("{:#}", anyhow::Error::from(error));
    server.reply([Reply::Text(" ".repeat(MAX_ANSWER + 1))]);
    let error = text(pods.get("web").await.unwrap_err());
    assert!(error.contains("the API server's answer is larger than 8388608 bytes"), "{error}");
    let (events, stream) = mpsc::channel(1);
    server.reply([Reply::Stream(stream)]);
    let mut watch = pin!(pods.watch(&WatchParams::default(), "7").await.unwrap());
    let sending = async {
        let line = json!({"type": "ADDED", "object": pod("web", "8")}).to_string() + "\n";
        events.send(line.into()).await.unwrap();
        // more than one object may have, in pieces
        for _ in 0..MAX_OBJECT / (1 << 16) + 1 {
            if events.send(Bytes::from(vec![b' '; 1 << 16])).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let reading = async {
        assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Added(_)))));
        watch.next().await
    };
    let read = tokio::select! { read = timeout(SOON, reading) => read.unwrap(), () = sending => None };
    let error = text(read.unwrap().unwrap_err());
    assert!(error.contains("an object in the API server's watch is larger than 2097152 bytes"), "{error}");
}

#[tokio::test]
async fn connections_end_with_the_last_client() {
    let (server, mut tasks) = (StandIn::default(), JoinSet::new());
    let api_server = server.start(&mut tasks).await;
    for connections in 1..=2 {
        let client = api_server.client().unwrap();
        for _ in 0..2 {
            server.reply([Reply::Text(pod("web", "9").to_string())]);
            Api::<Pod>::namespaced(client.clone(), "default").get("web").await.unwrap();
        }
        assert_eq!(server.connections.load(Ordering::Relaxed), connections);
        drop(client);
        // the task of the client ends a moment after its last handle
        while api_server.has_connections() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_not_waited_for_for_ever() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let token = tempfile::NamedTempFile::new().unwrap();
    let api_server = ApiServer::of_test(silent.local_addr().unwrap().port(), token.path());
    let pods: Api<Pod> = Api::namespaced(api_server.client().unwrap(), "default");
    let error = format!("{:#}", anyhow::Error::from(pods.get("web").await.unwrap_err()));
    assert!(error.contains("the API server did not answer within 5 s"), "{error}");
}
