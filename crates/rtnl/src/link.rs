//! Links: `struct ifinfomsg` and `IFLA_*`.

use std::collections::BTreeMap;

use netdevice::{HardwareAddress, InterfaceName, KernelString, Link, LinkState, acquisition::ChildKind};

use crate::{
    attribute::{Attribute, KIND_MASK, attributes},
    field::number,
    message::{Malformed, flags, kind},
    request::{Batch, NESTED, Request},
};

/// `IFLA_*` (`include/uapi/linux/if_link.h`).
#[allow(missing_docs)] // the kernel's names say it
pub mod attribute {
    pub const ADDRESS: u16 = 1;
    pub const BROADCAST: u16 = 2;
    pub const IFNAME: u16 = 3;
    pub const MTU: u16 = 4;
    pub const LINK: u16 = 5;
    pub const QDISC: u16 = 6;
    pub const MASTER: u16 = 10;
    pub const WIRELESS: u16 = 11;
    pub const TXQLEN: u16 = 13;
    pub const LINKMODE: u16 = 17;
    pub const LINKINFO: u16 = 18;
    pub const NET_NS_PID: u16 = 19;
    pub const IFALIAS: u16 = 20;
    pub const AF_SPEC: u16 = 26;
    pub const GROUP: u16 = 27;
    pub const PROMISCUITY: u16 = 30;
    pub const NET_NS_FD: u16 = 28;
    pub const EXT_MASK: u16 = 29;
    pub const CARRIER: u16 = 33;
    pub const PHYS_SWITCH_ID: u16 = 36;
    pub const LINK_NETNSID: u16 = 37;
    pub const PHYS_PORT_NAME: u16 = 38;
    pub const PROTO_DOWN: u16 = 39;
    pub const GSO_MAX_SEGS: u16 = 40;
    pub const GSO_MAX_SIZE: u16 = 41;
    pub const XDP: u16 = 43;
    pub const NEW_NETNSID: u16 = 45;
    pub const TARGET_NETNSID: u16 = 46;
    pub const NEW_IFINDEX: u16 = 49;
    pub const PROP_LIST: u16 = 52;
    pub const ALT_IFNAME: u16 = 53;
    pub const PERM_ADDRESS: u16 = 54;
    pub const PROTO_DOWN_REASON: u16 = 55;
    pub const PARENT_DEV_NAME: u16 = 56;
    pub const GRO_MAX_SIZE: u16 = 58;
    pub const GSO_IPV4_MAX_SIZE: u16 = 63;
    pub const GRO_IPV4_MAX_SIZE: u16 = 64;
    /// Linux 6.15.
    pub const NETNS_IMMUTABLE: u16 = 67;
    /// Inside `LINKINFO`.
    pub const INFO_KIND: u16 = 1;
    pub const INFO_DATA: u16 = 2;
    /// Inside `INFO_DATA` of a macvlan or macvtap.
    pub const MACVLAN_MODE: u16 = 1;
    pub const MACVLAN_MACADDR_MODE: u16 = 3;
    pub const MACVLAN_MACADDR_DATA: u16 = 5;
    pub const MACVLAN_MACADDR_COUNT: u16 = 6;
    pub const MACVLAN_BC_QUEUE_LEN_USED: u16 = 8;
    /// Inside `INFO_DATA` of an ipvlan, of a VLAN, of a VRF.
    pub const IPVLAN_MODE: u16 = 1;
    pub const VLAN_ID: u16 = 1;
    pub const VRF_TABLE: u16 = 1;
    /// Inside `INFO_DATA` of a vxlan, of an amt: the link below, which `LINK` does not contain for these two.
    pub const VXLAN_LINK: u16 = 3;
    pub const AMT_LINK: u16 = 4;
    /// Inside `AF_SPEC`: the address family.
    pub const AF_INET: u16 = 2;
    pub const AF_INET6: u16 = 10;
    /// Inside `AF_INET`.
    pub const INET_CONF: u16 = 1;
    /// Inside `AF_INET6`.
    pub const INET6_CONF: u16 = 2;
    pub const INET6_TOKEN: u16 = 7;
    pub const INET6_ADDR_GEN_MODE: u16 = 8;
    /// Inside `XDP`.
    pub const XDP_FD: u16 = 1;
    pub const XDP_ATTACHED: u16 = 2;
    pub const XDP_FLAGS: u16 = 3;
    pub const XDP_DRV_PROG_ID: u16 = 5;
    pub const XDP_SKB_PROG_ID: u16 = 6;
    pub const XDP_HW_PROG_ID: u16 = 7;
}

