//! Which Pod is worked on, and when. On one Pod one work at a time, on several Pods at the same time: a plugin that hangs
//! delays only its Pod.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use cni::ForeignFiles;
use cri::{Client as RuntimeClient, Deadlines};
use kube::{Client, Error as KubeError, runtime::watcher};
use netdevice::{Owner, View, owner::Request};
use tokio::{
    sync::oneshot,
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep_until},
};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use wake::Directories;

use crate::{
    NAME,
    definition::Definitions,
    entry::{AFTER_CHANGE, Entry},
    handle::{Inquiries, Inquiry},
    outcome::{Done, WorkError, rejected},
    report::Reporter,
    settings::Settings,
    status,
    watch::{self, Change, DefinitionChange, Kept, WatchedPod},
    work::{self, NodeReader},
};

/// Pods that are worked on at a time.
const MAX_WORK: usize = 8;
/// The pause after an element was plugged again as it was before: each attempt interrupts the Pod's network.
const AFTER_RESTORATION: Duration = Duration::from_secs(600);
/// How often in a row the status of a Pod may lag behind Multus before it is believed.
const MAX_LAGS: u32 = 5;
/// Where the runtimes mount the network namespaces of Pods.
const NAMESPACES: &str = "/run/netns";
/// How often sandboxes are listed without an event.
const POLL: Duration = Duration::from_secs(60);
/// When sandboxes are listed after an event: the runtime may take seconds until a new one is in its list.
const LISTINGS: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];
const NOT_FOUND: u16 = 404;

/// The work on a Pod that has ended.
struct Ended {
    watched: WatchedPod,
    result: Result<Done, WorkError>,
    /// The text of the Pod's status, if it is known.
    status: Option<String>,
}

struct Controller {
    settings: Arc<Settings>,
    client: Client,
    reporter: Reporter,
    node: NodeReader,
    view: Arc<View>,
    pods: HashMap<String, Entry>,
    listed: Option<BTreeSet<String>>,
    are_pods_listed: bool,
    definitions: Kept<Arc<str>>,
    /// UIDs of Pods that have attachments from before this process.
    own_before: BTreeSet<String>,
    /// When sandboxes are listed next, and how often they were since the event.
    listing: Option<(Instant, usize)>,
    waiting: HashMap<String, Vec<oneshot::Sender<Result<(), String>>>>,
    jobs: JoinSet<Ended>,
}

/// Follows the Pods of the node until `shutdown`.
///
/// # Errors
///
/// None today: the API server and the runtime are waited for.
pub async fn run(
    settings: Settings,
    client: Client,
    reporter: Reporter,
    node: NodeReader,
    mut inquiries: Inquiries,
    shutdown: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let mut pods = watch::pods(client.clone(), &settings.node);
    let mut definitions = watch::definitions(client.clone());
    let mut namespaces = Directories::new([PathBuf::from(NAMESPACES)], POLL);
    let settings = Arc::new(settings);
    let own_before = own_before(settings.clone()).await;
    let mut views = settings.devices.changes();
    let view = views.borrow_and_update().clone();
    let mut controller = Controller {
        settings,
        client,
        reporter,
        node,
        view,
        pods: HashMap::new(),
        listed: None,
        are_pods_listed: false,
        definitions: Kept::default(),
        own_before,
        listing: None,
        waiting: HashMap::new(),
        jobs: JoinSet::new(),
    };
    let mut reported = None;
    loop {
        controller.start_due();
        let next = controller.next_due();
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(change) = pods.next() => match change {
                Ok(change) => controller.pod_changed(change),
                Err(error) => report_once(&mut reported, "pods of this node", &error),
            },
            Some(change) = definitions.next() => match change {
                Ok(change) => controller.definition_changed(change),
                // the cluster has no such resource: there are no networks
                Err(watcher::Error::InitialListFailed(KubeError::Api(status))) if status.code == NOT_FOUND => {
                    controller.definitions.begin();
                    controller.definitions.end();
                }
                Err(error) => report_once(&mut reported, "NetworkAttachmentDefinitions", &error),
            },
            _ = namespaces.changed() => controller.list_soon(),
            Ok(()) = views.changed() => {
                let now = views.borrow_and_update().clone();
                controller.view_changed(now);
            }
            () = at(controller.listing.map(|(at, _)| at)) => controller.list_sandboxes().await,
            Some(inquiry) = inquiries.recv() => controller.inquire(inquiry),
            Some(job) = controller.jobs.join_next() => match job {
                Ok(ended) => controller.end(ended),
                Err(error) => warn!("the work on a pod failed: {error}"),
            },
            () = at(next) => {}
        }
    }
    // a plugin that runs is killed with this process, and what it did is found by the next one
    controller.jobs.detach_all();
    Ok(())
}

