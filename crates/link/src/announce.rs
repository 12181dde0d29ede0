//! Announces the addresses of a device that has just arrived, so that neighbours send to it at once and not to the link
//! that had the address before: a neighbour keeps the old hardware address for half a minute and longer.
//!
//! Twice. The first time is part of an attachment or detachment and costs next to nothing: for IPv4 the kernel is asked to
//! resolve the device's own address ([`rtnl::neighbour::probe`]), which sends an ARP announcement (RFC 5227, section 3)
//! now and, as no neighbour answers, again after one and two seconds. For IPv6 it is an unsolicited neighbour advertisement
//! (RFC 4861, section 7.2.6). The second time is the agent's, once the link has a carrier: frames for every address, also
//! for secondary IPv4 addresses, which the kernel does not announce.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6},
    ops::ControlFlow,
    os::fd::AsRawFd,
};

use netdevice::{Attachment, InterfaceName, LinkState, link::flags, state::Address};
use rtnl::message::{Message, kind};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};
use store::{Namespace, Records};

use crate::{
    error::{Error, WithSubject},
    identity::{Actor, find_inside, find_namespace},
    inside::{briefly_inside, run_inside},
    read::{Which, read_bare},
    socket::RouteSocket,
};

/// A hardware address of Ethernet.
type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
/// `ff02::1`, all nodes of a link, as Ethernet has it (RFC 2464, section 7).
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Header of IPv6, and a neighbour advertisement with the sender's hardware address.
const ADVERTISEMENT: usize = 40 + 32;
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// The override flag: this hardware address takes the place of the one that is known.
const OVERRIDE: u8 = 0x20;

/// Addresses that are announced of one device, and how much of a list of them is read: a Pod may add as many as it likes.
const MAX_ADDRESSES: usize = 256;
const MAX_DATAGRAMS: usize = 8;

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announcement {
    /// Sent, or there is nothing to announce.
    Done,
    /// The link is up and has no carrier yet: it may have one in a moment.
    NoCarrier,
}

/// What the kernel does not announce by itself: the IPv6 addresses of a device that is up now in the calling thread's
/// namespace, or in `sandbox`. What fails is left to the agent.
pub(crate) fn announce_ipv6(
    link: &LinkState,
    addresses: &mut dyn Iterator<Item = IpAddr>,
    sandbox: Option<(&Namespace, &RouteSocket)>,
) {
    let addresses: Vec<Ipv6Addr> = addresses.filter_map(to_announce).filter_map(ipv6).take(MAX_ADDRESSES).collect();
    let Some(mac) = ethernet(link).filter(|_| !addresses.is_empty()) else { return };
    let socket = || {
        let family = AddressFamily::INET6;
        // the header is ours: a hop limit of 255 proves that a neighbour sent it
        socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, Some(ipproto::RAW))
    };
    let socket = match sandbox {
        Some((namespace, home)) => briefly_inside(namespace, home, || Ok(socket()?)),
        None => socket().map_err(io::Error::from),
    };
    let Ok(socket) = socket else { return };
    let everybody = SocketAddrV6::new(ALL_NODES, 0, 0, link.index);
    for address in addresses {
        let _ = sendto(&socket, &advertisement(mac, address), SendFlags::empty(), &everybody);
    }
}

/// Announces all addresses of a device in its sandbox.
///
/// # Errors
///
/// When the sandbox cannot be entered, or nothing can be sent there, for want of a capability perhaps.
pub fn announce_in_sandbox(records: &Records, record: &Attachment) -> Result<Announcement, Error> {
    let mut home = RouteSocket::open().subject("the node's network namespace")?;
    let Some((namespace, mut inside)) = find_namespace(records, record, &mut home, Actor::Agent(None))? else {
        return Ok(Announcement::Done);
    };
    let Some(link) = find_inside(record, &mut inside)? else { return Ok(Announcement::Done) };
    let sent = run_inside(&namespace, || announce(&mut inside, &link));
    sent.map_err(|error| Error::Namespace { path: namespace.path().to_owned(), error })?
}

