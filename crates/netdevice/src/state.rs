//! The complete state of a link: everything that a move removes, so it is recorded before.
//!
//! Addresses are parsed completely. Routes and neighbours keep the attributes that we do not need as the kernel wrote them, so
//! that metrics, encapsulations and future attributes are restored too.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{
    bytes::{HardwareAddress, KernelString, hex},
    encoded_name,
    link::flags,
    name::InterfaceName,
};

/// A link with everything on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    /// `IFLA_IFNAME`, [encoded](encoded_name).
    #[serde(with = "encoded_name::json")]
    pub name: InterfaceName,
    /// `ifi_index`.
    pub index: u32,
    /// `IFLA_INFO_KIND`; none for a physical device.
    pub kind: Option<String>,
    /// `ifi_flags`.
    pub flags: u32,
    /// `IFLA_ADDRESS`.
    pub mac: Option<HardwareAddress>,
    /// `IFLA_PERM_ADDRESS`: the address of the hardware, which cannot be changed.
    pub permanent_mac: Option<HardwareAddress>,
    /// `IFLA_PARENT_DEV_NAME`: name of the parent device, the last part of its path in sysfs; visible in every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_device: Option<String>,
    /// `IFLA_IFALIAS`.
    pub alias: Option<KernelString>,
    /// `IFLA_ALT_IFNAME`.
    pub altnames: Vec<KernelString>,
    /// `IFLA_MTU` in bytes.
    pub mtu: u32,
    /// `IFLA_TXQLEN` in packets.
    pub txqlen: u32,
    /// `IFLA_GROUP`.
    pub group: u32,
    /// `IFLA_GSO_*` and `IFLA_GRO_*`: by attribute, the maximum size of packets that the card or the stack segments or
    /// coalesces.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub offload_sizes: BTreeMap<u16, u32>,
    /// `IFLA_MACVLAN_MODE`, of a macvlan or macvtap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macvlan_mode: Option<u32>,
    /// Attributes of the link's message that a container can change and that are sent back as the kernel wrote them, see
    /// `SENT_BACK` in `rtnl::link`: broadcast address, link mode, protodown and its reasons, carrier, IPv6 token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<Attribute>,
    /// `IFLA_INFO_DATA` of a kind whose settings can be changed while the link exists: of a vxlan or a macvlan.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub info_data: Vec<Attribute>,
    /// `IFLA_MASTER`.
    pub master: Option<u32>,
    /// Name of the master, [encoded](encoded_name): another link may have its index when the device returns.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "encoded_name::optional_json")]
    pub master_name: Option<InterfaceName>,
    /// `IFLA_LINK`: the link below, in any namespace.
    pub parent: Option<u32>,
    /// `IFLA_LINK_NETNSID`: the namespace of the link below, if it is another one.
    pub link_netnsid: Option<i32>,
    /// `IFLA_NETNS_IMMUTABLE`, as in [`crate::Link`]. Not part of what is restored.
    #[serde(skip)]
    pub netns_immutable: Option<bool>,
    /// Addresses, in the kernel's order: a primary one before its secondaries.
    pub addresses: Vec<Address>,
    /// Routes of every table through the link, in the kernel's order.
    pub routes: Vec<Route>,
    /// IPv4 routes through other links that have an address of this one as their source: the kernel deletes them with the
    /// address (`fib_sync_down_addr`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes_from: Vec<Route>,
    /// Whether the node had more routes than were searched for `routes_from`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub routes_unseen: bool,
    /// Permanent neighbours, proxy entries, and static entries of the forwarding database (family 7).
    pub neighbours: Vec<Neighbour>,
    /// `IFLA_INET_CONF`: `/proc/sys/net/ipv4/conf/<link>`, value by index of `IPV4_DEVCONF_*` less one.
    pub ipv4_conf: Vec<i32>,
    /// `IFLA_INET6_CONF`: `/proc/sys/net/ipv6/conf/<link>`, value by index of `DEVCONF_*`.
    pub ipv6_conf: Vec<i32>,
    /// `IFLA_INET6_ADDR_GEN_MODE`.
    pub addr_gen_mode: Option<u8>,
    /// Settings that only files have and that were changed: by `ipv4/neigh/<file>` and the like, the text of
    /// `/proc/sys/net/ipv4/neigh/<link>/<file>`.
    pub sysctls: BTreeMap<String, String>,
    /// Settings of the driver: by command of ethtool, the bytes of the answer that can be set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ethtool: Vec<Attribute>,
    /// Settings that only `/sys/class/net/<link>` has and that are not zero: by file, its text. None if they could not
    /// be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<BTreeMap<String, String>>,
    /// `IFLA_QDISC`: kind of the queueing discipline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qdisc: Option<String>,
    /// Queueing disciplines that were configured, as messages of the kernel by their kind. A filter (44) has no message: it is
    /// only recorded that there was one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<Attribute>,
    /// `/sys/devices/…` of the hardware, without `/net/<name>`; none for a virtual link.
    pub hardware: Option<HardwarePlace>,
    /// Whether an XDP program is attached to the link.
    #[serde(default)]
    pub xdp: bool,
    /// Ids of the XDP programs on the link, by `IFLA_XDP_*_PROG_ID`, which names the mode.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xdp_programs: BTreeMap<u16, u32>,
    /// The tcx or netkit programs on the link; none if they were not read.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "programs_as_numbers")]
    pub programs: Option<Vec<BpfProgram>>,
    /// Inode of the link's directory in sysfs. It does not change on a move or rename, and the kernel does not reuse it, so it
    /// identifies the link. None for a physical device, or if sysfs showed another namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sysfs_inode: Option<u64>,
    /// `IFLA_PROMISCUITY`: number of users that receive every frame. Not in a record.
    #[serde(skip)]
    pub promiscuity: u32,
    /// When this was read: seconds of `CLOCK_BOOTTIME`. Lifetimes count from here.
    pub read_at: u64,
}

