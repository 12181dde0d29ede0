//! Plans: the steps that change a link to a wanted state.
//!
//! A plan is the difference between the wanted and the present state. So one function configures a device that has just
//! arrived, completes one that is partly configured, and has no steps for one that is complete. The inverse of an attachment
//! is the plan for the host state in its record: a move removes the configuration.

use std::{borrow::Cow, collections::BTreeSet, net::IpAddr};

use crate::{
    bytes::{HardwareAddress, KernelString},
    configuration::{MIN_IPV6_MTU, SandboxConfiguration, SandboxNeighbour},
    link::flags,
    name::InterfaceName,
    state::{
        Address, Attribute, FORWARDING, LinkState, Neighbour, PROTOCOL_KERNEL_LINK_LOCAL, ROUTE_BY_ADVERTISEMENT,
        ROUTE_BY_KERNEL, ROUTE_CLONED, Route, address_flags, offload_size,
        route_attribute::{CACHEINFO, GATEWAY},
    },
    sysctl::{self, IPV4_MC_FORWARDING, IPV6_DISABLE, Sysctl},
};

/// Where a link is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// On the host: everything as in the record.
    Host,
    /// In a sandbox: what belongs to the device, without conflicts with the configuration of the sandbox.
    Sandbox,
}

/// Flags that can be set; the others depend on these or on the hardware.
const SETTABLE_FLAGS: u32 = flags::NOARP
    | flags::PROMISC
    | flags::ALLMULTI
    | flags::MULTICAST
    | flags::DEBUG
    | flags::NOTRAILERS
    | flags::PORTSEL
    | flags::AUTOMEDIA
    | flags::DYNAMIC;

/// `IFLA_AF_SPEC`, which contains the token of IPv6 addresses.
pub const LINK_TOKEN: u16 = 26;

/// The changes of one `RTM_SETLINK`: only what differs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// `IFLA_ADDRESS`.
    pub mac: Option<HardwareAddress>,
    /// `IFLA_MTU`.
    pub mtu: Option<u32>,
    /// `IFLA_TXQLEN`.
    pub txqlen: Option<u32>,
    /// `IFLA_GROUP`.
    pub group: Option<u32>,
    /// `IFLA_GSO_*` and `IFLA_GRO_*`, by attribute: all of them if one differs, because setting one can change others.
    pub offload_sizes: Vec<(u16, u32)>,
    /// `IFLA_MACVLAN_MODE`, for a link of that kind.
    pub macvlan_mode: Option<(String, u32)>,
    /// `IFLA_IFALIAS`; an empty one removes the alias.
    pub alias: Option<KernelString>,
    /// `IFLA_MASTER`; 0 releases the link.
    pub master: Option<u32>,
    /// `IFLA_INET_CONF`: index of `IPV4_DEVCONF_*`, counted from 1 as the kernel does, and value.
    pub ipv4_conf: Vec<(u16, i32)>,
}

/// One change of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Attributes of the link.
    Link(LinkChange),
    /// An attribute of the link, as the kernel wrote it.
    Attribute(Attribute),
    /// Settings of the link's kind, as in `IFLA_INFO_DATA`.
    Kind(String, Vec<Attribute>),
    /// An alternative name that is missing.
    AddAltname(KernelString),
    /// An alternative name that should not be there.
    RemoveAltname(KernelString),
    /// A file below `/proc/sys/net`.
    Sysctl(Sysctl),
    /// Flags of the link: value and mask.
    Flags(u32, u32),
    /// An address. It is added without duplicate address detection, and its flags are set afterwards: it was unique on this
    /// link just before, and it must be usable when the container starts.
    Address(Address),
    /// Routes, in an order in which each gateway is reachable when its route is added.
    Routes(Vec<Route>),
    /// Routes through other links with an address of this link as source.
    RoutesFrom(Vec<Route>),
    /// A permanent neighbour, a proxy entry or an entry of the forwarding database.
    Neighbour(Neighbour),
    /// An entry of the forwarding database that should not be there.
    RemoveNeighbour(Neighbour),
}