/// `RTEXT_FILTER_SKIP_STATS`: counters are most of a link's message, and are not used here.
const SKIP_STATS: u32 = 1 << 3;
/// Kinds whose `INFO_DATA` begins as a macvlan's.
const MACVLAN_KINDS: [&str; 2] = ["macvlan", "macvtap"];
/// Kinds whose `INFO_DATA` can be changed while the link exists and has no counters.
const CHANGEABLE_KINDS: [&str; 16] = [
    "macvlan",
    "macvtap",
    "ipvlan",
    "ipvtap",
    "vlan",
    "vxlan",
    "geneve",
    "gre",
    "gretap",
    "ip6gre",
    "ip6gretap",
    "ipip",
    "sit",
    "ip6tnl",
    "vti",
    "vti6",
];
/// Of a macvlan's `INFO_DATA`, what is set in another way or cannot be set: the mode, how many addresses there are, and a
/// length that others of its parent decide.
const NOT_SENT_BACK: [u16; 3] =
    [attribute::MACVLAN_MODE, attribute::MACVLAN_MACADDR_COUNT, attribute::MACVLAN_BC_QUEUE_LEN_USED];
/// Attributes of a link that are sent back as the kernel wrote them. Whether there is a carrier is the driver's to say, but
/// for a dummy, of which `ip link set carrier` says it.
const SENT_BACK: [u16; 5] = [
    attribute::BROADCAST,
    attribute::LINKMODE,
    attribute::CARRIER,
    attribute::PROTO_DOWN_REASON,
    attribute::PROTO_DOWN,
];
/// Inside `PROTO_DOWN_REASON`: `IFLA_PROTO_DOWN_REASON_VALUE`, 4 bytes.
const REASON_VALUE: u16 = 2;
/// `MACVLAN_MACADDR_SET`: these addresses, and no others.
const MACADDR_SET: u32 = 3;
/// `ARPHRD_PIMREG`, `ARPHRD_IEEE802154` (`include/uapi/linux/if_arp.h`): types of links that no kernel moves
/// (`net/ipv4/ipmr.c`, `net/ipv6/ip6mr.c`, `net/ieee802154`).
const IMMUTABLE_TYPES: [u16; 2] = [779, 804];
/// Size of `struct ifinfomsg`.
const HEADER: usize = 16;

/// A link's message, taken apart as far as we need.
#[derive(Debug, Clone, Copy)]
pub struct LinkMessage<'a> {
    /// `ifi_type`: `ARPHRD_*`.
    pub hardware_type: u16,
    /// `ifi_index`.
    pub index: u32,
    /// `ifi_flags`.
    pub flags: u32,
    /// `ifi_family`: `AF_BRIDGE` (7) messages speak of a port, not of a link.
    pub family: u8,
    attributes: &'a [u8],
}

/// What a link is stacked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Below<'a> {
    /// `IFLA_LINK`: index of the link below.
    pub index: Option<u32>,
    /// `IFLA_LINK_NETNSID`: namespace of the link below, if it is another one.
    pub netnsid: Option<i32>,
    /// `IFLA_INFO_KIND` of the link itself.
    pub kind: Option<&'a str>,
}