async fn at(next: Option<Instant>) {
    match next {
        Some(next) => sleep_until(next).await,
        None => std::future::pending().await,
    }
}

fn report_once(reported: &mut Option<String>, what: &str, error: &watcher::Error) {
    let line = format!("cannot follow the {what}: {error}");
    if reported.as_ref() != Some(&line) {
        warn!("{line}");
    }
    *reported = Some(line);
}

/// The Pods that have attachments of this program, by plugins or of devices.
async fn own_before(settings: Arc<Settings>) -> BTreeSet<String> {
    let listed = spawn_blocking(move || {
        let networks = &settings.networks;
        let list = || networks.runtime.cache.list_own(&mut ForeignFiles::default());
        (store::run_in_mounts_of_init(list), networks.records.list())
    });
    let Ok((entries, records)) = listed.await else { return BTreeSet::new() };
    let mut uids = BTreeSet::new();
    match entries {
        Ok(Ok((entries, _))) => {
            let markers = entries.iter().filter_map(|entry| entry.marker());
            uids.extend(markers.filter(|marker| marker.by == NAME).map(|marker| marker.pod.uid.clone()));
        }
        Ok(Err(error)) => warn!("cannot read which networks were attached before: {error}"),
        Err(error) => warn!("cannot enter the mount namespace of PID 1: {error}"),
    }
    match records {
        Ok((ledger, _)) => {
            let is_own = |owner: &&Owner| matches!(owner.request(), Some(Request::Networks { .. }));
            let owners = ledger.values().map(|record| &record.owner).filter(is_own);
            uids.extend(owners.filter_map(Owner::pod).map(|pod| pod.uid.clone()));
        }
        Err(error) => warn!("cannot read which devices were attached before: {error}"),
    }
    uids
}

