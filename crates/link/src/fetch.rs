//! Moves a device from its sandbox to the host, without what a container put on it.

use netdevice::{Attachment, LinkState, Moved, Phase, acquisition::HomePlace};
use rtnl::link::attribute as ifla;
use rustix::thread::gettid;
use store::Records;

use crate::{
    error::{Error, WithSubject},
    identity::{Actor, INDEX_ATTEMPTS, INDEX_STEP, fallback_name, find_inside_with, find_namespace},
    inside::sysfs_inside,
    nested::Origin,
    read::{Which, read_bare},
    socket::{Change, KernelError, RouteSocket},
    strip::{Uppers, devices_beside, strip},
};

/// A device that was just moved to the host.
pub(crate) struct Fetched {
    pub(crate) origin: Origin,
    /// Whether it is certain that it is the device.
    pub(crate) is_identified: bool,
}

/// Moves the device to the host, if it is in its sandbox, without what a container put on it there.
pub(crate) fn fetch(
    records: &Records,
    record: &mut Attachment<Moved>,
    home: &mut RouteSocket,
    actor: Actor<'_>,
) -> Result<Option<Fetched>, Error> {
    let Some((namespace, mut inside)) = find_namespace(records, record, home, actor)? else { return Ok(None) };
    let sysfs = sysfs_inside(&namespace, home).ok();
    let Some((link, directory)) = find_inside_with(record, &mut inside, sysfs.as_ref())? else { return Ok(None) };
    let inode = directory.as_ref().and_then(|directory| directory.inode().ok());
    let is_identified = match (record.acquired.host.sysfs_inode, inode) {
        // the device was deleted, and the container has made another link with its index: that one stays
        (Some(of_device), Some(found)) if of_device != found => return Ok(None),
        (Some(_), None) => false,
        _ => true,
    };
    let uppers = strip(records, record, &link, &mut inside, directory.as_ref())?;
    let beside = if uppers == Uppers::Unknown { devices_beside(records, record)? } else { Vec::new() };
    pull(records, record, &link, &mut inside, home)?;
    Ok(Some(Fetched { origin: Origin { namespace, inside, uppers, beside }, is_identified }))
}

/// Moves the device to the host, under its old name and index or under those that are free.
fn pull(
    records: &Records,
    record: &mut Attachment<Moved>,
    link: &LinkState,
    inside: &mut RouteSocket,
    home: &mut RouteSocket,
) -> Result<(), Error> {
    // the namespace of this thread: no file to open
    let target = gettid().as_raw_nonzero().get().cast_unsigned();
    // Where it is going, and what it is called until it is there, is in the record.
    record.phase = Phase::Detaching;
    record.sandbox.name = link.name.clone();
    record.acquired.home =
        Some(HomePlace { name: record.acquired.host.name.clone(), ifindex: record.acquired.host.index });
    for attempt in 1..=INDEX_ATTEMPTS {
        if let Err(error) = records.write(record)
            // A full disk does not keep a device from its first try: where that leads, the record that is there says too.
            && attempt > 1
        {
            return Err(error.into());
        }
        let Some(place) = record.acquired.home.as_mut() else { return Err(Error::Vanished) };
        let (index, ifindex, name) = (link.index, place.ifindex, place.name.clone());
        let moved = inside.change_one(move |batch| {
            rtnl::link::set(batch, index, 0, 0)
                .u32(ifla::NET_NS_PID, target)
                .u32(ifla::NEW_IFINDEX, ifindex)
                .string(ifla::IFNAME, name.as_bytes());
        });
        let error = match moved.subject("the pod's network configuration")? {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // Move and rename are one request and two acts: it may be on the host, under the name that it had inside.
        if read_bare(inside, Which::Index(index))?.is_none() {
            return Ok(());
        }
        match error.errno {
            // in a record that was written by hand any number may be the index
            libc::EBUSY => place.ifindex = record.acquired.host.index.wrapping_add(attempt * INDEX_STEP),
            libc::EEXIST => {
                if read_bare(home, Which::Name(&place.name))?.is_some() {
                    place.name = fallback_name(record.acquired.host.index, attempt);
                }
                drop_altnames(link, inside)?;
            }
            _ => return Err(Error::Move(error)),
        }
    }
    Err(Error::Move(KernelError { errno: libc::EEXIST, text: None }))
}

/// An alternative name that the host has given to another link keeps the whole device out.
fn drop_altnames(link: &LinkState, inside: &mut RouteSocket) -> Result<(), Error> {
    let index = link.index;
    let remove = |name: &netdevice::KernelString| -> Change {
        let name = name.clone();
        Box::new(move |batch| rtnl::link::remove_altname(batch, index, name.as_bytes()))
    };
    inside.change(link.altnames.iter().map(remove).collect()).subject("the pod's network configuration").map(drop)
}
