//! Links: `struct ifinfomsg` and `IFLA_*`.

use netdevice::{HardwareAddress, InterfaceName, KernelString, Link, LinkState};

use crate::{
    attribute::{Attribute, attributes},
    message::{Malformed, flags, kind, number},
    request::{Batch, Request},
};

/// `IFLA_*` (`include/uapi/linux/if_link.h`).
#[allow(missing_docs)] // the kernel's names say it
pub mod attribute {
    pub const ADDRESS: u16 = 1;
    pub const IFNAME: u16 = 3;
    pub const MTU: u16 = 4;
    pub const LINK: u16 = 5;
    pub const MASTER: u16 = 10;
    pub const WIRELESS: u16 = 11;
    pub const TXQLEN: u16 = 13;
    pub const LINKINFO: u16 = 18;
    pub const NET_NS_PID: u16 = 19;
    pub const IFALIAS: u16 = 20;
    pub const AF_SPEC: u16 = 26;
    pub const GROUP: u16 = 27;
    pub const NET_NS_FD: u16 = 28;
    pub const EXT_MASK: u16 = 29;
    pub const LINK_NETNSID: u16 = 37;
    pub const GSO_MAX_SEGS: u16 = 40;
    pub const GSO_MAX_SIZE: u16 = 41;
    pub const XDP: u16 = 43;
    pub const NEW_NETNSID: u16 = 45;
    pub const TARGET_NETNSID: u16 = 46;
    pub const NEW_IFINDEX: u16 = 49;
    pub const PROP_LIST: u16 = 52;
    pub const ALT_IFNAME: u16 = 53;
    pub const PERM_ADDRESS: u16 = 54;
    pub const PARENT_DEV_NAME: u16 = 56;
    pub const GRO_MAX_SIZE: u16 = 58;
    pub const GSO_IPV4_MAX_SIZE: u16 = 63;
    pub const GRO_IPV4_MAX_SIZE: u16 = 64;
    /// Inside `LINKINFO`.
    pub const INFO_KIND: u16 = 1;
    pub const INFO_DATA: u16 = 2;
    /// Inside `INFO_DATA` of a macvlan or macvtap.
    pub const MACVLAN_MODE: u16 = 1;
    /// Inside `AF_SPEC`: the address family.
    pub const AF_INET: u16 = 2;
    pub const AF_INET6: u16 = 10;
    /// Inside `AF_INET`.
    pub const INET_CONF: u16 = 1;
    /// Inside `AF_INET6`.
    pub const INET6_CONF: u16 = 2;
    pub const INET6_ADDR_GEN_MODE: u16 = 8;
    /// Inside `XDP`.
    pub const XDP_FD: u16 = 1;
    pub const XDP_ATTACHED: u16 = 2;
}

/// `RTEXT_FILTER_SKIP_STATS`: counters make most of a link's message, and nobody here reads them.
const SKIP_STATS: u32 = 1 << 3;
/// Kinds whose `INFO_DATA` begins as a macvlan's.
const MACVLAN_KINDS: [&str; 2] = ["macvlan", "macvtap"];
/// Size of `struct ifinfomsg`.
const HEADER: usize = 16;