/// Announces all addresses of a link of the host.
///
/// # Errors
///
/// When nothing can be sent, for want of a capability perhaps.
pub fn announce_on_host(name: &InterfaceName) -> Result<Announcement, Error> {
    let mut home = RouteSocket::open().subject("the node's network namespace")?;
    match read_bare(&mut home, Which::Name(name))? {
        Some(link) => announce(&mut home, &link),
        None => Ok(Announcement::Done),
    }
}

/// Announces the addresses of a link in the namespace of the socket and of the calling thread.
fn announce(socket: &mut RouteSocket, link: &LinkState) -> Result<Announcement, Error> {
    let Some(mac) = ethernet(link).filter(|_| link.is_up()) else { return Ok(Announcement::Done) };
    if link.flags & flags::LOWER_UP == 0 {
        return Ok(Announcement::NoCarrier);
    }
    let mut found: Vec<Address> = Vec::new();
    let look = |message: &Message<'_>| {
        let address = (message.kind == kind::NEWADDR).then(|| rtnl::address::parse(message.payload).ok()).flatten();
        found.extend(address.filter(|(index, _)| *index == link.index).map(|(_, address)| address));
        if found.len() < MAX_ADDRESSES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    socket.look_through(|batch| rtnl::address::dump(batch, link.index), MAX_DATAGRAMS, look).subject("addresses")?;
    // a tentative one may be another node's
    let settled = found.iter().filter(|address| address.is_settled());
    let frames: Vec<Vec<u8>> =
        settled.filter_map(|address| to_announce(address.local)).flat_map(|address| frames(mac, address)).collect();
    if !frames.is_empty() {
        send(link.index, &frames).subject("a packet socket")?;
    }
    Ok(Announcement::Done)
}

/// The hardware address of a link whose neighbours are asked for theirs.
fn ethernet(link: &LinkState) -> Option<Mac> {
    let resolves = link.flags & (flags::NOARP | flags::LOOPBACK) == 0;
    link.mac.as_ref().filter(|_| resolves)?.as_bytes().try_into().ok()
}

/// The address, if neighbours may know it. Link-local IPv6 addresses are made of the hardware address and need no word.
fn to_announce(address: IpAddr) -> Option<IpAddr> {
    let is_local = match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    };
    (!is_local && !address.is_unspecified() && !address.is_multicast()).then_some(address)
}

fn ipv6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

/// What announces an address: to each kind of neighbour the kind of frame that it heeds.
fn frames(mac: Mac, address: IpAddr) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(address) => {
            [ArpOperation::Request, ArpOperation::Reply].map(|operation| arp(mac, address, operation)).into()
        }
        IpAddr::V6(address) => vec![ethernet_frame(ALL_NODES_MAC, mac, ETHERTYPE_IPV6, &advertisement(mac, address))],
    }
}

/// `ar_op` (RFC 826).
#[derive(Debug, Clone, Copy)]
enum ArpOperation {
    Request = 1,
    Reply = 2,
}

fn ethernet_frame(to: Mac, from: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), payload].concat()
}

/// An announcement of an IPv4 address: sender and target are the same (RFC 5227, section 1.1 and 3).
fn arp(mac: Mac, address: Ipv4Addr, operation: ArpOperation) -> Vec<u8> {
    const ETHERNET: u16 = 1;
    let target = match operation {
        ArpOperation::Request => [0; 6],
        ArpOperation::Reply => mac,
    };
    let mut packet = Vec::with_capacity(28);
    packet.extend(ETHERNET.to_be_bytes());
    packet.extend(ETHERTYPE_IPV4.to_be_bytes());
    packet.extend([6, 4]);
    packet.extend((operation as u16).to_be_bytes());
    packet.extend(mac);
    packet.extend(address.octets());
    packet.extend(target);
    packet.extend(address.octets());
    ethernet_frame(BROADCAST, mac, ETHERTYPE_ARP, &packet)
}

