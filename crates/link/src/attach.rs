//! The one way by which a device gets into a sandbox.

use netdevice::{Acquisition, Attachment, Owner, Phase, SandboxInterfaceName};
use store::{Lock, Records};

use crate::{
    configure::configure_inside,
    end::{Ended, end},
    error::{Error, WithSubject},
    identity::{Actor, find_at_home, find_inside, find_namespace, holder_has_ended},
    inside::socket_inside,
    socket::RouteSocket,
    task::{AttachRequest, Attached, Task},
};

/// Puts a device into a sandbox, or makes sure that it is there, complete.
///
/// What an earlier attempt did is in its record: it is finished or undone first. A device that
/// another sandbox of the same Pod still has is fetched from there.
///
/// # Errors
///
/// Then the device is on the host as it was, or still with its holder.
pub fn attach(records: &Records, request: &AttachRequest<'_>) -> Result<Attached, Error> {
    attach_locked(records, request, None)
}

/// As [`attach`], for a caller that may have the device's lock already.
pub(crate) fn attach_locked(
    records: &Records,
    request: &AttachRequest<'_>,
    mut lock: Option<Lock>,
) -> Result<Attached, Error> {
    let result = attach_under(records, request, &mut lock);
    if let Some(lock) = lock {
        // the record says whose it is, and a claim's reservation stays; and a sandbox that could not have it chooses anew
        if result.is_ok() || matches!(request.owner, Owner::Sandbox { .. }) {
            records.release(request.device, &lock);
        }
        if result.is_ok() {
            lock.leave();
        }
    }
    result
}

/// Attaches the device under its lock, which is taken if it is not there yet.
fn attach_under(records: &Records, request: &AttachRequest<'_>, lock: &mut Option<Lock>) -> Result<Attached, Error> {
    let mut home = RouteSocket::open().subject("the node's network namespace")?;
    let namespace = request.sandbox.namespace();
    let mut inside = socket_inside(namespace, &home)
        .map_err(|error| Error::Namespace { path: namespace.path().to_owned(), error })?;
    if inside.cookie() == home.cookie() {
        return Err(Error::HostNetwork);
    }
    if request.device.parent().is_some() != matches!(request.acquisition, Acquisition::Create(_)) {
        return Err(Error::WrongAcquisition);
    }
    let host_name = request.device.to_name();
    let name = match request.configuration.and_then(|configuration| configuration.name.clone()) {
        Some(name) => name,
        None => SandboxInterfaceName::try_from(host_name.clone())?,
    };
    let lock = match lock {
        Some(lock) => lock,
        None => lock.insert(records.lock(request.device)?),
    };
    // first: who has no right to the device does not take it from an older sandbox either
    records.check_reservation(request.device, request.owner, lock)?;
    if let Some(record) = records.take(request.device)? {
        // an attempt that was cut off may have ended before the move: a link inside with that index is another one then
        let went = match record.phase {
            Phase::Attached => true,
            Phase::Attaching => match record.clone().into_moved() {
                Ok(moved) => find_at_home(&moved, &mut home)?.is_none(),
                Err(_created) => true,
            },
            Phase::Detaching => false,
        };
        if went && let Some(attached) = adopt(records, &record, request, &mut inside)? {
            return Ok(attached);
        }
        finish(records, record, request, &mut home)?;
    }
    let (home, inside) = (&mut home, &mut inside);
    let task = Task { records, request, host_name: &host_name, name: &name, home, inside };
    match request.acquisition {
        Acquisition::Move => task.move_in(lock),
        Acquisition::Create(kind) => task.create(kind),
    }
}

/// If the device is in this very sandbox, makes sure that it is complete: another container of the Pod starts, or an attempt
/// was cut off. None if it has to be attached anew; so it is if it was asked for in another way than it is there.
fn adopt(
    records: &Records,
    record: &Attachment,
    request: &AttachRequest<'_>,
    inside: &mut RouteSocket,
) -> Result<Option<Attached>, Error> {
    let is_acquired = match (request.acquisition, record.created()) {
        (Acquisition::Move, None) => true,
        (Acquisition::Create(kind), Some(created)) => created.kind == kind,
        _ => false,
    };
    // without a configuration it is taken as it is
    let is_as_asked = request.configuration.is_none_or(|asked| record.configuration.as_ref() == Some(asked));
    if !is_acquired || !is_as_asked || record.sandbox.cookie != inside.cookie() {
        return Ok(None);
    }
    let Some(link) = find_inside(record, inside)? else { return Ok(None) };
    let host = record.host().unwrap_or(&link);
    let configuration = record.configuration.as_ref();
    let skipped = configure_inside(host, &AttachRequest { configuration, ..*request }, inside, &link)?;
    let was_there = record.phase == Phase::Attached;
    let mut record = record.clone();
    // an older program may have attached it, or it was killed before
    let _ = records.pin(&record, request.sandbox.namespace());
    // what the sandbox has, it has longer than any of its containers
    if !record.owner.outlives_containers() {
        record.owner = request.owner.clone();
        record.process = request.sandbox.process();
    }
    record.phase = Phase::Attached;
    records.write(&record)?;
    Ok(Some(Attached { was_there, skipped }))
}

/// Ends what a record of another attachment says, so that the device can be attached.
fn finish(
    records: &Records,
    record: Attachment,
    request: &AttachRequest<'_>,
    home: &mut RouteSocket,
) -> Result<(), Error> {
    if record.phase == Phase::Attached && !record.owner.is_same_pod(request.owner) && !holder_has_ended(&record) {
        // a namespace that ended holds nothing any more
        if let Some((_namespace, mut socket)) = find_namespace(records, &record, home, Actor::Runtime)?
            && find_inside(&record, &mut socket)?.is_some()
        {
            return Err(store::Error::Held(record.owner.into()).into());
        }
    }
    match end(records, record, home, Actor::Runtime)? {
        Ended::Returned { .. } | Ended::Deleted | Ended::Lost => Ok(()),
        Ended::OutOfReach => Err(Error::Away(request.device.clone())),
    }
}