/// A link's message, taken apart as far as we need.
#[derive(Debug, Clone, Copy)]
pub struct LinkMessage<'a> {
    /// `ifi_index`.
    pub index: u32,
    /// `ifi_flags`.
    pub flags: u32,
    /// `ifi_family`: `AF_BRIDGE` (7) messages speak of a port, not of a link.
    pub family: u8,
    attributes: &'a [u8],
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

    /// The link as the inventory keeps it, without what sysfs knows; none if its name is none.
    pub fn to_link(&self) -> Option<Link> {
        let mut name = None;
        let mut altnames = Vec::new();
        let (mut parent, mut netnsid) = (None, None);
        let mut link = Link {
            index: self.index,
            // replaced below: a link without a name is none
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
            hardware: None,
        };
        for attribute in self.attributes() {
            match attribute.kind {
                attribute::IFNAME => name = InterfaceName::new(attribute.string()).ok(),
                attribute::ADDRESS => link.mac = HardwareAddress::new(attribute.value),
                attribute::MTU => link.mtu = attribute.u32().unwrap_or(0),
                attribute::IFALIAS => link.alias = alias(&attribute),
                attribute::MASTER => link.master = attribute.u32(),
                attribute::LINK => parent = attribute.u32(),
                attribute::LINK_NETNSID => netnsid = attribute.i32(),
                attribute::LINKINFO => link.kind = info_kind(&attribute).map(Into::into),
                attribute::PROP_LIST => altnames = altnames_of(&attribute),
                _ => {}
            }
        }
        link.name = name?;
        link.altnames = altnames.into();
        link.link_netnsid = netnsid;
        link.parent = parent.filter(|parent| netnsid.is_none() && *parent != 0 && *parent != self.index);
        Some(link)
    }

    /// The link's own part of its complete state; none if its name is none.
    pub fn to_state(&self) -> Option<LinkState> {
        let link = self.to_link()?;
        let is_macvlan = link.kind.as_deref().is_some_and(|kind| MACVLAN_KINDS.contains(&kind));
        let mut state = LinkState {
            kind: link.kind.map(Into::into),
            flags: self.flags,
            mac: link.mac,
            alias: link.alias,
            altnames: link.altnames.into_vec(),
            mtu: link.mtu,
            master: link.master,
            link_netnsid: link.link_netnsid,
            xdp: self.has_xdp(),
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
                attribute::LINK => state.parent = attribute.u32(),
                attribute::GSO_MAX_SEGS
                | attribute::GSO_MAX_SIZE
                | attribute::GRO_MAX_SIZE
                | attribute::GSO_IPV4_MAX_SIZE
                | attribute::GRO_IPV4_MAX_SIZE => {
                    state.offload_sizes.extend(attribute.u32().map(|size| (attribute.kind, size)));
                }
                attribute::LINKINFO if is_macvlan => state.macvlan_mode = macvlan_mode(&attribute),
                attribute::AF_SPEC => read_conf(&attribute, &mut state),
                _ => {}
            }
        }
        Some(state)
    }

    /// Whether the message tells of a wireless event only: a name, and none of what the link is otherwise
    /// (`wireless_nlevent_process`).
    pub fn is_partial(&self) -> bool {
        self.attributes().any(|attribute| attribute.kind == attribute::WIRELESS)
    }

    /// Whether an XDP program sits on the link.
    fn has_xdp(&self) -> bool {
        let xdp = self.attributes().find(|attribute| attribute.kind == attribute::XDP);
        let attached = |xdp: Attribute<'a>| xdp.nested().find(|attribute| attribute.kind == attribute::XDP_ATTACHED);
        xdp.and_then(attached).and_then(|attached| attached.u8()).is_some_and(|mode| mode != 0)
    }
}

fn alias(attribute: &Attribute<'_>) -> Option<KernelString> {
    Some(attribute.string()).filter(|alias| !alias.is_empty()).map(KernelString::new)
}

fn info_kind<'a>(info: &Attribute<'a>) -> Option<&'a str> {
    let kind = info.nested().find(|attribute| attribute.kind == attribute::INFO_KIND)?;
    std::str::from_utf8(kind.string()).ok()
}

fn macvlan_mode(info: &Attribute<'_>) -> Option<u32> {
    let data = info.nested().find(|attribute| attribute.kind == attribute::INFO_DATA)?;
    data.nested().find(|attribute| attribute.kind == attribute::MACVLAN_MODE)?.u32()
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

/// Asks for all links.
pub fn dump(batch: &mut Batch) {
    batch.push(kind::GETLINK, flags::DUMP, &header(0, 0, 0)).u32(attribute::EXT_MASK, SKIP_STATS);
}

/// Asks for the link of that name (or alternative name).
pub fn get_by_name(batch: &mut Batch, name: &[u8]) {
    // the kernel looks for names of up to 15 bytes in IFNAME, where it finds alternative names too
    batch.push(kind::GETLINK, 0, &header(0, 0, 0)).string(attribute::IFNAME, name).u32(attribute::EXT_MASK, SKIP_STATS);
}

/// Asks for the link with that index.
pub fn get_by_index(batch: &mut Batch, index: u32) {
    batch.push(kind::GETLINK, 0, &header(index, 0, 0)).u32(attribute::EXT_MASK, SKIP_STATS);
}

/// Asks for the link with that index in the namespace with that id.
pub fn get_in_namespace(batch: &mut Batch, nsid: i32, index: u32) {
    let mut request = batch.push(kind::GETLINK, 0, &header(index, 0, 0));
    request.attribute(attribute::TARGET_NETNSID, &nsid.to_ne_bytes()).u32(attribute::EXT_MASK, SKIP_STATS);
}

/// Begins a change of a link: attributes are added to what is returned. Flags are set as in `flags` where `change` has
/// a bit.
pub fn set(batch: &mut Batch, index: u32, flags: u32, change: u32) -> Request<'_> {
    batch.push(kind::SETLINK, flags::ACK, &header(index, flags, change))
}

/// Changes the mode of a macvlan or macvtap. Of a link's own kind nothing can be changed by `RTM_SETLINK`.
pub fn set_macvlan_mode(batch: &mut Batch, index: u32, link_kind: &str, mode: u32) {
    batch.push(kind::NEWLINK, flags::ACK, &header(index, 0, 0)).nest(attribute::LINKINFO, |info| {
        info.attribute(attribute::INFO_KIND, link_kind.as_bytes()).nest(attribute::INFO_DATA, |data| {
            data.u32(attribute::MACVLAN_MODE, mode);
        });
    });
}

/// Deletes a link.
pub fn delete(batch: &mut Batch, index: u32) {
    batch.push(kind::DELLINK, flags::ACK, &header(index, 0, 0));
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
