//! Writes slices, in rounds. A round is what is necessary at its start, some requests at a time: what is wanted may change while it
//! is written, and what is written may not stay as it was sent. What is left is for the next round.

use std::{
    collections::VecDeque,
    mem::{Discriminant, discriminant},
    sync::Arc,
    time::Duration,
};

use kube::{Client, runtime::watcher};
use netdevice::claims::slice::{Change, Tracker};
use serde::de::IgnoredAny;
use tokio::{task::JoinSet, time::Instant};
use wake::Backoff;

use super::{
    Settings, Stats,
    change::{Sent, request_of},
    known::{Known, Seen},
    object::{Node, Slice},
    request::{HttpRequest, RequestError, Requests, chain},
};

/// The pause after an answer that does not change by itself: a right is missing, or the API server takes the slice for invalid.
const LONG_PAUSE: Duration = Duration::from_secs(60);

/// Requests at a time. The agent has eight connections for all that it asks.
const AT_ONCE: usize = 4;

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// There is nothing left to write.
    Complete,
    /// There is more to write, but not in this round.
    Interrupted,
    /// A request failed: the next round after this pause.
    Failed(Duration),
}

/// What a request did.
#[derive(Debug)]
pub(super) enum Done {
    Node(Result<Node, RequestError>),
    Answered(Box<Answered>),
}

/// A request for a slice that was answered, or failed.
#[derive(Debug)]
pub(super) struct Answered {
    name: String,
    change: Change,
    answer: Result<Answer, Failed>,
}

/// The answer to a request that succeeded.
#[derive(Debug)]
pub(super) enum Answer {
    Deleted,
    Written(Box<Slice>, Sent),
}

/// A request that failed.
#[derive(Debug)]
pub(super) struct Failed {
    error: RequestError,
    /// The slice as it is now, if it is another one than was known.
    slice: Option<Option<Slice>>,
}

/// Sends requests.
pub(super) struct Writer {
    requests: Requests,
    node_name: String,
    /// None until it was read.
    node: Option<Node>,
    stats: Arc<Stats>,
    backoff: Backoff,
    /// What the round has still to send.
    queue: VecDeque<Change>,
    in_flight: JoinSet<Done>,
    /// What kind of requests these are.
    kind: Option<Discriminant<Change>>,
    /// Whether the last request succeeded: otherwise one is tried alone.
    is_accepted: bool,
    /// The pause after the round, because a request failed.
    pause: Option<Duration>,
    /// The last failures that were logged: of requests, and of the watch.
    logged: [Option<String>; 2],
}

