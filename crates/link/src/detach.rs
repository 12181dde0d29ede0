//! From a sandbox home, and everything back to what it was.

use std::time::{Duration, Instant};

use netdevice::{
    Attachment, DeviceId, InterfaceName, LinkState, Phase,
    plan::{LinkChange, Place, Step, aged, plan, relabel},
    record::HomePlace,
};
use rtnl::link::attribute as ifla;
use rustix::thread::gettid;
use store::{Namespace, Records};

use crate::{
    announce::announce_ipv6,
    clean::{Cleaned, clean},
    error::{Error, WithSubject},
    identity::{
        Actor, INDEX_ATTEMPTS, INDEX_STEP, fallback_name, find_arrived, find_at_home, find_inside_with, find_namespace,
        has_ended, holder_has_ended, is_same_link, is_unplugged,
    },
    inside::{namespace_of, sysfs_inside},
    kept::{is_forwarding_kept, read_forwarding, restore_early, restore_late},
    nested::Origin,
    read::{Which, boot_time, read_bare, read_whole},
    socket::{Change, KernelError, RouteSocket},
    step::{Site, Skipped},
    strip::{Uppers, devices_beside, strip},
};

/// A device that its container no longer needs.
#[derive(Debug)]
pub struct DetachRequest<'a> {
    /// Which device.
    pub device: &'a DeviceId,
    /// Id of the owner that no longer needs it, see [`Owner::id`](netdevice::Owner::id): a container that ended. A later
    /// container of the same Pod may have the device by now.
    pub owner: &'a str,
}

/// How a detachment went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detached {
    /// No record: the device is home.
    NotAttached,
    /// Another container has taken the device over.
    TakenOver,
    /// The device came home now, or is known not to.
    Done(Homecoming),
}

/// What became of a device that was to come home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Homecoming {
    /// It is on the host.
    Home {
        /// What it is called there, where its old name was taken.
        renamed: Option<InterfaceName>,
        /// What of its old state could not be put back.
        skipped: Vec<Skipped>,
    },
    /// It is gone: a virtual link that was deleted, by the container or with its namespace, or a device that was unplugged.
    Lost,
    /// It is a physical device that is not in reach just now; its record stays.
    Away,
}

/// Brings the device of an ended container home.
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
    come_home(records, record, &mut home, Actor::Runtime).map(Detached::Done)
}

/// Brings the device of an ended sandbox home. `kept` is the sandbox's namespace, if the caller has kept it open: its
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
    come_home(records, record, &mut home, Actor::Agent(kept)).map(Detached::Done)
}

/// What a record looks like beside the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Diagnosis {
    /// A complete attachment of a living container.
    Healthy,
    /// Half an attachment or detachment: somebody is at work, or was killed.
    Unfinished,
    /// The container or sandbox that had the device has ended: its hook or event is on the way, or never comes.
    HolderEnded,
    /// The namespace has ended, and a virtual device with it.
    SandboxEnded,
}

/// Compares a record with the kernel, asked through a socket in the host's namespace. It needs no privilege; who cannot
/// see processes or namespaces calls what may be healthy healthy.
pub fn diagnose(record: &Attachment, home: &mut RouteSocket) -> Diagnosis {
    if record.phase != Phase::Attached {
        Diagnosis::Unfinished
    } else if has_ended(record, home) {
        Diagnosis::SandboxEnded
    } else if holder_has_ended(record) {
        Diagnosis::HolderEnded
    } else {
        Diagnosis::Healthy
    }
}

