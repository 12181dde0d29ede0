//! Returns devices to the host that a hook or an event of the runtime should have returned: the hook was killed, or the
//! sandbox ended without it.
//!
//! Level, not edge: records are compared with the kernel, so that a missed event costs time and nothing else. If this agent
//! lacks a capability for it, the next hook on the node returns the device.
//!
//! Each device has one task at a time, on a thread of its own: a task that hangs delays no other device.

mod kubelet;
mod mount_changes;
mod notifier;
mod process_ends;
mod tracked;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use link::{Ended, Repair};
use netdevice::{DeviceId, Ledger};
use store::{Namespace, Records};
use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinSet, spawn_blocking},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    descriptors,
    view::{Part, Views},
};
use kubelet::{Gone, Kubelet};
use mount_changes::MountChanges;
pub(crate) use notifier::Notifier;
use process_ends::ProcessEnds;
use tracked::{GRACE, Hold, Next, Tracked};
use work::{Cause, Check, Diagnosed, RepairOrder, diagnose_all, ends_with_its_mounts, repair};

/// Tasks at a time. Moves wait for each other at the kernel's lock anyway; the rest of a repair does not.
const WORKERS: usize = 8;
/// A task that runs for longer hangs: it no longer counts as one of the workers.
const SLOW: Duration = Duration::from_secs(5);
/// Tasks in all, those that hang included: each has a thread. Others wait.
const MAX_RUNNING: usize = 64;
/// The pause between two checks of many records: at least this long, and this many times as long as the check took.
const PAUSE: Duration = Duration::from_millis(50);
const SHARE: u32 = 20;
/// How often records are checked for which no event can be watched, because descriptors are missing.
const POLL: Duration = Duration::from_secs(5);
/// When a namespace that could not be opened is tried again.
const HOLD_RETRY: Duration = Duration::from_secs(5);

/// Descriptors that are left for connections, watched directories and work on devices.
const DESCRIPTOR_RESERVE: usize = 96;

/// What leads to a check.
pub(crate) struct Triggers {
    /// The view, for its records.
    pub(crate) views: Views,
    /// A namespace has ended.
    pub(crate) namespaces_ended: watch::Receiver<u64>,
    /// The kubelet's PodResources socket.
    pub(crate) pod_resources: PathBuf,
}

/// Follows the records until `shutdown`.
pub(crate) async fn run(
    triggers: Triggers,
    records: Records,
    notifier: Notifier,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Triggers { views, namespaces_ended, pod_resources } = triggers;
    let (sender, gone) = watch::channel(Gone::new());
    let kubelet = Kubelet::new(pod_resources, views.clone());
    let reconciler = Reconciler::new(records, notifier);
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        result = kubelet.run(sender) => result,
        result = reconciler.follow(Part::ledger(views), namespaces_ended, gone) => result,
    }
}

/// The result of a task.
enum Work {
    Hold(Result<Option<Namespace>, link::Error>),
    Repair(Result<(Repair, Cause), link::Error>),
}

/// A task that runs.
struct Running {
    device: DeviceId,
    /// The namespace of the attachment that it was started for.
    cookie: u64,
    since: Instant,
}

/// The records, and the work on them.
struct Reconciler {
    records: Records,
    notifier: Notifier,
    ledger: Arc<Ledger>,
    gone: Gone,
    tracked: BTreeMap<DeviceId, Tracked>,
    /// Namespaces that are kept open, by cookie: one descriptor each, however many devices they have.
    namespaces: BTreeMap<u64, Weak<Namespace>>,
    /// How many may be kept open.
    namespace_limit: usize,
    process_ends: ProcessEnds,
    /// None while no record needs it.
    mount_changes: Option<MountChanges>,
    /// Devices to repair, in that order.
    queue: Vec<DeviceId>,
    running: BTreeMap<Id, Running>,
    tasks: JoinSet<Work>,
    /// Devices to check.
    to_check: BTreeSet<DeviceId>,
    /// When all devices are to be checked, and when those whose end only mounts show; none if neither is due.
    check_all_at: Option<Instant>,
    check_mounted_at: Option<Instant>,
    /// When many devices were checked last, and how long that took.
    checked_many_at: Instant,
    check_took: Duration,
}

