//! Links that a container made on its device and has in another namespace than the Pod's: a macvlan there goes on
//! receiving what the device receives, on the host and in the next Pod. The device itself does not show them, in sysfs or
//! otherwise. They are looked for when the device is on the host and not up yet: from then on no other one can be made by
//! the Pod's namespace alone.
//!
//! A link that was moved out of the Pod's namespace has left an id of its new namespace in the Pod's (`peernet2id_alloc`
//! in `__dev_change_net_namespace`), by which that one is reached. The kernel leaves no id where a link was made in
//! another namespace at once. Then the namespaces of all processes are searched, but only when something says that there
//! may be such a link.

use std::{fs, os::unix::fs::MetadataExt};

use netdevice::{LinkState, link::flags};
use rtnl::{
    Batch,
    message::{Message, kind},
};
use rustix::{
    fd::{AsFd, AsRawFd},
    thread::gettid,
};
use store::Namespace;

use crate::{
    error::{Error, WithSubject},
    identity::process_namespaces,
    inside::socket_inside,
    read::{Which, read_bare, sysfs_directory},
    socket::{Change, RouteSocket},
    strip::{MAX_SINGLY, Uppers, own_group, uppers},
};

/// How many namespaces with an id in the Pod's are looked into.
const MAX_IDS: usize = 1024;
/// How many namespaces of processes are looked into.
const MAX_NAMESPACES: usize = 4096;
/// How many links are deleted in one namespace, in one round.
const MAX_LINKS: usize = 8192;
/// How often a namespace is looked into until nothing is found.
const ROUNDS: u32 = 3;
/// Kinds of links that come in pairs: each names the other one as the link below it (`IFLA_LINK`).
const PAIR_KINDS: [&str; 3] = ["veth", "netkit", "vxcan"];

/// Where the device was before it came to the host.
pub(crate) struct Origin {
    pub(crate) namespace: Namespace,
    /// A socket inside.
    pub(crate) inside: RouteSocket,
    /// What is known of links on the device in that namespace.
    pub(crate) uppers: Uppers,
    /// Indexes of the node's other devices in it.
    pub(crate) beside: Vec<u32>,
}

/// Deletes the links on the device that are in namespaces of the Pod; `link` is the device as it arrived on the host, in
/// which the calling thread is. Returns what could not be deleted.
pub(crate) fn clean(
    origin: Option<&mut Origin>,
    link: &LinkState,
    home: &mut RouteSocket,
) -> Result<Option<String>, Error> {
    let is_heard = is_heard(link) && !has_uppers_at_home(link);
    if let Some(origin) = origin {
        let left = delete_all(origin, link.index, is_heard, home)?;
        if left > 0 {
            return Ok(Some(format!("{left} links of its pod on it, in other network namespaces, cannot be deleted")));
        }
    }
    if is_heard && is_still_heard(link.index, home)? {
        return Ok(Some("a link on it, in a network namespace that cannot be found, receives all its frames".into()));
    }
    Ok(None)
}

/// Whether a link of another namespace is built on a link of the host, such as a macvlan that a CNI plugin made for a Pod.
/// Only where something says that there may be one, and in namespaces that have an id on the host, as those of Pods with
/// a veth of the host do.
pub(crate) fn is_stacked_elsewhere(link: &LinkState, home: &mut RouteSocket) -> Result<bool, Error> {
    if link.promiscuity <= u32::from(link.flags & flags::PROMISC != 0) {
        return Ok(false);
    }
    for id in ids(home)? {
        let there = |batch: &mut Batch| rtnl::link::dump_in_namespace(batch, id);
        // the kernel gives the host an id of its own when it reports a link on a link of the host
        let _ = find(home, &there, 0, 0)?;
        let Some(host) = id_of_this_thread(home)? else { continue };
        if id != host && !find(home, &there, link.index, host)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Deletes the links on the device in all namespaces where there may be one; returns how many are left.
fn delete_all(origin: &mut Origin, index: u32, is_heard: bool, home: &mut RouteSocket) -> Result<usize, Error> {
    let ids = ids(&mut origin.inside)?;
    // one id is the host's: the move itself has made it
    if ids.len() <= 1 && origin.uppers == Uppers::Gone && !is_heard {
        return Ok(0);
    }
    let Some(host) = id_of_this_thread(&mut origin.inside)? else { return Ok(0) };
    let mut left = 0;
    if origin.uppers == Uppers::Unknown {
        left += delete_here(&mut origin.inside, index, host, &origin.beside)?;
    }
    if ids.len() > 1 || is_heard {
        search(origin, index, home)?;
    }
    // what no process is in
    for id in ids.into_iter().filter(|id| *id != host) {
        left += delete_there(&mut origin.inside, id, index, host)?;
    }
    Ok(left)
}

/// Whether the device receives every frame for another reason than its own flag. A link on it that has another
/// address does, where the device has no filter for more addresses.
fn is_heard(link: &LinkState) -> bool {
    link.promiscuity > 0 && link.flags & flags::PROMISC == 0
}

/// Links on the device in the host's own namespace are the host's.
fn has_uppers_at_home(link: &LinkState) -> bool {
    matches!(sysfs_directory(&link.name, link.index), Ok(Some(directory)) if !uppers(&directory).is_empty())
}

/// Links that only added addresses do not count once the device is set up: the move has removed those.
fn is_still_heard(index: u32, home: &mut RouteSocket) -> Result<bool, Error> {
    let set = |is_up: bool| -> Change {
        let up = if is_up { flags::UP } else { 0 };
        Box::new(move |batch| {
            rtnl::link::set(batch, index, up, flags::UP);
        })
    };
    home.change(vec![set(true), set(false)]).subject("the kernel's network configuration")?;
    Ok(read_bare(home, Which::Index(index))?.is_some_and(|link| is_heard(&link)))
}

/// The ids that other namespaces have in a namespace.
fn ids(socket: &mut RouteSocket) -> Result<Vec<i32>, Error> {
    let mut ids = Vec::new();
    let mut look = |message: &Message<'_>| {
        if message.kind == kind::NEWNSID
            && let Some(id) = rtnl::nsid::parse(message.payload)
        {
            insert(&mut ids, id, MAX_IDS);
        }
    };
    let end = socket.each(&rtnl::nsid::dump, &mut look).subject("the pod's network namespaces")?;
    end.map_err(|error| Error::Read { what: "the pod's network namespaces", error })?;
    Ok(ids)
}

/// Adds a number that is not there yet, up to a limit.
fn insert<T: PartialEq>(numbers: &mut Vec<T>, number: T, limit: usize) {
    if numbers.len() < limit && !numbers.contains(&number) {
        numbers.push(number);
    }
}

/// The id that the calling thread's namespace has in another one.
fn id_of_this_thread(socket: &mut RouteSocket) -> Result<Option<i32>, Error> {
    let thread = gettid().as_raw_nonzero().get().cast_unsigned();
    id(socket, |batch| rtnl::nsid::get_by_pid(batch, thread))
}

fn id(socket: &mut RouteSocket, request: impl FnOnce(&mut Batch)) -> Result<Option<i32>, Error> {
    let answer = socket.get(request).subject("the pod's network namespaces")?;
    Ok(answer.ok().and_then(|objects| objects.of(kind::NEWNSID).next().and_then(rtnl::nsid::parse)))
}

/// The links of a list that are on the device, which has that index in the namespace with the id `host`.
fn find(socket: &mut RouteSocket, request: &dyn Fn(&mut Batch), index: u32, host: i32) -> Result<Vec<u32>, Error> {
    let mut found = Vec::new();
    let mut look = |message: &Message<'_>| {
        if message.kind == kind::NEWLINK
            && let Ok(link) = rtnl::link::parse(message.payload)
        {
            let below = link.below();
            let is_pair = below.kind.is_none_or(|kind| PAIR_KINDS.contains(&kind));
            if (below.index, below.netnsid) == (Some(index), Some(host)) && !is_pair {
                insert(&mut found, link.index, MAX_LINKS);
            }
        }
    };
    // a namespace that ended meanwhile has nothing; of one that changes without pause this is what was seen
    let _ = socket.each(request, &mut look).subject("the links of the pod")?;
    Ok(found)
}

