//! The floor: moves a link to a namespace or home and gives it addresses and routes, and knows nothing else.
//!
//! It reads nothing, writes nothing down, checks nothing and can undo nothing; what it has to do it is told. Whoever
//! moves a link makes these calls at least: one move, and one send with addresses, "up" and routes.
//!
//! ```text
//! bare-move attach|detach INDEX NAME NAMESPACE [ADDRESS/LENGTH | PREFIX/LENGTH=GATEWAY]...
//! ```

use std::{error::Error, fs::File, net::IpAddr, os::fd::AsRawFd, process::ExitCode};

use netdevice::{
    link::flags::UP,
    state::{Address, Attribute, ROUTE_UNICAST, Route, address_flags::NODAD, route_attribute},
};
use rtnl::{Batch, address, link, link::attribute, messages, route};
use rustix::{
    fd::{AsFd, OwnedFd},
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// `RT_TABLE_MAIN`.
const MAIN: u32 = 254;
/// `RTPROT_BOOT`: what `ip route add` makes.
const BOOT: u8 = 3;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[allow(clippy::print_stderr, reason = "a program's last words")]
            {
                eprintln!("bare-move: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("bare-move attach|detach INDEX NAME NAMESPACE ...");
    let (verb, index, name, namespace) = (next()?, next()?.parse::<u32>()?, next()?, next()?);
    let sandbox = File::open(namespace)?;
    let host = route_socket()?;
    let mut configuration = Batch::new();
    let words: Vec<String> = arguments.collect();
    let (routes, addresses): (Vec<&String>, Vec<&String>) = words.iter().partition(|word| word.contains('='));
    for word in addresses {
        address::add(&mut configuration, index, &parse_address(word)?, NODAD, address::Existing::Keep);
    }
    link::set(&mut configuration, index, UP, UP);
    for word in routes {
        route::add(&mut configuration, &parse_route(word, index)?, route::Existing::Keep);
    }
    if verb == "attach" {
        ask(&host, move_to(&sandbox, index, &name))?;
        move_into_link_name_space(sandbox.as_fd(), Some(LinkNameSpaceType::Network))?;
        ask(&route_socket()?, configuration)
    } else {
        let home = File::open("/proc/self/ns/net")?;
        move_into_link_name_space(sandbox.as_fd(), Some(LinkNameSpaceType::Network))?;
        ask(&route_socket()?, move_to(&home, index, &name))?;
        ask(&host, configuration)
    }
}

fn route_socket() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
}

/// Move and rename in one request.
fn move_to(namespace: &File, index: u32, name: &str) -> Batch {
    let mut batch = Batch::new();
    let target = namespace.as_raw_fd().cast_unsigned();
    let mut request = link::set(&mut batch, index, 0, 0);
    request.u32(attribute::NET_NS_FD, target).u32(attribute::NEW_IFINDEX, index);
    request.string(attribute::IFNAME, name.as_bytes());
    batch
}

/// Sends the requests and waits until the last one is acknowledged, or one fails.
fn ask(socket: &OwnedFd, mut batch: Batch) -> Result<(), Box<dyn Error>> {
    batch.acknowledge_last();
    send(socket, &batch.into_bytes(0), SendFlags::empty())?;
    let mut buffer = [0; 16 << 10];
    loop {
        let (length, _) = recv(socket, &mut buffer, RecvFlags::empty())?;
        for message in messages(&buffer[..length]) {
            match message?.answer().map(|answer| answer.errno) {
                Some(0) => return Ok(()),
                Some(errno) => return Err(std::io::Error::from_raw_os_error(errno).into()),
                None => {}
            }
        }
    }
}

fn parse_prefix(text: &str) -> Result<(IpAddr, u8), Box<dyn Error>> {
    let (address, length) = text.split_once('/').ok_or("an address needs /LENGTH")?;
    Ok((address.parse()?, length.parse()?))
}

fn parse_address(text: &str) -> Result<Address, Box<dyn Error>> {
    let (local, prefix_len) = parse_prefix(text)?;
    Ok(Address {
        local,
        prefix_len,
        peer: None,
        broadcast: None,
        scope: 0,
        flags: 0,
        label: None,
        metric: None,
        protocol: None,
        lifetimes: None,
    })
}

fn parse_route(text: &str, link: u32) -> Result<Route, Box<dyn Error>> {
    let (prefix, gateway) = text.split_once('=').ok_or("a route needs =GATEWAY")?;
    let (destination, dst_len) = parse_prefix(prefix)?;
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let attribute = |kind: u16, value: Vec<u8>| Attribute { kind, value };
    Ok(Route {
        family: if destination.is_ipv4() { route::IPV4 } else { route::IPV6 },
        dst_len,
        src_len: 0,
        tos: 0,
        table: MAIN,
        protocol: BOOT,
        scope: 0,
        kind: ROUTE_UNICAST,
        flags: 0,
        attributes: vec![
            attribute(route_attribute::DST, octets(destination)),
            attribute(route_attribute::GATEWAY, octets(gateway.parse()?)),
            attribute(route_attribute::OIF, link.to_ne_bytes().to_vec()),
        ],
    })
}