impl Controller {
    fn pod_changed(&mut self, change: Change) {
        match change {
            Change::Begin => self.listed = Some(BTreeSet::new()),
            Change::Pod(watched) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(watched.pod.uid.clone());
                }
                self.update(watched);
            }
            Change::PodGone(uid) => drop(self.pods.remove(&uid)),
            Change::End => {
                self.are_pods_listed = true;
                if let Some(listed) = self.listed.take() {
                    self.pods.retain(|uid, _| listed.contains(uid));
                }
            }
        }
    }

    fn update(&mut self, watched: WatchedPod) {
        let uses_multus = self.settings.uses_multus();
        let has_own = self.own_before.contains(&watched.uid_on_node);
        match self.pods.get_mut(&watched.pod.uid) {
            None => {
                let uid = watched.pod.uid.clone();
                let mut entry = Entry::new(watched, has_own);
                if entry.is_relevant(uses_multus) {
                    entry.wake();
                }
                self.pods.insert(uid, entry);
            }
            Some(entry) => {
                let before = std::mem::replace(&mut entry.watched, watched);
                let is_requested_anew = !before.has_same_requests(&entry.watched);
                let is_changed = is_requested_anew || before.status != entry.watched.status;
                if is_requested_anew {
                    entry.failures.reset();
                    // a Pod on the node's network is rejected once for each request
                    entry.is_rejected = false;
                }
                if entry.is_relevant(uses_multus) {
                    if is_changed || entry.sandbox.is_none() {
                        entry.wake();
                    } else {
                        // it may have another sandbox
                        self.list_soon();
                    }
                }
            }
        }
    }

    fn definition_changed(&mut self, change: DefinitionChange) {
        match change {
            DefinitionChange::Begin => return self.definitions.begin(),
            DefinitionChange::Definition(name, config) => self.definitions.insert(name, config),
            DefinitionChange::Gone(name) => self.definitions.remove(&name),
            DefinitionChange::End => drop(self.definitions.end()),
        }
        // interfaces that are there stay as they were made
        for entry in self.pods.values_mut().filter(|entry| entry.is_failed) {
            entry.failures.reset();
            entry.wake();
        }
    }

    /// A device that a Pod waits for may be free now.
    fn view_changed(&mut self, now: Arc<View>) {
        let before = std::mem::replace(&mut self.view, now);
        if self.view.changed_since(&before).next().is_some() || !Arc::ptr_eq(&self.view.pools, &before.pools) {
            self.pods.values_mut().for_each(Entry::devices_changed);
        }
    }

    fn list_soon(&mut self) {
        let soon = Instant::now() + LISTINGS[0];
        let at = self.listing.map_or(soon, |(at, _)| at.min(soon));
        self.listing = Some((at, 0));
    }

    /// Wakes the Pods whose sandbox is another one than that which they were worked on in.
    async fn list_sandboxes(&mut self) {
        let times = self.listing.map_or(0, |(_, times)| times + 1);
        self.listing = LISTINGS.get(times).map(|pause| (Instant::now() + *pause, times));
        let uses_multus = self.settings.uses_multus();
        if !self.pods.values().any(|entry| entry.is_relevant(uses_multus)) {
            self.listing = None;
            return;
        }
        let settings = self.settings.clone();
        let listed = spawn_blocking(move || store::run_in_mounts_of_init(|| sandboxes_of_pods(&settings))).await;
        let Ok(Ok(Some(sandboxes))) = listed else { return };
        for entry in self.pods.values_mut().filter(|entry| entry.is_relevant(uses_multus)) {
            if sandboxes.get(&entry.watched.uid_on_node).is_some_and(|id| entry.sandbox.as_ref() != Some(id)) {
                entry.missing.reset();
                entry.wake();
            }
        }
    }

    fn inquire(&mut self, Inquiry { uid, answer }: Inquiry) {
        self.waiting.retain(|_, waiting| {
            waiting.retain(|answer| !answer.is_closed());
            !waiting.is_empty()
        });
        // a static Pod has another UID in the API server
        if let Some(entry) = self.pods.values_mut().find(|entry| entry.watched.uid_on_node == uid) {
            let is_complete = entry.complete_in.is_some() && entry.complete_in == entry.sandbox && !entry.is_dirty;
            if is_complete || entry.is_rejected {
                if is_complete {
                    // the runtime may have made another sandbox: the work finds out, and nobody waits for it
                    entry.wake();
                }
                // the receiver may have given up
                let _ = answer.send(Ok(()));
                return;
            }
            entry.wake();
        }
        self.waiting.entry(uid).or_default().push(answer);
    }

    fn next_due(&self) -> Option<Instant> {
        let is_possible = self.are_pods_listed && self.definitions.is_complete && self.jobs.len() < MAX_WORK;
        is_possible.then(|| self.pods.values().filter_map(|entry| entry.next).min()).flatten()
    }

    fn start_due(&mut self) {
        while let Some(next) = self.next_due().filter(|next| *next <= Instant::now()) {
            let Some(entry) = self.pods.values_mut().find(|entry| entry.next == Some(next)) else { return };
            entry.next = None;
            entry.is_running = true;
            let watched = entry.watched.clone();
            let definitions = self.definitions.objects.clone();
            let is_patient = entry.lags < MAX_LAGS;
            let (settings, client, node) = (self.settings.clone(), self.client.clone(), self.node.clone());
            self.jobs.spawn(job(settings, client, definitions, watched, is_patient, node));
        }
    }

    fn end(&mut self, Ended { watched, result, status }: Ended) {
        let uid = &watched.pod.uid;
        let missing = result.as_ref().ok().and_then(Done::missing);
        let answer = match &result {
            Ok(_) => Some(missing.clone().map_or(Ok(()), Err)),
            Err(WorkError::NoSandbox(_) | WorkError::Lagging) => None,
            // it gets nothing, and runs
            Err(WorkError::HostNetwork) => Some(Ok(())),
            Err(error) => Some(Err(error.to_string())),
        };
        if let Some(answer) = answer {
            for waiting in self.waiting.remove(&watched.uid_on_node).into_iter().flatten() {
                let _ = waiting.send(answer.clone());
            }
        }
        let Some(entry) = self.pods.get_mut(uid) else { return };
        entry.is_running = false;
        let pod = &watched.pod;
        let pause = match result {
            Ok(done) => {
                entry.sandbox = done.sandbox;
                entry.has_own = done.has_own;
                entry.missing.reset();
                entry.lags = 0;
                // an invalid annotation is reported once, however often the Pod is worked on
                let new = done.invalid.iter().filter(|report| !entry.invalid.contains(report)).cloned();
                for report in new.chain(done.reports) {
                    match report.is_warning {
                        true => warn!(%pod, "{}", report.note),
                        false => info!(%pod, "{}", report.note),
                    }
                    self.reporter.report(report);
                }
                entry.invalid = done.invalid;
                let is_failed = !done.failures.is_empty();
                entry.waits_for_devices = is_failed && done.refused == done.failures.len();
                entry.is_failed = is_failed || !entry.invalid.is_empty();
                match &missing {
                    Some(missing) => debug!(%pod, "{missing}"),
                    None => entry.complete_in = entry.sandbox.clone(),
                }
                if !is_failed {
                    entry.failures.reset();
                }
                let has_new_view = std::mem::take(&mut entry.is_view_new) && entry.waits_for_devices;
                match (is_failed, done.is_restored) {
                    (true, true) => Some(AFTER_RESTORATION),
                    (true, false) if has_new_view => Some(entry.failures.next_pause().min(AFTER_CHANGE)),
                    (true, false) => Some(entry.failures.next_pause()),
                    (false, _) => None,
                }
            }
            Err(WorkError::HostNetwork) => {
                if watched.requests_any() && !entry.is_rejected {
                    self.reporter.report(rejected(pod));
                }
                // another request is rejected again
                entry.is_rejected = watched.has_same_requests(&entry.watched);
                entry.is_dirty &= !entry.is_rejected;
                None
            }
            Err(error @ WorkError::NoSandbox(_)) => {
                debug!(%pod, "{error}");
                entry.sandbox = None;
                Some(entry.missing.next_pause())
            }
            Err(error @ WorkError::Lagging) => {
                debug!(%pod, "{error}");
                entry.lags += 1;
                Some(entry.missing.next_pause())
            }
            Err(error) => {
                warn!(%pod, "the pod's networks are not as requested: {error}");
                Some(entry.failures.next_pause())
            }
        };
        // this program's own change is nothing to react to; what the watch has read since is newer
        if let Some(status) = status.filter(|_| entry.watched.version == watched.version) {
            entry.watched.status = status;
        }
        if std::mem::take(&mut entry.is_dirty) {
            entry.next = Some(Instant::now());
        } else if let Some(pause) = pause {
            entry.next = Some(Instant::now() + pause);
        }
    }
}