/// The steps that change `present` to `wanted`, in order.
pub fn plan(wanted: &LinkState, present: &LinkState, location: Location) -> Vec<Step> {
    let mut steps = Vec::new();
    let change = link_change(wanted, present, location);
    if change != LinkChange::default() {
        steps.push(Step::Link(change));
    }
    let is_token = |attribute: &Attribute| attribute.kind == LINK_TOKEN;
    let differing = differing(&wanted.attributes, &present.attributes);
    let (tokens, attributes): (Vec<_>, Vec<_>) = differing.cloned().partition(is_token);
    steps.extend(attributes.into_iter().map(Step::Attribute));
    if location == Location::Host {
        let data: Vec<Attribute> = self::differing(&wanted.info_data, &present.info_data).cloned().collect();
        steps.extend(wanted.kind.clone().filter(|_| !data.is_empty()).map(|kind| Step::Kind(kind, data)));
    }
    let missing = |here: &LinkState, name: &KernelString| !here.altnames.contains(name);
    let gone = present.altnames.iter().filter(|name| missing(wanted, name));
    steps.extend(gone.cloned().map(Step::RemoveAltname));
    let new = wanted.altnames.iter().filter(|name| missing(present, name));
    steps.extend(new.cloned().map(Step::AddAltname));
    // the secret of stable private addresses before the mode that needs it
    steps.extend(sysctls(wanted, present).map(Step::Sysctl));
    steps.extend(ipv6_conf(wanted, present).map(Step::Sysctl));
    if location == Location::Host {
        // the kernel accepts a token only if router advertisements are accepted
        steps.extend(tokens.into_iter().map(Step::Attribute));
    }

    let (early, late): (Vec<_>, Vec<_>) = addresses(wanted, present).partition(|address| {
        // otherwise the kernel makes the same one when the link is set up, with a second of duplicate address detection
        is_link_local_of_the_kernel(address)
    });
    steps.extend(early.into_iter().map(Step::Address));
    let mask = (wanted.flags ^ present.flags) & (SETTABLE_FLAGS | flags::UP);
    if mask != 0 {
        steps.push(Step::Flags(wanted.flags & mask, mask));
    }
    steps.extend(late.into_iter().map(Step::Address));
    if wanted.is_up() {
        let routes = routes(wanted, present, location);
        if !routes.is_empty() {
            steps.push(Step::Routes(routes));
        }
        let there = targets(&present.routes_from);
        let missing = |route: &&Route| !there.contains(&target(route));
        let routes_from: Vec<Route> = wanted.routes_from.iter().filter(missing).cloned().collect();
        if location == Location::Host && !routes_from.is_empty() {
            steps.push(Step::RoutesFrom(routes_from));
        }
    }
    let belongs = |neighbour: &&Neighbour| location == Location::Host || !neighbour.is_of_node();
    let foreign =
        present.neighbours.iter().filter(|entry| entry.family == FORWARDING && !wanted.neighbours.contains(entry));
    if location == Location::Host {
        steps.extend(foreign.cloned().map(Step::RemoveNeighbour));
    }
    let missing = |neighbour: &&Neighbour| !present.neighbours.contains(neighbour);
    steps.extend(wanted.neighbours.iter().filter(belongs).filter(missing).cloned().map(Step::Neighbour));
    steps
}

/// Attributes that have another value in `present`, or are missing there.
fn differing<'a>(wanted: &'a [Attribute], present: &'a [Attribute]) -> impl Iterator<Item = &'a Attribute> {
    wanted.iter().filter(|attribute| !present.contains(attribute))
}

