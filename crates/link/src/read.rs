//! Reads the complete state of a link, with requests that the kernel filters: but for IPv4 routes of other links that come
//! from its addresses, nothing is dumped that is not asked for.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    net::IpAddr,
    ops::ControlFlow,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use netdevice::{
    InterfaceName, LinkState,
    state::{HardwarePlace, NEIGHBOUR_PERMANENT, Neighbour, Route},
};
use rtnl::{
    message::{Message, kind},
    neighbour::List,
    route::{ALL_FAMILIES, IPV4},
};
use rustix::{io::Errno, system::sysinfo};
use store::is_shortage;

use crate::{
    directory::{Directory, MAX_VALUE},
    error::{Error, WithSubject},
    socket::{Objects, RouteSocket, Seen},
    sysctl,
};

/// `IN6_ADDR_GEN_MODE_STABLE_PRIVACY` and `IN6_ADDR_GEN_MODE_RANDOM` (`include/uapi/linux/if_link.h`): modes that make
/// addresses of a secret, which was set or which the kernel drew.
const MODES_WITH_SECRET: [u8; 2] = [2, 3];

/// How a link is looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which<'a> {
    /// By its name, or one of its alternative names.
    Name(&'a InterfaceName),
    /// By its index.
    Index(u32),
}

/// The link itself, without what is on it; none if there is no such link.
pub(crate) fn read_bare(socket: &mut RouteSocket, which: Which<'_>) -> Result<Option<LinkState>, Error> {
    read_one(socket, &|batch| match which {
        Which::Name(name) => rtnl::link::get_by_name(batch, name.as_bytes()),
        Which::Index(index) => rtnl::link::get_by_index(batch, index),
    })
}

/// The link itself in the namespace that has that id in the socket's, from outside.
pub(crate) fn read_in_namespace(socket: &mut RouteSocket, id: i32, index: u32) -> Result<Option<LinkState>, Error> {
    read_one(socket, &|batch| rtnl::link::get_in_namespace(batch, id, index))
}

fn read_one(socket: &mut RouteSocket, request: &dyn Fn(&mut rtnl::Batch)) -> Result<Option<LinkState>, Error> {
    let answer = socket.get(request);
    let objects = match answer.subject("the link")? {
        Ok(objects) => objects,
        Err(error) if error.errno == libc::ENODEV => return Ok(None),
        Err(error) => return Err(Error::Read { what: "the link", error }),
    };
    let Some(payload) = objects.of(kind::NEWLINK).next() else { return Ok(None) };
    let message = rtnl::link::parse(payload).map_err(io::Error::other).subject("the link")?;
    Ok(message.to_state())
}

/// The complete state of a link by name. The calling thread must be in the socket's namespace.
///
/// # Errors
///
/// When the kernel or the socket fails; a link that is not there is none.
pub fn read_link(socket: &mut RouteSocket, name: &InterfaceName) -> Result<Option<LinkState>, Error> {
    read_whole(socket, Which::Name(name))
}

/// The complete state of a link. The calling thread must be in the socket's namespace.
pub(crate) fn read_whole(socket: &mut RouteSocket, which: Which<'_>) -> Result<Option<LinkState>, Error> {
    let Some(mut state) = read_addressed(socket, which)? else { return Ok(None) };
    let index = state.index;
    if state.is_up() {
        (state.routes_from, state.routes_unseen) = routes_from(socket, &state)?;
    }
    let permanent = |neighbour: &Neighbour| neighbour.state & NEIGHBOUR_PERMANENT != 0;
    state.neighbours = neighbours(socket, index, List::Neighbours)?.filter(permanent).collect();
    if let Some(master) = state.master {
        let master = read_bare(socket, Which::Index(master))?;
        state.master_name = master.map(|master| master.name);
    }
    state.sysctls = sysctl::explicit_settings(socket, &state.name, index);
    if state.addr_gen_mode.is_some_and(|mode| MODES_WITH_SECRET.contains(&mode)) {
        state.sysctls.extend(sysctl::stable_secret(&state.name));
    }
    if state.kind.is_none() {
        state.hardware = hardware(&state).subject("the device in sysfs")?;
    }
    state.read_at = boot_time();
    Ok(Some(state))
}

/// The link with its addresses and routes.
pub(crate) fn read_addressed(socket: &mut RouteSocket, which: Which<'_>) -> Result<Option<LinkState>, Error> {
    let Some(mut state) = read_bare(socket, which)? else { return Ok(None) };
    // by an alternative name the kernel finds the link too; it is not the one that was asked for
    if matches!(which, Which::Name(name) if *name != state.name) {
        return Ok(None);
    }
    let index = state.index;
    let addresses = dump(socket, "addresses", |batch| rtnl::address::dump(batch, index))?;
    let own = addresses.of(kind::NEWADDR).filter_map(|payload| rtnl::address::parse(payload).ok());
    state.addresses = own.filter(|(link, _)| *link == index).map(|(_, address)| address).collect();
    // the kernel has taken the routes from a link that is down
    if state.is_up() {
        let objects = dump(socket, "routes", |batch| rtnl::route::dump(batch, ALL_FAMILIES, index))?;
        let routes = objects.of(kind::NEWROUTE).filter_map(|payload| rtnl::route::parse(payload).ok());
        state.routes.extend(routes.filter(|route| route.is_ip() && !route.comes_with_address()));
    }
    Ok(Some(state))
}