/// Reads an `RTM_NEWLINK` or `RTM_DELLINK` payload.
///
/// # Errors
///
/// When it is too short for its header.
pub fn parse(payload: &[u8]) -> Result<LinkMessage<'_>, Malformed> {
    let short = Malformed("a link's message is too short");
    Ok(LinkMessage {
        family: *payload.first().ok_or(short)?,
        hardware_type: number(payload, 2).map(u16::from_ne_bytes).ok_or(short)?,
        index: number(payload, 4).map(u32::from_ne_bytes).ok_or(short)?,
        flags: number(payload, 8).map(u32::from_ne_bytes).ok_or(short)?,
        attributes: payload.get(HEADER..).ok_or(short)?,
    })
}

impl<'a> LinkMessage<'a> {
    /// Its attributes.
    pub fn attributes(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        attributes(self.attributes)
    }

    /// The link as the inventory keeps it, without what sysfs knows; none if its name is not an interface name.
    pub fn to_link(&self) -> Option<Link> {
        let mut name = None;
        let mut altnames = Vec::new();
        let (mut parent, mut netnsid) = (None, None);
        let (mut is_switch_port, mut port_name) = (false, &[][..]);
        let mut link = Link {
            index: self.index,
            // replaced below: a link without a name is dropped
            name: InterfaceName::new(b"?").ok()?,
            altnames: Box::default(),
            alias: None,
            kind: None,
            mac: None,
            flags: self.flags,
            mtu: 0,
            master: None,
            parent: None,
            link_netnsid: None,
            netns_immutable: None,
            hardware: None,
        };
        for attribute in self.attributes() {
            match attribute.kind {
                attribute::IFNAME => name = InterfaceName::new(attribute.string()).ok(),
                attribute::ADDRESS => link.mac = HardwareAddress::new(attribute.value),
                attribute::MTU => link.mtu = attribute.u32().unwrap_or(0),
                attribute::IFALIAS => link.alias = alias(&attribute),
                attribute::MASTER => link.master = attribute.u32(),
                attribute::LINK => parent = attribute.u32().filter(|parent| *parent != self.index).or(parent),
                attribute::LINK_NETNSID => netnsid = attribute.i32(),
                attribute::LINKINFO => {
                    link.kind = info_kind(&attribute).map(Into::into);
                    parent = parent.or_else(|| parent_in_data(&attribute));
                }
                attribute::NETNS_IMMUTABLE => link.netns_immutable = attribute.u8().map(|value| value != 0),
                attribute::PHYS_SWITCH_ID => is_switch_port = true,
                attribute::PHYS_PORT_NAME => port_name = attribute.string(),
                attribute::PROP_LIST => altnames = altnames_of(&attribute),
                _ => {}
            }
        }
        link.name = name?;
        link.altnames = altnames.into();
        link.link_netnsid = netnsid;
        let is_representor = is_switch_port && is_representor(port_name);
        if link.netns_immutable.is_none() && (is_representor || IMMUTABLE_TYPES.contains(&self.hardware_type)) {
            link.netns_immutable = Some(true);
        }
        link.parent = parent.filter(|parent| netnsid.is_none() && *parent != 0 && *parent != self.index);
        Some(link)
    }

