//! Puts right what hooks that were killed, and sandboxes that ended without one, left behind.
//!
//! Level, not edge: each look compares all records with the kernel, so a look that was missed costs time and nothing
//! else. What this agent may not do, for want of a capability, the next hook on the node does.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use link::{Diagnosis, Homecoming, Namespace, Records, Repair, RouteSocket};
use netdevice::{DeviceId, InterfaceName, Ledger, Record, record::Pod};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, watch},
    task::{JoinSet, spawn_blocking},
    time::{Interval, MissedTickBehavior, interval_at, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    events::{Events, Happening},
    metrics::Metrics,
};

/// How long a hook that is due is waited for. It comes within milliseconds, or never.
const GRACE: Duration = Duration::from_secs(2);
/// A physical device comes back some 150 ms after its namespace ended.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What tells that a look is due.
pub(crate) struct Triggers {
    /// The records.
    pub(crate) ledgers: watch::Receiver<Arc<Ledger>>,
    /// A namespace has ended.
    pub(crate) namespaces_ended: watch::Receiver<u64>,
    /// The kubelet's PodResources socket: whose Pod is gone has no right to a device, though a process of it lives on.
    pub(crate) pod_resources: PathBuf,
}

/// Who is told what became of a device.
pub(crate) struct Herald {
    pub(crate) metrics: Arc<Metrics>,
    /// Told of devices that came home under their name.
    pub(crate) restored: mpsc::UnboundedSender<InterfaceName>,
    pub(crate) events: Events,
}

/// Looks at the records when one changed, when a container or namespace ended, and again while a device is on its way.
pub(crate) async fn keep(
    triggers: Triggers,
    records: Records,
    herald: Herald,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Triggers { mut ledgers, mut namespaces_ended, pod_resources } = triggers;
    let mut kubelet = Kubelet::new(pod_resources, ledgers.clone());
    let mut patient = Patient { records, wards: BTreeMap::new() };
    let mut holders: JoinSet<()> = JoinSet::new();
    let mut told = BTreeMap::new();
    let mut retry = FIRST_RETRY;
    loop {
        let ledger = ledgers.borrow_and_update().clone();
        let gone = kubelet.gone(&ledger);
        let holds = !ledger.is_empty();
        let (looked, round) = spawn_blocking(move || {
            let round = patient.look(&ledger, &gone);
            (patient, round)
        })
        .await?;
        patient = looked;
        for process in round.holders {
            holders.spawn(end_of(process));
        }
        let is_open = tell(round.findings, &mut told, &herald);
        retry = if is_open { (retry * 2).min(LAST_RETRY) } else { FIRST_RETRY };
        let wait = if is_open { Some(retry) } else { round.due };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = ledgers.changed() => changed?,
            () = kubelet.ask(), if holds => {}
            changed = namespaces_ended.changed() => changed?,
            Some(_) = holders.join_next(), if !holders.is_empty() => {}
            () = sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
    }
}

/// Waits until a process has ended: then its descriptor is readable. An error ends the wait as well.
async fn end_of(process: OwnedFd) {
    #[allow(
        deprecated,
        reason = "what takes its place is unsafe, for owners that may close early: an OwnedFd does not"
    )]
    if let Ok(process) = AsyncFd::with_interest(process, Interest::READABLE) {
        let _ = process.readable().await;
    }
}

/// What is kept of an attachment between two looks.
#[derive(Debug, Default)]
struct Ward {
    /// The attachment, by the cookie of its namespace and its container.
    of: Option<(u64, String)>,
    /// Its namespace if it is not pinned, so that a virtual device does not die before it could be brought home.
    sandbox: Option<Namespace>,
    /// Since when it is not as it should be.
    ailing: Option<Instant>,
}

/// The records and what is kept of them.
struct Patient {
    records: Records,
    wards: BTreeMap<DeviceId, Ward>,
}

/// What became of a device, and of whose.
struct Finding {
    device: DeviceId,
    pod: Option<Pod>,
    result: Result<Homecoming, String>,
}

/// What one look found.
#[derive(Default)]
struct Round {
    findings: Vec<Finding>,
    /// Processes of containers that are new; each is readable once it has ended.
    holders: Vec<OwnedFd>,
    /// When the next look is due.
    due: Option<Duration>,
}