/// The newest running sandbox of each Pod, by the Pod's UID.
fn sandboxes_of_pods(settings: &Settings) -> Option<BTreeMap<String, String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let listed = runtime.block_on(async {
        let client = RuntimeClient::connect(&settings.runtime, Deadlines::default()).await?;
        client.list_sandboxes().await
    });
    let mut listed = listed.inspect_err(|error| debug!("cannot list the sandboxes: {error}")).ok()?;
    listed.retain(|sandbox| sandbox.is_ready);
    listed.sort_by_key(|sandbox| (sandbox.attempt, sandbox.created_at));
    Some(listed.into_iter().map(|sandbox| (sandbox.pod.uid, sandbox.id)).collect())
}

/// The work on one Pod, and then its status.
async fn job(
    settings: Arc<Settings>,
    client: Client,
    definitions: Definitions,
    watched: WatchedPod,
    is_patient: bool,
    node: NodeReader,
) -> Ended {
    let pod = watched.clone();
    let worked = spawn_blocking(move || {
        store::run_in_mounts_of_init(|| work::work(&settings, &definitions, &pod, is_patient, &*node))
    });
    let mut result = match worked.await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(WorkError::Node(format!("cannot enter the mount namespace of PID 1: {error}"))),
        Err(error) => Err(WorkError::Node(format!("the task failed: {error}"))),
    };
    let mut written = None;
    if let Ok(done) = &mut result
        && let Some(change) = &done.status
    {
        match status::write(&client, &watched, change).await {
            Ok(text) => written = text,
            Err(error) => {
                let error = format!("cannot write the pod's network-status: {error}");
                warn!(pod = %watched.pod, "{error}");
                done.failures.push(error);
            }
        }
    }
    Ended { watched, result, status: written }
}