fn link_change(wanted: &LinkState, present: &LinkState, location: Location) -> LinkChange {
    fn differs<T: PartialEq + Clone>(wanted: &T, present: &T) -> Option<T> {
        (wanted != present).then(|| wanted.clone())
    }
    let alias = |state: &LinkState| state.alias.clone().unwrap_or_else(|| KernelString::new(b""));
    let pairs = wanted.ipv4_conf.iter().zip(&present.ipv4_conf).enumerate();
    let differing = pairs.filter(|(index, (wanted, present))| wanted != present && *index != IPV4_MC_FORWARDING);
    LinkChange {
        mac: differs(&wanted.mac, &present.mac).flatten(),
        mtu: differs(&wanted.mtu, &present.mtu),
        txqlen: differs(&wanted.txqlen, &present.txqlen),
        group: differs(&wanted.group, &present.group),
        offload_sizes: if wanted.offload_sizes.iter().all(|(kind, size)| present.offload_sizes.get(kind) == Some(size))
        {
            Vec::new()
        } else {
            wanted.offload_sizes.iter().map(|(kind, size)| (*kind, *size)).collect()
        },
        macvlan_mode: differs(&wanted.macvlan_mode, &present.macvlan_mode)
            .flatten()
            .zip(wanted.kind.clone())
            .map(|(mode, kind)| (kind, mode)),
        alias: differs(&alias(wanted), &alias(present)),
        master: match location {
            Location::Host => differs(&wanted.master.unwrap_or(0), &present.master.unwrap_or(0)),
            Location::Sandbox => None,
        },
        ipv4_conf: differing.filter_map(|(index, (value, _))| Some((u16::try_from(index + 1).ok()?, *value))).collect(),
    }
}

fn ipv6_conf(wanted: &LinkState, present: &LinkState) -> impl Iterator<Item = Sysctl> {
    let pairs = wanted.ipv6_conf.iter().zip(&present.ipv6_conf).enumerate();
    pairs
        .filter(|(_, (wanted, present))| wanted != present)
        .filter_map(|(index, (value, _))| sysctl::ipv6_setting(index, *value))
}

fn sysctls(wanted: &LinkState, present: &LinkState) -> impl Iterator<Item = Sysctl> {
    let differing = wanted.sysctls.iter().filter(|(key, value)| present.sysctls.get(*key) != Some(value));
    differing.filter_map(|(key, value)| Sysctl::from_key(key, value))
}

/// Addresses to add, in an order that gives the kernel's order before the move: it appends an IPv4 address to those of its
/// scope, and puts an IPv6 address before them (`inet_insert_ifa`, `ipv6_link_dev_addr`).
fn addresses(wanted: &LinkState, present: &LinkState) -> impl Iterator<Item = Address> {
    let missing = |address: &&Address| {
        if address.is_temporary() || present.addresses.iter().any(|there| there.is_same(address)) {
            return false;
        }
        // The kernel makes link-local addresses. The one that it made is added beforehand, if it was known to be unique, also
        // if the kernel would make another one now: from a newer hardware address, or at random.
        !is_link_local_of_the_kernel(address) || address.is_settled()
    };
    let (v4, v6): (Vec<_>, Vec<_>) =
        wanted.addresses.iter().filter(missing).partition(|address| address.local.is_ipv4());
    v4.into_iter().chain(v6.into_iter().rev()).cloned()
}

/// Whether the kernel made the address itself and would make it again.
fn is_link_local_of_the_kernel(address: &Address) -> bool {
    address.is_ipv6_link_local() && address.protocol == Some(PROTOCOL_KERNEL_LINK_LOCAL)
}

/// What identifies a route for the kernel: see [`Route::has_same_target`], and the metric.
type Target = (u8, u32, u8, u8, Option<IpAddr>, u32);

fn target(route: &Route) -> Target {
    (route.family, route.table, route.dst_len, route.tos, route.destination(), route.metric())
}

fn targets(routes: &[Route]) -> BTreeSet<Target> {
    routes.iter().map(target).collect()
}

fn routes(wanted: &LinkState, present: &LinkState, location: Location) -> Vec<Route> {
    let all = targets(&present.routes);
    let belongs = |route: &&Route| {
        let there = all.contains(&target(route));
        match location {
            _ if there || route.flags & ROUTE_CLONED != 0 => false,
            Location::Host => !route.comes_with_address(),
            // the kernel makes the routes of addresses and advertisements itself
            Location::Sandbox => ![ROUTE_BY_KERNEL, ROUTE_BY_ADVERTISEMENT].contains(&route.protocol),
        }
    };
    let mut routes: Vec<Route> = wanted.routes.iter().filter(belongs).cloned().collect();
    // routes on the link before routes through a gateway, and longer prefixes before shorter ones
    routes.sort_by_key(|route| (route.has_gateway(), u8::MAX - route.dst_len));
    routes
}

