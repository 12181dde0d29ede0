//! The fields of a configuration, each with its rule: one reader for the annotation and for claims.

use std::net::IpAddr;

use super::{
    DeviceConfiguration, IpPrefix, IpPrefixError, SandboxRoute,
    fields::{Field, FieldError, Fields, Key, Spelling},
};
use crate::{
    acquisition::{ChildKind, IpvlanMode, MacvlanMode, VlanId},
    bytes::HardwareAddress,
    name::{InterfaceName, InterfaceNameError, MAX_NAME_LEN},
    sandbox_name::SandboxInterfaceName,
};

/// Smallest MTU of IPv4 (RFC 791: every node takes 68 bytes).
const MIN_MTU: u32 = 68;
/// Largest MTU: the length field of IPv4.
const MAX_MTU: u32 = 65535;

const NAME: Key = Key::two("new_name", "name");
pub(crate) const CREATE: Key = Key::new("create");
const ADDRESSES: Key = Key::new("addresses");
const ROUTES: Key = Key::new("routes");
pub(super) const MTU: Key = Key::new("mtu");
pub(super) const MAC: Key = Key::new("mac");
const INHERIT: Key = Key::new("inherit");
/// The fields of a configuration.
pub(crate) const CONFIGURATION: [Key; 7] = [NAME, CREATE, ADDRESSES, ROUTES, MTU, MAC, INHERIT];

/// One address in the form of the network-device-injector, which only the annotation has.
const ADDRESS: Key = Key::new("address");
const PREFIX: Key = Key::new("prefix");
pub(crate) const ANNOTATION_ONLY: [Key; 2] = [ADDRESS, PREFIX];

const TO: Key = Key::new("to");
const VIA: Key = Key::new("via");
const METRIC: Key = Key::new("metric");
const ROUTE: [Key; 3] = [TO, VIA, METRIC];

const KIND: Key = Key::new("kind");
const MODE: Key = Key::new("mode");
const ID: Key = Key::new("id");
const CREATED: [Key; 3] = [KIND, MODE, ID];

/// Reads a configuration. Rules of several fields together are checked when it is [resolved](DeviceConfiguration::resolve_as).
pub(crate) fn configuration(fields: &Fields<'_>, spelling: Spelling) -> Result<DeviceConfiguration, FieldError> {
    Ok(DeviceConfiguration {
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
    match text {
        "private" => Ok(MacvlanMode::Private),
        "vepa" => Ok(MacvlanMode::Vepa),
        "bridge" => Ok(MacvlanMode::Bridge),
        _ => Err("must be private, vepa or bridge for a macvlan".into()),
    }
}

fn ipvlan_mode(text: &str) -> Result<IpvlanMode, String> {
    match text {
        "l2" => Ok(IpvlanMode::L2),
        "l3" => Ok(IpvlanMode::L3),
        "l3s" => Ok(IpvlanMode::L3s),
        _ => Err("must be l2, l3 or l3s for an ipvlan".into()),
    }
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
    let to = fields.required(TO, |field| field.text(destination))?;
    let via = fields.read(VIA, |field| {
        field.text(|text| {
            let via = address(text)?;
            if via.is_ipv4() != to.address().is_ipv4() {
                return Err("the gateway and the destination must be of one address family".into());
            }
            if via.is_unspecified() || via.is_multicast() || via.is_loopback() {
                return Err("a gateway cannot have this address".into());
            }
            Ok(via)
        })
    })?;
    let route = SandboxRoute { to, via, metric: fields.read(METRIC, |field| field.number(0..=u32::MAX))? };
    let is_same = |earlier: &SandboxRoute| (earlier.to, earlier.metric) == (route.to, route.metric);
    if earlier.iter().any(is_same) { Err(fields.refuse(TO, "the same route is listed twice")) } else { Ok(route) }
}

fn destination(text: &str) -> Result<IpPrefix, String> {
    let to = prefix(text)?;
    if to.is_everything() {
        return Err("a default route is not allowed: list the networks behind the device".into());
    }
    if to.address().is_multicast() || !to.is_network() {
        return Err("must be a network: no bits set after the prefix, and not multicast".into());
    }
    Ok(to)
}
