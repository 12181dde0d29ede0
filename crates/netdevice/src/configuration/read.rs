//! The fields of a configuration, each with its rule: one reader for the annotation and for claims.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive};

use super::{
    DeviceConfiguration, IpPrefix, IpPrefixError, MIN_GSO_SIZE, SandboxNeighbour, SandboxRoute, SandboxRule, Vrf,
    fields::{Field, FieldError, Fields, Key, Spelling, nearest},
    settings,
};
use crate::{
    acquisition::{ChildKind, IpvlanMode, MacvlanMode, VlanId},
    bytes::HardwareAddress,
    name::{InterfaceName, InterfaceNameError, MAX_NAME_LEN},
    sandbox_name::SandboxInterfaceName,
    state::{SCOPE_LINK, SCOPE_UNIVERSE, offload_size},
};

/// Smallest MTU of IPv4 (RFC 791: every node takes 68 bytes).
const MIN_MTU: u32 = 68;
/// Largest MTU: the length field of IPv4.
const MAX_MTU: u32 = 65535;

pub(super) const NAME: Key = Key::two("new_name", "name");
pub(crate) const CREATE: Key = Key::new("create");
const ADDRESSES: Key = Key::new("addresses");
pub(super) const ROUTES: Key = Key::new("routes");
pub(super) const MTU: Key = Key::new("mtu");
pub(super) const MAC: Key = Key::new("mac");
const INHERIT: Key = Key::new("inherit");
const RULES: Key = Key::new("rules");
pub(super) const NEIGHBOURS: Key = Key::new("neighbours");
pub(super) const VRF: Key = Key::new("vrf");
pub(super) const SYSCTLS: Key = Key::new("sysctls");
const TX_QUEUE_LENGTH: Key = Key::two("tx_queue_length", "txQueueLength");
const GSO_MAX_SIZE: Key = Key::two("gso_max_size", "gsoMaxSize");
const GRO_MAX_SIZE: Key = Key::two("gro_max_size", "groMaxSize");
const GSO_IPV4_MAX_SIZE: Key = Key::two("gso_ipv4_max_size", "gsoIPv4MaxSize");
const GRO_IPV4_MAX_SIZE: Key = Key::two("gro_ipv4_max_size", "groIPv4MaxSize");
const ETHTOOL: Key = Key::new("ethtool");
/// The fields of a configuration.
pub(crate) const CONFIGURATION: [Key; 17] = [
    NAME,
    CREATE,
    ADDRESSES,
    ROUTES,
    MTU,
    MAC,
    INHERIT,
    RULES,
    NEIGHBOURS,
    VRF,
    SYSCTLS,
    TX_QUEUE_LENGTH,
    GSO_MAX_SIZE,
    GRO_MAX_SIZE,
    GSO_IPV4_MAX_SIZE,
    GRO_IPV4_MAX_SIZE,
    ETHTOOL,
];
/// Each size with its attribute and its range.
const OFFLOAD_SIZES: [(Key, u16, RangeInclusive<u32>); 4] = [
    (GSO_MAX_SIZE, offload_size::GSO, MIN_GSO_SIZE..=MAX_OFFLOAD_SIZE),
    (GRO_MAX_SIZE, offload_size::GRO, 1..=MAX_OFFLOAD_SIZE),
    (GSO_IPV4_MAX_SIZE, offload_size::GSO_IPV4, MIN_GSO_SIZE..=MAX_OFFLOAD_SIZE),
    (GRO_IPV4_MAX_SIZE, offload_size::GRO_IPV4, 1..=MAX_OFFLOAD_SIZE),
];
/// `GSO_MAX_SIZE` (`include/linux/netdevice.h`).
const MAX_OFFLOAD_SIZE: u32 = 8 * 65535;

/// One address in the form of the network-device-injector, which only the annotation has.
const ADDRESS: Key = Key::new("address");
const PREFIX: Key = Key::new("prefix");
pub(crate) const ANNOTATION_ONLY: [Key; 2] = [ADDRESS, PREFIX];