/// The wanted state of a device in a sandbox, from its state on the host and its present state: everything that belongs to
/// the device, and the settings that were changed.
///
/// `is_explicit` returns whether the value of an IPv4 or IPv6 setting (family and file) on the host differs from the value
/// of new links there.
pub fn wanted_in_sandbox(
    host: &LinkState,
    present: &LinkState,
    is_explicit: impl Fn(&str, &str, i32) -> bool,
) -> LinkState {
    let mut wanted = host.clone();
    // a link-local address that was configured is the host's
    wanted.addresses.retain(|address| !address.is_ipv6_link_local() || is_link_local_of_the_kernel(address));
    wanted.flags |= flags::UP;
    wanted.flags &= !(flags::PROMISC | flags::ALLMULTI);
    wanted.flags |= present.flags & (flags::PROMISC | flags::ALLMULTI);
    wanted.ipv4_conf = present.ipv4_conf.clone();
    for (index, (value, file)) in host.ipv4_conf.iter().zip(sysctl::IPV4_CONF).enumerate() {
        if let Some(there) = wanted.ipv4_conf.get_mut(index).filter(|there| *there != value)
            && is_explicit("ipv4", file, *value)
        {
            *there = *value;
        }
    }
    wanted.ipv6_conf = present.ipv6_conf.clone();
    for (index, value) in host.ipv6_conf.iter().enumerate() {
        let Some(there) = wanted.ipv6_conf.get_mut(index).filter(|there| *there != value) else { continue };
        let explicit = sysctl::ipv6_setting(index, *value)
            .is_some_and(|setting| setting.value.parse().is_ok_and(|value| is_explicit("ipv6", &setting.file, value)));
        // a device with IPv6 addresses needs IPv6, also if IPv6 is off for new links of the sandbox
        let needed = index == IPV6_DISABLE && host.addresses.iter().any(|address| address.local.is_ipv6());
        if explicit || needed {
            *there = *value;
        }
    }
    wanted
}

/// The wanted state of a device with a configuration; otherwise as [`wanted_in_sandbox`].
pub fn wanted_as_configured(
    configuration: &SandboxConfiguration,
    host: &LinkState,
    present: &LinkState,
    is_explicit: impl Fn(&str, &str, i32) -> bool,
) -> LinkState {
    let inherited =
        if configuration.inherit { wanted_in_sandbox(host, present, is_explicit) } else { bare(host, present) };
    let mut wanted = inherited;
    wanted.mtu = configuration.mtu.unwrap_or(host.mtu);
    if let Some(mac) = configuration.mac.as_ref().filter(|mac| host.mac.as_ref() != Some(mac)) {
        let old = wanted.eui64_link_local();
        wanted.mac = Some(mac.clone());
        let new = wanted.eui64_link_local();
        // it depends on the hardware address
        for address in wanted.addresses.iter_mut().filter(|address| is_link_local_of_the_kernel(address)) {
            if Some(address.local) == old {
                address.local = new.unwrap_or(address.local);
            }
        }
    }
    // the kernel switches IPv6 off on a link with a smaller MTU, and removes its own address
    wanted.addresses.retain(|address| wanted.mtu >= MIN_IPV6_MTU || !is_link_local_of_the_kernel(address));
    let new_name = configuration.name.as_ref().map(|name| name.as_interface_name().as_bytes());
    wanted.altnames.retain(|altname| Some(altname.as_bytes()) != new_name);
    for address in configuration.kernel_addresses() {
        wanted.addresses.retain(|there| there.local != address.local);
        wanted.addresses.push(address);
    }
    for route in configuration.kernel_routes(host.index) {
        wanted.routes.retain(|there| !(there.has_same_target(&route) && there.metric() == route.metric()));
        wanted.routes.push(route);
    }
    // a device with IPv6 addresses needs IPv6, also if IPv6 is off for new links of the sandbox
    if configuration.addresses.iter().any(|prefix| prefix.address().is_ipv6())
        && let Some(disable) = wanted.ipv6_conf.get_mut(IPV6_DISABLE)
    {
        *disable = 0;
    }
    for neighbour in configuration.neighbours.iter().map(SandboxNeighbour::to_neighbour) {
        wanted.neighbours.retain(|there| there.destination() != neighbour.destination());
        wanted.neighbours.push(neighbour);
    }
    wanted.txqlen = configuration.tx_queue_length.unwrap_or(wanted.txqlen);
    wanted.offload_sizes.extend(&configuration.offload_sizes);
    // the kernel sets the size of IPv4 with the other (`netif_set_gso_max_size`), and we set each of them
    for (both, ipv4) in [(offload_size::GSO, offload_size::GSO_IPV4), (offload_size::GRO, offload_size::GRO_IPV4)] {
        let asked = |kind| configuration.offload_sizes.get(&kind).copied();
        if let Some(size) = asked(both).filter(|size| *size <= offload_size::LEGACY && asked(ipv4).is_none())
            && let Some(place) = wanted.offload_sizes.get_mut(&ipv4)
        {
            *place = size;
        }
    }
    for (key, value) in &configuration.sysctls {
        match place_of(&mut wanted, key) {
            Some(place) => *place = value.parse().unwrap_or(*place),
            None => _ = wanted.sysctls.insert(key.clone(), value.clone()),
        }
    }
    if wanted.ipv6_conf.get(IPV6_DISABLE) == Some(&1) {
        wanted.addresses.retain(|address| address.local.is_ipv4());
        wanted.routes.retain(|route| route.family == IPV4);
    }
    wanted
}

