//! The two sockets: one for requests, one for notifications.

use std::{io, os::fd::AsFd};

use netdevice::snapshot::Family;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnl::{
    Batch, Message, action, address, link,
    message::{flags, kind},
    messages, nexthop, route, rule,
};
use rustix::{
    io::Errno,
    net::{RecvFlags, sockopt},
};

use crate::{error::Error, state::Part};

/// Multicast groups (`enum rtnetlink_groups`): links, traffic control, addresses (with an IPv4 address the kernel removes routes
/// without a notification), routes, rules, ids of namespaces (whose end is a sandbox's end), and next hops.
const GROUPS: [u32; 10] = [1, 4, 5, 7, 8, 9, 11, 19, 28, 32];

/// The kernel puts at most 32 KiB into one answer, and no notification is larger (`NLMSG_GOODSIZE`, `netlink_recvmsg`).
const BUFFER: usize = 64 << 10;

/// How often a list is requested again at once when something changed while the kernel answered.
const ATTEMPTS: u32 = 5;

fn open() -> Result<Socket, Error> {
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(Error::Open)?;
    socket.bind_auto().map_err(Error::Open)?;
    Ok(socket)
}

/// Receives a message of the kernel: the bytes, and the length that the message had.
fn receive(socket: &Socket, buffer: &mut [u8], receive_flags: RecvFlags) -> io::Result<usize> {
    loop {
        let flags = (receive_flags | RecvFlags::TRUNC).bits().cast_signed();
        match socket.recv_from(&mut &mut *buffer, flags) {
            Ok((length, sender)) if sender.port_number() == 0 => return Ok(length),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A socket that requests lists and waits for them.
#[derive(Debug)]
pub(crate) struct Requests {
    socket: Socket,
    buffer: Box<[u8]>,
    sequence: u32,
}

/// How consistent a list is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed {
    /// As it was at one moment.
    Whole,
    /// Something changed while it was written: it may be incomplete.
    Interrupted,
}

impl Requests {
    /// Opens a socket in the namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, Error> {
        let socket = open()?;
        // without it, filters are ignored and rules of other families come along
        socket.set_netlink_get_strict_chk(true).map_err(Error::Open)?;
        Ok(Self { socket, buffer: vec![0; BUFFER].into(), sequence: 0 })
    }

    /// Lists one part, and again a few times while it changes meanwhile; `begin` is called at each new beginning.
    pub(crate) fn list<T>(
        &mut self,
        part: Part,
        target: &mut T,
        begin: impl Fn(&mut T),
        each: impl Fn(&mut T, &Message<'_>),
    ) -> Result<Listed, Error> {
        for _ in 0..ATTEMPTS {
            begin(target);
            if self.list_once(part, |message| each(target, message))? == Listed::Whole {
                return Ok(Listed::Whole);
            }
        }
        Ok(Listed::Interrupted)
    }

    fn list_once(&mut self, part: Part, mut each: impl FnMut(&Message<'_>)) -> Result<Listed, Error> {
        let mut batch = Batch::new();
        match part {
            Part::Links => link::dump(&mut batch),
            Part::Addresses => address::dump(&mut batch, 0),
            Part::Routes(family) => {
                // The kernel announces a link that goes down, or an address that is removed, before it drops the routes,
                // and lists routes without RTNL. A link is listed under RTNL: after it, the routes are dropped.
                link::get_by_index(&mut batch, 1);
                route::dump(&mut batch, number(family), 0);
            }
            Part::NextHops => nexthop::dump(&mut batch),
            Part::Rules(family) => rule::dump(&mut batch, number(family)),
            Part::Redirects => action::dump_mirred(&mut batch),
        }
        let last = self.sequence.wrapping_add(batch.count());
        let bytes = batch.into_bytes(self.sequence);
        self.sequence = last;
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map_err(|error| Error::Request(part, error))?;
        let mut listed = Listed::Whole;
        loop {
            let length = receive(&self.socket, &mut self.buffer, RecvFlags::empty())
                .map_err(|error| Error::Answer(part, error))?;
            let answers = messages(self.buffer.get(..length).unwrap_or(&self.buffer)).flatten();
            for message in answers.filter(|message| message.sequence == last) {
                if message.flags & flags::DUMP_INTR != 0 {
                    listed = Listed::Interrupted;
                }
                match message.answer() {
                    None => each(&message),
                    Some(answer) if answer.errno == 0 || is_missing(answer.errno) => return Ok(listed),
                    Some(answer) => {
                        return Err(Error::Refused(part, io::Error::from_raw_os_error(answer.errno)));
                    }
                }
            }
        }
    }
}

/// Whether the kernel was built without what was requested.
fn is_missing(errno: i32) -> bool {
    [Errno::OPNOTSUPP, Errno::AFNOSUPPORT].iter().any(|missing| missing.raw_os_error() == errno)
}

fn number(family: Family) -> u8 {
    match family {
        Family::V4 => route::IPV4,
        Family::V6 => route::IPV6,
    }
}

/// A socket that gets notifications.
#[derive(Debug)]
pub(crate) struct Events {
    socket: Socket,
    buffer: Box<[u8]>,
}

/// The result of one receive.
#[derive(Debug)]
pub(crate) enum Received<'a> {
    /// Notifications.
    Bytes(&'a [u8]),
    /// Nothing more for now.
    Nothing,
    /// Notifications were lost: the queue was full, or one was larger than it can be.
    Lost,
}

impl Events {
    /// Opens a socket in the namespace of the calling thread and subscribes. `size` is that of its queue in bytes of
    /// kernel memory, as far as this process may.
    pub(crate) fn open(size: usize) -> Result<Self, Error> {
        let socket = open()?;
        socket.set_non_blocking(true).map_err(Error::Open)?;
        // without CAP_NET_ADMIN, net.core.rmem_max is the limit; an overrun is then likelier, and is repaired
        if sockopt::set_socket_recv_buffer_size_force(&socket, size).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, size).map_err(|error| Error::Open(error.into()))?;
        }
        for group in GROUPS {
            socket.add_membership(group).map_err(|error| Error::Subscribe(group, error))?;
        }
        Ok(Self { socket, buffer: vec![0; BUFFER].into() })
    }

    /// What to wait on.
    pub(crate) fn descriptor(&self) -> impl AsFd + '_ {
        &self.socket
    }

    /// Receives without waiting.
    pub(crate) fn receive(&mut self) -> Result<Received<'_>, Error> {
        match receive(&self.socket, &mut self.buffer, RecvFlags::DONTWAIT) {
            Ok(length) => Ok(self.buffer.get(..length).map_or(Received::Lost, Received::Bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => Ok(Received::Lost),
            Err(error) => Err(Error::Receive(error)),
        }
    }

    /// Discards what is queued. After an overrun the kernel drops notifications without another error until the queue was
    /// empty once (`netlink_overrun`, `netlink_rcv_wake`), and what is older than the list that follows must
    /// not be applied to it when what came between is lost.
    pub(crate) fn discard(&mut self) -> Result<(), Error> {
        while !matches!(self.receive()?, Received::Nothing) {}
        Ok(())
    }
}

/// Whether a notification ends a namespace that has an id here.
pub(crate) fn ends_a_namespace(message: &Message<'_>) -> bool {
    message.kind == kind::DELNSID
}