const TO: Key = Key::new("to");
const VIA: Key = Key::new("via");
const METRIC: Key = Key::new("metric");
const TABLE: Key = Key::new("table");
const SOURCE: Key = Key::new("source");
const SCOPE: Key = Key::new("scope");
const ONLINK: Key = Key::new("onlink");
const ROUTE: [Key; 7] = [TO, VIA, METRIC, TABLE, SOURCE, SCOPE, ONLINK];

const PRIORITY: Key = Key::new("priority");
const FROM: Key = Key::new("from");
const RULE: [Key; 4] = [PRIORITY, FROM, TO, TABLE];
/// The place of a rule that says none: before the main table.
const DEFAULT_PRIORITY: u32 = 10_000;

const NEIGHBOUR: [Key; 2] = [ADDRESS, MAC];

const VRF_NAME: Key = Key::new("name");
const VRF_FIELDS: [Key; 2] = [VRF_NAME, TABLE];

const FEATURES: Key = Key::new("features");
const PRIVATE_FLAGS: Key = Key::two("private_flags", "privateFlags");
const ETHTOOL_FIELDS: [Key; 2] = [FEATURES, PRIVATE_FLAGS];
/// Longest name of a feature: `ETH_GSTRING_LEN` less the NUL.
const MAX_FEATURE: usize = 31;

/// Every field with its name in the annotation and in a claim, and those inside it.
pub fn names() -> impl Iterator<Item = (String, String)> {
    let of = |outer: Key, list: &str, inner: &[Key]| -> Vec<(String, String)> {
        let own = (outer.annotation.to_owned(), outer.claim.to_owned());
        let join = |outer: &str, inner: &str| format!("{outer}{list}.{inner}");
        let inner = inner.iter().map(|key| (join(outer.annotation, key.annotation), join(outer.claim, key.claim)));
        std::iter::once(own).chain(inner.collect::<Vec<_>>()).collect()
    };
    CONFIGURATION.into_iter().flat_map(move |key| match key {
        CREATE => of(key, "", &CREATED),
        ROUTES => of(key, "[]", &ROUTE),
        RULES => of(key, "[]", &RULE),
        NEIGHBOURS => of(key, "[]", &NEIGHBOUR),
        VRF => of(key, "", &VRF_FIELDS),
        ETHTOOL => of(key, "", &ETHTOOL_FIELDS),
        _ => of(key, "", &[]),
    })
}

const KIND: Key = Key::new("kind");
const MODE: Key = Key::new("mode");
const ID: Key = Key::new("id");
const CREATED: [Key; 3] = [KIND, MODE, ID];

/// Reads a configuration. Rules of several fields together are checked when it is [resolved](DeviceConfiguration::resolve_as).
pub(crate) fn configuration(fields: &Fields<'_>, spelling: Spelling) -> Result<DeviceConfiguration, FieldError> {
    let ethtool = fields.read(ETHTOOL, |field| field.mapping(&ETHTOOL_FIELDS))?;
    let switches = |key| match &ethtool {
        Some(fields) => Ok(fields.read(key, |field| field.entries(switch))?.unwrap_or_default()),
        None => Ok(BTreeMap::new()),
    };
    let mut offload_sizes = BTreeMap::new();
    for (key, kind, range) in OFFLOAD_SIZES {
        offload_sizes.extend(fields.read(key, |field| field.number(range))?.map(|size| (kind, size)));
    }
    Ok(DeviceConfiguration {
        rules: fields.read(RULES, |field| field.list(rule))?,
        neighbours: fields.read(NEIGHBOURS, |field| field.list(neighbour))?,
        vrf: fields.read(VRF, |field| vrf(&field.mapping(&VRF_FIELDS)?))?,
        sysctls: fields.read(SYSCTLS, |field| field.entries(setting))?.unwrap_or_default(),
        tx_queue_length: fields.read(TX_QUEUE_LENGTH, |field| field.number(0..=1_000_000))?,
        offload_sizes,
        features: switches(FEATURES)?,
        private_flags: switches(PRIVATE_FLAGS)?,
        create: fields.read(CREATE, |field| created(&field.mapping(&CREATED)?))?,
        name: fields.read(NAME, |field| field.text(sandbox_name))?,
        addresses: match spelling {
            Spelling::Annotation => addresses(one_address(fields)?, fields)?,
            Spelling::Claim => addresses(None, fields)?,
        },
        routes: fields.read(ROUTES, |field| field.list(route))?,
        mtu: fields.read(MTU, |field| field.number(MIN_MTU..=MAX_MTU))?,
        mac: fields.read(MAC, |field| field.text(hardware_address))?,
        inherit: fields.read(INHERIT, |field| field.truth())?,
    })
}

