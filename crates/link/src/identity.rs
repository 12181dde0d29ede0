//! Finding a device again: where the record says it went, and under whatever name.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use netdevice::{
    Acquired, Attachment, DeviceId, InterfaceName, LinkState, Moved, Phase,
    acquisition::{Created, Recorded},
    record::{Process, SandboxPlace, Viewpoint},
};
use rtnl::message::kind;
use store::{Namespace, Records, is_shortage};

use crate::{
    directory::Directory,
    error::{Error, WithSubject},
    inside::socket_inside,
    mounts,
    read::{Which, read_bare, read_in_namespace, sysfs_directory, sysfs_directory_below},
    socket::RouteSocket,
};

/// More than the 52 numbers and the name in `/proc/<pid>/stat` can be long, so that one read takes them.
const MAX_STAT: usize = 2048;

/// The process with that pid, if there is one.
///
/// # Errors
///
/// When nothing can be said of it.
pub(crate) fn process(pid: i32) -> io::Result<Option<Process>> {
    let mut text = [0; MAX_STAT];
    let read = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut text));
    let length = match read {
        Err(error) if is_shortage(&error) => return Err(error),
        other => other.unwrap_or(0),
    };
    Ok(from_stat(pid, &text[..length]))
}

fn from_stat(pid: i32, text: &[u8]) -> Option<Process> {
    // the second field is the program's name in brackets, and may have anything in it
    let fields = text.rsplit(|byte| *byte == b')').next().and_then(|fields| str::from_utf8(fields).ok())?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    // a zombie has given up its namespaces
    (!matches!(state, "Z" | "X")).then_some(Process { pid, start_time })
}

/// Whether the container or sandbox that holds the device has ended. Who cannot see its processes or mounts says no.
pub(crate) fn holder_has_ended(record: &Attachment) -> bool {
    let Ok(here) = viewpoint() else { return false };
    match record.process {
        Some(then) => {
            let is_other = |now: Option<Process>| now != Some(then);
            here.pid_namespace == record.sandbox.seen_from.pid_namespace && process(then.pid).is_ok_and(is_other)
        }
        None => record.owner.outlives_containers() && mounts::are_gone(&record.sandbox, here),
    }
}

/// The id that the host's namespace has for another one, which gets one if it has none; none if the kernel gives none.
pub(crate) fn namespace_id(home: &mut RouteSocket, namespace: &Namespace) -> Option<i32> {
    let fd = namespace.as_fd().as_raw_fd().cast_unsigned();
    let mut get = || {
        let answer = home.get(|batch| rtnl::nsid::get_by_fd(batch, fd)).ok()?.ok()?;
        answer.of(kind::NEWNSID).next().map(rtnl::nsid::parse)
    };
    match get()? {
        Some(id) => Some(id),
        None => {
            home.change_one(move |batch| rtnl::nsid::assign(batch, fd)).ok()?.ok()?;
            let answer = home.get(|batch| rtnl::nsid::get_by_fd(batch, fd)).ok()?.ok()?;
            answer.of(kind::NEWNSID).next().and_then(rtnl::nsid::parse)
        }
    }
}

/// Whether the namespace of a record has ended, as the kernel says without a privilege. "No" may mean that another namespace
/// has its id by now.
pub(crate) fn has_ended(place: &SandboxPlace, home: &mut RouteSocket) -> bool {
    let Some(id) = place.nsid else { return false };
    let answer = home.get(|batch| rtnl::nsid::get_by_id(batch, id));
    matches!(answer, Ok(Err(error)) if error.errno == libc::ENOENT)
}

/// The program that looks for a namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Actor<'a> {
    /// A hook: it sees the mounts that the runtime sees, also when that was restarted in a mount namespace of its own.
    Runtime,
    /// The agent, in a container perhaps. It may have kept the namespace open.
    Agent(Option<&'a Namespace>),
}

/// The viewpoint of this thread: a command in a container enters the node's mount namespace with one thread.
pub(crate) fn viewpoint() -> io::Result<Viewpoint> {
    let inode = |namespace: &str| Ok::<_, io::Error>(fs::metadata(format!("/proc/thread-self/ns/{namespace}"))?.ino());
    Ok(Viewpoint { pid_namespace: inode("pid")?, mount_namespace: inode("mnt")? })
}

