//! All devices of one sandbox: attached together or not at all, and each detached whatever happens to the others.

use std::collections::BTreeSet;
#[cfg(feature = "selection")]
use std::time::Instant;

use netdevice::{
    Acquisition, DeviceId, InterfaceName, Ledger, Owner, Reservation, ResourceName, exclusion::UplinkParents,
};
use store::{Lock, Namespace, Records, journal};

use crate::{
    attach::attach_locked,
    detach::{DetachRequest, Detached, detach, detach_from_sandbox},
    end::Ended,
    error::Error,
    task::{AttachRequest, Attached},
};

/// Why devices were not attached. Those that this attempt had attached are detached again, except the stranded ones.
#[derive(Debug, thiserror::Error)]
#[error("device {device}: {error}")]
pub struct AttachAllError {
    /// The one that failed.
    pub device: DeviceId,
    /// Why.
    pub error: Box<Error>,
    /// Devices that were not detached again, and why; their records stay, and the next actor tries again.
    pub stranded: Vec<(DeviceId, Option<Error>)>,
}

/// Devices that are reserved for one owner, and on which no other program works, until they are attached or this is dropped; in
/// the order in which they were asked for.
#[derive(Debug)]
pub struct Reserved(Vec<ReservedDevice>);

#[derive(Debug)]
struct ReservedDevice {
    records: Records,
    device: DeviceId,
    /// None once it was handed on.
    lock: Option<Lock>,
}

impl Drop for ReservedDevice {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            self.records.release(&self.device, &lock);
        }
    }
}

/// Why devices were not reserved.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// Somebody attaches or detaches the device at this moment.
    #[error("device {0}: it is being attached or detached: try again in a moment")]
    Busy(DeviceId),
    /// Somebody else has it, or it cannot be reserved.
    #[error("device {0}: {1}")]
    Refused(DeviceId, Box<store::Error>),
}

impl Reserved {
    /// Locks the devices of reservations that a claim's Prepare wrote, and waits for other programs until the deadline.
    ///
    /// # Errors
    ///
    /// The first device on which another program works until then.
    #[cfg(feature = "selection")]
    pub(crate) fn lock_all<'a>(
        records: &Records,
        devices: impl IntoIterator<Item = &'a DeviceId>,
        limit: Instant,
    ) -> Result<Self, ReserveError> {
        let lock = |device: &DeviceId| {
            let locked = records.lock_until(device, limit);
            let refused = |error| ReserveError::Refused(device.clone(), Box::new(error));
            let lock = locked.map_err(refused)?.ok_or_else(|| ReserveError::Busy(device.clone()))?;
            Ok(ReservedDevice { records: records.clone(), device: device.clone(), lock: Some(lock) })
        };
        devices.into_iter().map(lock).collect::<Result<_, _>>().map(Self)
    }

    /// Reserves devices with the resources that they are handed out as and how they are acquired, without waiting: all or none.
    ///
    /// # Errors
    ///
    /// The first device that cannot be had.
    pub fn take<'a>(
        records: &Records,
        owner: &Owner,
        devices: impl IntoIterator<Item = (&'a DeviceId, Option<&'a ResourceName>, Acquisition)>,
    ) -> Result<Self, ReserveError> {
        let mut reserved = Vec::new();
        for (device, resource, acquisition) in devices {
            let refused = |error| ReserveError::Refused(device.clone(), Box::new(error));
            let lock = records.try_lock(device).map_err(refused)?.ok_or_else(|| ReserveError::Busy(device.clone()))?;
            let reservation = Reservation {
                device: device.clone(),
                resource: resource.cloned(),
                owner: owner.clone(),
                acquisition,
                uplink_parents: UplinkParents::Refused,
                configuration: None,
                is_of_one_pod: false,
                since: journal::now(),
            };
            records.reserve(&reservation, &lock).map_err(refused)?;
            reserved.push(ReservedDevice { records: records.clone(), device: device.clone(), lock: Some(lock) });
        }
        Ok(Self(reserved))
    }
}

/// Attaches devices to a sandbox, all or none: when one fails, those before it are detached. What was attached before,
/// complete, stays. `reserved` are the devices of `requests`. Once `is_stopped` returns true, no further device is attached,
/// and the others are detached. `failed` is called with the error before anything is detached.
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
    let refuse = |device: &DeviceId, error| AttachAllError {
        device: device.clone(),
        error: Box::new(error),
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
    for (request, mut reserved) in requests.iter().zip(reserved.0) {
        let attached =
            if is_stopped() { Err(Error::Stopped) } else { attach_locked(records, request, reserved.lock.take()) };
        match attached {
            Ok(attached) => done.push(attached),
            Err(error) => {
                failed(request.device, &error);
                let moved = requests.iter().zip(&done).rev().filter(|(_, attached)| !attached.was_there);
                let stranded = moved.filter_map(|(request, _)| give_back(records, request)).collect();
                return Err(AttachAllError { stranded, ..refuse(request.device, error) });
            }
        }
    }
    Ok(done)
}

fn name_inside(request: &AttachRequest<'_>) -> InterfaceName {
    let host = request.device.to_name();
    request.configuration.map_or(host.clone(), |configuration| configuration.name_inside(&host).clone())
}

/// Detaches a device that was just attached; returns it if that fails.
fn give_back(records: &Records, request: &AttachRequest<'_>) -> Option<(DeviceId, Option<Error>)> {
    let detached = match request.owner {
        // a newer sandbox of the Pod may have it by now
        Owner::Claim { sandbox: Some(sandbox), .. } => {
            detach_from_sandbox(records, request.device, sandbox, Some(request.sandbox.namespace()))
        }
        owner => detach(records, &DetachRequest { device: request.device, owner: owner.id() }),
    };
    match detached {
        Ok(Detached::Done(Ended::OutOfReach)) => Some((request.device.clone(), None)),
        Ok(_) => None,
        Err(error) => Some((request.device.clone(), Some(error))),
    }
}

/// Detaches what the sandbox with that id has by the ledger, for itself or for its containers: one device with each
/// step of the iterator, whatever became of the one before. Steps that a caller has no time for can follow later. `kept` is
/// the sandbox's namespace, if the caller has kept it open.
pub fn detach_all(
    records: &Records,
    ledger: &Ledger,
    sandbox: &str,
    kept: Option<&Namespace>,
) -> impl Iterator<Item = (DeviceId, Result<Detached, Error>)> {
    // of an injector that was killed while it attached them
    records.release_sandbox(sandbox);
    let of_sandbox = ledger.iter().filter(move |(_, record)| record.owner.is_in_sandbox(sandbox));
    of_sandbox.map(move |(device, _)| (device.clone(), detach_from_sandbox(records, device, sandbox, kept)))
}