/// Checks a name by the kernel's rules. The error does not repeat the name.
pub(crate) fn sandbox_name(text: &str) -> Result<SandboxInterfaceName, String> {
    let name = InterfaceName::try_from(text).and_then(SandboxInterfaceName::try_from);
    name.map_err(|error| match error {
        InterfaceNameError::Empty => "empty name".into(),
        InterfaceNameError::TooLong(_, length) => format!("too long: {length} bytes, the limit is {MAX_NAME_LEN}"),
        InterfaceNameError::Dots(_) => "a name of dots only is not allowed".into(),
        InterfaceNameError::Byte(_, byte) => format!("the byte 0x{byte:02x} is not allowed in an interface name"),
        InterfaceNameError::Reserved(_, reason) => format!("this name is not allowed: {reason}"),
    })
}

/// What is created on the device, which stays on the host.
fn created(fields: &Fields<'_>) -> Result<ChildKind, FieldError> {
    let none = |key, kind: &str| match fields.get(key) {
        Some(field) => Err(field.refuse(format!("a {kind} has none"))),
        None => Ok(()),
    };
    let kind = fields.required(KIND, |field| {
        field.text(|kind| match kind {
            "macvlan" | "ipvlan" | "vlan" => Ok(kind.to_owned()),
            _ => Err("must be macvlan, ipvlan or vlan".into()),
        })
    })?;
    match kind.as_str() {
        "macvlan" => {
            none(ID, "macvlan")?;
            let mode = fields.read(MODE, |field| field.text(macvlan_mode))?;
            Ok(ChildKind::Macvlan { mode: mode.unwrap_or(MacvlanMode::Bridge) })
        }
        "ipvlan" => {
            none(ID, "ipvlan")?;
            let mode = fields.read(MODE, |field| field.text(ipvlan_mode))?;
            Ok(ChildKind::Ipvlan { mode: mode.unwrap_or(IpvlanMode::L2) })
        }
        _ => {
            none(MODE, "vlan")?;
            let id = fields.required(ID, |field| {
                let id = field.number(1..=4094)?;
                u16::try_from(id).ok().and_then(|id| VlanId::try_from(id).ok()).ok_or_else(|| field.refuse("invalid"))
            })?;
            Ok(ChildKind::Vlan { id })
        }
    }
}

fn macvlan_mode(text: &str) -> Result<MacvlanMode, String> {
    MacvlanMode::named(text).ok_or_else(|| "must be private, vepa or bridge for a macvlan".into())
}

fn ipvlan_mode(text: &str) -> Result<IpvlanMode, String> {
    IpvlanMode::named(text).ok_or_else(|| "must be l2, l3 or l3s for an ipvlan".into())
}

fn hardware_address(text: &str) -> Result<HardwareAddress, String> {
    let expected = || "must be six pairs of hex digits separated by colons".to_owned();
    let address: HardwareAddress = text.parse().map_err(|_| expected())?;
    match address.as_bytes() {
        [0, 0, 0, 0, 0, 0] => Err("the all-zeros address is not allowed".into()),
        [first, _, _, _, _, _] if first & 1 == 1 => Err("a multicast address is not allowed".into()),
        [_, _, _, _, _, _] => Ok(address),
        _ => Err(expected()),
    }
}

fn prefix(text: &str) -> Result<IpPrefix, String> {
    text.parse().map_err(|error| match error {
        IpPrefixError::Address(_) => "must be an IPv4 or IPv6 address".to_owned(),
        error @ IpPrefixError::Length(_) => error.to_string(),
    })
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "must be an IPv4 or IPv6 address".to_owned())
}

