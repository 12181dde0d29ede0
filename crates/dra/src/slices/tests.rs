//! The slices of a node, with a server that speaks the API.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kube::Client;
use netdevice::{Link, Pools, Projector, Snapshot, View, claims::slice::Pool, fixture, link::flags};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tokio_util::sync::CancellationToken;

use super::{
    Settings, Timing, Tracker,
    known::Known,
    run,
    writer::{End, Writer},
};

const NODE: &str = "node-1";
const PATH: &str = "/apis/resource.k8s.io/v1/resourceslices";

/// What is on the server.
#[derive(Default)]
struct Content {
    slices: BTreeMap<String, Value>,
    version: u64,
    watches: Vec<mpsc::UnboundedSender<Bytes>>,
    /// Method and path of each request that changes something.
    writes: Vec<(String, String)>,
    /// Answers to the next such requests: a status, and seconds of Retry-After.
    failures: VecDeque<(u16, Option<u64>)>,
    selectors: BTreeSet<String>,
    drops_taints: bool,
    drops_owners: bool,
    has_no_node: bool,
}

impl Content {
    fn change(&mut self, kind: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        if kind == "DELETED" {
            self.slices.remove(&name);
        } else {
            self.slices.insert(name, object.clone());
        }
        let line = Bytes::from(format!("{}\n", json!({"type": kind, "object": object})));
        self.watches.retain(|watch| watch.send(line.clone()).is_ok());
        object
    }

    /// As the API server does: it sets times, and drops what it does not know.
    fn admit(&self, mut object: Value) -> Value {
        if self.drops_owners {
            object["metadata"].as_object_mut().unwrap().remove("ownerReferences");
        }
        for device in object["spec"]["devices"].as_array_mut().into_iter().flatten() {
            if self.drops_taints {
                device.as_object_mut().unwrap().remove("taints");
            }
            for taint in device.get_mut("taints").and_then(Value::as_array_mut).into_iter().flatten() {
                let taint = taint.as_object_mut().unwrap();
                taint.entry("timeAdded").or_insert_with(|| format!("time-{}", self.version).into());
            }
        }
        object
    }

    /// `only` is the name of the one object that a list is limited to.
    fn request(&mut self, method: &str, path: &str, only: Option<&str>, body: &[u8]) -> (u16, Option<u64>, Value) {
        if method == "GET" && path == format!("/api/v1/nodes/{NODE}") {
            if self.has_no_node {
                return (404, None, json!({"kind": "Status", "message": "no such node", "code": 404}));
            }
            return (
                200,
                None,
                json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": NODE, "uid": "node-uid"}}),
            );
        }
        let name = path.strip_prefix(PATH).unwrap().trim_start_matches('/').to_owned();
        if method == "GET" && name.is_empty() {
            let is_listed = |name: &str| only.is_none_or(|only| only == name);
            let items: Vec<&Value> =
                self.slices.iter().filter(|(name, _)| is_listed(name)).map(|(_, slice)| slice).collect();
            let version = self.version.to_string();
            let list = json!({"kind": "ResourceSliceList", "apiVersion": "resource.k8s.io/v1", "metadata": {"resourceVersion": version}, "items": items});
            return (200, None, list);
        }
        if method != "GET" {
            self.writes.push((method.into(), path.into()));
            if let Some((code, retry_after)) = self.failures.pop_front() {
                return (code, retry_after, json!({"kind": "Status", "message": "not now", "code": code}));
            }
        }
        let present = self.slices.get(&name).cloned();
        let refuse = |code: u16| (code, None, json!({"kind": "Status", "message": "refused", "code": code}));
        match (method, present) {
            ("POST", _) => {
                let mut object: Value = serde_json::from_slice(body).unwrap();
                let name = object["metadata"]["name"].as_str().unwrap();
                if self.slices.contains_key(name) {
                    return refuse(409);
                }
                object["metadata"]["uid"] = format!("uid-{}", self.version).into();
                let object = self.admit(object);
                (201, None, self.change("ADDED", object))
            }
            ("PUT", Some(present)) => {
                let mut object: Value = serde_json::from_slice(body).unwrap();
                if object["metadata"]["resourceVersion"] != present["metadata"]["resourceVersion"] {
                    return refuse(409);
                }
                object["metadata"]["uid"] = present["metadata"]["uid"].clone();
                // as the API server understands it: no fields of managers are kept
                let fields = object["metadata"].as_object_mut().unwrap().insert("managedFields".into(), Value::Null);
                assert_eq!(fields, Some(json!([{}])));
                let object = self.admit(object);
                if object == present { (200, None, present) } else { (200, None, self.change("MODIFIED", object)) }
            }
            ("DELETE", Some(present)) => {
                let options: Value = serde_json::from_slice(body).unwrap();
                if options["preconditions"]["resourceVersion"] != present["metadata"]["resourceVersion"] {
                    return refuse(409);
                }
                (200, None, self.change("DELETED", present))
            }
            _ => refuse(404),
        }
    }
}

