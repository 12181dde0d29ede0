//! All devices of one sandbox: in together or not at all, and home whatever happens to one of them.

use std::collections::BTreeSet;

use netdevice::{DeviceId, InterfaceName, Ledger};

use crate::{
    attach::{AttachRequest, Attached, attach_locked},
    detach::{DetachRequest, Detached, Homecoming, detach, detach_from_sandbox},
    error::Error,
    ledger::{Lock, Records},
    namespace::Namespace,
};

/// Why devices did not go into a sandbox. Those that this attempt had moved are home again, but for the stranded ones.
#[derive(Debug, thiserror::Error)]
#[error("device {device}: {source}")]
pub struct AttachAllError {
    /// The one that failed.
    pub device: DeviceId,
    /// Why.
    pub source: Box<Error>,
    /// Devices that were to come home and did not, and why; their records stay, and the next actor tries again.
    pub stranded: Vec<(DeviceId, Option<Error>)>,
}

/// Devices on which nobody else works until this is dropped or they are attached, in the order in which they were asked
/// for.
#[derive(Debug)]
pub struct Reserved(Vec<Lock>);

impl Reserved {
    /// Takes the locks of all devices, without waiting for any: the first device that another actor is at work on, or all.
    ///
    /// # Errors
    ///
    /// When the locks cannot be made.
    pub fn take<'a>(
        records: &Records,
        devices: impl IntoIterator<Item = &'a DeviceId>,
    ) -> Result<Result<Self, DeviceId>, Error> {
        let mut locks = Vec::new();
        for device in devices {
            match records.try_lock(device)? {
                Some(lock) => locks.push(lock),
                None => return Ok(Err(device.clone())),
            }
        }
        Ok(Ok(Self(locks)))
    }
}

/// Puts devices into a sandbox, all or none: when one fails, those before it go home. What was there before, complete,
/// stays. `reserved` are the devices of `requests`. Once `is_stopped` says so, no further device is begun, and those that
/// went in go home. `failed` hears of the error before anything goes home.
///
/// # Errors
///
/// The first device that failed. Names that two of them would have inside are found before the first move.
pub fn attach_all(
    records: &Records,
    requests: &[AttachRequest<'_>],
    reserved: Reserved,
    is_stopped: &dyn Fn() -> bool,
    failed: &dyn Fn(&DeviceId, &Error),
) -> Result<Vec<Attached>, AttachAllError> {
    let refuse = |device: &DeviceId, source| AttachAllError {
        device: device.clone(),
        source: Box::new(source),
        stranded: Vec::new(),
    };
    let mut names = BTreeSet::new();
    for request in requests {
        let name = name_inside(request);
        if let Some(name) = names.replace(name.clone()) {
            return Err(refuse(request.device, Error::SameName(name.to_string())));
        }
    }
    let mut done: Vec<Attached> = Vec::with_capacity(requests.len());
    for (request, lock) in requests.iter().zip(reserved.0) {
        let attached = if is_stopped() { Err(Error::Stopped) } else { attach_locked(records, request, Some(lock)) };
        match attached {
            Ok(attached) => done.push(attached),
            Err(source) => {
                failed(request.device, &source);
                let moved = requests.iter().zip(&done).rev().filter(|(_, attached)| !attached.was_there);
                let stranded = moved.filter_map(|(request, _)| give_back(records, request)).collect();
                return Err(AttachAllError { stranded, ..refuse(request.device, source) });
            }
        }
    }
    Ok(done)
}

fn name_inside(request: &AttachRequest<'_>) -> InterfaceName {
    let host = request.device.to_name();
    request.configuration.map_or(host.clone(), |configuration| configuration.name_inside(&host).clone())
}

/// Brings a device home that was just attached; tells of one that does not come.
fn give_back(records: &Records, request: &AttachRequest<'_>) -> Option<(DeviceId, Option<Error>)> {
    let detached = detach(records, &DetachRequest { device: request.device, container: &request.holder.container });
    match detached {
        Ok(Detached::Done(Homecoming::Away)) => Some((request.device.clone(), None)),
        Ok(_) => None,
        Err(error) => Some((request.device.clone(), Some(error))),
    }
}

/// Brings home what the sandbox with that id has by the ledger, for itself or for its containers: one device with each
/// step of the iterator, whatever became of the one before. Steps that a caller has no time for can follow later. `kept` is
/// the sandbox's namespace, if the caller has kept it open.
pub fn detach_all(
    records: &Records,
    ledger: &Ledger,
    sandbox: &str,
    kept: Option<&Namespace>,
) -> impl Iterator<Item = (DeviceId, Result<Detached, Error>)> {
    let of_sandbox = ledger.iter().filter(move |(_, record)| record.holder.is_in_sandbox(sandbox));
    of_sandbox.map(move |(device, _)| (device.clone(), detach_from_sandbox(records, device, sandbox, kept)))
}