impl Reconciler {
    fn new(records: Records, notifier: Notifier) -> Self {
        let descriptors = descriptors::limit().saturating_sub(DESCRIPTOR_RESERVE);
        let now = Instant::now();
        Self {
            records,
            notifier,
            ledger: Arc::default(),
            gone: Gone::new(),
            tracked: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            namespace_limit: descriptors / 2,
            process_ends: ProcessEnds::new(descriptors / 4),
            mount_changes: None,
            queue: Vec::new(),
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            to_check: BTreeSet::new(),
            check_all_at: None,
            check_mounted_at: None,
            checked_many_at: now,
            check_took: Duration::ZERO,
        }
    }

    async fn follow(
        mut self,
        mut ledger: Part<Arc<Ledger>>,
        mut namespaces_ended: watch::Receiver<u64>,
        mut gone: watch::Receiver<Gone>,
    ) -> anyhow::Result<()> {
        self.check_all_at = Some(Instant::now());
        self.set_ledger(ledger.now());
        loop {
            self.check().await?;
            self.start();
            let next = self.next_time();
            tokio::select! {
                changed = ledger.changed() => self.set_ledger(changed?),
                changed = gone.changed() => {
                    changed?;
                    self.gone = gone.borrow_and_update().clone();
                    self.check_all_soon();
                }
                changed = namespaces_ended.changed() => {
                    changed?;
                    self.check_all_soon();
                }
                process = self.process_ends.next() => {
                    let has = |tracked: &Tracked| tracked.process == Some(process);
                    self.to_check.extend(self.tracked.iter().filter(|(_, tracked)| has(tracked)).map(|(id, _)| id.clone()));
                }
                () = mounts_changed(self.mount_changes.as_ref()) => {
                    let at = self.next_check_of_many();
                    self.check_mounted_at.get_or_insert(at);
                }
                Some(finished) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => self.finish(finished),
                () = sleep_until(next.unwrap_or_else(Instant::now).into()), if next.is_some() => {}
            }
        }
    }

    /// Plans a check of all records.
    fn check_all_soon(&mut self) {
        let at = self.next_check_of_many();
        self.check_all_at.get_or_insert(at);
    }

    /// When many records may be checked again: events come in bursts, and checks take only a share of the time.
    fn next_check_of_many(&self) -> Instant {
        Instant::now().max(self.checked_many_at + PAUSE.max(self.check_took * SHARE))
    }

    /// When all are to be checked because the end of some cannot be watched.
    fn poll_at(&self) -> Option<Instant> {
        let is_blind = self.mount_changes.as_ref().is_some_and(MountChanges::is_blind);
        (is_blind || self.process_ends.are_some_unwatched()).then(|| self.checked_many_at + POLL)
    }

    fn next_time(&self) -> Option<Instant> {
        let now = Instant::now();
        let checks = self.tracked.values().filter_map(Tracked::next_time).min();
        // a task that hangs makes room for another one
        let slow = (!self.queue.is_empty()).then(|| self.running.values().map(|running| running.since + SLOW));
        let slow = slow.and_then(|slow| slow.filter(|at| *at > now).min());
        [checks, slow, self.poll_at(), self.check_all_at, self.check_mounted_at].into_iter().flatten().min()
    }

    /// Follows these records.
    fn set_ledger(&mut self, ledger: Arc<Ledger>) {
        let now = Instant::now();
        let before = std::mem::replace(&mut self.ledger, ledger.clone());
        self.tracked.retain(|device, _| ledger.contains_key(device));
        let by_command = before.values().filter(|record| work::is_by_pod(record));
        by_command.filter(|record| !ledger.contains_key(&record.device)).for_each(|record| self.notifier.ended(record));
        for (device, record) in ledger.iter() {
            let tracked = self.tracked.entry(device.clone()).or_insert_with(|| Tracked::new(record, now));
            if !before.contains_key(device) || !tracked.is_of(record) {
                debug!(%device, owner = %record.owner, "following its attachment");
            }
            if !tracked.is_of(record) {
                // a task for the previous attachment runs on, and finds this record
                let is_running = tracked.is_running;
                *tracked = Tracked::new(record, now);
                tracked.is_running = is_running;
            }
            if before.get(device) != Some(record) {
                tracked.process = record.process.map(process_ends::key);
                self.to_check.insert(device.clone());
            }
        }
        self.namespaces.retain(|_, namespace| namespace.strong_count() > 0);
        self.process_ends.set(self.tracked.values().filter_map(|tracked| tracked.process).collect::<BTreeSet<_>>());
        match (ledger.values().any(|record| ends_with_its_mounts(record)), self.mount_changes.is_some()) {
            (true, false) => self.mount_changes = Some(MountChanges::new()),
            (false, true) => self.mount_changes = None,
            _ => {}
        }
    }

