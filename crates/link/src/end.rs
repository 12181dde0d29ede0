//! The inverse of an attachment: a device that was moved is returned to the host, one that was created is deleted.

use netdevice::{Attachment, InterfaceName, LinkState, Moved, Phase, acquisition::Created};
use store::Records;

use crate::{
    clean::{Cleaned, clean},
    error::{Error, WithSubject},
    fetch::{Fetched, fetch},
    identity::{Actor, find_arrived, find_at_home, find_inside, find_namespace, is_same_link, is_unplugged},
    namespace::leave,
    nested::Origin,
    restore::{Restored, restore},
    skipped::Skipped,
    socket::RouteSocket,
    strip::{Uppers, devices_beside},
};

/// How an attachment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The device is on the host.
    Returned {
        /// What it is called there, where its old name was taken.
        renamed: Option<InterfaceName>,
        /// What of its old state could not be put back.
        skipped: Vec<Skipped>,
    },
    /// The device was created for the sandbox, and is deleted.
    Deleted,
    /// It is gone: a virtual link that was deleted, by the container or with its namespace, or a device that was unplugged.
    Lost,
    /// It is a physical device that is not in reach just now; its record stays.
    OutOfReach,
}

/// Ends an attachment, wherever the device is, and removes its record. The device's lock is held.
///
/// # Errors
///
/// When the device cannot be reached, moved or deleted; its record stays, and the next call goes on from there.
pub(crate) fn end(
    records: &Records,
    record: Attachment,
    home: &mut RouteSocket,
    actor: Actor<'_>,
) -> Result<Ended, Error> {
    match record.into_moved() {
        Ok(moved) => give_back(records, moved, home, actor),
        Err(created) => delete(records, &created, home, actor),
    }
}

/// Deletes the device of a record from its sandbox.
pub(crate) fn delete(
    records: &Records,
    record: &Attachment<Created>,
    home: &mut RouteSocket,
    actor: Actor<'_>,
) -> Result<Ended, Error> {
    leave(records, record, home, actor);
    // with its namespace the kernel has deleted the link, too
    if let Some((_namespace, mut inside)) = find_namespace(records, record, home, actor)?
        && let Some(link) = find_inside(record, &mut inside)?
    {
        let deleted = inside.change_one(move |batch| rtnl::link::delete(batch, link.index));
        match deleted.subject("the pod's network configuration")? {
            Err(error) if error.errno != libc::ENODEV => return Err(Error::Delete(error)),
            _ => {}
        }
    }
    records.remove(&record.device)?;
    Ok(Ended::Deleted)
}

/// Returns the device of a record to the host.
pub(crate) fn give_back(
    records: &Records,
    mut record: Attachment<Moved>,
    home: &mut RouteSocket,
    actor: Actor<'_>,
) -> Result<Ended, Error> {
    // of one that was put back by hand
    record.quarantined = None;
    leave(records, &record, home, actor);
    // Of a move that was cut off, the host is asked first: a link of the sandbox's own may have the index that the device
    // was to get there, or had.
    let stayed = match record.phase {
        Phase::Attached => None,
        Phase::Attaching | Phase::Detaching => find_at_home(&record, home)?,
    };
    let never_left = stayed.is_some() && record.phase == Phase::Attaching;
    let mut fetched = match stayed {
        None => fetch(records, &mut record, home, actor)?,
        Some(_) if never_left => None,
        Some(_) => left_behind(records, &record, home, actor)?,
    };
    let found = match stayed {
        Some(link) => Some(link),
        None => find_fetched(&record, fetched.as_ref(), home)?,
    };
    let Some(mut link) = found else {
        if record.acquired.host.hardware.is_some() && !is_unplugged(&record) {
            return Ok(Ended::OutOfReach);
        }
        records.remove(&record.device)?;
        return Ok(Ended::Lost);
    };
    let mut missing = Vec::new();
    if !never_left {
        match clean(&record, &mut link, fetched.as_mut().map(|fetched| &mut fetched.origin), home)? {
            Cleaned::Clean(skipped) => missing = skipped,
            Cleaned::Unclean(reason) => return Err(records.set_aside(record, reason).into()),
        }
    }
    drop(fetched);
    let index = link.index;
    let Restored { renamed, skipped } = restore(&record, link, missing, home)?;
    match &renamed {
        Some(name) => records.end_waiting(record, name, index)?,
        None => records.remove(&record.device)?,
    }
    Ok(Ended::Returned { renamed, skipped })
}

/// Where a device was that is on the host already: a program that was killed has returned it, perhaps before it looked for
/// what is left in the sandbox.
fn left_behind(
    records: &Records,
    record: &Attachment<Moved>,
    home: &mut RouteSocket,
    actor: Actor<'_>,
) -> Result<Option<Fetched>, Error> {
    let Ok(Some((namespace, inside))) = find_namespace(records, record, home, actor) else { return Ok(None) };
    let beside = devices_beside(records, record)?;
    Ok(Some(Fetched { origin: Origin { namespace, inside, uppers: Uppers::Unknown, beside }, is_identified: true }))
}

/// The device on the host after an attempt to fetch it. What was fetched and is another link is deleted.
fn find_fetched(
    record: &Attachment<Moved>,
    fetched: Option<&Fetched>,
    home: &mut RouteSocket,
) -> Result<Option<LinkState>, Error> {
    let Some(fetched) = fetched else { return find_at_home(record, home) };
    match find_arrived(record, home)? {
        Some(link) if !fetched.is_identified && !is_same_link(record, &link)? => {
            let deleted = home.change_one(move |batch| rtnl::link::delete(batch, link.index));
            deleted.subject("the kernel's network configuration")?.map_err(Error::Delete)?;
            Ok(None)
        }
        found => Ok(found),
    }
}
