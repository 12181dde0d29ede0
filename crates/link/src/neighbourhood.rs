//! The rule about the node's own connectivity, asked of the links around one device at the moment of the move, or around the
//! parent of one that is created.

use std::{collections::BTreeMap, ffi::CString, net::IpAddr, sync::Arc};

use netdevice::{
    InterfaceName, Link, LinkState, Snapshot,
    exclusion::{Exclusion, Exclusions, UplinkParents},
    state::ROUTE_LOCAL,
};
use rtnl::{
    message::kind,
    route::{ALL_FAMILIES, IPV4, IPV6},
};
use store::Records;

use crate::{
    directory::Directory,
    error::{Error, WithSubject},
    nested::is_stacked_elsewhere,
    read::{Which, sysfs_path},
    socket::RouteSocket,
};

/// Tables that a rule leads to on every node: default, main and local (`RT_TABLE_*`).
const COMMON_TABLES: std::ops::RangeInclusive<u32> = 253..=255;

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

/// What a link of the host is wanted for.
#[derive(Clone, Copy)]
pub(crate) enum Use {
    /// It moves.
    Device,
    /// A device is created on it: it stays on the host, so what else is built on it does not matter.
    Parent(UplinkParents),
}

/// Why a link must not be used so, if so. Only links above and below it are looked at, and their routes. It was read with its
/// addresses and routes. `directory` is its directory in sysfs, if sysfs shows the node's network.
pub(crate) fn exclusion(
    records: &Records,
    socket: &mut RouteSocket,
    device: &LinkState,
    directory: Option<&Directory>,
    wanted: Use,
) -> Result<Option<Exclusion>, Error> {
    let own = to_link(device);
    let links = links_around(socket, &own, directory)?;
    let mut snapshot = Snapshot::default();
    let addresses = device.addresses.iter().map(|address| (own.index, address.local)).collect();
    add_links(records, socket, &mut snapshot, links, addresses)?;
    let payloads = device.routes.iter().filter(|route| route.is_default());
    for route in payloads {
        let family =
            if route.family == IPV4 { netdevice::snapshot::Family::V4 } else { netdevice::snapshot::Family::V6 };
        let (table, metric) = (route.table, route.metric());
        snapshot.insert_default_route(netdevice::snapshot::DefaultRoute { family, table, metric, link: own.index });
    }
    snapshot.insert_link(Arc::new(own.clone()));
    add_reached_tables(socket, &mut snapshot)?;
    if let Use::Parent(uplinks) = wanted {
        return Ok(Exclusions::find(&snapshot).of_parent(&own, &snapshot, uplinks));
    }
    snapshot.set_redirect_targets(redirect_targets(socket)?);
    if is_stacked_elsewhere(device, socket)? {
        snapshot.set_built_on_elsewhere([(own.index, "link".into())]);
    }
    Ok(Exclusions::find(&snapshot).of(&own, &snapshot))
}

/// All links above and below a link, without itself.
fn links_around(
    socket: &mut RouteSocket,
    own: &Link,
    directory: Option<&Directory>,
) -> Result<BTreeMap<u32, Link>, Error> {
    let mut links: BTreeMap<u32, Link> = BTreeMap::new();
    let around_own = directory.map(stacking);
    for direction in [Direction::Up, Direction::Down] {
        let mut queue = vec![own.clone()];
        while let Some(link) = queue.pop() {
            let around = match &around_own {
                Some(own_names) if link.index == own.index => Some(own_names.clone()),
                // sysfs shows the namespace of the one, and so of the other
                Some(_) => Directory::open(&sysfs_path(&link.name)).ok().map(|directory| stacking(&directory)),
                None => None,
            };
            let is_known = |index: u32| index == own.index || links.contains_key(&index);
            for mut found in next(socket, &link, direction, around, &is_known)? {
                // of a kind whose message does not say what it is built on; sysfs does
                let is_master = link.master == Some(found.index);
                if matches!(direction, Direction::Up) && found.parent.is_none() && !is_master {
                    found.parent = Some(link.index);
                }
                if found.index != own.index && !links.contains_key(&found.index) {
                    links.insert(found.index, found.clone());
                    queue.push(found);
                }
            }
        }
    }
    Ok(links)
}

/// Adds links with their default routes, and which links have an address that the node is known by: of `addresses`, and of
/// their own.
fn add_links(
    records: &Records,
    socket: &mut RouteSocket,
    snapshot: &mut Snapshot,
    links: BTreeMap<u32, Link>,
    mut addresses: Vec<(u32, IpAddr)>,
) -> Result<(), Error> {
    for (index, link) in links {
        snapshot.insert_link(Arc::new(link));
        addresses.extend(add_default_routes(socket, snapshot, index)?.into_iter().map(|address| (index, address)));
    }
    if !addresses.is_empty() {
        let known = records.node_addresses()?;
        snapshot.set_node_links(addresses.into_iter().filter(|(_, address)| known.contains(address)));
    }
    Ok(())
}

