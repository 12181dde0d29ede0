//! A device is taken back from a Pod.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use link::{Diagnosis, Ended, OpenSandbox, Repair, RouteSocket, diagnose, repair};
use netdevice::{Attachment, DeviceId, Owner, Sandbox};
use serde::Serialize;
use store::Records;

use super::{BUSY, LIMIT, Place, PodName, Way, find::host_name, is_by_command};

/// How often the lock of a device is tried.
const POLL: Duration = Duration::from_millis(2);

/// What was done with a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReturnedDevice {
    /// Its id.
    pub device: String,
    /// The outcome.
    pub outcome: Outcome,
    /// Its name on the host, where its own name was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renamed: Option<String>,
    /// Why nothing was to do, or what failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What of its state on the host could not be restored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
}

/// How that went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is on the host again.
    Returned,
    /// It no longer exists: it was deleted in the Pod, or unplugged.
    Lost,
    /// The Pod does not have it.
    Nothing,
    /// It is not on the host yet; its record stays.
    Failed,
}

impl ReturnedDevice {
    fn new(device: &DeviceId, outcome: Outcome) -> Self {
        Self { device: device.to_string(), outcome, renamed: None, reason: None, skipped: Vec::new() }
    }

    fn because(device: &DeviceId, outcome: Outcome, reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..Self::new(device, outcome) }
    }

    fn of(device: &DeviceId, ended: Ended) -> Self {
        match ended {
            Ended::Returned { renamed, skipped } => Self {
                renamed: renamed.map(|name| name.to_string()),
                skipped: skipped.iter().map(ToString::to_string).collect(),
                ..Self::new(device, Outcome::Returned)
            },
            Ended::Deleted => Self::new(device, Outcome::Returned),
            Ended::Lost => Self::new(device, Outcome::Lost),
            Ended::OutOfReach => Self::because(device, Outcome::Failed, "it is not on the node yet"),
        }
    }
}

/// Why a device is not taken back.
enum Kept {
    /// The Pod does not have it.
    Elsewhere(String),
    /// The Pod has it in another way.
    OtherWay(String),
}

/// Whether the Pod has the device by a command; otherwise who has it.
fn check_owner(owner: &Owner, device: &DeviceId, pod: PodName<'_>) -> Result<(), Kept> {
    let way = Way::of(owner);
    match (pod.is_of(owner), is_by_command(owner)) {
        (true, true) => Ok(()),
        (true, false) => Err(Kept::OtherWay(format!(
            "device {device}: {owner} has it by {way}, not by command: it is returned when the pod ends"
        ))),
        (false, _) => Err(Kept::Elsewhere(format!("{owner} has it, by {way}"))),
    }
}

/// Returns a device to the host that the Pod has by a command. The Pod may have ended, and the runtime need not know it any
/// more: `sandbox` is its present one, if it has one.
///
/// # Errors
///
/// When the Pod has the device in another way, or it cannot be returned; then the record stays, and a repetition continues.
pub fn del(place: &Place, pod: PodName<'_>, sandbox: Option<&Sandbox>, device: &str) -> Result<ReturnedDevice> {
    let snapshot = inventory::read_once(&place.node.sysfs, crate::node::node_addresses(&place.node)?)
        .context("cannot read the interfaces of this node")?;
    let (records, _) = place.records();
    let (ledger, _) = records.list().context("cannot read the records of this node")?;
    let name = host_name(device, &snapshot, &ledger);
    let device = DeviceId::from(&name.with_context(|| format!("-device: {device:?} is not the name of an interface"))?);
    let limit = Instant::now() + LIMIT;
    // the sandbox in the record: the Pod's present one may be another one
    let holder = ledger.get(&device).map(|record| record.owner.id()).or_else(|| sandbox?.id());
    let _lock = holder.map(|id| records.lock_sandbox(id, limit)?.context(BUSY)).transpose()?;
    let opened = sandbox.and_then(|sandbox| OpenSandbox::open(sandbox).ok());
    let mut kept = None;
    let result = loop {
        let is_due = |record: &Attachment, _: &mut RouteSocket| {
            kept = check_owner(&record.owner, &device, pod).err();
            kept.is_none()
        };
        match repair(&records, &device, opened.as_ref().map(OpenSandbox::namespace), is_due) {
            Ok(Repair::Busy) if Instant::now() < limit => sleep(POLL),
            Ok(Repair::Busy) => bail!("device {device}: {BUSY}"),
            Ok(repaired) => break repaired,
            Err(error) => return Err(error).with_context(|| format!("device {device} was not returned")),
        }
    };
    // of an add that was killed before it wrote a record
    holder.into_iter().for_each(|id| records.release_sandbox(id));
    match (result, kept) {
        (_, Some(Kept::OtherWay(error))) => bail!(error),
        (_, Some(Kept::Elsewhere(owner))) => Ok(ReturnedDevice::because(&device, Outcome::Nothing, owner)),
        (Repair::Done(Ended::OutOfReach), None) => {
            bail!("device {device} is not on the node yet: the agent, or this command again, returns it")
        }
        (Repair::Done(ended), None) => Ok(ReturnedDevice::of(&device, ended)),
        (Repair::Busy | Repair::Unneeded, None) => {
            let is_there = snapshot.link_named(&device.to_name()).is_some();
            let reason = if is_there { "it is on the node" } else { "the node has no such interface" };
            Ok(ReturnedDevice::because(&device, Outcome::Nothing, reason))
        }
    }
}

/// Returns every device that a Pod had by a command and that has ended, and removes what killed commands left. A device whose
/// Pod runs is not in the result.
///
/// # Errors
///
/// When the records cannot be read. What fails with one device is in the result.
pub fn gc(place: &Place) -> Result<Vec<ReturnedDevice>> {
    let (records, _) = place.records();
    let (ledger, _) = records.list().context("cannot read the records of this node")?;
    let by_command = ledger.values().filter(|record| is_by_command(&record.owner));
    let returned = by_command.filter_map(|record| collect(&records, &record.device)).collect();
    records.sweep();
    Ok(returned)
}

/// Returns a device if its sandbox has ended, or if the program that worked on it was killed.
fn collect(records: &Records, device: &DeviceId) -> Option<ReturnedDevice> {
    let repaired = repair(records, device, None, |record, host| {
        is_by_command(&record.owner) && diagnose(record, host) != Diagnosis::Healthy
    });
    match repaired {
        Ok(Repair::Busy | Repair::Unneeded) => None,
        Ok(Repair::Done(ended)) => Some(ReturnedDevice::of(device, ended)),
        Err(error) => Some(ReturnedDevice::because(device, Outcome::Failed, error.to_string())),
    }
}