/// The server: tests wait for what it has.
#[derive(Clone)]
struct Server {
    content: Arc<Mutex<Content>>,
    changed: watch::Sender<()>,
    port: u16,
}

impl Server {
    async fn start(tasks: &mut JoinSet<()>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self { content: Arc::default(), changed: watch::Sender::new(()), port };
        let accepting = server.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let server = accepting.clone();
                let service = service_fn(move |request| server.clone().answer(request));
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        server
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let query = head.uri.query().unwrap_or_default();
        if query.contains("watch=true") {
            let (sender, pieces) = mpsc::unbounded_channel();
            let selector = query.split('&').find_map(|part| part.strip_prefix("fieldSelector=")).unwrap_or_default();
            let mut content = self.content();
            content.selectors.insert(selector.into());
            // what changed between the list and the watch
            let since: u64 =
                query.split('&').find_map(|part| part.strip_prefix("resourceVersion=")).unwrap().parse().unwrap();
            let newer =
                |slice: &&Value| slice["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > since;
            for slice in content.slices.values().filter(newer) {
                sender.send(Bytes::from(format!("{}\n", json!({"type": "MODIFIED", "object": slice})))).unwrap();
            }
            content.watches.push(sender);
            return Ok(Response::new(
                StreamBody::new(UnboundedReceiverStream::new(pieces).map(|piece| Ok(Frame::data(piece)))).boxed(),
            ));
        }
        let only = query.split('&').find_map(|part| part.strip_prefix("fieldSelector=metadata.name%3D"));
        let (code, retry_after, answer) = self.content().request(head.method.as_str(), head.uri.path(), only, &body);
        self.changed.send_replace(());
        let mut response = Response::builder().status(code);
        if let Some(seconds) = retry_after {
            response = response.header("retry-after", seconds);
        }
        Ok(response.body(Full::new(Bytes::from(answer.to_string())).boxed()).unwrap())
    }

    fn client(&self) -> Client {
        let port = self.port;
        let send = tower::service_fn(move |request: Request<kube::client::Body>| async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let (mut head, body) = request.into_parts();
            head.headers.insert("host", "127.0.0.1".parse()?);
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(
                sender.send_request(Request::from_parts(head, body)).await?,
            )
        });
        Client::new(send, "default")
    }

    /// Waits until the content is so.
    async fn wait_for(&self, what: &str, is_so: impl Fn(&Content) -> bool) {
        let mut changed = self.changed.subscribe();
        let waited = timeout(Duration::from_secs(60), async {
            while !is_so(&self.content()) {
                changed.changed().await.unwrap();
            }
        });
        if waited.await.is_err() {
            panic!("waited for: {what}; there is {:#?}", self.content().slices);
        }
    }

