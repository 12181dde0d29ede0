//! One device of the list, field by field.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::{DeviceRequest, Problem, Shown, Wanted};
use crate::{
    bytes::HardwareAddress,
    configuration::{IpPrefix, IpPrefixError, MIN_IPV6_MTU, SandboxConfiguration, SandboxRoute},
    name::{InterfaceName, InterfaceNameError, MAX_NAME_LEN},
    sandbox_name::SandboxInterfaceName,
};

/// Smallest MTU of IPv4 (RFC 791: every node takes 68 bytes).
const MIN_MTU: u32 = 68;
/// Largest MTU: the length field of IPv4.
const MAX_MTU: u32 = 65535;

const DEVICE_FIELDS: [&str; 10] =
    ["name", "pool", "new_name", "address", "prefix", "addresses", "routes", "mtu", "mac", "inherit"];
/// Those of the configuration alone.
const CONFIGURATION_FIELDS: [&str; 8] =
    ["new_name", "address", "prefix", "addresses", "routes", "mtu", "mac", "inherit"];
const ROUTE_FIELDS: [&str; 3] = ["to", "via", "metric"];

/// A mapping without unknown fields.
struct Fields(Map<String, Value>);

impl Fields {
    fn new(value: Value, known: &[&str]) -> Result<Self, Problem> {
        let Value::Object(fields) = value else { return Err(Problem::NoMapping) };
        match fields.keys().find(|field| !known.contains(&field.as_str())) {
            Some(field) => Err(Problem::Unknown(Shown::new(field))),
            None => Ok(Self(fields)),
        }
    }

    /// The value of a field; none if it is `null`.
    fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    /// The text of a field, read by `read`.
    fn text<T>(&self, field: &'static str, read: fn(&str) -> Result<T, String>) -> Result<Option<T>, Problem> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let rule = || refused(field, "must be a string: quote a value that looks like a number");
        let text = value.as_str().ok_or_else(rule)?;
        read(text).map(Some).map_err(|rule| refused(field, rule))
    }

    fn number(&self, field: &'static str, range: std::ops::RangeInclusive<u32>) -> Result<Option<u32>, Problem> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let rule = || refused(field, format!("must be a number from {} to {}", range.start(), range.end()));
        number.filter(|number| range.contains(number)).map(Some).ok_or_else(rule)
    }

    fn truth(&self, field: &'static str) -> Result<bool, Problem> {
        match self.get(field) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(refused(field, "must be true or false")),
        }
    }

    fn list(&self, field: &'static str) -> Result<&[Value], Problem> {
        match self.get(field) {
            None => Ok(&[]),
            Some(Value::Array(list)) => Ok(list),
            Some(_) => Err(refused(field, "must be a list")),
        }
    }
}

fn refused(field: &'static str, rule: impl Into<String>) -> Problem {
    Problem::Field { field, rule: rule.into() }
}

/// Reads one device.
pub(super) fn device(value: Value) -> Result<DeviceRequest, Problem> {
    let fields = Fields::new(value, &DEVICE_FIELDS)?;
    let name = fields.text("name", |text| sandbox_name(text).map(|name| name.as_interface_name().clone()))?;
    let pool = fields.text("pool", |text| text.parse().map_err(|_| "invalid pool name".to_owned()))?;
    let device = match (name, pool) {
        (Some(name), None) => Wanted::Name(name),
        (None, Some(pool)) => Wanted::Pool(pool),
        (None, None) => return Err(Problem::NoName),
        (Some(_), Some(_)) => return Err(Problem::NameAndPool),
    };
    Ok(DeviceRequest { device, configuration: configuration_of(&fields)? })
}

/// Reads the configuration of a device.
pub(super) fn configuration(value: Value) -> Result<SandboxConfiguration, Problem> {
    configuration_of(&Fields::new(value, &CONFIGURATION_FIELDS)?)
}