    /// What the link is stacked on. Of a list of any length, this takes no memory.
    pub fn below(&self) -> Below<'a> {
        let mut below = Below { index: None, netnsid: None, kind: None };
        for attribute in self.attributes() {
            match attribute.kind {
                attribute::LINK => below.index = attribute.u32(),
                attribute::LINK_NETNSID => below.netnsid = attribute.i32(),
                attribute::LINKINFO => below.kind = info_kind(&attribute),
                _ => {}
            }
        }
        below
    }

    /// The link's own part of its complete state; none if its name is not an interface name.
    pub fn to_state(&self) -> Option<LinkState> {
        let link = self.to_link()?;
        let is_changeable = link.kind.as_deref().is_some_and(|kind| CHANGEABLE_KINDS.contains(&kind));
        let is_macvlan = link.kind.as_deref().is_some_and(|kind| MACVLAN_KINDS.contains(&kind));
        let mut state = LinkState {
            kind: link.kind.map(Into::into),
            flags: self.flags,
            mac: link.mac,
            alias: link.alias,
            altnames: link.altnames.into_vec(),
            mtu: link.mtu,
            master: link.master,
            parent: link.parent,
            netns_immutable: link.netns_immutable,
            link_netnsid: link.link_netnsid,
            xdp: self.has_xdp(),
            xdp_programs: self.xdp_programs(),
            ..LinkState::new(link.name, self.index)
        };
        for attribute in self.attributes() {
            match attribute.kind {
                attribute::PERM_ADDRESS => state.permanent_mac = HardwareAddress::new(attribute.value),
                attribute::PARENT_DEV_NAME => {
                    state.parent_device = Some(String::from_utf8_lossy(attribute.string()).into_owned());
                }
                attribute::TXQLEN => state.txqlen = attribute.u32().unwrap_or(0),
                attribute::GROUP => state.group = attribute.u32().unwrap_or(0),
                attribute::PROMISCUITY => state.promiscuity = attribute.u32().unwrap_or(0),
                attribute::LINK if state.parent.is_none() => state.parent = attribute.u32(),
                attribute::QDISC => state.qdisc = str::from_utf8(attribute.string()).ok().map(str::to_owned),
                attribute::GSO_MAX_SEGS
                | attribute::GSO_MAX_SIZE
                | attribute::GRO_MAX_SIZE
                | attribute::GSO_IPV4_MAX_SIZE
                | attribute::GRO_IPV4_MAX_SIZE => {
                    state.offload_sizes.extend(attribute.u32().map(|size| (attribute.kind, size)));
                }
                attribute::LINKINFO if is_changeable => {
                    let data = info_data(&attribute);
                    let is_sent_back = |part: &Attribute<'_>| !(is_macvlan && NOT_SENT_BACK.contains(&part.kind));
                    if is_macvlan {
                        state.macvlan_mode = macvlan_mode(&attribute);
                    }
                    state.info_data = data.filter(is_sent_back).map(|part| part.to_owned()).collect();
                }
                attribute::AF_SPEC => read_conf(&attribute, &mut state),
                attribute::CARRIER if state.kind.as_deref() != Some("dummy") => {}
                kind if SENT_BACK.contains(&kind) => state.attributes.push(attribute.to_owned()),
                _ => {}
            }
        }
        add_absent_reasons(&mut state);
        Some(state)
    }

    /// Whether the message only reports a wireless event: a name, and none of the link's other attributes
    /// (`wireless_nlevent_process`).
    pub fn is_partial(&self) -> bool {
        self.attributes().any(|attribute| attribute.kind == attribute::WIRELESS)
    }

    /// The XDP programs of each mode.
    fn xdp_programs(&self) -> BTreeMap<u16, u32> {
        let xdp = self.attributes().find(|attribute| attribute.kind == attribute::XDP);
        let all = xdp.into_iter().flat_map(|xdp| xdp.nested());
        let of_mode = |attribute: &Attribute<'_>| {
            (attribute::XDP_DRV_PROG_ID..=attribute::XDP_HW_PROG_ID).contains(&attribute.kind)
        };
        all.filter(of_mode).filter_map(|attribute| Some((attribute.kind, attribute.u32()?))).collect()
    }

    /// Whether an XDP program sits on the link.
    fn has_xdp(&self) -> bool {
        let xdp = self.attributes().find(|attribute| attribute.kind == attribute::XDP);
        let attached = |xdp: Attribute<'a>| xdp.nested().find(|attribute| attribute.kind == attribute::XDP_ATTACHED);
        xdp.and_then(attached).and_then(|attached| attached.u8()).is_some_and(|mode| mode != 0)
    }
}

/// The mode of an XDP program, by the attribute with its id: `XDP_FLAGS_*_MODE`.
fn xdp_mode(attribute: u16) -> u32 {
    match attribute {
        attribute::XDP_SKB_PROG_ID => 1 << 1,
        attribute::XDP_DRV_PROG_ID => 1 << 2,
        _ => 1 << 3,
    }
}