    /// Somebody else deletes or changes something.
    fn foreign(&self, change: impl FnOnce(&mut Content)) {
        change(&mut self.content());
        self.changed.send_replace(());
    }

    fn writes(&self) -> usize {
        self.content().writes.len()
    }
}

/// The devices of all slices; panics if one is there twice.
fn devices(content: &Content) -> BTreeMap<String, Value> {
    let mut devices = BTreeMap::new();
    for slice in content.slices.values() {
        for device in slice["spec"]["devices"].as_array().into_iter().flatten() {
            let name = device["name"].as_str().unwrap().to_owned();
            assert!(devices.insert(name.clone(), device.clone()).is_none(), "{name} is there twice");
        }
    }
    devices
}

/// Whether the scheduler takes the pool as complete, and it has that many devices.
fn is_complete(content: &Content, count: usize) -> bool {
    let generations: BTreeSet<i64> =
        content.slices.values().map(|slice| slice["spec"]["pool"]["generation"].as_i64().unwrap()).collect();
    let right = |slice: &Value| slice["spec"]["pool"]["resourceSliceCount"] == json!(content.slices.len());
    let all = content.slices.values().flat_map(|slice| slice["spec"]["devices"].as_array().into_iter().flatten());
    let names: Vec<&str> = all.map(|device| device["name"].as_str().unwrap()).collect();
    // while two instances write, a device may be there twice
    let is_unique = names.iter().collect::<BTreeSet<_>>().len() == names.len();
    generations.len() == 1 && content.slices.values().all(right) && is_unique && names.len() == count
}

/// The node: links of which those called `dev` are offered.
struct Node {
    projector: Projector,
    snapshot: Snapshot,
    views: watch::Sender<Arc<View>>,
}

impl Node {
    fn new(count: u32) -> Self {
        let mut projector = Projector::new();
        projector.set_pools(Arc::new(Pools::by_name("^dev".parse().unwrap()).offered_by_claims()));
        let mut node = Self { projector, snapshot: Snapshot::default(), views: watch::Sender::default() };
        (0..count).for_each(|number| node.insert(number, flags::UP, 1500));
        node.publish();
        node
    }

    fn insert(&mut self, number: u32, flags: u32, mtu: u32) {
        let link = Link { flags, mtu, ..fixture::link(number + 1, &format!("dev{number}")) };
        self.snapshot.insert_link(Arc::new(link));
    }

    fn publish(&mut self) {
        self.projector.set_snapshot(self.snapshot.clone());
        self.views.send_replace(Arc::new(self.projector.view().clone()));
    }

    fn change(&mut self, number: u32, flags: u32, mtu: u32) {
        self.insert(number, flags, mtu);
        self.publish();
    }
}

/// Short times.
fn settings() -> Settings {
    let timing = Timing {
        settle: Duration::from_millis(1),
        interval: Duration::from_millis(5),
        longest_interval: Duration::from_millis(20),
        repair: Duration::from_millis(20),
        longest_repair: Duration::from_millis(200),
        retry: Duration::from_millis(5),
        longest_retry: Duration::from_millis(50),
    };
    Settings { timing, ..Settings::new(NODE) }
}

fn start(tasks: &mut JoinSet<()>, server: &Server, node: &Node) -> (Settings, CancellationToken) {
    let (settings, shutdown) = (settings(), CancellationToken::new());
    tasks.spawn(run(settings.clone(), server.client(), node.views.subscribe(), shutdown.clone()));
    (settings, shutdown)
}