impl Patient {
    /// Looks at all attachments; `gone` are those of Pods that the kubelet no longer knows.
    fn look(&mut self, ledger: &Ledger, gone: &BTreeSet<DeviceId>) -> Round {
        let mut round = Round::default();
        self.records.sweep();
        // without a socket there is nothing to compare with; the next look has one
        let Ok(mut home) = RouteSocket::open() else { return round };
        self.wards.retain(|device, _| ledger.contains_key(device));
        for (device, record) in ledger {
            let ward = self.wards.entry(device.clone()).or_default();
            let attachment = Some((record.sandbox.cookie, record.holder.container.clone()));
            // of half an attachment too: its hook may have been killed, and the sandbox may end before the grace does
            if ward.of != attachment {
                *ward = Ward { of: attachment, sandbox: keep_open(&self.records, record), ailing: None };
                round.holders.extend(holder(record));
            } else if self.records.is_pinned(device, record.sandbox.inode) {
                // by the hook that was still at work then
                ward.sandbox = None;
            }
            let is_gone = gone.contains(device);
            let diagnosis = link::diagnose(record, &mut home);
            if diagnosis == Diagnosis::Healthy && !is_gone {
                ward.ailing = None;
                continue;
            }
            let ailing = ward.ailing.get_or_insert_with(Instant::now).elapsed();
            if diagnosis != Diagnosis::SandboxEnded && !is_gone && ailing < GRACE {
                let left = GRACE - ailing;
                round.due = Some(round.due.map_or(left, |due| due.min(left)));
                continue;
            }
            // another attachment may have begun since
            let is_due = |now: &Record, home: &mut RouteSocket| {
                (is_gone && now.holder == record.holder) || link::diagnose(now, home) != Diagnosis::Healthy
            };
            let finding = |result| Finding { device: device.clone(), pod: record.holder.pod.clone(), result };
            match link::repair(&self.records, device, ward.sandbox.as_ref(), is_due) {
                Ok(Repair::Done(homecoming)) => round.findings.push(finding(Ok(homecoming))),
                // a hook that is killed at its work gives its lock back and says nothing
                Ok(Repair::Busy) => round.due = Some(round.due.map_or(GRACE, |due| due.min(GRACE))),
                Ok(Repair::Unneeded) => {}
                Err(error) => round.findings.push(finding(Err(error.to_string()))),
            }
        }
        round
    }
}

/// How often the kubelet is asked while a device is attached.
const ASK: Duration = Duration::from_secs(30);
/// How often in a row the kubelet must not know a Pod before that Pod is gone: after a restart it knows none for a second,
/// and learns of them one by one.
const ABSENCES: u32 = 2;

/// What the kubelet says of the Pods that have devices.
struct Kubelet {
    socket: PathBuf,
    ledgers: watch::Receiver<Arc<Ledger>>,
    ticks: Interval,
    absences: BTreeMap<DeviceId, u32>,
}

impl Kubelet {
    fn new(socket: PathBuf, ledgers: watch::Receiver<Arc<Ledger>>) -> Self {
        let mut ticks = interval_at(tokio::time::Instant::now() + ASK, ASK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { socket, ledgers, ticks, absences: BTreeMap::new() }
    }

    /// Waits for the next time and asks. An answer without any Pod counts for nothing, and neither does none.
    async fn ask(&mut self) {
        self.ticks.tick().await;
        let Ok(known) = device_plugin::known_pods(&self.socket).await else { return };
        if known.is_empty() {
            return;
        }
        let ledger = self.ledgers.borrow().clone();
        self.absences.retain(|device, _| ledger.contains_key(device));
        for (device, record) in ledger.iter() {
            let is_known = |pod: &Pod| known.contains(&(pod.namespace.clone(), pod.name.clone()));
            if record.holder.pod.as_ref().is_none_or(is_known) {
                self.absences.remove(device);
            } else {
                *self.absences.entry(device.clone()).or_default() += 1;
            }
        }
    }

    /// Devices of Pods that are gone.
    fn gone(&self, ledger: &Ledger) -> BTreeSet<DeviceId> {
        let often = self.absences.iter().filter(|(_, absences)| **absences >= ABSENCES);
        often.map(|(device, _)| device.clone()).filter(|device| ledger.contains_key(device)).collect()
    }
}

/// The namespace of a virtual device that is not pinned. Without the capability to enter it the device is as safe as its
/// hooks are.
fn keep_open(records: &Records, record: &Record) -> Option<Namespace> {
    link::keep_sandbox(records, record).unwrap_or_else(|error| {
        debug!(device = %record.device, "its sandbox cannot be kept open: {error}");
        None
    })
}

/// The process of the holder's container, as something to wait for.
fn holder(record: &Record) -> Option<OwnedFd> {
    let pid = Pid::from_raw(record.process?.pid)?;
    pidfd_open(pid, PidfdFlags::NONBLOCK).ok()
}

/// Tells what is new, and says whether something is left to do.
fn tell(findings: Vec<Finding>, told: &mut BTreeMap<DeviceId, String>, herald: &Herald) -> bool {
    let Herald { metrics, restored, events } = herald;
    let mut open = BTreeMap::new();
    for Finding { device, pod, result } in findings {
        match result {
            Ok(Homecoming::Home { renamed, skipped }) => {
                metrics.count_repair("ok");
                events.tell(Happening::home(device.clone(), pod, renamed.clone(), &skipped));
                let left_out: Vec<String> = skipped.iter().map(ToString::to_string).collect();
                match renamed {
                    None => {
                        // nobody listens only while the agent ends
                        let _ = restored.send(device.to_name());
                        info!(%device, "brought home after its sandbox or hook was killed; {}", left_out.join("; "));
                    }
                    Some(name) => {
                        warn!(%device, "brought home as {name}, for its name was taken; {}", left_out.join("; "))
                    }
                }
            }
            Ok(Homecoming::Lost) => {
                metrics.count_repair("lost");
                warn!(%device, "it is gone: a virtual link that was deleted with its sandbox before a hook could bring it home, or a device that was unplugged or switched off");
                events.tell(Happening::Lost { device, pod });
            }
            Ok(Homecoming::Away) => _ = open.insert(device, "it is not on the node yet".to_owned()),
            Err(error) => _ = open.insert(device, error),
        }
    }
    for (device, reason) in &open {
        if told.get(device) != Some(reason) {
            metrics.count_repair("failed");
            warn!(%device, "should come home and does not, the next hook on this node tries again: {reason}");
        }
    }
    *told = open;
    !told.is_empty()
}