/// Adds the tables that rules lead to, if a default route is in an uncommon one.
fn add_reached_tables(socket: &mut RouteSocket, snapshot: &mut Snapshot) -> Result<(), Error> {
    if snapshot.default_routes().iter().any(|route| !COMMON_TABLES.contains(&route.table)) {
        let mut tables = Vec::new();
        for family in [IPV4, IPV6] {
            let rules = socket.dump(|batch| rtnl::rule::dump(batch, family)).subject("the routing rules")?;
            let rules = rules.map_err(|error| Error::Read { what: "the routing rules", error })?;
            tables.extend(rules.of(kind::NEWRULE).filter_map(rtnl::rule::reached_table));
        }
        snapshot.set_reached_tables(tables);
    }
    Ok(())
}

/// The links that filters of the node send packets to. A kernel without traffic control has none.
fn redirect_targets(socket: &mut RouteSocket) -> Result<Vec<u32>, Error> {
    match socket.dump(rtnl::action::dump_mirred).subject("traffic control actions")? {
        Ok(objects) => Ok(objects.of(kind::GETACTION).flat_map(rtnl::action::redirect_targets).collect()),
        Err(error) if error.errno == libc::EOPNOTSUPP => Ok(Vec::new()),
        Err(error) => Err(Error::Read { what: "traffic control actions", error }),
    }
}

/// What the rule asks of a link, as it was just read.
fn to_link(state: &LinkState) -> Link {
    // the state says what is below, in whichever namespace
    let parent = state.parent.filter(|parent| state.link_netnsid.is_none() && *parent != 0 && *parent != state.index);
    Link { parent, ..Link::of(state) }
}

fn read(socket: &mut RouteSocket, which: Which<'_>) -> Result<Option<Link>, Error> {
    let answer = socket.get(|batch| match which {
        Which::Name(name) => rtnl::link::get_by_name(batch, name.as_bytes()),
        Which::Index(index) => rtnl::link::get_by_index(batch, index),
    });
    match answer.subject("the links around it")? {
        Ok(objects) => {
            let payload = objects.of(kind::NEWLINK).next();
            Ok(payload.and_then(|payload| rtnl::link::parse(payload).ok()).and_then(|message| message.to_link()))
        }
        Err(error) if error.errno == libc::ENODEV => Ok(None),
        Err(error) => Err(Error::Read { what: "the links around it", error }),
    }
}

/// `upper_<name>` and `lower_<name>` of a link's directory in sysfs.
fn stacking(directory: &Directory) -> Vec<CString> {
    let mut names = Vec::new();
    directory.each_name(|name| {
        if [UPPER, LOWER].iter().any(|prefix| name.to_bytes().starts_with(prefix)) {
            names.push(name.to_owned());
        }
    });
    names
}

const UPPER: &[u8] = b"upper_";
const LOWER: &[u8] = b"lower_";

/// Links directly above or below. The kernel's message says what a link is stacked on, sysfs what is stacked on it. Those
/// that are known may be left out: each request waits while a program changes the node's network.
fn next(
    socket: &mut RouteSocket,
    link: &Link,
    direction: Direction,
    stacking: Option<Vec<CString>>,
    is_known: &dyn Fn(u32) -> bool,
) -> Result<Vec<Link>, Error> {
    let mut found = Vec::new();
    match stacking {
        Some(names) => {
            let prefix = match direction {
                Direction::Up => UPPER,
                Direction::Down => LOWER,
            };
            for name in names {
                let Some(name) = name.to_bytes().strip_prefix(prefix) else { continue };
                if let Ok(name) = InterfaceName::new(name) {
                    found.extend(read(socket, Which::Name(&name))?);
                }
            }
        }
        // sysfs shows another namespace: ask for all links
        None => {
            let all = socket.dump(rtnl::link::dump).subject("the links around it")?;
            let all = all.map_err(|error| Error::Read { what: "the links around it", error })?;
            let parsed = all.of(kind::NEWLINK).filter_map(|payload| rtnl::link::parse(payload).ok()?.to_link());
            found.extend(parsed.filter(|other| match direction {
                Direction::Up => other.parent == Some(link.index),
                Direction::Down => other.master == Some(link.index),
            }));
        }
    }
    // the two ends of a veth pair lead to each other: either way from one is the other
    let told = match direction {
        Direction::Up => [link.master, link.parent.filter(|_| link.kind.as_deref() == Some("veth"))],
        Direction::Down => [link.parent, None],
    };
    for index in told.into_iter().flatten() {
        if !is_known(index) && !found.iter().any(|other| other.index == index) {
            found.extend(read(socket, Which::Index(index))?);
        }
    }
    Ok(found)
}

/// Adds the default routes through a link, and returns its addresses: each has a route of its own in the same lists, so
/// that they need no list more.
fn add_default_routes(socket: &mut RouteSocket, snapshot: &mut Snapshot, link: u32) -> Result<Vec<IpAddr>, Error> {
    let mut addresses = Vec::new();
    let routes = socket.dump(|batch| rtnl::route::dump(batch, ALL_FAMILIES, link)).subject("the routes around it")?;
    let routes = routes.map_err(|error| Error::Read { what: "the routes around it", error })?;
    for payload in routes.of(kind::NEWROUTE) {
        let by_object = rtnl::route::default_route_by_object(payload).map(|route| route.through(link));
        for route in rtnl::route::default_routes(payload).into_iter().chain(by_object) {
            snapshot.insert_default_route(route);
        }
        let route = rtnl::route::parse(payload).ok().filter(|route| route.kind == ROUTE_LOCAL);
        addresses.extend(route.and_then(|route| route.destination()));
    }
    Ok(addresses)
}