#[tokio::test]
async fn devices_are_published_and_only_what_is_published_is_written() {
    let mut tasks = JoinSet::new();
    let server = Server::start(&mut tasks).await;
    let mut node = Node::new(3);
    let (settings, _shutdown) = start(&mut tasks, &server, &node);
    server.wait_for("the devices", |content| is_complete(content, 3)).await;
    let slice = server.content().slices.values().next().unwrap().clone();
    assert_eq!(slice["spec"]["driver"], "netdevice.networking.k8s.io");
    assert_eq!((&slice["spec"]["nodeName"], &slice["spec"]["pool"]["name"]), (&json!(NODE), &json!(NODE)));
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": "node-uid", "controller": true}]);
    assert_eq!(slice["metadata"]["ownerReferences"], owner);
    assert_eq!(slice["spec"]["devices"][0]["name"], "dev0");
    assert_eq!(slice["spec"]["devices"][0]["attributes"]["kind"], json!({"string": "dummy"}));
    // the carrier is not published in this pool: neither write is of it
    node.change(1, flags::UP | flags::LOWER_UP, 1500);
    node.change(2, flags::UP, 9000);
    server.wait_for("the MTU", |content| devices(content)["dev2"]["attributes"]["mtu"]["int"] == 9000).await;
    node.change(1, flags::UP, 1500);
    node.change(0, flags::UP, 9000);
    server.wait_for("the other MTU", |content| devices(content)["dev0"]["attributes"]["mtu"]["int"] == 9000).await;
    let methods: Vec<String> = server.content().writes.iter().map(|(method, _)| method.clone()).collect();
    assert_eq!(methods, ["POST", "PUT", "PUT"]);
    let selector = "spec.driver%3Dnetdevice.networking.k8s.io%2Cspec.nodeName%3Dnode-1";
    assert!(server.content().selectors.contains(selector), "{:?}", server.content().selectors);
    assert_eq!(settings.stats.failed_writes(), 0);
}

#[tokio::test]
async fn what_the_kubelet_deletes_at_its_start_is_there_again_under_other_names() {
    let mut tasks = JoinSet::new();
    let server = Server::start(&mut tasks).await;
    let node = Node::new(40);
    let (settings, _shutdown) = start(&mut tasks, &server, &node);
    server.wait_for("three slices", |content| is_complete(content, 40)).await;
    let before: BTreeSet<String> = server.content().slices.keys().cloned().collect();
    assert_eq!(before.len(), 3);
    server.foreign(|content| {
        for object in content.slices.clone().into_values() {
            content.change("DELETED", object);
        }
    });
    server.wait_for("all devices again", |content| is_complete(content, 40)).await;
    let after: BTreeSet<String> = server.content().slices.keys().cloned().collect();
    assert!(after.is_disjoint(&before), "{after:?}");
    assert_eq!(server.writes(), 6);
    assert_eq!(settings.stats.repairs(), 1);
}

#[tokio::test]
async fn a_foreign_edit_a_foreign_slice_and_one_without_its_owner_are_put_right() {
    let mut tasks = JoinSet::new();
    let server = Server::start(&mut tasks).await;
    let node = Node::new(20);
    let (_, _shutdown) = start(&mut tasks, &server, &node);
    server.wait_for("two slices", |content| is_complete(content, 20)).await;
    let wanted = devices(&server.content());
    server.foreign(|content| {
        let mut objects = content.slices.clone().into_values();
        let (mut one, mut other) = (objects.next().unwrap(), objects.next().unwrap());
        one["spec"]["devices"].as_array_mut().unwrap().truncate(5);
        one["spec"]["devices"][3]["attributes"]["ifName"] = json!({"string": "other"});
        other["metadata"].as_object_mut().unwrap().remove("ownerReferences");
        let mut foreign = other.clone();
        foreign["metadata"]["name"] = "of-an-earlier-version".into();
        foreign["spec"]["pool"]["name"] = "node-1-vfs".into();
        content.change("MODIFIED", one);
        content.change("MODIFIED", other);
        content.change("ADDED", foreign);
    });
    let is_right = |content: &Content| {
        content.slices.len() == 2
            && is_complete(content, 20)
            && devices(content) == wanted
            && content.slices.values().all(|slice| slice["metadata"]["ownerReferences"].is_array())
    };
    server.wait_for("all as it was", is_right).await;
}