/// A BPF program on a link, attached with bpf(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BpfProgram {
    /// `enum bpf_attach_type`: the direction of packets.
    pub attach_type: u32,
    /// Id of the program.
    pub program: u32,
    /// Id of the BPF link that attaches it; 0 for none.
    pub link: u32,
}

impl BpfProgram {
    /// Whether both are the same attachment. The owner of a BPF link can replace its program.
    pub fn is_same(&self, other: &Self) -> bool {
        let key = |it: &Self| (it.attach_type, it.link, if it.link == 0 { it.program } else { 0 });
        key(self) == key(other)
    }
}

/// The position of a physical device in sysfs, independent of the name of its interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardwarePlace {
    /// Resolved path of `/sys/class/net/<name>/device`.
    pub path: String,
    /// Its NUMA node.
    pub numa_node: Option<u32>,
}

impl LinkState {
    /// A link with that name and index that is down and not configured.
    pub fn new(name: InterfaceName, index: u32) -> Self {
        Self {
            name,
            index,
            kind: None,
            flags: 0,
            mac: None,
            permanent_mac: None,
            parent_device: None,
            alias: None,
            altnames: Vec::new(),
            mtu: 0,
            txqlen: 0,
            group: 0,
            offload_sizes: BTreeMap::new(),
            macvlan_mode: None,
            attributes: Vec::new(),
            info_data: Vec::new(),
            master: None,
            master_name: None,
            parent: None,
            link_netnsid: None,
            netns_immutable: None,
            addresses: Vec::new(),
            routes: Vec::new(),
            routes_from: Vec::new(),
            routes_unseen: false,
            neighbours: Vec::new(),
            ipv4_conf: Vec::new(),
            ipv6_conf: Vec::new(),
            addr_gen_mode: None,
            sysctls: BTreeMap::new(),
            ethtool: Vec::new(),
            files: None,
            qdisc: None,
            objects: Vec::new(),
            hardware: None,
            xdp: false,
            xdp_programs: BTreeMap::new(),
            programs: None,
            sysfs_inode: None,
            promiscuity: 0,
            read_at: 0,
        }
    }

    /// Whether the link is administratively up.
    pub fn is_up(&self) -> bool {
        self.flags & flags::UP != 0
    }

    /// The link-local address that the kernel derives from an Ethernet address (modified EUI-64, RFC 4291 appendix A).
    pub fn eui64_link_local(&self) -> Option<IpAddr> {
        let &[a, b, c, d, e, f] = self.mac.as_ref()?.as_bytes() else { return None };
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&[0xfe, 0x80]);
        bytes[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        Some(IpAddr::from(bytes))
    }
}

