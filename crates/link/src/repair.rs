//! What the agent does when neither a hook nor the runtime does it: it compares records with the kernel, and ends attachments
//! whose owner is gone.

use std::time::{Duration, Instant};

use netdevice::{Attachment, DeviceId, Phase};
use store::{Namespace, Records};

use crate::{
    end::{Ended, end},
    error::{Error, WithSubject},
    identity::{Actor, find_namespace, has_ended, holder_has_ended},
    inside::namespace_of,
    socket::RouteSocket,
};

/// What a record looks like beside the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Diagnosis {
    /// A complete attachment of a living container.
    Healthy,
    /// Half an attachment or detachment: a program works on it, or was killed.
    Unfinished,
    /// The container or sandbox that had the device has ended: its hook or event is on the way, or never comes.
    HolderEnded,
    /// The namespace has ended, and a virtual device with it.
    SandboxEnded,
}

/// Compares a record with the kernel, asked through a socket in the host's namespace. It needs no privilege; what cannot be
/// seen counts as healthy.
pub fn diagnose(record: &Attachment, home: &mut RouteSocket) -> Diagnosis {
    if record.phase != Phase::Attached {
        Diagnosis::Unfinished
    } else if has_ended(&record.sandbox, home) {
        Diagnosis::SandboxEnded
    } else if holder_has_ended(record) {
        Diagnosis::HolderEnded
    } else {
        Diagnosis::Healthy
    }
}

/// What [`repair`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// Somebody is at work on the device.
    Busy,
    /// It is as it should be.
    Unneeded,
    /// It was not.
    Done(Ended),
}

/// Ends an attachment unless another program works on the device, if `is_due` says so of its record, which is read under the device's
/// lock. `sandbox` is the namespace, if the caller has kept it open.
///
/// # Errors
///
/// When the device cannot be reached or moved, for want of a capability perhaps; the record stays.
pub fn repair(
    records: &Records,
    device: &DeviceId,
    sandbox: Option<&Namespace>,
    is_due: impl FnOnce(&Attachment, &mut RouteSocket) -> bool,
) -> Result<Repair, Error> {
    let Some(_lock) = records.try_lock(device)? else { return Ok(Repair::Busy) };
    let Some(record) = records.take(device)? else { return Ok(Repair::Unneeded) };
    let mut home = RouteSocket::open().subject("the node's network namespace")?;
    if !is_due(&record, &mut home) {
        return Ok(Repair::Unneeded);
    }
    end(records, record, &mut home, Actor::Agent(sandbox)).map(Repair::Done)
}

/// Makes sure that the namespace of a virtual device's sandbox outlives its processes and mounts, so that the device can be
/// returned from it: a virtual link is destroyed with its namespace, the kernel itself returns a physical one. If it is not pinned
/// and cannot be, it is returned, for the caller to keep open.
///
/// # Errors
///
/// When the namespace cannot be found from here.
pub fn keep_sandbox(records: &Records, record: &Attachment) -> Result<Option<Namespace>, Error> {
    let is_pinned = || {
        let (device, inode) = (&record.device, record.sandbox.inode);
        records.is_pinned(device, inode) || records.held(device, inode).is_some()
    };
    if !record.needs_namespace() || is_pinned() {
        return Ok(None);
    }
    let mut home = RouteSocket::open().subject("the node's network namespace")?;
    let found = find_namespace(records, record, &mut home, Actor::Agent(None))?;
    let Some((namespace, socket)) = found else { return Ok(None) };
    // a program that attaches the device at this moment pins it before the move; an older one does not
    if let Some(_lock) = records.lock_until(&record.device, Instant::now() + SOON)?
        && let Ok(Some(now)) = records.read(&record.device)
        && now.sandbox.cookie == record.sandbox.cookie
    {
        let _ = records.pin(record, &namespace);
    }
    if is_pinned() {
        return Ok(None);
    }
    namespace_of(&socket).map(Some).subject("the pod's network namespace")
}

/// How long an attachment is waited for, which takes some 20 ms.
const SOON: Duration = Duration::from_secs(1);
