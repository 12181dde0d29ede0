//! Puts right what hooks that were killed, and sandboxes that ended without one, left behind.
//!
//! Level, not edge: each look compares all records with the kernel, so a look that was missed costs time and nothing
//! else. What this agent may not do, for want of a capability, the next hook on the node does.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use link::{Diagnosis, Homecoming, Namespace, Records, Repair};
use netdevice::{DeviceId, Phase, Record};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{folder::Folder, metrics::Metrics};

/// How long a hook that is due is waited for. It comes within milliseconds, or never.
const GRACE: Duration = Duration::from_secs(2);
/// A physical device comes back some 150 ms after its namespace ended.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Looks at the records when one changed, when a container or namespace ended, and again while a device is on its way.
pub(crate) async fn keep(
    mut namespaces_ended: watch::Receiver<u64>,
    records: Records,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut folder = Folder::new(records.folder());
    let mut patient = Patient { records, wards: BTreeMap::new() };
    let mut holders: JoinSet<()> = JoinSet::new();
    let mut told = BTreeMap::new();
    let mut retry = FIRST_RETRY;
    loop {
        let (looked, round) = spawn_blocking(move || {
            let round = patient.look();
            (patient, round)
        })
        .await?;
        patient = looked;
        for process in round.holders {
            holders.spawn(end_of(process));
        }
        let is_open = tell(round.findings, &mut told, &metrics);
        retry = if is_open { (retry * 2).min(LAST_RETRY) } else { FIRST_RETRY };
        let wait = if is_open { Some(retry) } else { round.due };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = folder.changed() => {}
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
    /// Its namespace, so that a virtual device does not die before it could be brought home.
    sandbox: Option<Namespace>,
    /// Since when it is not as it should be.
    ailing: Option<Instant>,
}

/// The records and what is kept of them.
struct Patient {
    records: Records,
    wards: BTreeMap<DeviceId, Ward>,
}

type Findings = Vec<(DeviceId, Result<Homecoming, String>)>;

/// What one look found.
#[derive(Default)]
struct Round {
    findings: Findings,
    /// Processes of containers that are new; each is readable once it has ended.
    holders: Vec<OwnedFd>,
    /// When the next look is due.
    due: Option<Duration>,
}

impl Patient {
    fn look(&mut self) -> Round {
        let mut round = Round::default();
        // a folder that cannot be read is told of where the views are made
        let Ok((ledger, _)) = self.records.list() else { return round };
        self.wards.retain(|device, _| ledger.contains_key(device));
        for (device, record) in ledger {
            let ward = self.wards.entry(device.clone()).or_default();
            let attachment = Some((record.sandbox.cookie, record.holder.container.clone()));
            if record.phase == Phase::Attached && ward.of != attachment {
                *ward = Ward { of: attachment, sandbox: keep_open(&record), ailing: None };
                round.holders.extend(holder(&record));
            }
            let diagnosis = match link::diagnose(&record) {
                Ok(Diagnosis::Healthy) => {
                    ward.ailing = None;
                    continue;
                }
                Ok(diagnosis) => diagnosis,
                Err(error) => {
                    round.findings.push((device, Err(error.to_string())));
                    continue;
                }
            };
            let ailing = ward.ailing.get_or_insert_with(Instant::now).elapsed();
            if diagnosis != Diagnosis::SandboxEnded && ailing < GRACE {
                let left = GRACE - ailing;
                round.due = Some(round.due.map_or(left, |due| due.min(left)));
                continue;
            }
            match link::repair(&self.records, &device, ward.sandbox.as_ref()) {
                Ok(Repair::Done(homecoming)) => round.findings.push((device, Ok(homecoming))),
                Ok(Repair::Busy | Repair::Unneeded) => {}
                Err(error) => round.findings.push((device, Err(error.to_string()))),
            }
        }
        round
    }
}

/// The namespace of a virtual device. Without the capability to enter it the device is as safe as its hooks are.
fn keep_open(record: &Record) -> Option<Namespace> {
    link::keep_sandbox(record).unwrap_or_else(|error| {
        debug!(device = %record.device, "its sandbox cannot be kept open: {error}");
        None
    })
}

/// The process of the holder's container, as something to wait for.
fn holder(record: &Record) -> Option<OwnedFd> {
    let pid = Pid::from_raw(record.process?.pid)?;
    pidfd_open(pid, PidfdFlags::NONBLOCK).ok()
}

/// Logs what is new, and says whether something is left to do.
fn tell(findings: Findings, told: &mut BTreeMap<DeviceId, String>, metrics: &Metrics) -> bool {
    let mut open = BTreeMap::new();
    for (device, result) in findings {
        match result {
            Ok(Homecoming::Home { renamed, skipped }) => {
                metrics.count_repair("ok");
                let left_out: Vec<String> = skipped.iter().map(ToString::to_string).collect();
                match renamed {
                    None => {
                        info!(%device, "brought home after its sandbox or hook was killed; {}", left_out.join("; "))
                    }
                    Some(name) => {
                        warn!(%device, "brought home as {name}, for its name was taken; {}", left_out.join("; "))
                    }
                }
            }
            Ok(Homecoming::Lost) => {
                metrics.count_repair("lost");
                warn!(%device, "the virtual link was deleted with its sandbox, before a hook could bring it home");
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