/// `ifa_flags` (`include/uapi/linux/if_addr.h`).
pub mod address_flags {
    /// IPv6: not yet known to be unique, or a later address of the same IPv4 subnet.
    pub const SECONDARY: u32 = 0x01;
    /// No duplicate address detection.
    pub const NODAD: u32 = 0x02;
    /// A duplicate was found.
    pub const DADFAILED: u32 = 0x08;
    /// Past its preferred lifetime.
    pub const DEPRECATED: u32 = 0x20;
    /// Duplicate address detection runs.
    pub const TENTATIVE: u32 = 0x40;
    /// No lifetime.
    pub const PERMANENT: u32 = 0x80;
    /// The kernel makes temporary addresses from it.
    pub const MANAGETEMPADDR: u32 = 0x100;
    /// The kernel makes no route of the prefix.
    pub const NOPREFIXROUTE: u32 = 0x200;
    /// The flags that a program can set; the kernel computes the others.
    pub const REQUESTABLE: u32 = NODAD | 0x10 | MANAGETEMPADDR | NOPREFIXROUTE | 0x400 | 0x04;
}

/// `IFAPROT_KERNEL_LL`: the kernel made this link-local address itself.
pub const PROTOCOL_KERNEL_LINK_LOCAL: u8 = 3;

/// An address on a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// `IFA_LOCAL`, or `IFA_ADDRESS` where there is no local one.
    pub local: IpAddr,
    /// `ifa_prefixlen`.
    pub prefix_len: u8,
    /// `IFA_ADDRESS` of a point-to-point address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// `IFA_BROADCAST`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<IpAddr>,
    /// `ifa_scope`.
    pub scope: u8,
    /// `IFA_FLAGS`, see [`address_flags`].
    pub flags: u32,
    /// `IFA_LABEL`, IPv4 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<KernelString>,
    /// `IFA_RT_PRIORITY`: metric of the prefix route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// `IFA_PROTO`: its origin (Linux 5.18).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// Preferred and valid lifetime in seconds, of an address that is not permanent; `u32::MAX` is unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetimes: Option<(u32, u32)>,
}

impl Address {
    /// Whether this is an IPv6 link-local address.
    pub fn is_ipv6_link_local(&self) -> bool {
        matches!(self.local, IpAddr::V6(address) if address.is_unicast_link_local())
    }

    /// Whether it is a temporary address (privacy extensions), which the kernel makes itself.
    pub fn is_temporary(&self) -> bool {
        self.local.is_ipv6() && self.flags & address_flags::SECONDARY != 0
    }

    /// Whether the address is usable: duplicate address detection is finished or not needed.
    pub fn is_settled(&self) -> bool {
        self.flags & (address_flags::TENTATIVE | address_flags::DADFAILED) == 0
    }

    /// Whether both are the same address to the kernel (`inet_insert_ifa`, `ipv6_add_addr`).
    pub fn is_same(&self, other: &Self) -> bool {
        let same = self.local == other.local;
        if self.local.is_ipv6() { same } else { same && self.prefix_len == other.prefix_len && self.peer == other.peer }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.local)?;
        if let Some(peer) = self.peer {
            write!(out, " peer {peer}")?;
        }
        write!(out, "/{}", self.prefix_len)
    }
}

/// An attribute as the kernel wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// `nla_type` with its flags.
    pub kind: u16,
    /// The value, in the machine's byte order.
    #[serde(with = "hex")]
    pub value: Vec<u8>,
}

impl Attribute {
    /// The value as a number, if it has four bytes.
    pub fn as_u32(&self) -> Option<u32> {
        self.value.as_slice().try_into().ok().map(u32::from_ne_bytes)
    }

    /// The value as an address, by its length.
    pub fn as_address(&self) -> Option<IpAddr> {
        if let Ok(bytes) = <[u8; 4]>::try_from(self.value.as_slice()) {
            return Some(bytes.into());
        }
        <[u8; 16]>::try_from(self.value.as_slice()).ok().map(IpAddr::from)
    }
}

/// Sizes of offloaded packets: attributes of a link (`include/uapi/linux/if_link.h`).
pub mod offload_size {
    /// Segmentation (`IFLA_GSO_MAX_SIZE`).
    pub const GSO: u16 = 41;
    /// Coalescing (`IFLA_GRO_MAX_SIZE`).
    pub const GRO: u16 = 58;
    /// Segmentation of IPv4 (`IFLA_GSO_IPV4_MAX_SIZE`).
    pub const GSO_IPV4: u16 = 63;
    /// Coalescing of IPv4 (`IFLA_GRO_IPV4_MAX_SIZE`).
    pub const GRO_IPV4: u16 = 64;
    /// Up to here the kernel sets the size of IPv4 with the other (`GSO_LEGACY_MAX_SIZE`).
    pub const LEGACY: u32 = 65536;
}

