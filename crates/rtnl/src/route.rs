//! Routes: `struct rtmsg` and `RTA_*`.

use std::net::IpAddr;

use netdevice::{
    snapshot::{DefaultRoute, Family},
    state::{Attribute as Owned, ROUTE_UNICAST, Route, route_attribute},
};

use crate::{
    attribute::attributes,
    field::{align, number},
    message::{Malformed, flags, kind},
    request::Batch,
};

/// Size of `struct rtmsg`.
const HEADER: usize = 12;
/// `ICMPV6_ROUTER_PREF_MEDIUM`: what a route has by default.
const PREF_MEDIUM: u8 = 0;
/// Size of `struct rtnexthop`.
const NEXT_HOP: usize = 8;
/// `AF_UNSPEC`: in a request for a list, every family that there is.
pub const ALL_FAMILIES: u8 = 0;
/// `AF_INET`.
pub const IPV4: u8 = 2;
/// `AF_INET6`.
pub const IPV6: u8 = 10;

/// Reads an `RTM_NEWROUTE` payload, without the attributes that the kernel adds to every route.
///
/// # Errors
///
/// When it is too short.
pub fn parse(payload: &[u8]) -> Result<Route, Malformed> {
    let short = Malformed("a route's message is too short");
    let (head, tail) = payload.split_at_checked(HEADER).ok_or(short)?;
    let mut route = Route {
        family: head[0],
        dst_len: head[1],
        src_len: head[2],
        tos: head[3],
        table: u32::from(head[4]),
        protocol: head[5],
        scope: head[6],
        kind: head[7],
        flags: number(head, 8).map(u32::from_ne_bytes).ok_or(short)?,
        attributes: Vec::new(),
    };
    for attribute in attributes(tail) {
        match attribute.kind {
            route_attribute::TABLE => route.table = attribute.u32().unwrap_or(route.table),
            route_attribute::CACHEINFO if !expires(attribute.value) => {}
            route_attribute::PREF if attribute.value == [PREF_MEDIUM] => {}
            _ => route.attributes.push(attribute.to_owned()),
        }
    }
    Ok(route)
}

/// Whether a `struct rta_cacheinfo` has an expiry (`rta_expires`), and not only counters.
fn expires(counters: &[u8]) -> bool {
    number(counters, 8).is_some_and(|ticks: [u8; 4]| ticks != [0; 4])
}

/// The next hops of an `RTM_NEWROUTE` or `RTM_DELROUTE` payload, if it is of a default route; it looks at the header
/// first, so that a million other routes cost little.
pub fn default_routes(payload: &[u8]) -> Vec<DefaultRoute> {
    let Some((head, tail)) = payload.split_at_checked(HEADER) else { return Vec::new() };
    let Some(family) = family_of_default(payload).filter(|_| head[7] == ROUTE_UNICAST) else { return Vec::new() };
    let (mut table, mut metric, mut links) = (u32::from(head[4]), 0, Vec::new());
    for attribute in attributes(tail) {
        match attribute.kind {
            route_attribute::TABLE => table = attribute.u32().unwrap_or(table),
            route_attribute::PRIORITY => metric = attribute.u32().unwrap_or(0),
            route_attribute::OIF => links.extend(attribute.u32()),
            route_attribute::MULTIPATH => links.extend(next_hops(attribute.value).map(|hop| hop.link)),
            _ => {}
        }
    }
    links.sort_unstable();
    links.dedup();
    links.into_iter().map(|link| DefaultRoute { family, table, metric, link }).collect()
}

/// The family of a route to everywhere, of whichever type; none for any other route.
pub fn family_of_default(payload: &[u8]) -> Option<Family> {
    let head = payload.get(..HEADER)?;
    let is_cloned = u32::from_ne_bytes(number(head, 8)?) & netdevice::state::ROUTE_CLONED != 0;
    match head[0] {
        _ if head[1] != 0 || is_cloned => None,
        IPV4 => Some(Family::V4),
        IPV6 => Some(Family::V6),
        _ => None,
    }
}

/// A default route that names a next-hop object (`RTA_NH_ID`), which may be all that the kernel says of its next hops
/// (`net.ipv4.nexthop_compat_mode=0`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DefaultRouteByObject {
    /// Family of the route.
    pub family: Family,
    /// `RTA_TABLE`.
    pub table: u32,
    /// `RTA_PRIORITY`.
    pub metric: u32,
    /// `RTA_NH_ID`.
    pub object: u32,
}

impl DefaultRouteByObject {
    /// The route through one of the object's links.
    pub fn through(self, link: u32) -> DefaultRoute {
        DefaultRoute { family: self.family, table: self.table, metric: self.metric, link }
    }
}

