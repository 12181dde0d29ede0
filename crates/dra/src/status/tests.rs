use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::BodyExt;
use kube::{Client, client::Body};
use netdevice::{
    Attachment, Ledger, Owner, Phase, Pod, Reservation,
    claims::{
        DRIVER,
        status::{DeviceState, DeviceStatus, Failure},
    },
    fixture,
    record::Reservations,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::codegen::http::{Request, Response};

use super::{
    queue::{Queue, Task, Written},
    write::Writer,
};
use crate::settings::ClaimName;

const NODE: &str = "node-1";

fn claim(uid: &str) -> ClaimName {
    ClaimName { namespace: "default".into(), name: format!("claim-{uid}"), uid: uid.into() }
}

fn owner(uid: &str, sandbox: Option<&str>) -> Owner {
    let ClaimName { namespace, name, uid } = claim(uid);
    let pod = Some(Pod { namespace: "default".into(), name: "web".into(), uid: "p1".into() });
    Owner::Claim { uid, namespace, name, request: "nic".into(), sandbox: sandbox.map(Into::into), pod }
}

fn reserved(devices: &[(&str, &str)]) -> Reservations {
    let reservation = |(device, uid): &(&str, &str)| {
        let device: netdevice::DeviceId = device.parse().unwrap();
        let owner = owner(uid, None);
        (
            device.clone(),
            Reservation {
                device,
                resource: None,
                owner,
                acquisition: netdevice::Acquisition::Move,
                uplink_parents: netdevice::exclusion::UplinkParents::Refused,
                configuration: None,
                is_of_one_pod: false,
                since: 0,
            },
        )
    };
    devices.iter().map(reservation).collect()
}

fn attached(devices: &[(&str, &str)], phase: Phase) -> Ledger {
    let record = |(device, uid): &(&str, &str)| {
        let record = Attachment { owner: owner(uid, Some("s1")), phase, ..fixture::record(device) };
        (record.device.clone(), Arc::new(record))
    };
    devices.iter().map(record).collect()
}

/// The claims that are due, in their order, each with its result.
fn write_all(queue: &mut Queue, now: Instant, result: &Written) -> Vec<String> {
    let mut written = Vec::new();
    while let Some(task) = queue.take(now) {
        written.push(task.claim.uid.clone());
        queue.finish(task, result.clone(), now);
    }
    written
}

fn nothing() -> Ledger {
    Ledger::new()
}

#[test]
fn a_claim_is_written_when_its_devices_are_attached_and_again_when_they_are_not() {
    let (mut queue, now) = (Queue::new(), Instant::now());
    queue.set(&Reservations::new(), &nothing(), now);
    let devices = reserved(&[("eth1", "1"), ("eth2", "1")]);
    queue.set(&devices, &nothing(), now);
    assert!(write_all(&mut queue, now, &Written::Changed).is_empty(), "that it is prepared is no news");
    queue.set(&devices, &attached(&[("eth1", "1")], Phase::Attaching), now);
    assert!(write_all(&mut queue, now, &Written::Changed).is_empty());
    let both = attached(&[("eth1", "1"), ("eth2", "1")], Phase::Attached);
    queue.set(&devices, &both, now);
    assert_eq!(write_all(&mut queue, now, &Written::Changed), ["1"]);
    queue.set(&devices, &both, now);
    assert!(write_all(&mut queue, now, &Written::Changed).is_empty() && queue.next_time().is_none());
    // its sandbox ended, and the next one has the devices
    queue.set(&devices, &nothing(), now);
    assert_eq!(write_all(&mut queue, now, &Written::Changed), ["1"]);
    queue.set(&devices, &both, now);
    assert_eq!(write_all(&mut queue, now, &Written::Done), ["1"]);
    // unprepared: mostly the claim is gone a moment later
    queue.set(&Reservations::new(), &nothing(), now);
    assert!(write_all(&mut queue, now, &Written::Gone).is_empty());
    let later = queue.next_time().unwrap();
    assert!(later > now);
    assert_eq!(write_all(&mut queue, later, &Written::Gone), ["1"]);
    assert_eq!((queue.len(), queue.next_time()), (0, None));
}

#[test]
fn an_agent_that_starts_checks_every_claim_once() {
    let (mut queue, now) = (Queue::new(), Instant::now());
    let devices = reserved(&[("eth1", "1"), ("eth2", "2")]);
    let one = attached(&[("eth1", "1")], Phase::Attached);
    queue.set(&devices, &one, now);
    assert_eq!(write_all(&mut queue, now, &Written::Done), ["1", "2"]);
    queue.set(&devices, &one, now);
    assert_eq!(queue.next_time(), None);
}

#[test]
fn a_claim_that_was_not_written_is_tried_again_at_growing_intervals_and_delays_no_other() {
    let (mut queue, now) = (Queue::new(), Instant::now());
    let devices = reserved(&[("eth1", "1"), ("eth2", "2")]);
    let both = attached(&[("eth1", "1"), ("eth2", "2")], Phase::Attached);
    queue.set(&devices, &both, now);
    let mut at = now;
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let task = queue.take(at).unwrap();
        assert_eq!(task.claim.uid, "1");
        assert_eq!(task.is_first_failure(), pauses.is_empty());
        queue.finish(task, Written::Again("no answer".into()), at);
        if pauses.is_empty() {
            let task = queue.take(at).unwrap();
            assert_eq!(task.claim.uid, "2");
            queue.finish(task, Written::Changed, at);
        }
        let next = queue.next_time().unwrap();
        pauses.push(next - at);
        at = next;
    }
    assert!(pauses.is_sorted() && pauses[0] == Duration::from_millis(500) && pauses[11] == Duration::from_secs(120));
    // what is not taken is not tried again until there is something else to say
    let task = queue.take(at).unwrap();
    queue.finish(task, Written::Refused("invalid".into()), at);
    queue.set(&devices, &both, at);
    assert_eq!(queue.next_time(), None);
    queue.set(&devices, &attached(&[("eth2", "2")], Phase::Attached), at);
    assert_eq!(write_all(&mut queue, at, &Written::Changed), ["1"]);
}