/// Brings a device home that nobody is at work on, if `is_due` says so of its record, which is read under the device's
/// lock. `sandbox` is the namespace, if the caller has kept it open.
///
/// # Errors
///
/// When the device cannot be reached or moved, for want of a capability perhaps; the record stays.
pub fn repair(
    records: &Records,
    device: &DeviceId,
    sandbox: Option<&Namespace>,
    is_due: impl FnOnce(&Attachment, &mut RouteSocket) -> bool,
) -> Result<Repair, Error> {
    let Some(_lock) = records.try_lock(device)? else { return Ok(Repair::Busy) };
    let Some(record) = records.take(device)? else { return Ok(Repair::Unneeded) };
    let mut home = RouteSocket::open().subject("the node's network namespace")?;
    if !is_due(&record, &mut home) {
        return Ok(Repair::Unneeded);
    }
    come_home(records, record, &mut home, Actor::Agent(sandbox)).map(Repair::Done)
}

/// Gives a link of the host a name.
///
/// # Errors
///
/// When the name is taken, or the caller may not.
pub fn rename_link(index: u32, name: &InterfaceName) -> Result<(), Error> {
    let mut home = RouteSocket::open().subject("the node's network namespace")?;
    let bytes = name.as_bytes().to_vec();
    let renamed = home.change_one(move |batch| {
        rtnl::link::set(batch, index, 0, 0).string(ifla::IFNAME, &bytes);
    });
    let what = || format!("the name {name}");
    renamed.subject("the kernel's network configuration")?.map_err(|source| Error::Configure { what: what(), source })
}

/// Makes sure that the namespace of a virtual device's sandbox outlives its processes and mounts, so that the device can be
/// brought home from it: a virtual link dies with its namespace, a physical one comes back by itself. If it is not pinned
/// and cannot be, it is returned, for the caller to keep open.
///
/// # Errors
///
/// When the namespace cannot be found from here.
pub fn keep_sandbox(records: &Records, record: &Attachment) -> Result<Option<Namespace>, Error> {
    let is_pinned = || {
        let (device, inode) = (&record.device, record.sandbox.inode);
        records.is_pinned(device, inode) || records.held(device, inode).is_some()
    };
    if record.host.hardware.is_some() || is_pinned() {
        return Ok(None);
    }
    let mut home = RouteSocket::open().subject("the node's network namespace")?;
    let found = find_namespace(records, record, &mut home, Actor::Agent(None))?;
    let Some((namespace, socket)) = found else { return Ok(None) };
    // whoever attaches the device just now pins it before the move; an older program does not
    if let Some(_lock) = records.lock_until(&record.device, Instant::now() + SOON)?
        && let Ok(Some(now)) = records.read(&record.device)
        && now.sandbox.cookie == record.sandbox.cookie
    {
        let _ = records.pin(record, &namespace);
    }
    if is_pinned() {
        return Ok(None);
    }
    namespace_of(&socket).map(Some).subject("the pod's network namespace")
}

/// How long an attachment is waited for, which takes some 20 ms.
const SOON: Duration = Duration::from_secs(1);

/// What [`repair`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// Somebody is at work on the device.
    Busy,
    /// It is as it should be.
    Unneeded,
    /// It was not.
    Done(Homecoming),
}