/// The namespace of a record, with a socket inside; none if it ended.
///
/// # Errors
///
/// [`Error::OutOfSight`] when it cannot be found and may be there all the same.
pub(crate) fn find_namespace<A: Identity>(
    records: &Records,
    record: &Attachment<A>,
    home: &mut RouteSocket,
    actor: Actor<'_>,
) -> Result<Option<(Namespace, RouteSocket)>, Error> {
    let sought = Sought {
        device: &record.device,
        place: &record.sandbox,
        is_pinned: record.needs_namespace(),
        is_device: &|link| record.acquired.is(link),
    };
    sought.find(records, home, actor)
}

/// A namespace that is looked for, whichever way its device was acquired.
struct Sought<'a> {
    device: &'a DeviceId,
    place: &'a SandboxPlace,
    is_pinned: bool,
    is_device: &'a dyn Fn(&LinkState) -> bool,
}

impl Sought<'_> {
    fn find(
        &self,
        records: &Records,
        home: &mut RouteSocket,
        actor: Actor<'_>,
    ) -> Result<Option<(Namespace, RouteSocket)>, Error> {
        let Self { device, place, is_pinned, .. } = *self;
        let mut obstacle = None;
        let enter = |opened: io::Result<Namespace>, home: &RouteSocket| {
            let namespace = opened?;
            let socket = socket_inside(&namespace, home)?;
            // the inode may be another namespace's by now; the cookie never is
            Ok::<_, io::Error>((socket.cookie() == place.cookie).then_some((namespace, socket)))
        };
        let mut find = |paths: &mut dyn Iterator<Item = PathBuf>, home: &RouteSocket| {
            for path in paths {
                match fs::metadata(&path).map(|file| file.ino()) {
                    Ok(inode) if inode == place.inode => {}
                    // a process that even the runtime may not look at is none that it started
                    Err(error)
                        if error.kind() == io::ErrorKind::PermissionDenied && matches!(actor, Actor::Agent(_)) =>
                    {
                        obstacle = Some(error);
                        continue;
                    }
                    _ => continue,
                }
                match enter(Namespace::open(path), home) {
                    Ok(None) => {}
                    Ok(found) => return found,
                    Err(error) => obstacle = Some(error),
                }
            }
            None
        };
        let kept = match actor {
            Actor::Agent(Some(kept)) => Some(kept.descriptor_path()),
            _ => records.held(device, place.inode),
        };
        let pin = is_pinned.then(|| records.pin_path(device));
        let named = place.paths.iter().map(PathBuf::from);
        if let Some(found) = find(&mut kept.into_iter().chain(pin).chain(named), home) {
            return Ok(Some(found));
        }
        // before a search in all of `/proc`
        if has_ended(place, home) {
            return Ok(None);
        }
        if let Some(opened) = records.open_pin_of_runtime(device)
            && let Ok(Some(found)) = enter(Ok(opened), home)
        {
            return Ok(Some(found));
        }
        if let Some(found) = find(&mut elsewhere(place), home) {
            return Ok(Some(found));
        }
        let here = viewpoint().subject("/proc")?;
        let sees_processes = here.pid_namespace == place.seen_from.pid_namespace;
        let sees_mounts = matches!(actor, Actor::Runtime) || here.mount_namespace == place.seen_from.mount_namespace;
        match obstacle {
            None if sees_processes && sees_mounts && !self.is_known_by_id(home) => Ok(None),
            obstacle => Err(Error::OutOfSight(obstacle)),
        }
    }

    /// Whether the kernel knows the device in a namespace that has the record's id: then it is there, although the namespace
    /// was not found. If the kernel does not say, it may be.
    fn is_known_by_id(&self, home: &mut RouteSocket) -> bool {
        let Some(id) = self.place.nsid else { return false };
        let found = read_in_namespace(home, id, self.place.ifindex);
        found.map_or(true, |link| link.is_some_and(|link| (self.is_device)(&link)))
    }
}

