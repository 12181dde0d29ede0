//! Addresses: `struct ifaddrmsg` and `IFA_*`.

use std::net::IpAddr;

use netdevice::{KernelString, state::Address};

use crate::{
    attribute::attributes,
    field::number,
    message::{Malformed, flags, kind},
    request::Batch,
};

const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const LABEL: u16 = 3;
const BROADCAST: u16 = 4;
const CACHEINFO: u16 = 6;
const FLAGS: u16 = 8;
const RT_PRIORITY: u16 = 9;
const PROTO: u16 = 11;
/// Size of `struct ifaddrmsg`.
const HEADER: usize = 8;
const FOR_EVER: u32 = u32::MAX;

/// Reads an `RTM_NEWADDR` or `RTM_DELADDR` payload: the link's index and the address.
///
/// # Errors
///
/// When it is too short or has no address.
pub fn parse(payload: &[u8]) -> Result<(u32, Address), Malformed> {
    let short = Malformed("an address's message is too short");
    let index = number(payload, 4).map(u32::from_ne_bytes).ok_or(short)?;
    let (mut remote, mut local) = (None, None);
    let mut address = Address {
        local: IpAddr::from([0; 4]),
        prefix_len: *payload.get(1).ok_or(short)?,
        peer: None,
        broadcast: None,
        scope: *payload.get(3).ok_or(short)?,
        flags: u32::from(*payload.get(2).ok_or(short)?),
        label: None,
        metric: None,
        protocol: None,
        lifetimes: None,
    };
    for attribute in attributes(payload.get(HEADER..).ok_or(short)?) {
        match attribute.kind {
            ADDRESS => remote = attribute.address(),
            LOCAL => local = attribute.address(),
            LABEL => address.label = Some(KernelString::new(attribute.string())),
            BROADCAST => address.broadcast = attribute.address(),
            FLAGS => address.flags = attribute.u32().unwrap_or(address.flags),
            RT_PRIORITY => address.metric = attribute.u32(),
            PROTO => address.protocol = attribute.u8(),
            CACHEINFO => {
                let lifetime = |at| number(attribute.value, at).map(u32::from_ne_bytes);
                let both = lifetime(0).zip(lifetime(4));
                address.lifetimes = both.filter(|both| *both != (FOR_EVER, FOR_EVER));
            }
            _ => {}
        }
    }
    address.local = local.or(remote).ok_or(Malformed("an address's message has no address"))?;
    address.peer = remote.filter(|remote| *remote != address.local);
    Ok((index, address))
}

/// Requests the addresses of one link; of all links with index 0. A strict socket filters in the kernel.
pub fn dump(batch: &mut Batch, index: u32) {
    let mut header = [0; HEADER];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    batch.push(kind::GETADDR, flags::DUMP, &header);
}

/// Whether an address that is there is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Adding it again fails (`EEXIST`).
    Keep,
    /// Its flags, lifetimes and metric become the new ones.
    Replace,
}

/// Puts an address on a link with just these flags.
pub fn add(batch: &mut Batch, index: u32, address: &Address, address_flags: u32, existing: Existing) {
    let family = if address.local.is_ipv4() { 2 } else { 10 };
    let mut header = [family, address.prefix_len, (address_flags & 0xff) as u8, address.scope, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    let how = if existing == Existing::Replace { flags::REPLACE } else { flags::EXCL };
    let mut request = batch.push(kind::NEWADDR, flags::ACK | flags::CREATE | how, &header);
    request.attribute(LOCAL, &octets(address.local));
    request.attribute(ADDRESS, &octets(address.peer.unwrap_or(address.local)));
    request.u32(FLAGS, address_flags);
    if let Some(broadcast) = address.broadcast {
        request.attribute(BROADCAST, &octets(broadcast));
    }
    if let Some(label) = &address.label {
        request.string(LABEL, label.as_bytes());
    }
    if let Some(metric) = address.metric {
        request.u32(RT_PRIORITY, metric);
    }
    if let Some(protocol) = address.protocol {
        request.attribute(PROTO, &[protocol]);
    }
    if let Some((preferred, valid)) = address.lifetimes {
        let times = [preferred, valid, 0, 0].map(u32::to_ne_bytes).concat();
        request.attribute(CACHEINFO, &times);
    }
}

/// Takes an address from a link.
pub fn remove(batch: &mut Batch, index: u32, address: &Address) {
    let family = if address.local.is_ipv4() { 2 } else { 10 };
    let mut header = [family, address.prefix_len, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    let mut request = batch.push(kind::DELADDR, flags::ACK, &header);
    request.attribute(LOCAL, &octets(address.local));
    request.attribute(ADDRESS, &octets(address.peer.unwrap_or(address.local)));
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