/// Brings the device of a record home, from wherever it is, and ends the record. The device's lock is held.
pub(crate) fn come_home(
    records: &Records,
    mut record: Attachment,
    home: &mut RouteSocket,
    actor: Actor<'_>,
) -> Result<Homecoming, Error> {
    // of one that was put back by hand
    record.quarantined = None;
    // Of a move that was cut off, the host is asked first: a link of the sandbox's own may have the index that the device
    // was to get there, or had.
    let stayed = match record.phase {
        Phase::Attached => None,
        Phase::Attaching | Phase::Detaching => find_at_home(&record, home)?,
    };
    let never_left = stayed.is_some() && record.phase == Phase::Attaching;
    let mut origin = if stayed.is_none() {
        fetch(records, &mut record, home, actor)?
    } else if never_left {
        None
    } else {
        // it was brought home by somebody who was killed, perhaps before he looked for what is left in the sandbox
        let found = find_namespace(records, &record, home, actor).ok().flatten();
        let beside = if found.is_some() { devices_beside(records, &record)? } else { Vec::new() };
        found.map(|(namespace, inside)| Fetched {
            origin: Origin { namespace, inside, uppers: Uppers::Unknown, beside },
            is_identified: true,
        })
    };
    let found = match (stayed, &origin) {
        (Some(link), _) => Some(link),
        (None, Some(fetched)) if fetched.is_identified => find_arrived(&record, home)?,
        (None, Some(_)) => match find_arrived(&record, home)? {
            Some(link) if !is_same_link(&record, &link)? => {
                // we have just brought it ourselves
                let deleted = home.change_one(move |batch| rtnl::link::delete(batch, link.index));
                deleted.subject("the kernel's network configuration")?.map_err(Error::Move)?;
                None
            }
            other => other,
        },
        (None, None) => find_at_home(&record, home)?,
    };
    let Some(mut link) = found else {
        if record.host.hardware.is_some() && !is_unplugged(&record) {
            return Ok(Homecoming::Away);
        }
        records.remove(&record.device)?;
        return Ok(Homecoming::Lost);
    };
    let mut missing = Vec::new();
    if !never_left {
        match clean(&record, &mut link, origin.as_mut().map(|fetched| &mut fetched.origin), home)? {
            Cleaned::Clean(skipped) => missing = skipped,
            Cleaned::Unclean(reason) => return Err(records.set_aside(record, reason).into()),
        }
    }
    drop(origin);
    let index = link.index;
    let homecoming = restore(&record, link, missing, home)?;
    match &homecoming {
        Homecoming::Home { renamed: Some(name), .. } => records.end_waiting(record, name, index)?,
        _ => records.remove(&record.device)?,
    }
    Ok(homecoming)
}

/// A device that was just moved home.
struct Fetched {
    origin: Origin,
    /// Whether it is certain that it is the device.
    is_identified: bool,
}

/// Moves the device home, if it is in its sandbox, without what a container put on it there.
fn fetch(
    records: &Records,
    record: &mut Attachment,
    home: &mut RouteSocket,
    actor: Actor<'_>,
) -> Result<Option<Fetched>, Error> {
    let Some((namespace, mut inside)) = find_namespace(records, record, home, actor)? else { return Ok(None) };
    let sysfs = sysfs_inside(&namespace, home).ok();
    let Some((link, folder)) = find_inside_with(record, &mut inside, sysfs.as_ref())? else { return Ok(None) };
    let inode = folder.as_ref().and_then(|folder| folder.inode().ok());
    let is_identified = match (record.host.sysfs_inode, inode) {
        // the device was deleted, and the container has made another link with its index: that one stays
        (Some(of_device), Some(found)) if of_device != found => return Ok(None),
        (Some(_), None) => false,
        _ => true,
    };
    let uppers = strip(records, record, &link, &mut inside, folder.as_ref())?;
    let beside = if uppers == Uppers::Unknown { devices_beside(records, record)? } else { Vec::new() };
    pull(records, record, &link, &mut inside, home)?;
    Ok(Some(Fetched { origin: Origin { namespace, inside, uppers, beside }, is_identified }))
}

