//! Devices of claims: what Prepare reserved for a Pod is attached to its sandbox, also to a later one, and returned when the
//! claim ends.
//!
//! A claim's reservation is its right to the device, from Prepare to Unprepare. The record of an attachment is the sandbox's:
//! it ends with the sandbox ([`detach_all`](crate::detach_all)), and the reservation stays.

use std::{collections::BTreeSet, io, time::Instant};

use netdevice::{DeviceId, Owner, Pod, Reservation, ResourceName, Sandbox};
use store::Records;

use crate::{
    detach::Detached,
    devices::{AttachAllError, ReserveError, Reserved, attach_all},
    end::end,
    error::{Error, WithSubject},
    identity::Actor,
    sandbox::OpenSandbox,
    socket::RouteSocket,
    task::{AttachRequest, Attached},
};

/// The reservations of claims that a Pod has, by device.
///
/// # Errors
///
/// When they cannot be read.
pub fn reserved_by_claims(records: &Records, pod: &Pod) -> io::Result<Vec<Reservation>> {
    let is_of_pod = |owner: &Owner| matches!(owner, Owner::Claim { .. }) && owner.pod() == Some(pod);
    Ok(records.reservations()?.into_values().filter(|reservation| is_of_pod(&reservation.owner)).collect())
}

/// A sandbox that gets the devices of its Pod's claims.
pub struct AttachClaims<'a> {
    /// The sandbox.
    pub sandbox: &'a Sandbox,
    /// The same, opened.
    pub opened: &'a OpenSandbox,
    /// The pool of a device, which its record names.
    pub resource: &'a dyn Fn(&DeviceId) -> Option<ResourceName>,
    /// How long another program that works on a device is waited for.
    pub limit: Instant,
    /// Whether no further device is to be attached.
    pub is_stopped: &'a dyn Fn() -> bool,
    /// Receives the first error, before anything is detached.
    pub failed: &'a dyn Fn(&Owner, &DeviceId, &Error),
}

/// A device of a claim in a sandbox.
#[derive(Debug)]
pub struct AttachedClaim {
    /// Which device.
    pub device: DeviceId,
    /// The claim.
    pub owner: Owner,
    /// How it went.
    pub attached: Attached,
}

/// Why a sandbox does not have the devices of its Pod's claims.
#[derive(Debug, thiserror::Error)]
#[error("claim {}: {error}", name_of(claim))]
pub struct AttachClaimsError {
    /// The claim whose device failed.
    pub claim: Box<Owner>,
    /// Which device, and why.
    pub error: AttachAllError,
}

fn name_of(claim: &Owner) -> String {
    match claim {
        Owner::Claim { namespace, name, .. } => format!("{namespace}/{name}"),
        other => other.to_string(),
    }
}

/// Attaches what claims have reserved for the Pod of a sandbox to that sandbox: all or none. What is there already stays, and
/// what an older sandbox of the Pod still has is fetched from there. It can be repeated.
///
/// # Errors
///
/// The first device that failed. Those that this call had attached are detached; their reservations stay.
pub fn attach_claims(
    records: &Records,
    reservations: &[Reservation],
    request: &AttachClaims<'_>,
) -> Result<Vec<AttachedClaim>, AttachClaimsError> {
    let AttachClaims { sandbox, opened, resource, limit, .. } = *request;
    let part = |reservation: &Reservation| {
        let resource = reservation.resource.clone().or_else(|| resource(&reservation.device));
        Some((reservation.clone(), sandbox.claim(&reservation.owner)?, resource))
    };
    let parts: Vec<(Reservation, Owner, Option<ResourceName>)> = reservations.iter().filter_map(part).collect();
    let claim_of = |device: &DeviceId| {
        let part = parts.iter().find(|(reservation, ..)| reservation.device == *device);
        Box::new(part.map_or(Owner::Kubelet, |(_, owner, _)| owner.clone()))
    };
    let refuse = |device: &DeviceId, error: Error| AttachClaimsError {
        claim: claim_of(device),
        error: AttachAllError { device: device.clone(), error: Box::new(error), stranded: Vec::new() },
    };
    // every program locks several devices in this order
    let devices: BTreeSet<&DeviceId> = parts.iter().map(|(reservation, ..)| &reservation.device).collect();
    let reserved = Reserved::lock_all(records, devices, limit).map_err(|error| match error {
        ReserveError::Busy(device) => refuse(&device, Error::Busy),
        ReserveError::Refused(device, error) => refuse(&device, Error::Store(*error)),
    })?;
    let requests: Vec<AttachRequest<'_>> = parts
        .iter()
        .map(|(reservation, owner, resource)| AttachRequest {
            device: &reservation.device,
            resource: resource.as_ref(),
            sandbox: opened,
            owner,
            acquisition: reservation.acquisition,
            uplink_parents: reservation.uplink_parents,
            configuration: reservation.configuration.as_ref(),
        })
        .collect();
    let failed = |device: &DeviceId, error: &Error| (request.failed)(&claim_of(device), device, error);
    let attached = attach_all(records, &requests, reserved, request.is_stopped, &failed);
    let attached = attached.map_err(|error| AttachClaimsError { claim: claim_of(&error.device), error })?;
    let done = parts.into_iter().zip(attached);
    Ok(done
        .map(|((reservation, owner, _), attached)| AttachedClaim { device: reservation.device, owner, attached })
        .collect())
}