/// Everywhere else that a namespace can be found: among those with a name, at a process that is in it, at a process that
/// keeps it open, which is the agent when nothing else is left.
fn elsewhere(place: &SandboxPlace) -> impl Iterator<Item = PathBuf> + '_ {
    let named = || fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.path());
    let members = || processes().map(|process| process.join("ns/net"));
    let keepers = || processes().flat_map(|process| descriptors(&process, place.inode));
    let inside = std::iter::once_with(named).flatten().chain(std::iter::once_with(members).flatten());
    inside.chain(std::iter::once_with(keepers).flatten())
}

/// The namespaces that processes are in, and those with a name; most of them many times.
pub(crate) fn process_namespaces() -> impl Iterator<Item = PathBuf> {
    let named = fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.path());
    named.chain(processes().map(|process| process.join("ns/net")))
}

/// The directories of all processes in `/proc`.
fn processes() -> impl Iterator<Item = PathBuf> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit)).map(|entry| entry.path())
}

/// Descriptors of a process that are the network namespace of that inode. What a link leads to is not looked at, for that can
/// block, where it is a file of a server that is gone. One that was opened by the path of a mount has that path as its
/// text, and `/` once the mount is gone; then `fdinfo` has the inode (Linux 5.14).
fn descriptors(process: &Path, inode: u64) -> impl Iterator<Item = PathBuf> + use<> {
    let (name, line) = (format!("net:[{inode}]"), format!("ino:\t{inode}\n"));
    let information = process.join("fdinfo");
    let all = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
    all.filter(move |path| {
        let text = fs::read_link(path).unwrap_or_default().into_os_string().into_encoded_bytes();
        let is_mount = text == b"/" || text.windows(7).any(|part| part == b"/netns/");
        let has_line = |file: &OsStr| fs::read_to_string(information.join(file)).is_ok_and(|all| all.contains(&line));
        text == name.as_bytes() || is_mount && path.file_name().is_some_and(has_line)
    })
}

/// What a device is known by in its sandbox, besides its index there.
pub(crate) trait Identity: Recorded {
    /// Whether a link can be the device, whatever a container made of its name, address and size.
    fn is(&self, link: &LinkState) -> bool;
}

impl Identity for Moved {
    fn is(&self, link: &LinkState) -> bool {
        let host = &self.host;
        let same_function =
            is_virtual_function(host) && link.parent_device.is_some() && link.parent_device == host.parent_device;
        link.kind == host.kind && (same_function || link.permanent_mac == host.permanent_mac)
    }
}

/// Its index is one that the kernel does not give by itself. If a container deletes the link and makes another one of that
/// kind and index, that one is deleted in its place.
impl Identity for Created {
    fn is(&self, link: &LinkState) -> bool {
        link.kind.as_deref() == Some(self.kind.name())
    }
}

impl Identity for Acquired {
    fn is(&self, link: &LinkState) -> bool {
        match self {
            Self::Moved(moved) => moved.is(link),
            Self::Created(created) => created.is(link),
        }
    }
}

/// Whether the device is a virtual function (SR-IOV). It has its address from its physical function; igbvf takes for the
/// permanent one whatever was set last (`igbvf_reset`), and a driver that is bound again may get another one. But there is
/// one interface to a function, and a container cannot change which it is.
fn is_virtual_function(host: &LinkState) -> bool {
    host.hardware.as_ref().is_some_and(|place| Path::new(&place.path).join("physfn").exists())
}

/// Whether the physical device of a record was taken out of the machine, or switched off as a virtual function.
pub(crate) fn is_unplugged(record: &Attachment<Moved>) -> bool {
    let Some(place) = &record.acquired.host.hardware else { return false };
    // without sysfs that is unknown
    Path::new("/sys/devices").exists() && Path::new(&place.path).try_exists().is_ok_and(|is_there| !is_there)
}

/// The device inside its sandbox, by the index that it was given there.
pub(crate) fn find_inside<A: Identity>(
    record: &Attachment<A>,
    socket: &mut RouteSocket,
) -> Result<Option<LinkState>, Error> {
    let found = read_bare(socket, Which::Index(record.sandbox.ifindex))?;
    Ok(found.filter(|link| record.acquired.is(link)))
}

/// How often the directory of the device is looked for under the name that it has: a container may rename it meanwhile.
const NAME_ATTEMPTS: u32 = 8;