/// Takes the XDP program of one mode from a link; the mode is given by the attribute with the program's id.
pub fn remove_xdp(batch: &mut Batch, index: u32, mode: u16) {
    set(batch, index, 0, 0).nest(attribute::XDP, |xdp| {
        xdp.attribute(attribute::XDP_FD, &(-1i32).to_ne_bytes()).u32(attribute::XDP_FLAGS, xdp_mode(mode));
    });
}

fn alias(attribute: &Attribute<'_>) -> Option<KernelString> {
    Some(attribute.string()).filter(|alias| !alias.is_empty()).map(KernelString::new)
}

fn info_kind<'a>(info: &Attribute<'a>) -> Option<&'a str> {
    let kind = info.nested().find(|attribute| attribute.kind == attribute::INFO_KIND)?;
    std::str::from_utf8(kind.string()).ok()
}

fn info_data<'a>(info: &Attribute<'a>) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
    let data = info.nested().find(|attribute| attribute.kind == attribute::INFO_DATA);
    data.into_iter().flat_map(|data| data.nested())
}

/// The link below, for the kinds that have it in their own data.
fn parent_in_data(info: &Attribute<'_>) -> Option<u32> {
    let kind = match info_kind(info)? {
        "vxlan" => attribute::VXLAN_LINK,
        "amt" => attribute::AMT_LINK,
        _ => return None,
    };
    info_data(info).find(|attribute| attribute.kind == kind)?.u32()
}

/// Whether a switch port of that name stands for a PCI function (`devlink_port_phys_port_name_get`: `pf0`, `pf0vf1`,
/// `c1pf0sf2`), and not for a socket of the card (`p0`). Drivers keep representors where they are.
fn is_representor(port_name: &[u8]) -> bool {
    port_name.windows(3).any(|part| part.starts_with(b"pf") && part[2].is_ascii_digit())
}

fn macvlan_mode(info: &Attribute<'_>) -> Option<u32> {
    info_data(info).find(|attribute| attribute.kind == attribute::MACVLAN_MODE)?.u32()
}

/// The kernel leaves the reasons of protodown out where there are none; sent back, an empty list must be sent. They come first: while
/// there are reasons, protodown cannot be switched off.
fn add_absent_reasons(state: &mut LinkState) {
    let at = |kind: u16| state.attributes.iter().position(|attribute| attribute.kind & KIND_MASK == kind);
    match (at(attribute::PROTO_DOWN), at(attribute::PROTO_DOWN_REASON)) {
        (Some(down), None) => {
            let value = attribute_of(REASON_VALUE, &[0; 4]);
            let none = netdevice::state::Attribute { kind: attribute::PROTO_DOWN_REASON | NESTED, value };
            state.attributes.insert(down, none);
        }
        (Some(down), Some(reasons)) if down < reasons => state.attributes.swap(down, reasons),
        _ => {}
    }
}

/// The bytes of one attribute.
fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
}

/// The token as it is sent back.
fn token(address: &[u8]) -> netdevice::state::Attribute {
    let inet6 = attribute_of(attribute::AF_INET6 | NESTED, &attribute_of(attribute::INET6_TOKEN, address));
    netdevice::state::Attribute { kind: attribute::AF_SPEC, value: inet6 }
}

fn altnames_of(list: &Attribute<'_>) -> Vec<KernelString> {
    let names = list.nested().filter(|attribute| attribute.kind == attribute::ALT_IFNAME);
    names.map(|name| KernelString::new(name.string())).collect()
}

fn read_conf(specification: &Attribute<'_>, state: &mut LinkState) {
    for family in specification.nested() {
        for attribute in family.nested() {
            match (family.kind, attribute.kind) {
                (attribute::AF_INET, attribute::INET_CONF) => state.ipv4_conf = attribute.numbers().collect(),
                (attribute::AF_INET6, attribute::INET6_CONF) => state.ipv6_conf = attribute.numbers().collect(),
                (attribute::AF_INET6, attribute::INET6_ADDR_GEN_MODE) => state.addr_gen_mode = attribute.u8(),
                (attribute::AF_INET6, attribute::INET6_TOKEN) if attribute.value.iter().any(|byte| *byte != 0) => {
                    state.attributes.push(token(attribute.value));
                }
                _ => {}
            }
        }
    }
}

