//! The end of an attachment, as the owner of the device asks for it.

use netdevice::DeviceId;
use store::{Namespace, Records};

use crate::{
    end::{Ended, end},
    error::{Error, WithSubject},
    identity::Actor,
    socket::RouteSocket,
};

/// A device that its container no longer needs.
#[derive(Debug)]
pub struct DetachRequest<'a> {
    /// Which device.
    pub device: &'a DeviceId,
    /// Id of the owner that no longer needs it, see [`Owner::id`](netdevice::Owner::id): a container that exited. A later
    /// container of the same Pod may have the device by now.
    pub owner: &'a str,
}

/// How a detachment went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detached {
    /// There is no record: the device is on the host, or was deleted.
    NotAttached,
    /// Another container has taken the device over.
    TakenOver,
    /// The attachment has ended, or it is known why not.
    Done(Ended),
}

/// Ends the attachment of a container that exited.
///
/// # Errors
///
/// When it cannot be reached or moved; its record stays, and the next call goes on from there.
pub fn detach(records: &Records, request: &DetachRequest<'_>) -> Result<Detached, Error> {
    let _lock = records.lock(request.device)?;
    let Some(record) = records.take(request.device)? else {
        // half a record, of an attachment that was cut off before it began
        records.remove(request.device)?;
        return Ok(Detached::NotAttached);
    };
    if record.owner.id() != request.owner {
        return Ok(Detached::TakenOver);
    }
    let mut home = RouteSocket::open().subject("the node's network namespace")?;
    end(records, record, &mut home, Actor::Runtime).map(Detached::Done)
}

/// Ends the attachment of a sandbox that ended. `kept` is the sandbox's namespace, if the caller has kept it open: its
/// paths may be gone by now.
///
/// # Errors
///
/// Those of [`detach`].
pub fn detach_from_sandbox(
    records: &Records,
    device: &DeviceId,
    sandbox: &str,
    kept: Option<&Namespace>,
) -> Result<Detached, Error> {
    let _lock = records.lock(device)?;
    let Some(record) = records.read(device)? else { return Ok(Detached::NotAttached) };
    if !record.owner.is_in_sandbox(sandbox) {
        return Ok(Detached::TakenOver);
    }
    let mut home = RouteSocket::open().subject("the node's network namespace")?;
    end(records, record, &mut home, Actor::Agent(kept)).map(Detached::Done)
}