/// Attributes of a route that we read (`include/uapi/linux/rtnetlink.h`).
pub mod route_attribute {
    /// Destination prefix.
    pub const DST: u16 = 1;
    /// Outgoing link.
    pub const OIF: u16 = 4;
    /// Gateway of the route's own family.
    pub const GATEWAY: u16 = 5;
    /// Metric.
    pub const PRIORITY: u16 = 6;
    /// Source address for packets of this node.
    pub const PREFSRC: u16 = 7;
    /// Several next hops, `struct rtnexthop`.
    pub const MULTIPATH: u16 = 9;
    /// `struct rta_cacheinfo`: counters of the kernel.
    pub const CACHEINFO: u16 = 12;
    /// Table, if the header's byte is too small.
    pub const TABLE: u16 = 15;
    /// Gateway of another family.
    pub const VIA: u16 = 18;
    /// Preference of an IPv6 router.
    pub const PREF: u16 = 20;
    /// IPv6 lifetime in seconds.
    pub const EXPIRES: u16 = 23;
    /// Next-hop object.
    pub const NH_ID: u16 = 30;
}

/// A route through a link: `struct rtmsg` and attributes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// `rtm_family`: 2 is IPv4, 10 is IPv6.
    pub family: u8,
    /// `rtm_dst_len`.
    pub dst_len: u8,
    /// `rtm_src_len`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub src_len: u8,
    /// `rtm_tos`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tos: u8,
    /// `RTA_TABLE`, or `rtm_table`.
    pub table: u32,
    /// `rtm_protocol`: 2 is the kernel, 9 a router advertisement.
    pub protocol: u8,
    /// `rtm_scope`: 253 is the link, 0 everywhere.
    pub scope: u8,
    /// `rtm_type`: 1 is unicast.
    pub kind: u8,
    /// `rtm_flags`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub flags: u32,
    /// All attributes except the table.
    pub attributes: Vec<Attribute>,
}

/// Whether a number of a route is zero, as for most routes: records omit it.
fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

/// `rtm_type` of an ordinary route.
pub const ROUTE_UNICAST: u8 = 1;
/// `RTN_LOCAL`: the destination is an address of the link.
pub const ROUTE_LOCAL: u8 = 2;
/// `RTPROT_KERNEL`.
pub const ROUTE_BY_KERNEL: u8 = 2;
/// `RTPROT_RA`.
pub const ROUTE_BY_ADVERTISEMENT: u8 = 9;
/// `RTNH_F_ONLINK`: the gateway is on the link, whatever its address.
pub const ROUTE_ONLINK: u32 = 4;
/// `RTM_F_CLONED`: a cache entry, not a route.
pub const ROUTE_CLONED: u32 = 0x200;
/// `RT_TABLE_MAIN`.
pub const TABLE_MAIN: u32 = 254;
/// `RT_TABLE_LOCAL`.
pub const TABLE_LOCAL: u32 = 255;
/// `RT_SCOPE_UNIVERSE`: everywhere.
pub const SCOPE_UNIVERSE: u8 = 0;
/// `RT_SCOPE_LINK`: destinations on the link, without a gateway.
pub const SCOPE_LINK: u8 = 253;