/// `AF_INET`.
const IPV4: u8 = 2;

/// The number that a setting of a link is in, if the kernel reports it with the link.
fn place_of<'a>(state: &'a mut LinkState, key: &str) -> Option<&'a mut i32> {
    if let Some(file) = key.strip_prefix("ipv4/conf/") {
        return state.ipv4_conf.get_mut(sysctl::IPV4_CONF.iter().position(|known| *known == file)?);
    }
    let file = key.strip_prefix("ipv6/conf/")?;
    state.ipv6_conf.get_mut(sysctl::IPV6_CONF.iter().position(|(known, _)| *known == file)?)
}

/// The device without its host configuration: its hardware address, its MTU, and the link-local address that the kernel
/// derives from the hardware address.
fn bare(host: &LinkState, present: &LinkState) -> LinkState {
    let is_off = present.ipv6_conf.get(IPV6_DISABLE) == Some(&1);
    let made = host.addresses.iter().filter(|address| {
        is_link_local_of_the_kernel(address) && Some(address.local) == host.eui64_link_local() && !is_off
    });
    LinkState {
        flags: present.flags | flags::UP,
        mac: host.mac.clone(),
        alias: None,
        altnames: Vec::new(),
        addresses: made.cloned().collect(),
        routes: Vec::new(),
        neighbours: Vec::new(),
        ..present.clone()
    }
}