/// `struct ifinfomsg`.
fn header(index: u32, flags: u32, change: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Requests all links.
pub fn dump(batch: &mut Batch) {
    batch.push(kind::GETLINK, flags::DUMP, &header(0, 0, 0)).u32(attribute::EXT_MASK, SKIP_STATS);
}

/// Requests all links of the namespace that has that id in the socket's.
pub fn dump_in_namespace(batch: &mut Batch, nsid: i32) {
    let mut request = batch.push(kind::GETLINK, flags::DUMP, &header(0, 0, 0));
    request.attribute(attribute::TARGET_NETNSID, &nsid.to_ne_bytes()).u32(attribute::EXT_MASK, SKIP_STATS);
}

/// Requests the link of that name (or alternative name).
pub fn get_by_name(batch: &mut Batch, name: &[u8]) {
    // the kernel looks for names of up to 15 bytes in IFNAME, where it finds alternative names too
    batch.push(kind::GETLINK, 0, &header(0, 0, 0)).string(attribute::IFNAME, name).u32(attribute::EXT_MASK, SKIP_STATS);
}

/// Requests the link with that index.
pub fn get_by_index(batch: &mut Batch, index: u32) {
    batch.push(kind::GETLINK, 0, &header(index, 0, 0)).u32(attribute::EXT_MASK, SKIP_STATS);
}

/// Requests the link with that index in the namespace with that id.
pub fn get_in_namespace(batch: &mut Batch, nsid: i32, index: u32) {
    let mut request = batch.push(kind::GETLINK, 0, &header(index, 0, 0));
    request.attribute(attribute::TARGET_NETNSID, &nsid.to_ne_bytes()).u32(attribute::EXT_MASK, SKIP_STATS);
}

/// Begins a change of a link: attributes are added to what is returned. Flags are set as in `flags` where `change` has
/// a bit.
pub fn set(batch: &mut Batch, index: u32, flags: u32, change: u32) -> Request<'_> {
    batch.push(kind::SETLINK, flags::ACK, &header(index, flags, change))
}

/// Begins the creation of a link with that index on the link `parent` of the socket's namespace: attributes are added to what is
/// returned.
pub fn create(batch: &mut Batch, index: u32, parent: u32, kind: ChildKind) -> Request<'_> {
    let message_flags = flags::ACK | flags::CREATE | flags::EXCL;
    let mut request = batch.push(kind::NEWLINK, message_flags, &header(index, 0, 0));
    request.u32(attribute::LINK, parent).nest(attribute::LINKINFO, |info| {
        info.attribute(attribute::INFO_KIND, kind.name().as_bytes()).nest(attribute::INFO_DATA, |data| {
            match kind {
                ChildKind::Macvlan { mode } => data.u32(attribute::MACVLAN_MODE, mode.number()),
                ChildKind::Ipvlan { mode } => data.attribute(attribute::IPVLAN_MODE, &mode.number().to_ne_bytes()),
                ChildKind::Vlan { id } => data.attribute(attribute::VLAN_ID, &u16::from(id).to_ne_bytes()),
            };
        });
    });
    request
}

/// Creates a VRF that is up, in a group by which its maker knows it: of an alias the kernel takes no notice here.
pub fn create_vrf(batch: &mut Batch, name: &[u8], table: u32, group: u32) {
    let header = header(0, netdevice::link::flags::UP, netdevice::link::flags::UP);
    let mut request = batch.push(kind::NEWLINK, flags::ACK | flags::CREATE | flags::EXCL, &header);
    request.string(attribute::IFNAME, name).u32(attribute::GROUP, group);
    request.nest(attribute::LINKINFO, |info| {
        info.attribute(attribute::INFO_KIND, VRF.as_bytes()).nest(attribute::INFO_DATA, |data| {
            data.u32(attribute::VRF_TABLE, table);
        });
    });
}