/// Deletes the links on the device in the socket's own namespace; returns how many are left.
fn delete_here(socket: &mut RouteSocket, index: u32, host: i32, spared: &[u32]) -> Result<usize, Error> {
    let mut left = 0;
    for _ in 0..ROUNDS {
        let mut found = find(socket, &rtnl::link::dump, index, host)?;
        found.retain(|link| !spared.contains(link));
        left = found.len();
        if found.is_empty() {
            break;
        }
        let group = own_group();
        let mut changes: Vec<Change> = Vec::new();
        for link in found {
            changes.push(Box::new(move |batch| {
                rtnl::link::set(batch, link, 0, 0).u32(rtnl::link::attribute::GROUP, group);
            }));
        }
        changes.push(Box::new(move |batch| rtnl::link::delete_group(batch, group)));
        socket.change(changes).subject("the pod's network configuration")?;
    }
    Ok(left)
}

/// Deletes the links on the device in the namespace with an id in the socket's; returns how many are left.
fn delete_there(socket: &mut RouteSocket, id: i32, index: u32, host: i32) -> Result<usize, Error> {
    let mut left = 0;
    for _ in 0..ROUNDS {
        let found = find(socket, &|batch| rtnl::link::dump_in_namespace(batch, id), index, host)?;
        left = found.len();
        if found.is_empty() {
            break;
        }
        // there is no group by which links of another namespace are deleted together
        let delete = |link: u32| -> Change { Box::new(move |batch| rtnl::link::delete_in_namespace(batch, id, link)) };
        let changes = found.into_iter().take(MAX_SINGLY).map(delete).collect();
        socket.change(changes).subject("the pod's network configuration")?;
    }
    Ok(left)
}

/// Deletes the links on the device in namespaces of processes. Only where a namespace has an id of the Pod's: whoever made
/// a link on the device there before it left has given it one, and other Pods have none.
fn search(origin: &mut Origin, index: u32, home: &mut RouteSocket) -> Result<(), Error> {
    let pod = origin.namespace.as_fd().as_raw_fd().cast_unsigned();
    let mut seen = vec![origin.namespace.inode()];
    for path in process_namespaces() {
        let Ok(inode) = fs::metadata(&path).map(|file| file.ino()) else { continue };
        if seen.contains(&inode) || seen.len() >= MAX_NAMESPACES {
            continue;
        }
        seen.push(inode);
        let Ok(namespace) = Namespace::open(path) else { continue };
        let Ok(mut socket) = socket_inside(&namespace, home) else { continue };
        if socket.cookie() == home.cookie() || id(&mut socket, |batch| rtnl::nsid::get_by_fd(batch, pod))?.is_none() {
            continue;
        }
        // the kernel gives the host an id there when it reports a link on a link of the host
        let _ = find(&mut socket, &rtnl::link::dump, 0, 0)?;
        if let Some(host) = id_of_this_thread(&mut socket)? {
            delete_here(&mut socket, index, host, &[])?;
        }
    }
    Ok(())
}