/// The first setting of a configuration that the link does not have, as text; none if it has all of them.
pub fn missing(configuration: &SandboxConfiguration, present: &LinkState) -> Option<String> {
    let has = |address: &Address| {
        let is_same = |there: &&Address| there.local == address.local && there.prefix_len == address.prefix_len;
        present.addresses.iter().filter(is_same).any(Address::is_settled)
    };
    let leads = |route: &Route| {
        let gateway = |route: &Route| route.attribute(GATEWAY).and_then(Attribute::as_address);
        present.routes.iter().any(|there| {
            let is_same = there.has_same_target(route) && there.metric() == route.metric();
            is_same && gateway(there) == gateway(route) && there.source() == route.source()
        })
    };
    let flag = (!present.is_up()).then(|| "flags".to_owned());
    let mtu = configuration.mtu.filter(|mtu| *mtu != present.mtu).map(|mtu| format!("mtu {mtu}"));
    let mac = configuration.mac.as_ref().filter(|mac| present.mac.as_ref() != Some(mac));
    let mac = mac.map(|mac| format!("hardware address {mac}"));
    let address = || configuration.kernel_addresses().find(|address| !has(address)).map(|it| format!("address {it}"));
    let route = || {
        let route = configuration.kernel_routes(present.index).find(|route| !leads(route))?;
        Some(format!("route {route}"))
    };
    let knows = |wanted: &Neighbour| {
        let key = |it: &Neighbour| (it.destination(), it.hardware_address().map(<[u8]>::to_vec));
        present.neighbours.iter().any(|there| key(there) == key(wanted))
    };
    let neighbour = || {
        let mut wanted = configuration.neighbours.iter().map(SandboxNeighbour::to_neighbour);
        wanted.find(|wanted| !knows(wanted)).map(|it| format!("neighbour {it}"))
    };
    let queue = || {
        let wanted = configuration.tx_queue_length.filter(|length| *length != present.txqlen)?;
        Some(format!("transmit queue length {wanted}"))
    };
    let size = || {
        let mut sizes = configuration.offload_sizes.iter();
        let (_, size) = sizes.find(|(kind, size)| present.offload_sizes.get(kind) != Some(size))?;
        Some(format!("segment size {size}"))
    };
    let setting = || {
        let mut state = present.clone();
        let mut keys = configuration.sysctls.keys().filter(|key| !key.contains("/neigh/"));
        let key = keys.find(|key| place_of(&mut state, key).copied() != configuration.setting(key))?;
        Some(sysctl_name(key))
    };
    let first = flag.or(mtu).or(mac).or_else(address).or_else(route).or_else(neighbour);
    first.or_else(queue).or_else(size).or_else(setting)
}

/// A setting as sysctl(8) names it, without the interface: `net.ipv4.conf.arp_ignore`.
pub fn sysctl_name(key: &str) -> String {
    ["net.", &key.replace('/', ".")].concat()
}

/// The state with lifetimes reduced by the time since it was read, without what has expired. `now` returns seconds of
/// `CLOCK_BOOTTIME`; it is called only if something has a lifetime.
pub fn aged(state: &LinkState, now: impl FnOnce() -> u64) -> Cow<'_, LinkState> {
    let is_timed = state.addresses.iter().any(|address| address.lifetimes.is_some())
        || state.routes.iter().any(|route| route.attribute(CACHEINFO).is_some());
    if !is_timed {
        return Cow::Borrowed(state);
    }
    let elapsed = u32::try_from(now().saturating_sub(state.read_at)).unwrap_or(u32::MAX);
    let rest = |seconds: u32| if seconds == u32::MAX { seconds } else { seconds.saturating_sub(elapsed) };
    let mut state = state.clone();
    for address in &mut state.addresses {
        address.lifetimes = address.lifetimes.map(|(preferred, valid)| (rest(preferred), rest(valid)));
    }
    state.addresses.retain(|address| address.lifetimes.is_none_or(|(_, valid)| valid > 0));
    state.routes.retain_mut(|route| crate::route_lifetime::age(route, elapsed));
    Cow::Owned(state)
}

/// Changes the labels of IPv4 addresses to the new name of the link: getifaddrs(3) returns the label as the interface of an
/// address. A label that would be too long is the name alone.
pub fn relabel(addresses: &mut [Address], old: &InterfaceName, new: &InterfaceName) {
    for label in addresses.iter_mut().filter_map(|address| address.label.as_mut()) {
        let Some(rest) = label.as_bytes().strip_prefix(old.as_bytes()) else { continue };
        if old != new && rest.first().is_none_or(|byte| *byte == b':') {
            let whole = [new.as_bytes(), rest].concat();
            *label = KernelString::new(if whole.len() > MAX_LABEL { new.as_bytes() } else { &whole });
        }
    }
}

/// `IFNAMSIZ` less the final NUL (`include/uapi/linux/if.h`).
const MAX_LABEL: usize = 15;

/// The flags with which an address is added, and those that are set afterwards.
pub fn address_request(address: &Address) -> (u32, u32) {
    let own = address.flags & address_flags::REQUESTABLE;
    if address.local.is_ipv6() && address.is_settled() { (own | address_flags::NODAD, own) } else { (own, own) }
}