impl Writer {
    pub(super) fn new(client: Client, settings: &Settings) -> Self {
        let Settings { node, timing, stats } = settings;
        Self {
            requests: Requests(client),
            node_name: node.clone(),
            node: None,
            stats: stats.clone(),
            backoff: Backoff::new(timing.retry, timing.longest_retry),
            queue: VecDeque::new(),
            in_flight: JoinSet::new(),
            kind: None,
            is_accepted: true,
            pause: None,
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

    /// Whether a round has begun that has not ended.
    pub(super) fn is_busy(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Begins a round. Returns how it ended, if it has.
    pub(super) fn begin(&mut self, tracker: &Tracker, known: &mut Known) -> Option<End> {
        self.queue = known.pool.changes(tracker.wanted()).into();
        self.pause = None;
        if self.queue.is_empty() { Some(self.completed()) } else { self.go_on(tracker, known) }
    }

    /// Sends what the round has left. Returns how it ended, if it has.
    pub(super) fn go_on(&mut self, tracker: &Tracker, known: &mut Known) -> Option<End> {
        self.send_more(tracker, known);
        if self.is_busy() {
            return None;
        }
        if let Some(pause) = self.pause.take() {
            return Some(End::Failed(pause));
        }
        Some(if known.needs(tracker.wanted()) { End::Interrupted } else { self.completed() })
    }

    fn completed(&mut self) -> End {
        self.backoff.reset();
        End::Complete
    }

    /// The next request that is done; waits if there is none.
    pub(super) async fn done(&mut self) -> Option<Done> {
        // a task ends by itself: it is not aborted, and does not panic
        self.in_flight.join_next().await?.ok()
    }

    /// Takes what a request did. Returns whether a slice was written, and what the watch has said of it meanwhile.
    pub(super) fn take(&mut self, done: Done, known: &mut Known) -> (bool, Seen) {
        let now = Instant::now();
        let (name, change, answer) = match done {
            Done::Node(Ok(node)) => {
                self.node = Some(node);
                return (false, Seen::Expected);
            }
            Done::Node(Err(error)) => {
                self.failed(None, &error);
                return (false, Seen::Expected);
            }
            Done::Answered(answered) => {
                let Answered { name, change, answer } = *answered;
                (name, change, answer)
            }
        };
        let is_written = answer.is_ok();
        match answer {
            Ok(Answer::Deleted) => {
                tracing::info!(slice = name, "ResourceSlice deleted");
                known.gone(&name, now);
            }
            Ok(Answer::Written(slice, sent)) => self.written(&change, *slice, sent, known),
            Err(Failed { error, slice }) => {
                match slice {
                    Some(Some(slice)) => known.read(slice),
                    Some(None) => known.gone(&name, now),
                    None => {}
                }
                self.failed(Some(&change), &error);
            }
        }
        if is_written {
            self.stats.count_write();
            self.backoff.reset();
            self.is_accepted = true;
            if self.logged[0].take().is_some() {
                tracing::info!("ResourceSlices are written again");
            }
        }
        (is_written, known.answered(&name, now))
    }

    fn written(&mut self, change: &Change, slice: Slice, sent: Sent, known: &mut Known) {
        let (name, devices) = (slice.metadata.name.as_deref().unwrap_or_default(), sent.len());
        match change {
            Change::Create { .. } => tracing::info!(slice = name, devices, "ResourceSlice created"),
            _ => tracing::debug!(slice = name, devices, "ResourceSlice changed"),
        }
        if known.written(slice, sent, Instant::now()) && self.stats.set_dropped() {
            tracing::warn!(
                "the API server drops fields of the devices in ResourceSlices: a feature is off there \
                 (taints need the feature gate DRADeviceTaints, on since Kubernetes 1.36)"
            );
        }
    }

    /// A request failed: no other one is sent in this round.
    fn failed(&mut self, change: Option<&Change>, error: &RequestError) {
        self.stats.count_failed_write();
        self.queue.clear();
        self.is_accepted = false;
        let pause = match self.pause {
            Some(pause) => pause,
            None => self.backoff.next_pause(),
        };
        // another writer was faster, or the watch is behind
        let is_overtaken = matches!((change.and_then(Change::name), error.code()), (Some(_), Some(404 | 409)));
        if is_overtaken {
            self.pause = Some(pause);
            return;
        }
        let advice = match error.code() {
            Some(401) => ": the token of the service account is not accepted",
            Some(403) => {
                ": the service account needs get of nodes, and create, update and delete of resourceslices of its own node"
            }
            _ => "",
        };
        self.log(0, &format!("cannot write the ResourceSlices of the node{advice}: {}", chain(error)));
        self.pause = Some(match error {
            // all nodes get the same time: the pause is different for each
            RequestError::Refused { retry_after: Some(time), .. } => pause + *time,
            RequestError::Refused { code: 403 | 404 | 422, .. } => pause.max(LONG_PAUSE),
            _ => pause,
        });
    }

    /// Starts requests, in their order: one kind after the other.
    fn send_more(&mut self, tracker: &Tracker, known: &mut Known) {
        let at_once = if self.is_accepted { AT_ONCE } else { 1 };
        while self.in_flight.len() < at_once
            && let Some(change) = self.queue.front()
        {
            let kind = discriminant(change);
            let is_delete = matches!(change, Change::Delete { .. });
            if self.is_busy() && self.kind != Some(kind) {
                return;
            }
            self.kind = Some(kind);
            let requests = self.requests.clone();
            let node = match &self.node {
                Some(node) => node.clone(),
                None if is_delete => Node::default(),
                None => {
                    // it is asked for once
                    if self.is_busy() {
                        return;
                    }
                    let name = self.node_name.clone();
                    self.kind = None;
                    self.in_flight.spawn(async move { Done::Node(requests.node(&name).await) });
                    return;
                }
            };
            let Some(change) = self.queue.pop_front().filter(|change| is_current(change, known)) else { continue };
            match request_of(&change, &node, tracker, known) {
                Ok((name, request, sent)) => {
                    known.sent(name.clone());
                    self.in_flight.spawn(send(requests, name, change, request, sent));
                }
                Err(error) => self.failed(Some(&change), &error),
            }
        }
    }

    /// Reads a slice anew. Returns whether that succeeded.
    pub(super) async fn look_at(&self, name: &str, known: &mut Known) -> bool {
        match self.requests.slice(name).await {
            Ok(Some(slice)) => known.read(slice),
            Ok(None) => known.gone(name, Instant::now()),
            Err(error) => {
                tracing::debug!(slice = name, "cannot read the ResourceSlice: {}", chain(&error));
                return false;
            }
        }
        true
    }
}

/// Whether the slice is as it was when the change was planned.
fn is_current(change: &Change, known: &Known) -> bool {
    match change {
        Change::Create { .. } => true,
        Change::Update { name, version, .. } | Change::Delete { name, version, .. } => {
            known.pool.slices().get(name).is_some_and(|slice| slice.version == *version)
        }
    }
}

/// Sends a request; what another writer changed meanwhile is read.
async fn send(requests: Requests, name: String, change: Change, request: HttpRequest, sent: Sent) -> Done {
    let answer = match &change {
        Change::Delete { .. } => requests.send::<IgnoredAny>(request).await.map(|_| Answer::Deleted),
        Change::Update { .. } | Change::Create { .. } => {
            requests.send::<Slice>(request).await.map(|slice| Answer::Written(Box::new(slice), sent))
        }
    };
    let answer = match answer {
        Ok(answer) => Ok(answer),
        Err(error) => {
            let slice = match (change.name(), error.code()) {
                (Some(name), Some(404 | 409)) => requests.slice(name).await.ok(),
                _ => None,
            };
            Err(Failed { error, slice })
        }
    };
    Done::Answered(Box::new(Answered { name, change, answer }))
}
