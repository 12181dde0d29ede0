//! Takes from a device, while it is still in its sandbox, what a container put on it and a move would bring to the host.

use std::{ffi::CString, sync::Arc};

use netdevice::{Attachment, InterfaceName, LinkState, Moved};
use store::Records;

use crate::{
    directory::Directory,
    error::{Error, WithSubject},
    read::{Which, read_bare},
    socket::{Change, RouteSocket},
};

/// How often the links on a device are looked for and deleted: a container may make new ones meanwhile.
const ROUNDS: u32 = 4;
/// How many links on a device are deleted in one round.
const MAX_UPPERS: usize = 8192;
/// How many are deleted one by one, at 16 ms each, where they cannot be deleted together.
pub(crate) const MAX_SINGLY: usize = 64;

/// Whether the sandbox has links on top of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Uppers {
    /// None.
    Gone,
    /// It could not be seen, or they come faster than they are deleted.
    Unknown,
}

/// Takes off foreign alternative names, and the links that were stacked on the device in its own namespace. `directory` is
/// the device's in a sysfs of the sandbox.
pub(crate) fn strip(
    records: &Records,
    record: &Attachment<Moved>,
    link: &LinkState,
    inside: &mut RouteSocket,
    directory: Option<&Directory>,
) -> Result<Uppers, Error> {
    let index = link.index;
    let mut changes: Vec<Change> = Vec::new();
    let foreign = link.altnames.iter().filter(|name| !record.acquired.host.altnames.contains(name)).cloned();
    for name in foreign {
        changes.push(Box::new(move |batch| rtnl::link::remove_altname(batch, index, name.as_bytes())));
    }
    inside.change(changes).subject("the pod's network configuration")?;
    let Some(directory) = directory else { return Ok(Uppers::Unknown) };
    for _ in 0..ROUNDS {
        let mut uppers = uppers(directory);
        if uppers.is_empty() {
            return Ok(Uppers::Gone);
        }
        let spared = spared(records, record, link, inside)?;
        uppers.retain(|upper| !spared.iter().any(|name| name.as_bytes() == upper.to_bytes()));
        if uppers.is_empty() {
            return Ok(Uppers::Gone);
        }
        delete(inside, uppers)?;
    }
    Ok(Uppers::Unknown)
}

/// Names of the links directly above a link, in its own namespace. However many links come and go beside these, an entry
/// that stays is seen: a directory in sysfs is read in the order of its names' hashes.
pub(crate) fn uppers(directory: &Directory) -> Vec<CString> {
    let mut names = Vec::new();
    directory.each_name(|name| {
        if let Some(name) = name.to_bytes().strip_prefix(b"upper_")
            && names.len() < MAX_UPPERS
        {
            names.extend(CString::new(name));
        }
    });
    names
}

/// Links above a device that stay: its master, from which the move separates it, and devices of the
/// node's own in the same sandbox.
fn spared(
    records: &Records,
    record: &Attachment<Moved>,
    link: &LinkState,
    inside: &mut RouteSocket,
) -> Result<Vec<InterfaceName>, Error> {
    let mut names = Vec::new();
    for index in devices_beside(records, record)?.into_iter().chain(link.master) {
        names.extend(read_bare(inside, Which::Index(index))?.map(|link| link.name));
    }
    Ok(names)
}

/// Indexes of the node's other devices in the same sandbox.
pub(crate) fn devices_beside<A>(records: &Records, record: &Attachment<A>) -> Result<Vec<u32>, Error> {
    let (ledger, _) = records.list().subject("the records")?;
    let is_beside =
        |other: &&Arc<Attachment>| other.sandbox.cookie == record.sandbox.cookie && other.device != record.device;
    Ok(ledger.values().filter(is_beside).map(|other| other.sandbox.ifindex).collect())
}

/// Deletes links, all in one go: one by one each of them takes 16 ms, in which nothing else of the node's network can be
/// changed.
fn delete(socket: &mut RouteSocket, names: Vec<CString>) -> Result<(), Error> {
    let group = own_group();
    let names: Vec<Vec<u8>> = names.into_iter().map(CString::into_bytes).collect();
    let into_group = |name: &Vec<u8>| -> Change {
        let name = name.clone();
        Box::new(move |batch| rtnl::link::set_group_by_name(batch, &name, group))
    };
    socket.change(names.iter().map(into_group).collect()).subject("the pod's network configuration")?;
    let deleted = socket.change_one(move |batch| rtnl::link::delete_group(batch, group));
    if deleted.subject("the pod's network configuration")?.is_err() {
        let singly = names
            .into_iter()
            .take(MAX_SINGLY)
            .map(|name| -> Change { Box::new(move |batch| rtnl::link::delete_by_name(batch, &name)) });
        socket.change(singly.collect()).subject("the pod's network configuration")?;
    }
    Ok(())
}

/// A group of links that no container can have put anything into: where a process has its stack is random.
pub(crate) fn own_group() -> u32 {
    let here = 0u8;
    let address = std::hint::black_box(&raw const here).addr();
    // the lowest bits are the same in each
    (address >> 4) as u32 | 1
}
