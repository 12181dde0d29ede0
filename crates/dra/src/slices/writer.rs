//! Requests to the API server, one at a time.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use kube::{
    Client,
    api::{DeleteParams, GetParams, ListParams, PostParams},
    client::Body,
    core::{Request, params::Preconditions},
    runtime::watcher,
};
use netdevice::claims::slice::{Change, Content, DeviceName, Fingerprint, Tracker, changes};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout};
use wake::Backoff;

use super::{
    Settings, Stats,
    known::Known,
    object::{GROUP, Node, PLURAL, Slice, VERSION, body, new_name},
};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after an answer that does not change by itself: a right is missing, or the API server takes the slice for invalid.
const LONG_PAUSE: Duration = Duration::from_secs(60);

/// Longest pause that the API server can ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(120);

type HttpRequest = hyper::Request<Vec<u8>>;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("no answer from the API server within {TIMEOUT:?}")]
    Timeout,
    #[error("cannot send the request")]
    Build(#[source] kube::core::request::Error),
    #[error("cannot reach the API server")]
    Send(#[source] kube::Error),
    #[error("the API server refuses it ({code}): {message}")]
    Refused { code: u16, message: String, retry_after: Option<Duration> },
    /// It is created by the kubelet, perhaps in a moment.
    #[error("the API server has no such Node")]
    NoNode,
    #[error("cannot read the answer of the API server, or write a request")]
    Answer(#[source] serde_json::Error),
}

impl RequestError {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// What an attempt did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Something was written: there may be more.
    Written,
    /// There is nothing to write.
    Complete,
    /// There is more to write, but not in this round.
    Interrupted,
    /// The request failed: the next one after this pause.
    Failed(Duration),
}

/// The requests that a round may still send. What is wanted may change while it is written, and what is written may not stay as
/// it was sent: a round has as many writes as were necessary at its start, and each slice once.
#[derive(Debug)]
struct Round {
    left: usize,
    written: BTreeSet<String>,
}

impl Round {
    fn may_send(&self, change: &Change) -> bool {
        self.left > 0 && change.name().is_none_or(|name| !self.written.contains(name))
    }

    fn sent(&mut self, name: String) {
        self.left = self.left.saturating_sub(1);
        self.written.insert(name);
    }
}

/// Sends requests.
pub(super) struct Writer {
    client: Client,
    node_name: String,
    /// None until it was read.
    node: Option<Node>,
    stats: Arc<Stats>,
    backoff: Backoff,
    round: Option<Round>,
    /// The last failures that were logged: of requests, and of the watch.
    logged: [Option<String>; 2],
}

#[derive(Deserialize)]
struct NodeObject {
    metadata: kube::core::ObjectMeta,
}

#[derive(Deserialize)]
struct List {
    items: Vec<Slice>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    message: String,
}

impl Writer {
    pub(super) fn new(client: Client, settings: &Settings) -> Self {
        let Settings { node, timing, stats } = settings;
        let backoff = Backoff::new(timing.retry, timing.longest_retry);
        Self {
            client,
            node_name: node.clone(),
            node: None,
            stats: stats.clone(),
            backoff,
            round: None,
            logged: [None, None],
        }
    }

    /// The Node has to be read again before a slice names it.
    pub(super) fn forget_node(&mut self) {
        self.node = None;
    }

    pub(super) fn watch_succeeded(&mut self) {
        if self.logged[1].take().is_some() {
            tracing::info!("the ResourceSlices of the node are watched again");
        }
    }

    pub(super) fn watch_failed(&mut self, error: &watcher::Error) {
        self.stats.count_failed_watch();
        let advice = match error {
            watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404 => {
                "the API server does not serve resource.k8s.io/v1: claims need Kubernetes 1.34"
            }
            watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 403 => {
                "the service account needs list and watch of resourceslices"
            }
            _ => "it is tried again",
        };
        self.log(1, &format!("cannot watch the ResourceSlices of the node: {advice}: {}", chain(error)));
    }

    fn log(&mut self, kind: usize, text: &str) {
        if self.logged[kind].as_deref() != Some(text) {
            tracing::warn!("{text}");
            self.logged[kind] = Some(text.to_owned());
        } else {
            tracing::debug!("{text}");
        }
    }

    /// Sends the first request that is necessary and that the round may send.
    pub(super) async fn write_next(&mut self, tracker: &Tracker, known: &mut Known) -> Progress {
        let needed = changes(tracker.wanted(), &known.slices, known.last_generation);
        if needed.is_empty() {
            self.round = None;
            self.backoff.reset();
            return Progress::Complete;
        }
        let planned = needed.len();
        let round = self.round.get_or_insert_with(|| Round { left: planned, written: BTreeSet::new() });
        let Some(change) = needed.into_iter().find(|change| round.may_send(change)) else {
            self.round = None;
            return Progress::Interrupted;
        };
        match self.write(&change, tracker, known).await {
            Ok(name) => {
                self.round.iter_mut().for_each(|round| round.sent(name.clone()));
                self.stats.count_write();
                self.backoff.reset();
                if self.logged[0].take().is_some() {
                    tracing::info!("ResourceSlices are written again");
                }
                Progress::Written
            }
            Err(error) => Progress::Failed(self.failed(&change, &error, known).await),
        }
    }

    /// Returns the name of the slice.
    async fn write(&mut self, change: &Change, tracker: &Tracker, known: &mut Known) -> Result<String, RequestError> {
        match change {
            Change::Delete { name, uid, version } => {
                let parameters = DeleteParams {
                    preconditions: Some(Preconditions {
                        uid: Some(uid.clone()),
                        resource_version: Some(version.clone()),
                    }),
                    ..DeleteParams::default()
                };
                let request = Request::new(path()).delete(name, &parameters).map_err(RequestError::Build)?;
                self.send::<serde::de::IgnoredAny>(request).await?;
                tracing::info!(slice = name, "ResourceSlice deleted");
                known.gone(name, Instant::now());
                Ok(name.clone())
            }
            Change::Update { name, version, content, .. } => {
                let node = self.node().await?;
                let (body, sent) = content_of(name, Some(version), &node, content, tracker, known)?;
                let request = Request::new(path()).replace(name, &PostParams::default(), body);
                self.send_slice(request.map_err(RequestError::Build)?, sent, known).await?;
                tracing::debug!(slice = name, devices = content.devices.len(), "ResourceSlice changed");
                Ok(name.clone())
            }
            Change::Create { position, content } => {
                let node = self.node().await?;
                let name = new_name(&self.node_name, *position, random());
                let (body, sent) = content_of(&name, None, &node, content, tracker, known)?;
                let request = Request::new(path()).create(&PostParams::default(), body);
                self.send_slice(request.map_err(RequestError::Build)?, sent, known).await?;
                tracing::info!(slice = name, devices = content.devices.len(), "ResourceSlice created");
                Ok(name)
            }
        }
    }

    async fn send_slice(&self, request: HttpRequest, sent: Sent, known: &mut Known) -> Result<(), RequestError> {
        let slice: Slice = self.send(request).await?;
        if known.written(slice, sent, Instant::now()) && self.stats.set_dropped() {
            tracing::warn!(
                "the API server drops fields of the devices in ResourceSlices: a feature is off there \
                 (taints need the feature gate DRADeviceTaints, on since Kubernetes 1.36)"
            );
        }
        Ok(())
    }

    /// The Node, which owns the slices.
    async fn node(&mut self) -> Result<Node, RequestError> {
        if let Some(node) = &self.node {
            return Ok(node.clone());
        }
        let request = Request::new("/api/v1/nodes").get(&self.node_name, &GetParams::default());
        let read: NodeObject = match self.send(request.map_err(RequestError::Build)?).await {
            Err(error) if error.code() == Some(404) => return Err(RequestError::NoNode),
            read => read?,
        };
        let node = Node { name: self.node_name.clone(), uid: read.metadata.uid.unwrap_or_default() };
        self.node = Some(node.clone());
        Ok(node)
    }

    /// Returns the pause until the next request.
    async fn failed(&mut self, change: &Change, error: &RequestError, known: &mut Known) -> Duration {
        self.stats.count_failed_write();
        // another writer was faster, or the watch is behind
        if let (Some(name), Some(404 | 409)) = (change.name(), error.code()) {
            _ = self.look_at(name, known).await;
            return self.backoff.next_pause();
        }
        let advice = match error.code() {
            Some(401) => ": the token of the service account is not accepted",
            Some(403) => {
                ": the service account needs get of nodes, and create, update and delete of resourceslices of its own node"
            }
            _ => "",
        };
        self.log(0, &format!("cannot write the ResourceSlices of the node{advice}: {}", chain(error)));
        let pause = self.backoff.next_pause();
        match error {
            // all nodes get the same time: the pause is different for each
            RequestError::Refused { retry_after: Some(time), .. } => pause + *time,
            RequestError::Refused { code: 403 | 404 | 422, .. } => pause.max(LONG_PAUSE),
            _ => pause,
        }
    }

    /// Reads a slice anew. Returns whether that succeeded.
    pub(super) async fn look_at(&self, name: &str, known: &mut Known) -> bool {
        match self.read(name).await {
            Ok(Some(slice)) => known.read(slice),
            Ok(None) => known.gone(name, Instant::now()),
            Err(error) => {
                tracing::debug!(slice = name, "cannot read the ResourceSlice: {}", chain(&error));
                return false;
            }
        }
        true
    }

    /// By a list, for which the agent has the right anyway.
    async fn read(&self, name: &str) -> Result<Option<Slice>, RequestError> {
        let parameters = ListParams::default().fields(&format!("metadata.name={name}"));
        let request = Request::new(path()).list(&parameters).map_err(RequestError::Build)?;
        let List { items } = self.send(request).await?;
        Ok(items.into_iter().next())
    }

    async fn send<T: DeserializeOwned>(&self, request: HttpRequest) -> Result<T, RequestError> {
        timeout(TIMEOUT, self.send_without_limit(request)).await.map_err(|_| RequestError::Timeout)?
    }

    async fn send_without_limit<T: DeserializeOwned>(&self, request: HttpRequest) -> Result<T, RequestError> {
        let answer = self.client.send(request.map(Body::from)).await.map_err(RequestError::Send)?;
        let code = answer.status();
        let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = retry_after.map(|seconds| Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER));
        let bytes = answer.into_body().collect_bytes().await.map_err(RequestError::Send)?;
        if code.is_success() {
            return serde_json::from_slice(&bytes).map_err(RequestError::Answer);
        }
        // the API server's own limiter answers with text
        let text = || String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).trim().to_owned();
        let message = serde_json::from_slice::<Status>(&bytes).map_or_else(|_| text(), |status| status.message);
        Err(RequestError::Refused { code: code.as_u16(), message, retry_after })
    }
}

fn path() -> String {
    format!("/apis/{GROUP}/{VERSION}/{PLURAL}")
}

/// What a request says of each device.
type Sent = Vec<(DeviceName, Fingerprint)>;

/// The body of a slice.
fn content_of(
    name: &str,
    version: Option<&str>,
    node: &Node,
    content: &Content,
    tracker: &Tracker,
    known: &Known,
) -> Result<(Vec<u8>, Sent), RequestError> {
    let (mut devices, mut sent) = (Vec::new(), Vec::new());
    for device in content.devices.iter().filter_map(|device| tracker.device(device)) {
        let mut value = serde_json::to_value(&device).map_err(RequestError::Answer)?;
        sent.push((device.name.clone(), Fingerprint::of(&value)));
        // a taint that stays keeps its time
        for (at, taint) in device.taints.iter().enumerate() {
            if let Some(time) = known.added(name, &device.name, (taint.key, taint.value)) {
                value["taints"][at]["timeAdded"] = time.added.clone();
            }
        }
        devices.push(value);
    }
    let body = body(name, version, node, content, devices);
    Ok((serde_json::to_vec(&body).map_err(RequestError::Answer)?, sent))
}

/// The keys of a hasher are random enough for names.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}