#[test]
fn a_failure_is_written_until_the_devices_are_attached() {
    let (mut queue, now) = (Queue::new(), Instant::now());
    queue.set(&Reservations::new(), &nothing(), now);
    // of a claim that was not prepared nothing is on disk
    let failure = |message: &str| Some(Failure { device: None, message: message.into() });
    queue.set_failure(claim("1"), failure("eth1 is held"), now);
    let task = queue.take(now).unwrap();
    assert!(matches!(&task.wanted[..], [DeviceStatus { device: None, state: DeviceState::Failed(_), .. }]));
    queue.finish(task, Written::Changed, now);
    assert_eq!(queue.len(), 0);
    let devices = reserved(&[("eth1", "1")]);
    queue.set(&devices, &nothing(), now);
    let failed = Failure { device: Some("eth1".parse().unwrap()), message: "the name is taken".into() };
    queue.set_failure(claim("1"), Some(failed.clone()), now);
    assert_eq!(write_all(&mut queue, now, &Written::Changed), ["1"]);
    queue.set_failure(claim("1"), Some(failed), now);
    queue.set(&devices, &nothing(), now);
    assert_eq!(queue.next_time(), None, "once");
    let one = attached(&[("eth1", "1")], Phase::Attached);
    queue.set(&devices, &one, now);
    let task = queue.take(now).unwrap();
    assert!(matches!(task.wanted[0].state, DeviceState::Attached { .. }));
    queue.finish(task, Written::Changed, now);
    // prepared again, which says nothing new
    queue.set_failure(claim("1"), None, now);
    queue.set_failure(claim("2"), None, now);
    queue.set(&devices, &one, now);
    assert_eq!((queue.next_time(), queue.len()), (None, 1));
}

/// An API server with one claim; it answers a PATCH with that status, and merges the patch if it is 200.
struct Server {
    claim: Arc<Mutex<Value>>,
    requests: Arc<Mutex<Vec<String>>>,
    writer: Writer,
}

