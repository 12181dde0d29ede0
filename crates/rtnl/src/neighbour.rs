//! Neighbours: `struct ndmsg` and `NDA_*`.

use std::net::Ipv4Addr;

use netdevice::state::{Attribute as Owned, FORWARDING, NEIGHBOUR_PERMANENT, NEIGHBOUR_PROXY, Neighbour};

use crate::{
    attribute::attributes,
    field::number,
    message::{Malformed, flags, kind},
    request::Batch,
};

/// Size of `struct ndmsg`.
const HEADER: usize = 12;
const AF_INET: u8 = 2;
/// `NTF_USE`: as if a packet were sent to it.
const USE: u8 = 1;
/// `NDA_DST`.
const DESTINATION: u16 = 1;
/// `NDA_IFINDEX`.
const IFINDEX: u16 = 8;
/// `NDA_DST`, `NDA_LLADDR`, `NDA_VLAN`, `NDA_PORT`, `NDA_VNI`, `NDA_IFINDEX`, `NDA_SRC_VNI`, `NDA_PROTOCOL`, `NDA_NH_ID`,
/// `NDA_FLAGS_EXT`: what can be set. The others are counters.
const SETTABLE: [u16; 10] = [1, 2, 5, 6, 7, 8, 11, 12, 13, 15];

/// Reads an `RTM_NEWNEIGH` payload: the link's index and the neighbour.
///
/// # Errors
///
/// When it is too short.
pub fn parse(payload: &[u8]) -> Result<(u32, Neighbour), Malformed> {
    let short = Malformed("a neighbour's message is too short");
    let (head, tail) = payload.split_at_checked(HEADER).ok_or(short)?;
    let index = number(head, 4).map(u32::from_ne_bytes).ok_or(short)?;
    let state = number(head, 8).map(u16::from_ne_bytes).ok_or(short)?;
    let settable = attributes(tail).filter(|attribute| SETTABLE.contains(&attribute.kind));
    let attributes = settable.map(|attribute| attribute.to_owned()).collect();
    Ok((index, Neighbour { family: head[0], state, flags: head[10], attributes }))
}

/// A list of neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// Neighbours of IPv4 and IPv6.
    Neighbours,
    /// Addresses that the node answers for.
    Proxies,
    /// The forwarding database.
    Forwarding,
}

/// Requests one list of a link. A strict socket filters in the kernel.
pub fn dump(batch: &mut Batch, index: u32, list: List) {
    let mut header = [0; HEADER];
    match list {
        List::Neighbours => {}
        List::Proxies => header[10] = NEIGHBOUR_PROXY,
        List::Forwarding => header[0] = FORWARDING,
    }
    batch.push(kind::GETNEIGH, flags::DUMP, &header).u32(IFINDEX, index);
}

/// Makes the kernel ask all neighbours on a link for the hardware address of `address`, up to three times, one second
/// after the other (`mcast_solicit`, `retrans_time_ms`). Of an IPv4 address of the link's own that is an announcement:
/// sender and target are the same, and no neighbour answers.
pub fn probe(batch: &mut Batch, index: u32, address: Ipv4Addr) {
    let mut header = [0; HEADER];
    header[0] = AF_INET;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[10] = USE;
    batch.push(kind::NEWNEIGH, flags::ACK | flags::CREATE, &header).attribute(DESTINATION, &address.octets());
}

/// Adds a neighbour, or replaces one: a configured entry replaces one that the kernel learned.
pub fn add(batch: &mut Batch, index: u32, neighbour: &Neighbour) {
    // an entry of the forwarding database may stand beside others of its hardware address
    let how = if neighbour.family == FORWARDING { flags::APPEND } else { flags::REPLACE };
    change(batch, kind::NEWNEIGH, flags::CREATE | how, index, neighbour);
}

/// Takes a neighbour away.
pub fn remove(batch: &mut Batch, index: u32, neighbour: &Neighbour) {
    change(batch, kind::DELNEIGH, 0, index, neighbour);
}

fn change(batch: &mut Batch, message: u16, message_flags: u16, index: u32, neighbour: &Neighbour) {
    let mut header = [0; HEADER];
    header[0] = neighbour.family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    // the kernel does not say of a proxy entry that it stays while the link is down: as `ip neighbour add proxy` makes it
    let permanent = if neighbour.flags & NEIGHBOUR_PROXY != 0 { NEIGHBOUR_PERMANENT } else { 0 };
    header[8..10].copy_from_slice(&(neighbour.state | permanent).to_ne_bytes());
    header[10] = neighbour.flags;
    let mut request = batch.push(message, flags::ACK | message_flags, &header);
    for Owned { kind, value } in &neighbour.attributes {
        request.attribute(*kind, value);
    }
}