    /// Checks the devices that may have changed.
    async fn check(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let is_due = |tracked: &Tracked| tracked.next_check.is_some_and(|at| at <= now);
        let due = self.tracked.iter().filter(|(_, tracked)| is_due(tracked)).map(|(device, _)| device.clone());
        self.to_check.extend(due);
        let is_now = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let is_all = is_now(self.check_all_at) || is_now(self.poll_at());
        let is_many = is_all || is_now(self.check_mounted_at);
        if is_many {
            self.check_mounted_at = None;
            let is_wanted = |device: &DeviceId| {
                is_all || self.ledger.get(device).is_some_and(|record| ends_with_its_mounts(record))
            };
            let wanted: Vec<DeviceId> = self.tracked.keys().filter(|device| is_wanted(device)).cloned().collect();
            self.to_check.extend(wanted);
        }
        if is_all {
            self.check_all_at = None;
        }
        if self.to_check.is_empty() {
            return Ok(());
        }
        let to_check = std::mem::take(&mut self.to_check);
        let checks: Vec<Check> = to_check.into_iter().filter_map(|device| self.check_of(device)).collect();
        let (ledger, records) = (self.ledger.clone(), self.records.clone());
        let asked = checks.clone();
        let found = spawn_blocking(move || {
            if is_all {
                records.sweep();
            }
            diagnose_all(&ledger, asked)
        });
        let found = found.await?;
        if is_many {
            (self.checked_many_at, self.check_took) = (Instant::now(), now.elapsed());
        }
        match found {
            Ok(diagnosed) => diagnosed.into_iter().for_each(|diagnosed| self.decide(diagnosed)),
            Err(error) => {
                debug!("cannot compare the records with the kernel: {error}");
                let tracked = checks.iter().map(|check| &check.device);
                let now = Instant::now();
                for device in tracked {
                    self.tracked.entry(device.clone()).and_modify(|tracked| tracked.wait(PAUSE * 20, now));
                }
            }
        }
        Ok(())
    }

    fn check_of(&self, device: DeviceId) -> Option<Check> {
        let saw_mounts = self.tracked.get(&device)?.saw_mounts;
        Some(Check { device, saw_mounts })
    }

    fn decide(&mut self, Diagnosed { check: Check { device, saw_mounts }, diagnosis }: Diagnosed) {
        let (Some(tracked), Some(record)) = (self.tracked.get_mut(&device), self.ledger.get(&device)) else { return };
        if saw_mounts && !tracked.saw_mounts {
            debug!(%device, "a mount of its sandbox is visible here");
        }
        tracked.saw_mounts = saw_mounts;
        if matches!(tracked.hold, Hold::Kept(_)) && self.records.is_pinned(&device, record.sandbox.inode) {
            // the hook has pinned it since
            tracked.hold = Hold::Unneeded;
        }
        let is_gone = self.gone.get(&device) == Some(&record.owner);
        let next = tracked.decide(record, diagnosis, is_gone, Instant::now());
        if next == Next::Repair && !self.queue.contains(&device) {
            self.queue.push(device);
        }
    }

    /// Starts the work that is due, while a worker is free.
    fn start(&mut self) {
        let now = Instant::now();
        // first the devices that end with their namespace
        let wanted: Vec<DeviceId> = self
            .tracked
            .iter()
            .filter(|(_, tracked)| tracked.wants_hold(now))
            .map(|(device, _)| device.clone())
            .collect();
        for device in wanted {
            if !self.is_worker_free(now) {
                return;
            }
            self.hold(device, now);
        }
        let mut queue = std::mem::take(&mut self.queue).into_iter();
        while self.is_worker_free(now)
            && let Some(device) = queue.next()
        {
            self.start_repair(device);
        }
        self.queue = queue.collect();
    }

    fn is_worker_free(&self, now: Instant) -> bool {
        let working = self.running.values().filter(|running| now < running.since + SLOW).count();
        working < WORKERS && self.running.len() < MAX_RUNNING
    }