/// An address that an interface can have.
fn own(prefix: IpPrefix) -> Result<IpPrefix, String> {
    let address = prefix.address();
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() || is_broadcast {
        return Err("an interface cannot have this address".into());
    }
    if prefix.is_everything() { Err("the prefix length must not be 0".into()) } else { Ok(prefix) }
}

/// `address` with `prefix`.
fn one_address(fields: &Fields<'_>) -> Result<Option<IpPrefix>, FieldError> {
    let len = fields.read(PREFIX, |field| field.number(1..=128))?;
    let Some(field) = fields.get(ADDRESS) else {
        return len.map_or(Ok(None), |_| Err(fields.refuse(PREFIX, "set without address")));
    };
    let address = field.text(address)?;
    let whole = IpPrefix::host(address);
    let len = len.map_or(whole.prefix_len(), |len| u8::try_from(len).unwrap_or(u8::MAX));
    let both = IpPrefix::new(address, len)
        .map_err(|_| fields.refuse(PREFIX, format!("must be a number from 1 to {}", whole.prefix_len())))?;
    own(both).map(Some).map_err(|rule| field.refuse(rule))
}

/// `first`, and those of `addresses`.
fn addresses(first: Option<IpPrefix>, fields: &Fields<'_>) -> Result<Option<Vec<IpPrefix>>, FieldError> {
    let listed = fields.read(ADDRESSES, |list| {
        list.list(|field, earlier: &[IpPrefix]| {
            let read = field.text(|text| prefix(text).and_then(own))?;
            let is_twice = first.iter().chain(earlier).any(|earlier| earlier.address() == read.address());
            if is_twice { Err(field.refuse("the same address is listed twice")) } else { Ok(read) }
        })
    })?;
    Ok(match (first, listed) {
        (Some(first), listed) => Some([vec![first], listed.unwrap_or_default()].concat()),
        (None, listed) => listed,
    })
}

fn route(field: Field<'_>, earlier: &[SandboxRoute]) -> Result<SandboxRoute, FieldError> {
    let fields = field.mapping(&ROUTE)?;
    let table = fields.read(TABLE, table)?;
    let has_own_table = table.is_some_and(|table| table != MAIN);
    let to = fields.required(TO, |field| field.text(|text| destination(text, has_own_table)))?;
    let is_ipv4 = to.address().is_ipv4();
    let via = fields.read(VIA, |field| {
        field.text(|text| {
            let via = address(text)?;
            if via.is_ipv4() != is_ipv4 {
                return Err("the gateway and the destination must be of one address family".into());
            }
            if via.is_unspecified() || via.is_multicast() || via.is_loopback() {
                return Err("a gateway cannot have this address".into());
            }
            Ok(via)
        })
    })?;
    let source = fields.read(SOURCE, |field| {
        field.text(|text| {
            let source = address(text)?;
            if source.is_ipv4() == is_ipv4 {
                Ok(source)
            } else {
                Err("the source and the destination must be of one address family".into())
            }
        })
    })?;
    let scope = fields.read(SCOPE, |field| {
        field.text(|text| match text {
            _ if !is_ipv4 => Err("an IPv6 route has no scope".into()),
            "link" if via.is_some() => Err("a route with a gateway has the scope global".into()),
            "link" => Ok(SCOPE_LINK),
            "global" => Ok(SCOPE_UNIVERSE),
            _ => Err("must be link or global".into()),
        })
    })?;
    let onlink = fields.read(ONLINK, |field| match field.truth()? {
        true if via.is_none() => Err(field.refuse("only a route with a gateway has it: set via")),
        onlink => Ok(onlink),
    })?;
    let metric = fields.read(METRIC, |field| field.number(0..=u32::MAX))?;
    let route = SandboxRoute { to, via, metric, table, source, scope, onlink: onlink.unwrap_or(false) };
    let key = |route: &SandboxRoute| (route.to, route.metric, route.table);
    let is_same = |earlier: &SandboxRoute| key(earlier) == key(&route);
    if earlier.iter().any(is_same) { Err(fields.refuse(TO, "the same route is listed twice")) } else { Ok(route) }
}

