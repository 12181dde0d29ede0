//! Neighbours: `struct ndmsg` and `NDA_*`.

use netdevice::state::{Attribute as Owned, Neighbour};

use crate::{
    attribute::attributes,
    message::{Malformed, flags, kind, number},
    request::Batch,
};

/// Size of `struct ndmsg`.
const HEADER: usize = 12;
/// `NDA_IFINDEX`.
const IFINDEX: u16 = 8;
/// `NDA_DST`, `NDA_LLADDR`, `NDA_VLAN`, `NDA_PORT`, `NDA_VNI`, `NDA_PROTOCOL`, `NDA_FLAGS_EXT`: what can be set.
/// The others are counters.
const SETTABLE: [u16; 7] = [1, 2, 5, 6, 7, 12, 15];

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

/// Asks for the neighbours on one link. A strict socket filters in the kernel.
pub fn dump(batch: &mut Batch, index: u32) {
    batch.push(kind::GETNEIGH, flags::DUMP, &[0; HEADER]).u32(IFINDEX, index);
}

/// Adds a neighbour, in place of one that is there: what the kernel learned gives way to what somebody wrote.
pub fn add(batch: &mut Batch, index: u32, neighbour: &Neighbour) {
    let mut header = [0; HEADER];
    header[0] = neighbour.family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&neighbour.state.to_ne_bytes());
    header[10] = neighbour.flags;
    let mut request = batch.push(kind::NEWNEIGH, flags::ACK | flags::CREATE | flags::REPLACE, &header);
    for Owned { kind, value } in &neighbour.attributes {
        request.attribute(*kind, value);
    }
}
