//! All devices of one sandbox: in together or not at all, and home whatever happens to one of them.

use std::{collections::BTreeSet, time::Instant};

use netdevice::{DeviceId, InterfaceName};

use crate::{
    attach::{AttachRequest, Attached, attach_before},
    detach::{DetachRequest, Detached, Homecoming, detach, detach_from_sandbox},
    error::Error,
    ledger::Records,
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

/// Puts devices into a sandbox, all or none: when one fails, those before it go home. What was there before, complete,
/// stays. After the `deadline` no further move is begun, whatever it was that took the time: another actor's work on a
/// device is waited for until then.
///
/// # Errors
///
/// The first device that failed. Names that two of them would have inside are found before the first move.
pub fn attach_all(
    records: &Records,
    requests: &[AttachRequest<'_>],
    deadline: Option<Instant>,
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
    for request in requests {
        match attach_before(records, request, deadline) {
            Ok(attached) => done.push(attached),
            Err(source) => {
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

/// Brings home what the sandbox with that id has, for itself or for its containers: one device with each step of the
/// iterator, whatever became of the one before. Steps that a caller has no time for can follow later. `kept` is the
/// sandbox's namespace, if the caller has kept it open.
///
/// # Errors
///
/// When the records cannot be listed.
pub fn detach_all(
    records: &Records,
    sandbox: &str,
    kept: Option<&Namespace>,
) -> Result<impl Iterator<Item = (DeviceId, Result<Detached, Error>)>, Error> {
    let listed = records.list();
    let (ledger, _) = listed.map_err(|source| Error::Record { path: records.folder().to_owned(), source })?;
    let of_sandbox = ledger.into_iter().filter(|(_, record)| record.holder.is_in_sandbox(sandbox));
    let devices: Vec<DeviceId> = of_sandbox.map(|(device, _)| device).collect();
    Ok(devices.into_iter().map(move |device| {
        let result = detach_from_sandbox(records, &device, sandbox, kept);
        (device, result)
    }))
}