#[tokio::test]
async fn refused_requests_are_repeated_until_all_is_written() {
    let mut tasks = JoinSet::new();
    let server = Server::start(&mut tasks).await;
    let mut node = Node::new(24);
    server.content().failures = [(500, None), (401, None), (429, Some(0)), (503, None), (409, None)].into();
    let (settings, _shutdown) = start(&mut tasks, &server, &node);
    server.wait_for("two slices", |content| is_complete(content, 24)).await;
    server.content().failures = [(409, None), (504, None), (429, Some(0))].into();
    node.change(5, flags::UP, 9000);
    server.wait_for("the MTU", |content| devices(content)["dev5"]["attributes"]["mtu"]["int"] == 9000).await;
    assert_eq!(settings.stats.failed_writes(), 8);
    assert_eq!((server.writes(), server.content().slices.len()), (11, 2));
}

#[tokio::test]
async fn a_link_that_is_down_has_a_taint_whose_time_stays() {
    let mut tasks = JoinSet::new();
    let server = Server::start(&mut tasks).await;
    let mut node = Node::new(3);
    let (_, _shutdown) = start(&mut tasks, &server, &node);
    server.wait_for("the devices", |content| is_complete(content, 3)).await;
    node.change(1, 0, 1500);
    server.wait_for("the taint", |content| devices(content)["dev1"]["taints"].is_array()).await;
    let taint = devices(&server.content())["dev1"]["taints"][0].clone();
    assert_eq!(
        (&taint["key"], &taint["effect"]),
        (&json!("netdevice.networking.k8s.io/link-down"), &json!("NoSchedule"))
    );
    node.change(2, flags::UP, 9000);
    server.wait_for("the MTU", |content| devices(content)["dev2"]["attributes"]["mtu"]["int"] == 9000).await;
    assert_eq!(devices(&server.content())["dev1"]["taints"][0], taint);
    node.change(1, flags::UP, 1500);
    server.wait_for("no taint", |content| devices(content)["dev1"]["taints"].is_null()).await;
    assert_eq!(server.writes(), 4);
}

#[tokio::test]
async fn what_the_api_server_drops_is_accepted() {
    let mut tasks = JoinSet::new();
    let server = Server::start(&mut tasks).await;
    server.content().drops_taints = true;
    let mut node = Node::new(3);
    node.change(1, 0, 1500);
    let (settings, _shutdown) = start(&mut tasks, &server, &node);
    server.wait_for("the devices", |content| is_complete(content, 3)).await;
    node.change(2, flags::UP, 9000);
    server.wait_for("the MTU", |content| devices(content)["dev2"]["attributes"]["mtu"]["int"] == 9000).await;
    assert!(settings.stats.has_dropped_fields());
    assert_eq!(server.writes(), 2);
}

#[tokio::test]
async fn another_instance_finds_all_as_it_should_be_and_the_end_deletes_nothing() {
    let mut tasks = JoinSet::new();
    let server = Server::start(&mut tasks).await;
    let mut node = Node::new(40);
    let (_, shutdown) = start(&mut tasks, &server, &node);
    server.wait_for("three slices", |content| is_complete(content, 40)).await;
    shutdown.cancel();
    let (_, _shutdown) = start(&mut tasks, &server, &node);
    node.change(7, flags::UP, 9000);
    server.wait_for("the MTU", |content| devices(content)["dev7"]["attributes"]["mtu"]["int"] == 9000).await;
    assert_eq!(server.writes(), 4);
    // no pool is offered by claims
    node.projector.set_pools(Arc::new(Pools::by_name("^dev".parse().unwrap())));
    node.publish();
    server.wait_for("no slice", |content| content.slices.is_empty()).await;
}