/// An unsolicited neighbour advertisement with the override flag, as an IPv6 packet (RFC 4861, sections 4.4 and 7.2.6).
fn advertisement(mac: Mac, address: Ipv6Addr) -> [u8; ADVERTISEMENT] {
    let mut packet = [0; ADVERTISEMENT];
    // version 6; 32 bytes of ICMPv6; a hop limit that no router's packet has
    packet[0] = 0x60;
    packet[5] = 32;
    packet[6] = ICMPV6;
    packet[7] = 255;
    packet[8..24].copy_from_slice(&address.octets());
    packet[24..40].copy_from_slice(&ALL_NODES.octets());
    packet[40] = NEIGHBOUR_ADVERTISEMENT;
    packet[44] = OVERRIDE;
    packet[48..64].copy_from_slice(&address.octets());
    // option 2: the target's hardware address, in units of 8 bytes
    packet[64] = 2;
    packet[65] = 1;
    packet[66..].copy_from_slice(&mac);
    let checksum = icmpv6_checksum(&packet);
    packet[42..44].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// The checksum of an ICMPv6 packet whose own field is 0, over it and a pseudo header (RFC 8200, section 8.1).
fn icmpv6_checksum(packet: &[u8; ADVERTISEMENT]) -> u16 {
    let words = packet[8..].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum::<u32>() + u32::from(packet[5]) + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sends frames out of a link of the calling thread's namespace. Not for a hook: the kernel waits for a grace period
/// when the socket is closed (`packet_release`).
#[allow(unsafe_code)] // no crate wraps `struct sockaddr_ll`
fn send(link: u32, frames: &[Vec<u8>]) -> io::Result<()> {
    // protocol 0: it receives nothing
    let socket =
        socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // SAFETY: all of `struct sockaddr_ll` are numbers, for which 0 is a value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = link.cast_signed();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    for frame in frames {
        to.sll_protocol = u16::from_ne_bytes([frame[12], frame[13]]);
        // SAFETY: the kernel reads `frame.len()` bytes of `frame` and `length` bytes of `to`, which both outlive the call.
        let sent = unsafe {
            libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, (&raw const to).cast(), length)
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use netdevice::HardwareAddress;

    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn frames_have_the_bytes_that_the_rfcs_say() {
        let v4 = frames(MAC, "192.168.7.2".parse().unwrap());
        let table = [
            "ffffffffffff020000000007 0806 0001 0800 06 04 0001 020000000007 c0a80702 000000000000 c0a80702",
            "ffffffffffff020000000007 0806 0001 0800 06 04 0002 020000000007 c0a80702 020000000007 c0a80702",
        ];
        assert_eq!(v4.iter().map(|frame| hex(frame)).collect::<Vec<_>>(), table.map(|frame| frame.replace(' ', "")));
        let v6 = frames(MAC, "2001:db8:7::2".parse().unwrap());
        let frame = "333300000001 020000000007 86dd 60000000 0020 3a ff
            20010db8000700000000000000000002 ff020000000000000000000000000001
            88 00 CCCC 20000000 20010db8000700000000000000000002 02 01 020000000007";
        let frame: String = frame.split_ascii_whitespace().collect();
        let checksum = hex(&v6[0][56..58]);
        assert_eq!(v6.len(), 1);
        assert_eq!(hex(&v6[0]), frame.replace("CCCC", &checksum));
    }

    /// Summed up with its checksum, a packet gives all ones (RFC 1071).
    #[test]
    fn the_checksum_of_an_advertisement_is_right() {
        for address in ["2001:db8:7::2", "fd00::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0", "2000::"] {
            let packet = advertisement(MAC, address.parse().unwrap());
            assert_eq!(icmpv6_checksum(&packet), 0, "{address}");
        }
    }

    #[test]
    fn what_nobody_resolves_is_not_announced() {
        let link = |link_flags, mac: &[u8]| LinkState {
            flags: link_flags,
            mac: HardwareAddress::new(mac),
            ..LinkState::new("eth1".try_into().unwrap(), 7)
        };
        assert_eq!(ethernet(&link(flags::UP, &MAC)), Some(MAC));
        assert_eq!(ethernet(&link(flags::UP | flags::NOARP, &MAC)), None);
        assert_eq!(ethernet(&link(flags::UP | flags::LOOPBACK, &MAC)), None);
        assert_eq!(ethernet(&link(flags::UP, &[1; 20])), None, "InfiniBand");
        for address in ["127.0.0.1", "::1", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"] {
            assert_eq!(to_announce(address.parse().unwrap()), None, "{address}");
        }
        for address in ["169.254.1.1", "10.0.0.1", "2001:db8::1", "fd00::1"] {
            assert!(to_announce(address.parse().unwrap()).is_some(), "{address}");
        }
    }
}
