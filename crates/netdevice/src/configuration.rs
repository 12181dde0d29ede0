//! What a Pod requests for a device in its sandbox: another name, addresses, routes, MTU, hardware address.
//!
//! It is part of the record of an attachment, so that a repeated attach or a repair gives the same result.

#[cfg(feature = "selection")]
mod device;
#[cfg(feature = "selection")]
pub(crate) mod fields;
mod namespace;
#[cfg(feature = "selection")]
pub(crate) mod read;
#[cfg(feature = "selection")]
pub(crate) mod settings;

use std::{
    collections::BTreeMap,
    fmt,
    net::{AddrParseError, IpAddr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    bytes::HardwareAddress,
    id::DeviceId,
    name::InterfaceName,
    sandbox_name::SandboxInterfaceName,
    state::{
        Address, Attribute, ROUTE_ONLINK, ROUTE_UNICAST, Route, SCOPE_LINK, SCOPE_UNIVERSE, TABLE_MAIN, address_flags,
        offload_size, route_attribute,
    },
};

pub use self::namespace::{SandboxNeighbour, SandboxRule, Vrf};
#[cfg(feature = "selection")]
pub use self::{
    device::DeviceConfiguration, fields::FieldError, read::names as field_names, settings::names as setting_names,
};

/// Smallest MTU of IPv6 (RFC 8200, section 5). The kernel switches IPv6 off on a link with a smaller one.
pub const MIN_IPV6_MTU: u32 = 1280;

/// Smallest size of a packet that is segmented later. Below `MAX_TCP_HEADER` the kernel's computation underflows
/// (CVE-2024-50258), and a program of the Pod could crash the node. This is above it in every build of the kernel.
pub const MIN_GSO_SIZE: u32 = 4096;

/// The configuration of a device in a sandbox. By default it keeps its name, MTU and hardware address, is up, and has no address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxConfiguration {
    /// Its name in the sandbox. None: its name on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<SandboxInterfaceName>,
    /// Addresses, each with its prefix length.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpPrefix>,
    /// Routes through the device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<SandboxRoute>,
    /// MTU in bytes. None: as on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Hardware address. None: as on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<HardwareAddress>,
    /// Whether the device also keeps what it has on the host: addresses, routes, neighbours, alias, alternative names, queue
    /// length and settings. What is requested here is added, or replaces the same thing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inherit: bool,
    /// Routing rules of the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<SandboxRule>,
    /// Permanent neighbours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<SandboxNeighbour>,
    /// The VRF that the device is a port of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vrf: Option<Vrf>,
    /// Settings of the interface: by `ipv4/conf/<file>` and the like, the number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Length of the transmit queue in packets. None: as on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_queue_length: Option<u32>,
    /// `IFLA_GSO_*` and `IFLA_GRO_*`: by attribute, the size in bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub offload_sizes: BTreeMap<u16, u32>,
    /// Features of the driver, by name: `on` or `off`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub features: BTreeMap<String, String>,
    /// Private flags of the driver, by name: `on` or `off`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub private_flags: BTreeMap<String, String>,
}

/// An IP address and its prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpPrefix {
    address: IpAddr,
    len: u8,
}

/// Why a text or a pair is not an [`IpPrefix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpPrefixError {
    /// The part before the slash.
    #[error("invalid IP address")]
    Address(#[from] AddrParseError),
    /// The part after the slash.
    #[error("the prefix length must be between 0 and {0}")]
    Length(u8),
}

/// The number of bits of an address.
fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl IpPrefix {
    /// An address with a prefix length.
    ///
    /// # Errors
    ///
    /// When the prefix length is larger than the address.
    pub fn new(address: IpAddr, len: u8) -> Result<Self, IpPrefixError> {
        let most = bits(address);
        if len <= most { Ok(Self { address, len }) } else { Err(IpPrefixError::Length(most)) }
    }

    /// One address: the prefix length is the length of the address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, len: bits(address) }
    }

    /// The address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The prefix length.
    pub fn prefix_len(&self) -> u8 {
        self.len
    }

    /// Whether the prefix contains every address.
    pub fn is_everything(&self) -> bool {
        self.len == 0
    }

    /// Whether no bit is set after the prefix, as a route's destination must be.
    pub fn is_network(&self) -> bool {
        let rest = u32::from(bits(self.address) - self.len);
        match self.address {
            IpAddr::V4(address) => rest == 0 || address.to_bits().trailing_zeros() >= rest,
            IpAddr::V6(address) => rest == 0 || address.to_bits().trailing_zeros() >= rest,
        }
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.len)
    }
}

impl FromStr for IpPrefix {
    type Err = IpPrefixError;