fn configuration_of(fields: &Fields) -> Result<SandboxConfiguration, Problem> {
    let addresses = addresses(fields)?;
    let routes = routes(fields)?;
    let has_ipv6 = addresses.iter().any(|prefix| prefix.address().is_ipv6());
    let least = if has_ipv6 { MIN_IPV6_MTU } else { MIN_MTU };
    Ok(SandboxConfiguration {
        name: fields.text("new_name", sandbox_name)?,
        addresses,
        routes,
        mtu: fields.number("mtu", least..=MAX_MTU)?,
        mac: fields.text("mac", hardware_address)?,
        inherit: fields.truth("inherit")?,
    })
}

/// Checks a name by the kernel's rules. The error does not repeat the name.
fn sandbox_name(text: &str) -> Result<SandboxInterfaceName, String> {
    let name = InterfaceName::try_from(text).and_then(SandboxInterfaceName::try_from);
    name.map_err(|error| match error {
        InterfaceNameError::Empty => "empty name".into(),
        InterfaceNameError::TooLong(_, length) => format!("too long: {length} bytes, the limit is {MAX_NAME_LEN}"),
        InterfaceNameError::Dots(_) => "a name of dots only is not allowed".into(),
        InterfaceNameError::Byte(_, byte) => format!("the byte 0x{byte:02x} is not allowed in an interface name"),
        InterfaceNameError::Reserved(_, reason) => format!("this name is not allowed: {reason}"),
    })
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

/// `address` with `prefix`, and those of `addresses`.
fn addresses(fields: &Fields) -> Result<Vec<IpPrefix>, Problem> {
    let mut all = Vec::new();
    match (fields.text("address", address)?, fields.number("prefix", 1..=128)?) {
        (None, None) => {}
        (None, Some(_)) => return Err(refused("prefix", "set without address")),
        (Some(address), len) => {
            let whole = IpPrefix::host(address);
            let len = len.map_or(whole.prefix_len(), |len| u8::try_from(len).unwrap_or(u8::MAX));
            let both = IpPrefix::new(address, len)
                .map_err(|_| refused("prefix", format!("must be a number from 1 to {}", whole.prefix_len())))?;
            all.push(own(both).map_err(|rule| refused("address", rule))?);
        }
    }
    for value in fields.list("addresses")? {
        let text = value.as_str().ok_or_else(|| refused("addresses", "must be a list of strings"))?;
        all.push(prefix(text).and_then(own).map_err(|rule| refused("addresses", rule))?);
    }
    for (at, prefix) in all.iter().enumerate() {
        if all[..at].iter().any(|earlier| earlier.address() == prefix.address()) {
            return Err(refused("addresses", "the same address is listed twice"));
        }
    }
    Ok(all)
}

fn routes(fields: &Fields) -> Result<Vec<SandboxRoute>, Problem> {
    let mut routes: Vec<SandboxRoute> = Vec::new();
    for (number, value) in (1..).zip(fields.list("routes")?) {
        let twice = |route: &SandboxRoute| {
            let is_same = |earlier: &SandboxRoute| (earlier.to, earlier.metric) == (route.to, route.metric);
            routes.iter().any(is_same).then(|| refused("to", "the same route is listed twice"))
        };
        let route = route(value.clone()).and_then(|route| twice(&route).map_or(Ok(route), Err));
        routes.push(route.map_err(|problem| Problem::Route { number, problem: Box::new(problem) })?);
    }
    Ok(routes)
}

fn route(value: Value) -> Result<SandboxRoute, Problem> {
    let fields = Fields::new(value, &ROUTE_FIELDS)?;
    let to = fields.text("to", destination)?.ok_or_else(|| refused("to", "missing"))?;
    let via = fields.text("via", address)?;
    if let Some(via) = via {
        if via.is_ipv4() != to.address().is_ipv4() {
            return Err(refused("via", "the gateway and the destination must be of one address family"));
        }
        if via.is_unspecified() || via.is_multicast() || via.is_loopback() {
            return Err(refused("via", "a gateway cannot have this address"));
        }
    }
    Ok(SandboxRoute { to, via, metric: fields.number("metric", 0..=u32::MAX)? })
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