impl Server {
    fn new(claim: Value, patch_status: u16) -> Self {
        let (claim, requests) = (Arc::new(Mutex::new(claim)), Arc::new(Mutex::new(Vec::new())));
        let (object, log) = (claim.clone(), requests.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (object, log) = (object.clone(), log.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let kind = parts.headers.get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
                log.lock().unwrap().push(format!("{} {} {kind}", parts.method, parts.uri));
                let mut object = object.lock().unwrap();
                let (status, answer) = match parts.method.as_str() {
                    "GET" if object.is_null() => (404, json!({"message": "not found"})),
                    "GET" => (200, object.clone()),
                    _ if patch_status == 200 => {
                        let patch: Value = serde_json::from_slice(&body).unwrap();
                        assert_eq!(patch["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);
                        object["status"]["devices"] = patch["status"]["devices"].clone();
                        (200, object.clone())
                    }
                    _ => (patch_status, json!({"message": "the words of the API server"})),
                };
                // parameters that are not UTF-8
                let mut text = answer.to_string().into_bytes();
                if let Some(at) = text.windows(4).position(|window| window == b"MARK") {
                    text[at] = 0xff;
                }
                Ok::<_, Infallible>(Response::builder().status(status).body(Body::from(text)).unwrap())
            }
        });
        Self { claim, requests, writer: Writer::new(Client::new(service, "default"), NODE.into()) }
    }

    async fn write(&self, task: &Task) -> Written {
        self.writer.write(task).await
    }

    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

fn object() -> Value {
    json!({
        "metadata": {"name": "claim-1", "namespace": "default", "uid": "1", "resourceVersion": "41"},
        "status": {"allocation": {"devices": {
            "results": [{"request": "nic", "driver": DRIVER, "pool": NODE, "device": "eth1"}],
            "config": [{"opaque": {"driver": DRIVER, "parameters": {"z": "MARK", "a": 1}}}],
        }}},
    })
}

fn task() -> Task {
    let wanted = netdevice::claims::status::wanted(
        reserved(&[("eth1", "1")]).values(),
        attached(&[("eth1", "1")], Phase::Attached).values().map(|record| &**record),
        None,
    );
    Task::new(claim("1"), wanted)
}

#[tokio::test]
async fn a_status_is_written_by_one_get_and_one_merge_patch_and_then_by_none() {
    let server = Server::new(object(), 200);
    assert_eq!(server.write(&task()).await, Written::Changed);
    let path = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/claim-1";
    let requests = server.requests.lock().unwrap().clone();
    let [get, patch] = &requests[..] else { panic!("{requests:?}") };
    assert!(get.starts_with(&format!("GET {path}")), "{get}");
    assert!(
        patch.starts_with(&format!("PATCH {path}/status?")) && patch.ends_with("application/merge-patch+json"),
        "{patch}"
    );
    let devices = server.claim.lock().unwrap()["status"]["devices"].clone();
    assert_eq!(devices[0]["conditions"][0]["status"], "True");
    let time = devices[0]["conditions"][0]["lastTransitionTime"].as_str().unwrap();
    assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
    assert_eq!(server.write(&task()).await, Written::Done);
    assert_eq!(server.count(), 3);
}

#[tokio::test]
async fn what_the_api_server_answers_decides_whether_it_is_asked_again() {
    for (status, is_refused) in [(409, false), (403, false), (429, false), (500, false), (400, true), (422, true)] {
        let server = Server::new(object(), status);
        let result = server.write(&task()).await;
        let words = "the words of the API server";
        match &result {
            Written::Refused(reason) if is_refused => assert!(reason.contains(words), "{reason}"),
            Written::Again(reason) if !is_refused => assert!(reason.contains(words), "{reason}"),
            other => panic!("{status}: {other:?}"),
        }
    }
    assert_eq!(Server::new(object(), 404).write(&task()).await, Written::Gone);
    assert_eq!(Server::new(Value::Null, 200).write(&task()).await, Written::Gone);
    let mut other = object();
    other["metadata"]["uid"] = json!("2");
    let server = Server::new(other, 200);
    assert_eq!((server.write(&task()).await, server.count()), (Written::Gone, 1));
}