/// One list of a link's neighbours.
pub(crate) fn neighbours(
    socket: &mut RouteSocket,
    index: u32,
    list: List,
) -> Result<impl Iterator<Item = Neighbour>, Error> {
    let objects = dump(socket, "neighbours", |batch| rtnl::neighbour::dump(batch, index, list))?;
    let all = objects.of(kind::NEWNEIGH).filter_map(|payload| rtnl::neighbour::parse(payload).ok());
    let own = all.filter(|(link, _)| *link == index).map(|(_, neighbour)| neighbour);
    Ok(own.collect::<Vec<_>>().into_iter())
}

/// Datagrams of the node's routes that are looked through: each has up to 32 KiB, with some 300 routes. A million routes
/// take a quarter of a second.
const ROUTE_DATAGRAMS: usize = 4096;

/// Routes of other links from an IPv4 address of this one, and whether some were not looked at. IPv6 keeps such a route
/// when the address goes.
fn routes_from(socket: &mut RouteSocket, state: &LinkState) -> Result<(Vec<Route>, bool), Error> {
    let sources: BTreeSet<IpAddr> =
        state.addresses.iter().map(|address| address.local).filter(IpAddr::is_ipv4).collect();
    if sources.is_empty() {
        return Ok((Vec::new(), false));
    }
    let mut found = Vec::new();
    let look = |message: &Message<'_>| {
        // most have no source, and are not taken apart
        let is_from = message.kind == kind::NEWROUTE
            && rtnl::route::source(message.payload).is_some_and(|source| sources.contains(&source));
        let route = is_from.then(|| rtnl::route::parse(message.payload).ok()).flatten();
        found.extend(route.filter(|route| route.family == IPV4 && !rtnl::route::leads_through(route, state.index)));
        ControlFlow::Continue(())
    };
    let seen = socket.look_through(|batch| rtnl::route::dump(batch, IPV4, 0), ROUTE_DATAGRAMS, look);
    let seen = seen.subject("routes")?;
    Ok((found, seen != Seen::Whole))
}

pub(crate) fn dump(
    socket: &mut RouteSocket,
    what: &'static str,
    request: impl Fn(&mut rtnl::Batch),
) -> Result<Objects, Error> {
    socket.dump(request).subject(what)?.map_err(|error| Error::Read { what, error })
}

/// Seconds since the node's start, those asleep too. Not by `clock_gettime`: what finds it in the vDSO costs a program
/// that lives for milliseconds more than the call.
pub(crate) fn boot_time() -> u64 {
    u64::try_from(sysinfo().uptime).unwrap_or(0)
}

/// Where sysfs has a link of that name, of whichever namespace it shows.
pub(crate) fn sysfs_path(name: &InterfaceName) -> PathBuf {
    Path::new("/sys/class/net").join(OsStr::from_bytes(name.as_bytes()))
}

/// Directory of a link in sysfs, if sysfs shows the namespace of that link.
///
/// # Errors
///
/// When nothing can be said of it.
pub(crate) fn sysfs_directory(name: &InterfaceName, index: u32) -> io::Result<Option<Directory>> {
    of_link(Directory::open(&sysfs_path(name)), index)
}

/// Directory of a link in a sysfs that was mounted for its namespace.
///
/// # Errors
///
/// As of [`sysfs_directory`].
pub(crate) fn sysfs_directory_below(
    root: &Directory,
    name: &InterfaceName,
    index: u32,
) -> io::Result<Option<Directory>> {
    of_link(root.open_below(&[b"class/net/", name.as_bytes()].concat()), index)
}

/// The directory, if it is of the link with that index.
fn of_link(directory: Result<Directory, Errno>, index: u32) -> io::Result<Option<Directory>> {
    let mut shown = [0; MAX_VALUE];
    let read = directory.and_then(|directory| {
        let shown = str::from_utf8(directory.read(c"ifindex", &mut shown)?).unwrap_or_default();
        Ok((shown.trim().parse() == Ok(index)).then_some(directory))
    });
    match read.map_err(io::Error::from) {
        Err(error) if is_shortage(&error) => Err(error),
        read => Ok(read.ok().flatten()),
    }
}

fn hardware(state: &LinkState) -> io::Result<Option<HardwarePlace>> {
    if sysfs_directory(&state.name, state.index)?.is_none() {
        return Ok(None);
    }
    let Ok(path) = fs::canonicalize(sysfs_path(&state.name).join("device")) else { return Ok(None) };
    let numa_node = fs::read_to_string(path.join("numa_node")).ok().and_then(|node| node.trim().parse().ok());
    Ok(path.to_str().map(|path| HardwarePlace { path: path.to_owned(), numa_node }))
}