#[tokio::test]
async fn two_instances_at_once_end_with_one_pool() {
    let mut tasks = JoinSet::new();
    let server = Server::start(&mut tasks).await;
    let mut node = Node::new(60);
    let _shutdown = [start(&mut tasks, &server, &node), start(&mut tasks, &server, &node)];
    server.wait_for("one pool", |content| content.slices.len() == 4 && is_complete(content, 60)).await;
    server.foreign(|content| {
        for object in content.slices.clone().into_values() {
            content.change("DELETED", object);
        }
    });
    node.change(7, flags::UP, 9000);
    let is_right = |content: &Content| {
        content.slices.len() == 4
            && is_complete(content, 60)
            && devices(content)["dev7"]["attributes"]["mtu"]["int"] == 9000
    };
    server.wait_for("one pool again", is_right).await;
    assert_eq!(devices(&server.content()).len(), 60);
}

/// A writer without the rest.
struct Alone {
    writer: Writer,
    known: Known,
    tracker: Tracker,
}

impl Alone {
    fn new(server: &Server, node: &Node) -> Self {
        let (mut tracker, mut known) = (Tracker::default(), Known::new(NODE.into()));
        tracker.set_view(node.views.borrow().clone(), &mut known.pool);
        Self { writer: Writer::new(server.client(), &settings()), known, tracker }
    }

    /// Sends requests until the round ends. Returns how it ended and the number of writes.
    async fn round(&mut self, mut between: impl FnMut(&mut Tracker, &mut Pool)) -> (End, usize) {
        let Self { writer, known, tracker } = self;
        let (mut end, mut written) = (writer.begin(tracker, known), 0);
        while end.is_none() {
            let done = writer.done().await.expect("there is a request");
            if writer.take(done, known).0 {
                written += 1;
                between(tracker, &mut known.pool);
            }
            end = writer.go_on(tracker, known);
        }
        (end.unwrap(), written)
    }
}

#[tokio::test]
async fn what_changes_with_each_write_does_not_make_a_round_longer() {
    let mut tasks = JoinSet::new();
    let server = Server::start(&mut tasks).await;
    let mut node = Node::new(40);
    let mut alone = Alone::new(&server, &node);
    let mut mtu = 1500;
    let mut flap = |tracker: &mut Tracker, pool: &mut Pool| {
        mtu += 1;
        node.change(3, flags::UP, mtu);
        tracker.set_view(node.views.borrow().clone(), pool);
    };
    assert_eq!(alone.round(&mut flap).await, (End::Interrupted, 3));
    assert_eq!(alone.round(&mut flap).await, (End::Interrupted, 1));
    assert_eq!(alone.round(|_, _| ()).await, (End::Complete, 1));
    assert!(is_complete(&server.content(), 40));
}

#[tokio::test]
async fn a_server_that_drops_the_owner_gets_each_slice_once_in_a_round() {
    let mut tasks = JoinSet::new();
    let server = Server::start(&mut tasks).await;
    server.content().drops_owners = true;
    let node = Node::new(40);
    let mut alone = Alone::new(&server, &node);
    assert_eq!(alone.round(|_, _| ()).await, (End::Interrupted, 3));
    assert_eq!(alone.round(|_, _| ()).await, (End::Interrupted, 3));
    let paths: BTreeSet<String> = server.content().writes[3..].iter().map(|(_, path)| path.clone()).collect();
    assert_eq!(paths.len(), 3, "{paths:?}");
    assert!(is_complete(&server.content(), 40));
}

#[tokio::test]
async fn a_node_that_is_not_there_yet_is_waited_for_with_short_pauses() {
    let mut tasks = JoinSet::new();
    let server = Server::start(&mut tasks).await;
    server.content().has_no_node = true;
    let node = Node::new(1);
    let mut alone = Alone::new(&server, &node);
    let (end, written) = alone.round(|_, _| ()).await;
    let is_short = |pause| pause <= settings().timing.longest_retry;
    assert!(matches!(end, End::Failed(pause) if is_short(pause)) && written == 0, "{end:?}");
    server.content().has_no_node = false;
    assert_eq!(alone.round(|_, _| ()).await, (End::Complete, 1));
}