    /// Reads `10.0.0.2/24`; without a prefix length it is one address.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((address, len)) = text.split_once('/') else { return Ok(Self::host(text.parse()?)) };
        let address: IpAddr = address.parse()?;
        let plain = (1..=3).contains(&len.len()) && len.bytes().all(|byte| byte.is_ascii_digit());
        let len = len.parse().ok().filter(|_| plain).ok_or(IpPrefixError::Length(bits(address)))?;
        Self::new(address, len)
    }
}

impl Serialize for IpPrefix {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IpPrefix {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// A route through the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SandboxRoute {
    /// The destination; a default route only in a table of its own.
    pub to: IpPrefix,
    /// The gateway, of the same family; none if the destination is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// Metric. None: the kernel's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// The table. None: that of the VRF, or the main table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Source address for packets of the Pod itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// `rtm_scope` of an IPv4 route. None: `link` without a gateway, else `global`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
    /// Whether the gateway is on the link although no address of the link says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub onlink: bool,
}

/// `RTPROT_STATIC`: made by an administrator.
const BY_ADMINISTRATOR: u8 = 4;
/// `IP6_RT_PRIO_USER`: the metric that the kernel gives an IPv6 route without one (`include/net/ip6_route.h`).
const DEFAULT_IPV6_METRIC: u32 = 1024;

impl SandboxRoute {
    /// The route as the kernel keeps it, through the link of that index.
    pub(crate) fn through(&self, link: u32, vrf: Option<&Vrf>) -> Route {
        let is_ipv4 = self.to.address.is_ipv4();
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let attribute = |kind, value| Attribute { kind, value };
        let mut attributes = vec![attribute(route_attribute::OIF, link.to_ne_bytes().to_vec())];
        if !self.to.is_everything() {
            attributes.push(attribute(route_attribute::DST, octets(self.to.address)));
        }
        attributes.extend(self.source.map(|source| attribute(route_attribute::PREFSRC, octets(source))));
        attributes.extend(self.via.map(|via| attribute(route_attribute::GATEWAY, octets(via))));
        // an IPv6 route of metric 0 is one of the default metric
        let default = if is_ipv4 { 0 } else { DEFAULT_IPV6_METRIC };
        let metric = self.metric.filter(|metric| *metric != 0).unwrap_or(default);
        if metric != 0 {
            attributes.push(attribute(route_attribute::PRIORITY, metric.to_ne_bytes().to_vec()));
        }
        Route {
            family: if is_ipv4 { 2 } else { 10 },
            dst_len: self.to.len,
            src_len: 0,
            tos: 0,
            table: self.table.or(vrf.map(|vrf| vrf.table)).unwrap_or(TABLE_MAIN),
            protocol: BY_ADMINISTRATOR,
            scope: self.scope.unwrap_or(if is_ipv4 && self.via.is_none() { SCOPE_LINK } else { SCOPE_UNIVERSE }),
            kind: ROUTE_UNICAST,
            flags: if self.onlink { ROUTE_ONLINK } else { 0 },
            attributes,
        }
    }
}

impl SandboxConfiguration {
    /// The name of the device in the sandbox.
    pub fn name_inside<'a>(&'a self, host: &'a InterfaceName) -> &'a InterfaceName {
        self.name.as_ref().map_or(host, SandboxInterfaceName::as_interface_name)
    }

    /// The same, with the [own name](DeviceId::default_name) of the device if it has none.
    #[must_use]
    pub fn with_own_name(mut self, device: &DeviceId) -> Self {
        self.name = self.name.or_else(|| device.default_name().try_into().ok());
        self
    }

    /// The routes as the kernel keeps them, through the link of that index.
    pub(crate) fn kernel_routes(&self, link: u32) -> impl Iterator<Item = Route> + '_ {
        self.routes.iter().map(move |route| route.through(link, self.vrf.as_ref()))
    }

    /// A size that is dangerous on some kernels. A record or reservation of an earlier version may have one.
    pub fn dangerous_size(&self) -> Option<u32> {
        let sizes = [offload_size::GSO, offload_size::GSO_IPV4].into_iter();
        sizes.filter_map(|kind| self.offload_sizes.get(&kind).copied()).find(|size| *size < MIN_GSO_SIZE)
    }

    /// The value of one setting, by its key.
    pub(crate) fn setting(&self, key: &str) -> Option<i32> {
        self.sysctls.get(key)?.parse().ok()
    }

    /// The addresses as the kernel has them: permanent, and without duplicate address detection, for the Pod's author chose
    /// them.
    pub(crate) fn kernel_addresses(&self) -> impl Iterator<Item = Address> + '_ {
        self.addresses.iter().map(|prefix| Address {
            local: prefix.address,
            prefix_len: prefix.len,
            peer: None,
            broadcast: None,
            scope: SCOPE_UNIVERSE,
            flags: address_flags::PERMANENT,
            label: None,
            metric: None,
            protocol: None,
            lifetimes: None,
        })
    }
}