/// Makes a claim's reservations those of another Pod that shares it, whose turn has come: the Pod that had them has ended. A
/// device that is still in a living sandbox of that Pod stays its own: the attachment for the other Pod is refused.
///
/// # Errors
///
/// When a reservation cannot be read or written, or another program works on the device until `limit`.
pub fn hand_claim_over(records: &Records, claim: &str, pod: &Pod, limit: Instant) -> Result<(), Error> {
    for device in devices_of(records, claim).subject("the reservations of this node")? {
        let lock = records.lock_until(&device, limit)?.ok_or(Error::Busy)?;
        let Some(mut reservation) = records.reservation(&device).filter(|found| found.owner.is_claim(claim)) else {
            continue;
        };
        if let Owner::Claim { pod: holder, .. } = &mut reservation.owner {
            *holder = Some(pod.clone());
            records.reserve(&reservation, &lock)?;
        }
    }
    Ok(())
}

/// A device of a claim that ended.
pub type Unprepared = (DeviceId, Result<Detached, Error>);

/// Ends a claim: its devices are detached wherever they are, and its reservations end. A device that cannot be detached keeps
/// its reservation, so that this can be repeated, except if its record is in quarantine ([`Error::is_quarantined`]): there it
/// stays, and the claim ends. A claim that has nothing is no error.
///
/// # Errors
///
/// When records or reservations cannot be read.
pub fn unprepare(records: &Records, claim: &str, limit: Instant) -> io::Result<Vec<Unprepared>> {
    let devices = devices_of(records, claim)?;
    Ok(devices.into_iter().map(|device| (device.clone(), unprepare_device(records, &device, claim, limit))).collect())
}

/// The devices that a claim has reserved, and those that it has in a sandbox.
fn devices_of(records: &Records, claim: &str) -> io::Result<BTreeSet<DeviceId>> {
    // first the reservations: an attach writes the record later
    let reserved = records.reservations()?.into_values().filter(|reservation| reservation.owner.is_claim(claim));
    let reserved: BTreeSet<DeviceId> = reserved.map(|reservation| reservation.device).collect();
    let (ledger, _) = records.list()?;
    let attached =
        ledger.into_values().filter(|record| record.owner.is_claim(claim)).map(|record| record.device.clone());
    Ok(reserved.into_iter().chain(attached).collect())
}

fn unprepare_device(records: &Records, device: &DeviceId, claim: &str, limit: Instant) -> Result<Detached, Error> {
    let lock = records.lock_until(device, limit)?.ok_or(Error::Busy)?;
    let detached = detach_from_claim(records, device, claim);
    if detached.as_ref().err().is_none_or(Error::is_quarantined) {
        records.release_claim(device, claim, &lock).subject("the claim's reservation")?;
    }
    detached
}

fn detach_from_claim(records: &Records, device: &DeviceId, claim: &str) -> Result<Detached, Error> {
    match records.take(device)? {
        None => Ok(Detached::NotAttached),
        Some(record) if !record.owner.is_claim(claim) => Ok(Detached::TakenOver),
        Some(record) => {
            let mut home = RouteSocket::open().subject("the node's network namespace")?;
            // a device that is not in reach keeps its record, and no one else gets it
            end(records, record, &mut home, Actor::Agent(None)).map(Detached::Done)
        }
    }
}