/// The device inside its sandbox with its directory in a sysfs that shows the sandbox, if there is one and the device is
/// found in it.
pub(crate) fn find_inside_with(
    record: &Attachment<Moved>,
    socket: &mut RouteSocket,
    sysfs: Option<&Directory>,
) -> Result<Option<(LinkState, Option<Directory>)>, Error> {
    let Some(mut link) = find_inside(record, socket)? else { return Ok(None) };
    let Some(sysfs) = sysfs else { return Ok(Some((link, None))) };
    for _ in 0..NAME_ATTEMPTS {
        if let Some(directory) = sysfs_directory_below(sysfs, &link.name, link.index).subject("the link")? {
            return Ok(Some((link, Some(directory))));
        }
        match find_inside(record, socket)? {
            Some(now) => link = now,
            None => return Ok(None),
        }
    }
    Ok(Some((link, None)))
}

/// Whether a link of the host is the virtual device of the record, and not another one that was made like it. Where that
/// was not recorded, or sysfs shows another namespace, it counts as the same.
pub(crate) fn is_same_link(record: &Attachment<Moved>, link: &LinkState) -> Result<bool, Error> {
    let Some(inode) = record.acquired.host.sysfs_inode else { return Ok(true) };
    let directory = sysfs_directory(&link.name, link.index).subject("the link")?;
    Ok(directory.and_then(|directory| directory.inode().ok()).is_none_or(|found| found == inode))
}

/// The device on the host: by the index and name that it has or was to get there, or a physical one by its place in the
/// machine, whatever the kernel called it.
pub(crate) fn find_at_home(record: &Attachment<Moved>, socket: &mut RouteSocket) -> Result<Option<LinkState>, Error> {
    Ok(match find_arrived(record, socket)? {
        Some(link) if is_same_link(record, &link)? => Some(link),
        _ => None,
    })
}

/// As [`find_at_home`], of a link that was just brought there.
pub(crate) fn find_arrived(record: &Attachment<Moved>, socket: &mut RouteSocket) -> Result<Option<LinkState>, Error> {
    let index = record.acquired.home.as_ref().map_or(record.acquired.host.index, |home| home.ifindex);
    if let Some(link) = read_bare(socket, Which::Index(index))?
        && record.acquired.is(&link)
        && has_expected_name(record, &link)
    {
        return Ok(Some(link));
    }
    let Some(place) = &record.acquired.host.hardware else { return Ok(None) };
    let nets = match fs::read_dir(PathBuf::from(&place.path).join("net")) {
        Err(error) if is_shortage(&error) => return Err(error).subject("the device in sysfs"),
        nets => nets.into_iter().flatten().flatten(),
    };
    for entry in nets {
        let Ok(name) = InterfaceName::new(entry.file_name().as_encoded_bytes()) else { continue };
        if let Some(link) = read_bare(socket, Which::Name(&name))?
            && link.name == name
            && record.acquired.is(&link)
            && sysfs_directory(&name, link.index).subject("the device in sysfs")?.is_some()
        {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// An index that is taken where the device goes is replaced by one that is far from those that the kernel counts up to.
pub(crate) const INDEX_STEP: u32 = 1 << 20;
/// How many such indexes are tried.
pub(crate) const INDEX_ATTEMPTS: u32 = 8;

/// What a device is called whose name was taken while it was away; names are short enough by their form.
pub(crate) fn fallback_name(index: u32, attempt: u32) -> InterfaceName {
    let name = if attempt == 1 { format!("nd{index}") } else { format!("nd{index}-{attempt}") };
    InterfaceName::new(name.as_bytes()).expect("at most 2 + 10 + 2 characters")
}

/// Its old name; once it is on its way to the host, also the one that it is to get there or had inside a moment before, and the
/// one that it gets when its own is taken.
fn has_expected_name(record: &Attachment<Moved>, link: &LinkState) -> bool {
    let inside = (record.phase == Phase::Detaching).then_some(&record.sandbox.name);
    let home = record.acquired.home.as_ref().map(|home| &home.name);
    let fallback = record.phase == Phase::Detaching && link.name == fallback_name(record.acquired.host.index, 1);
    fallback || link.name == record.acquired.host.name || inside.into_iter().chain(home).any(|name| *name == link.name)
}