impl Route {
    /// The attribute of that kind.
    pub fn attribute(&self, kind: u16) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.kind & 0x3fff == kind)
    }

    /// Metric; 0 if it has none.
    pub fn metric(&self) -> u32 {
        self.attribute(route_attribute::PRIORITY).and_then(Attribute::as_u32).unwrap_or(0)
    }

    /// The outgoing link, if the route itself has one.
    pub fn link(&self) -> Option<u32> {
        self.attribute(route_attribute::OIF)?.as_u32()
    }

    /// Destination address, none for a default route.
    pub fn destination(&self) -> Option<IpAddr> {
        self.attribute(route_attribute::DST)?.as_address()
    }

    /// Whether it has a gateway, which must be reachable by another route.
    pub fn has_gateway(&self) -> bool {
        [route_attribute::GATEWAY, route_attribute::VIA, route_attribute::MULTIPATH]
            .iter()
            .any(|kind| self.attribute(*kind).is_some())
    }

    /// Source address for packets of this node, if it has one.
    pub fn source(&self) -> Option<IpAddr> {
        self.attribute(route_attribute::PREFSRC)?.as_address()
    }

    /// Whether it is an IPv4 or IPv6 route: not a route of another family or of a multicast router.
    pub fn is_ip(&self) -> bool {
        matches!(self.family, 2 | 10)
    }

    /// Whether the kernel adds and removes it with an address: a local route or the like, in the table of a VRF if there is
    /// one.
    pub fn comes_with_address(&self) -> bool {
        self.protocol == ROUTE_BY_KERNEL && (self.table == TABLE_LOCAL || self.kind != ROUTE_UNICAST)
    }

    /// Whether it is a default route.
    pub fn is_default(&self) -> bool {
        self.dst_len == 0 && self.kind == ROUTE_UNICAST
    }

    /// Whether both have the same destination in the same table.
    pub fn has_same_target(&self, other: &Self) -> bool {
        let target = |route: &Self| (route.family, route.table, route.dst_len, route.tos, route.destination());
        target(self) == target(other)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.destination() {
            Some(address) => write!(out, "{address}/{}", self.dst_len)?,
            None => out.write_str("default")?,
        }
        if let Some(gateway) = self.attribute(route_attribute::GATEWAY).and_then(Attribute::as_address) {
            write!(out, " via {gateway}")?;
        }
        if self.metric() != 0 {
            write!(out, " metric {}", self.metric())?;
        }
        write!(out, " table {}", self.table)
    }
}

/// A permanent neighbour, a proxy entry or an entry of the forwarding database: `struct ndmsg` and attributes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// `ndm_family`.
    pub family: u8,
    /// `ndm_state`: 0x80 is permanent.
    pub state: u16,
    /// `ndm_flags`.
    pub flags: u8,
    /// `NDA_DST`, `NDA_LLADDR` and the rest.
    pub attributes: Vec<Attribute>,
}

/// `NUD_PERMANENT`.
pub const NEIGHBOUR_PERMANENT: u16 = 0x80;
/// `NUD_NOARP`: in the forwarding database, an entry that does not age.
pub const NEIGHBOUR_NOARP: u16 = 0x40;
/// `NTF_PROXY`: the node answers for the address.
pub const NEIGHBOUR_PROXY: u8 = 0x08;
/// `NTF_SELF`: an entry of the link's own forwarding database, not of its master's.
pub const NEIGHBOUR_SELF: u8 = 0x02;
/// `AF_BRIDGE`, the family of the forwarding database.
pub const FORWARDING: u8 = 7;

impl Neighbour {
    /// Whether the entry belongs to the node and not to the device: proxy entries, and the forwarding database.
    pub fn is_of_node(&self) -> bool {
        self.family == FORWARDING || self.flags & NEIGHBOUR_PROXY != 0
    }

    /// `NDA_LLADDR`: the hardware address.
    pub fn hardware_address(&self) -> Option<&[u8]> {
        self.attributes.iter().find(|attribute| attribute.kind == 2).map(|attribute| attribute.value.as_slice())
    }

    /// `NDA_DST`: the protocol address.
    pub fn destination(&self) -> Option<IpAddr> {
        self.attributes.iter().find(|attribute| attribute.kind == 1)?.as_address()
    }
}

impl fmt::Display for Neighbour {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.destination(), self.hardware_address().and_then(HardwareAddress::new)) {
            (Some(address), None) => address.fmt(out),
            (Some(address), Some(_)) if self.family != FORWARDING => address.fmt(out),
            (Some(address), Some(hardware)) => write!(out, "{hardware} dst {address}"),
            (None, Some(hardware)) => hardware.fmt(out),
            (None, None) => out.write_str("?"),
        }
    }
}

/// BPF programs in JSON: three numbers each, in one list.
mod programs_as_numbers {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::BpfProgram;

    pub(crate) fn serialize<S: Serializer>(programs: &Option<Vec<BpfProgram>>, out: S) -> Result<S::Ok, S::Error> {
        let all = programs.iter().flatten();
        let numbers = all.flat_map(|it| [it.attach_type, it.program, it.link]).map(u32::cast_signed);
        numbers.collect::<Vec<i32>>().serialize(out)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<BpfProgram>>, D::Error> {
        let numbers = Vec::<i32>::deserialize(from)?;
        let program = |numbers: &[i32]| BpfProgram {
            attach_type: numbers[0].cast_unsigned(),
            program: numbers[1].cast_unsigned(),
            link: numbers[2].cast_unsigned(),
        };
        Ok(Some(numbers.chunks_exact(3).map(program).collect()))
    }
}