/// The table of a VRF, by the payload of its message.
pub fn vrf_table(payload: &[u8]) -> Option<u32> {
    let inside = |value: &[u8], kind: u16| -> Option<Vec<u8>> {
        let mut all = attributes(value);
        all.find(|attribute| attribute.kind & KIND_MASK == kind).map(|attribute| attribute.value.to_vec())
    };
    let info = inside(payload.get(HEADER..)?, attribute::LINKINFO)?;
    let data = inside(&info, attribute::INFO_DATA)?;
    attributes(&data).find(|attribute| attribute.kind == attribute::VRF_TABLE)?.u32()
}

/// `IFLA_INFO_KIND` of a VRF.
pub const VRF: &str = "vrf";

/// Changes the mode of a macvlan or macvtap. Of a link's own kind nothing can be changed by `RTM_SETLINK`.
pub fn set_macvlan_mode(batch: &mut Batch, index: u32, link_kind: &str, mode: u32) {
    batch.push(kind::NEWLINK, flags::ACK, &header(index, 0, 0)).nest(attribute::LINKINFO, |info| {
        info.attribute(attribute::INFO_KIND, link_kind.as_bytes()).nest(attribute::INFO_DATA, |data| {
            data.u32(attribute::MACVLAN_MODE, mode);
        });
    });
}

/// Changes settings of a link's own kind, as the kernel reports them.
pub fn set_info_data(batch: &mut Batch, index: u32, link_kind: &str, settings: &[netdevice::state::Attribute]) {
    let is_macvlan = MACVLAN_KINDS.contains(&link_kind);
    batch.push(kind::NEWLINK, flags::ACK, &header(index, 0, 0)).nest(attribute::LINKINFO, |info| {
        info.attribute(attribute::INFO_KIND, link_kind.as_bytes()).nest(attribute::INFO_DATA, |data| {
            for setting in settings {
                if is_macvlan && setting.kind & KIND_MASK == attribute::MACVLAN_MACADDR_DATA {
                    data.u32(attribute::MACVLAN_MACADDR_MODE, MACADDR_SET);
                }
                data.attribute(setting.kind, &setting.value);
            }
        });
    });
}

/// Deletes a link.
pub fn delete(batch: &mut Batch, index: u32) {
    batch.push(kind::DELLINK, flags::ACK, &header(index, 0, 0));
}

/// Deletes the link of that name.
pub fn delete_by_name(batch: &mut Batch, name: &[u8]) {
    batch.push(kind::DELLINK, flags::ACK, &header(0, 0, 0)).string(attribute::IFNAME, name);
}

/// Deletes a link of the namespace that has that id in the socket's.
pub fn delete_in_namespace(batch: &mut Batch, nsid: i32, index: u32) {
    let mut request = batch.push(kind::DELLINK, flags::ACK, &header(index, 0, 0));
    request.attribute(attribute::TARGET_NETNSID, &nsid.to_ne_bytes());
}

/// Puts the link of that name into a group.
pub fn set_group_by_name(batch: &mut Batch, name: &[u8], group: u32) {
    set(batch, 0, 0, 0).string(attribute::IFNAME, name).u32(attribute::GROUP, group);
}

/// Deletes all links of a group, in the time of one.
pub fn delete_group(batch: &mut Batch, group: u32) {
    batch.push(kind::DELLINK, flags::ACK, &header(0, 0, 0)).u32(attribute::GROUP, group);
}

/// Adds an alternative name to a link.
pub fn add_altname(batch: &mut Batch, index: u32, altname: &[u8]) {
    let message_flags = flags::ACK | flags::CREATE | flags::EXCL | flags::APPEND;
    batch.push(kind::NEWLINKPROP, message_flags, &header(index, 0, 0)).nest(attribute::PROP_LIST, |list| {
        list.string(attribute::ALT_IFNAME, altname);
    });
}

/// Takes an alternative name from a link.
pub fn remove_altname(batch: &mut Batch, index: u32, altname: &[u8]) {
    batch.push(kind::DELLINKPROP, flags::ACK, &header(index, 0, 0)).nest(attribute::PROP_LIST, |list| {
        list.string(attribute::ALT_IFNAME, altname);
    });
}