/// Reads an `RTM_NEWROUTE` or `RTM_DELROUTE` payload, if it is of a default route with a next-hop object. A blackhole's
/// type is none of an ordinary route.
pub fn default_route_by_object(payload: &[u8]) -> Option<DefaultRouteByObject> {
    let family = family_of_default(payload)?;
    let (head, tail) = payload.split_at_checked(HEADER)?;
    let (mut table, mut metric, mut object) = (u32::from(head[4]), 0, None);
    for attribute in attributes(tail) {
        match attribute.kind {
            route_attribute::TABLE => table = attribute.u32().unwrap_or(table),
            route_attribute::PRIORITY => metric = attribute.u32().unwrap_or(0),
            route_attribute::NH_ID => object = attribute.u32(),
            _ => {}
        }
    }
    let object = object.filter(|_| head[7] == ROUTE_UNICAST)?;
    Some(DefaultRouteByObject { family, table, metric, object })
}

/// One next hop of a multipath route: `struct rtnexthop` and attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop<'a> {
    /// `rtnh_ifindex`.
    pub link: u32,
    /// `rtnh_flags`.
    pub flags: u8,
    /// `rtnh_hops`: weight less one.
    pub hops: u8,
    /// The attributes as the kernel wrote them.
    pub attributes: &'a [u8],
}

/// The next hops in an `RTA_MULTIPATH` value.
pub fn next_hops(value: &[u8]) -> impl Iterator<Item = NextHop<'_>> {
    let mut rest = value;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(number(rest, 0)?));
        let hop = rest.get(..length).filter(|hop| hop.len() >= NEXT_HOP)?;
        rest = rest.get(align(length)..).unwrap_or_default();
        let link = u32::from_ne_bytes(number(hop, 4)?);
        Some(NextHop { link, flags: hop[2], hops: hop[3], attributes: &hop[NEXT_HOP..] })
    })
}

/// The source address for packets of this node that a route's message names, without taking the rest apart.
pub fn source(payload: &[u8]) -> Option<IpAddr> {
    let mut all = attributes(payload.get(HEADER..)?);
    all.find(|attribute| attribute.kind == route_attribute::PREFSRC)?.address()
}

/// Whether a route leads through the link, as one of several at least.
pub fn leads_through(route: &Route, link: u32) -> bool {
    let paths = route.attribute(route_attribute::MULTIPATH);
    route.link() == Some(link) || paths.is_some_and(|paths| next_hops(&paths.value).any(|hop| hop.link == link))
}

/// An `RTA_MULTIPATH` value with the same next hops on other links; without those that have no such link.
pub fn with_links(value: &[u8], link: impl Fn(u32) -> Option<u32>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len());
    for hop in next_hops(value) {
        let Some(link) = link(hop.link) else { continue };
        let length = u16::try_from(NEXT_HOP + hop.attributes.len()).expect("it was read from a length of 2 bytes");
        bytes.extend(length.to_ne_bytes());
        bytes.extend([hop.flags & STABLE_HOP_FLAGS, hop.hops]);
        bytes.extend(link.to_ne_bytes());
        bytes.extend(hop.attributes);
        bytes.resize(align(bytes.len()), 0);
    }
    bytes
}

/// Flags of a next hop that can be set (pervasive, on-link); the others are its present state.
const STABLE_HOP_FLAGS: u8 = 0x02 | 0x04;

/// Requests the routes of one family, or of [`ALL_FAMILIES`], through one link, in every table; of all links with index 0. A strict socket
/// filters in the kernel.
pub fn dump(batch: &mut Batch, family: u8, index: u32) {
    let mut header = [0; HEADER];
    header[0] = family;
    let mut request = batch.push(kind::GETROUTE, flags::DUMP, &header);
    if index != 0 {
        request.u32(route_attribute::OIF, index);
    }
}

/// What becomes of a route to the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Adding this one fails (`EEXIST`).
    Keep,
    /// This one stands behind it (IPv4), or becomes a next hop beside it (IPv6). The very same route is refused
    /// (`EEXIST`).
    Join,
}

/// Adds a route. The kernel's own remarks on it ([`Route::flags`] but on-link, counters) are left out.
pub fn add(batch: &mut Batch, route: &Route, existing: Existing) {
    let how = if existing == Existing::Join { flags::APPEND } else { flags::EXCL };
    let mut request = batch.push(kind::NEWROUTE, flags::ACK | flags::CREATE | how, &header(route));
    request.u32(route_attribute::TABLE, route.table);
    for Owned { kind, value } in &route.attributes {
        request.attribute(*kind, value);
    }
}

/// Removes just this route.
pub fn remove(batch: &mut Batch, route: &Route) {
    let mut request = batch.push(kind::DELROUTE, flags::ACK, &header(route));
    request.u32(route_attribute::TABLE, route.table);
    for Owned { kind, value } in &route.attributes {
        request.attribute(*kind, value);
    }
}

fn header(route: &Route) -> [u8; HEADER] {
    let table = u8::try_from(route.table).unwrap_or(0);
    let mut header = [
        route.family,
        route.dst_len,
        route.src_len,
        route.tos,
        table,
        route.protocol,
        route.scope,
        route.kind,
        0,
        0,
        0,
        0,
    ];
    header[8..].copy_from_slice(&(route.flags & netdevice::state::ROUTE_ONLINK).to_ne_bytes());
    header
}