    /// Keeps the namespace of a virtual device open. It may be open already, for another device.
    fn hold(&mut self, device: DeviceId, now: Instant) {
        let (Some(tracked), Some(record)) = (self.tracked.get_mut(&device), self.ledger.get(&device)) else { return };
        if let Some(namespace) = self.namespaces.get(&tracked.cookie()).and_then(Weak::upgrade) {
            tracked.hold = Hold::Kept(namespace);
            return;
        }
        if self.namespaces.len() >= self.namespace_limit {
            debug!(%device, "its namespace is not kept open: the limit of {} is reached", self.namespaces.len());
            tracked.hold = Hold::Wanted { after: now + HOLD_RETRY };
            return;
        }
        tracked.is_running = true;
        let cookie = tracked.cookie();
        let record = record.clone();
        let records = self.records.clone();
        let task = self.tasks.spawn_blocking(move || Work::Hold(link::keep_sandbox(&records, &record)));
        self.running.insert(task.id(), Running { device, cookie, since: now });
    }

    fn start_repair(&mut self, device: DeviceId) {
        let Some(check) = self.check_of(device.clone()) else { return };
        let (Some(tracked), Some(record)) = (self.tracked.get_mut(&device), self.ledger.get(&device)) else { return };
        if tracked.is_running {
            // it is checked again after that
            return;
        }
        tracked.is_running = true;
        let cookie = tracked.cookie();
        let gone = self.gone.get(&device).filter(|owner| **owner == record.owner).cloned();
        let sandbox = match &tracked.hold {
            Hold::Kept(namespace) => Some(namespace.clone()),
            Hold::Wanted { .. } | Hold::Unneeded => self.namespaces.get(&tracked.cookie()).and_then(Weak::upgrade),
        };
        let records = self.records.clone();
        let task =
            self.tasks.spawn_blocking(move || Work::Repair(repair(&records, RepairOrder { check, gone, sandbox })));
        self.running.insert(task.id(), Running { device, cookie, since: Instant::now() });
    }

    fn finish(&mut self, finished: Result<(Id, Work), JoinError>) {
        let id = finished.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Some(Running { device, cookie, .. }) = self.running.remove(&id) else { return };
        // it may have changed meanwhile
        self.to_check.insert(device.clone());
        if let Some(tracked) = self.tracked.get_mut(&device) {
            tracked.is_running = false;
        }
        match finished {
            Ok((_, Work::Hold(result))) => self.finish_hold(&device, cookie, result),
            Ok((_, Work::Repair(result))) => self.finish_repair(&device, result),
            Err(error) => warn!(%device, "the task that works on it failed: {error}"),
        }
    }

    fn finish_hold(&mut self, device: &DeviceId, cookie: u64, result: Result<Option<Namespace>, link::Error>) {
        let tracked = self.tracked.get_mut(device).filter(|tracked| tracked.cookie() == cookie);
        let Some(tracked) = tracked else { return };
        tracked.hold = match result {
            Ok(Some(namespace)) => {
                let namespace = Arc::new(namespace);
                self.namespaces.insert(cookie, Arc::downgrade(&namespace));
                Hold::Kept(namespace)
            }
            // the namespace is pinned, or has ended
            Ok(None) => Hold::Unneeded,
            Err(error) if error.is_shortage() => {
                debug!(%device, "cannot keep its namespace open yet: {error}");
                Hold::Wanted { after: Instant::now() + HOLD_RETRY }
            }
            // without the capability to enter it, only the hooks return the device
            Err(error) => {
                debug!(%device, "cannot keep its namespace open: {error}");
                Hold::Unneeded
            }
        };
    }

    fn finish_repair(&mut self, device: &DeviceId, result: Result<(Repair, Cause), link::Error>) {
        let now = Instant::now();
        let pod = self.ledger.get(device).and_then(|record| record.owner.pod().cloned());
        let tracked = self.tracked.get_mut(device);
        let failed = match result {
            Ok((Repair::Done(Ended::OutOfReach), _)) => "it is not on the node yet".to_owned(),
            Ok((Repair::Done(ended), cause)) => {
                self.notifier.report(device, pod, cause, ended);
                // its record was removed, which the view shows in a moment
                tracked.into_iter().for_each(|tracked| tracked.wait(GRACE, now));
                return;
            }
            // the lock of a hook that is killed is released without an event
            Ok((Repair::Busy | Repair::Unneeded, _)) => {
                tracked.into_iter().for_each(|tracked| tracked.wait(GRACE, now));
                return;
            }
            Err(error) => error.to_string(),
        };
        if tracked.is_none_or(|tracked| tracked.fail(&failed, now)) {
            self.notifier.report_failure(device, &failed);
        }
    }
}

async fn mounts_changed(changes: Option<&MountChanges>) {
    match changes {
        Some(changes) => changes.changed().await,
        None => std::future::pending().await,
    }
}