/// Moves the device home, under its old name and index or under those that are free.
fn pull(
    records: &Records,
    record: &mut Attachment,
    link: &LinkState,
    inside: &mut RouteSocket,
    home: &mut RouteSocket,
) -> Result<(), Error> {
    // the namespace of this thread: no file to open
    let target = gettid().as_raw_nonzero().get().cast_unsigned();
    // Where it is going, and what it is called until it is there, is written down: whoever finds it can tell.
    record.phase = Phase::Detaching;
    record.sandbox.name = link.name.clone();
    record.home = Some(HomePlace { name: record.host.name.clone(), ifindex: record.host.index });
    for attempt in 1..=INDEX_ATTEMPTS {
        if let Err(error) = records.write(record)
            // A full disk does not keep a device from its first try: where that leads, the record that is there says too.
            && attempt > 1
        {
            return Err(error.into());
        }
        let Some(place) = record.home.as_mut() else { return Err(Error::Vanished) };
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
        // Move and rename are one request and two acts: it may be home, under the name that it had inside.
        if read_bare(inside, Which::Index(index))?.is_none() {
            return Ok(());
        }
        match error.errno {
            // of a record that somebody wrote, any number may be the index
            libc::EBUSY => place.ifindex = record.host.index.wrapping_add(attempt * INDEX_STEP),
            libc::EEXIST => {
                if read_bare(home, Which::Name(&place.name))?.is_some() {
                    place.name = fallback_name(record.host.index, attempt);
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

/// Gives the device on the host what the record says.
fn restore(
    record: &Attachment,
    link: LinkState,
    mut skipped: Vec<Skipped>,
    home: &mut RouteSocket,
) -> Result<Homecoming, Error> {
    let index = link.index;
    // half restored before, or taken up by a manager of the host meanwhile
    let mut present = if link.is_up() { read_whole(home, Which::Index(index))?.ok_or(Error::Vanished)? } else { link };
    let renamed = rename(record, &mut present, home)?;
    let mut wanted = aged(&record.host, boot_time).into_owned();
    relabel(&mut wanted.addresses, &record.host.name, &present.name);
    if let Some(name) = &record.host.master_name {
        let master = read_bare(home, Which::Name(name))?;
        wanted.master = master.map(|master| master.index);
        if wanted.master.is_none() {
            skipped.push(Skipped { what: format!("master {name}"), reason: "it is gone".into() });
        }
    }
    if present.mtu != wanted.mtu {
        // below 1,280 bytes a link has no IPv6 (RFC 8200, section 5), and so no settings of it to compare
        let change = LinkChange { mtu: Some(wanted.mtu), ..LinkChange::default() };
        skipped.extend(at_home(record, &present, home).apply(vec![Step::Link(change)])?);
        let now = read_bare(home, Which::Index(index))?.ok_or(Error::Vanished)?;
        (present.mtu, present.ipv6_conf) = (wanted.mtu, now.ipv6_conf);
    }
    if is_forwarding_kept(&wanted) {
        present.neighbours.extend(read_forwarding(home, present.index)?);
    }
    let is_driver_done = restore_early(home, &present.name, &wanted);
    let steps = plan(&wanted, &present, Place::Host);
    skipped.extend(at_home(record, &present, home).apply(steps)?);
    skipped.extend(restore_late(home, &present, &wanted, is_driver_done)?);
    if wanted.routes_unseen {
        skipped.push(Skipped {
            what: "routes through other links with an address of it as their source".into(),
            reason: "the node has more routes than are looked through for them".into(),
        });
    }
    if wanted.is_up() {
        announce_ipv6(&present, &mut wanted.addresses.iter().map(|address| address.local), None);
    }
    Ok(Homecoming::Home { renamed, skipped })
}

fn at_home<'a>(record: &Attachment, present: &'a LinkState, home: &'a mut RouteSocket) -> Site<'a> {
    Site {
        socket: home,
        place: Place::Host,
        name: &present.name,
        index: present.index,
        host_index: record.host.index,
        own_routes: &[],
    }
}

/// Gives the device its name, or tells the one that it has instead.
fn rename(
    record: &Attachment,
    present: &mut LinkState,
    home: &mut RouteSocket,
) -> Result<Option<InterfaceName>, Error> {
    let old = &record.host.name;
    if present.name == *old {
        return Ok(None);
    }
    let fallback = fallback_name(record.host.index, 1);
    let mut names = vec![old.clone()];
    if present.name != fallback {
        names.push(fallback);
    }
    for name in names {
        let (index, bytes) = (present.index, name.as_bytes().to_vec());
        let renamed = home.change_one(move |batch| {
            rtnl::link::set(batch, index, 0, 0).string(ifla::IFNAME, &bytes);
        });
        if renamed.subject("the kernel's network configuration")?.is_ok() {
            present.name = name;
            break;
        }
    }
    Ok((present.name != *old).then(|| present.name.clone()))
}