fn destination(text: &str, has_own_table: bool) -> Result<IpPrefix, String> {
    let to = prefix(text)?;
    if to.is_everything() && !has_own_table {
        return Err("a default route is not allowed: list the networks behind the device, or set a table".into());
    }
    network(to)
}

fn network(to: IpPrefix) -> Result<IpPrefix, String> {
    if to.address().is_multicast() || !to.is_network() {
        return Err("must be a network: no bits set after the prefix, and not multicast".into());
    }
    Ok(to)
}

/// `RT_TABLE_MAIN` (`include/uapi/linux/rtnetlink.h`).
const MAIN: u32 = 254;

/// A routing table that can have routes: not `local` (255), which is the kernel's, nor `default` (253).
fn table(field: Field<'_>) -> Result<u32, FieldError> {
    match field.number(1..=u32::MAX)? {
        253 | 255 => Err(field.refuse("the tables 253 (default) and 255 (local) are the kernel's")),
        table => Ok(table),
    }
}

fn rule(field: Field<'_>, earlier: &[SandboxRule]) -> Result<SandboxRule, FieldError> {
    let fields = field.mapping(&RULE)?;
    let selector = |field: Field<'_>| {
        field.text(|text| match prefix(text)? {
            all if all.is_everything() => {
                Err("must not match every address: the pod's other traffic is its own".into())
            }
            one => network(one),
        })
    };
    let (from, to) = (fields.read(FROM, selector)?, fields.read(TO, selector)?);
    let families = [from, to].map(|prefix| prefix.map(|prefix| prefix.address().is_ipv4()));
    match families {
        [None, None] => return Err(fields.refuse(FROM, "missing: set from or to, or both")),
        [Some(from), Some(to)] if from != to => {
            return Err(fields.refuse(TO, "from and to must be of one address family"));
        }
        _ => {}
    }
    let priority = fields.read(PRIORITY, |field| field.number(1..=32765))?.unwrap_or(DEFAULT_PRIORITY);
    let rule = SandboxRule { priority, from, to, table: fields.required(TABLE, table)? };
    if earlier.contains(&rule) { Err(field.refuse("the same rule is listed twice")) } else { Ok(rule) }
}

fn neighbour(field: Field<'_>, earlier: &[SandboxNeighbour]) -> Result<SandboxNeighbour, FieldError> {
    let fields = field.mapping(&NEIGHBOUR)?;
    let address = fields.required(ADDRESS, |field| field.text(|text| own(IpPrefix::host(address(text)?))))?.address();
    let mac = fields.required(MAC, |field| field.text(hardware_address))?;
    if earlier.iter().any(|earlier| earlier.address == address) {
        return Err(fields.refuse(ADDRESS, "the same address is listed twice"));
    }
    Ok(SandboxNeighbour { address, mac })
}

fn vrf(fields: &Fields<'_>) -> Result<Vrf, FieldError> {
    let name = fields.required(VRF_NAME, |field| field.text(sandbox_name))?;
    let table = fields.required(TABLE, |field| match table(field.clone())? {
        MAIN => Err(field.refuse("a VRF has a table of its own")),
        table => Ok(table),
    })?;
    Ok(Vrf { name, table })
}

fn setting(name: &str, field: Field<'_>) -> Result<(String, String), FieldError> {
    let Some((_, key, values)) = settings::all().find(|(known, ..)| known == name) else {
        let all = settings::all().map(|(name, ..)| (name.clone(), name));
        return Err(field.refuse(match nearest(name, all) {
            Some(near) => format!("not a setting that a pod may request: did you mean {near}?"),
            None => "not a setting that a pod may request".to_owned(),
        }));
    };
    let value = field.number_or_text(values.start().cast_unsigned()..=values.end().cast_unsigned())?;
    Ok((key, value.to_string()))
}

/// A feature or a private flag. Which there are is the driver's business.
fn switch(name: &str, field: Field<'_>) -> Result<(String, String), FieldError> {
    let is_name = (1..=MAX_FEATURE).contains(&name.len()) && name.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if !is_name {
        return Err(field.refuse("invalid name: 1 to 31 printable ASCII characters"));
    }
    Ok((name.to_owned(), if field.truth()? { "on" } else { "off" }.to_owned()))
}
