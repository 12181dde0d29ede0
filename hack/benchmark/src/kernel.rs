//! Links of this process's own namespace, made and changed as fast as the kernel allows.

use std::{
    io::Write,
    os::fd::{AsRawFd, OwnedFd},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use netdevice::{
    acquisition::{ChildKind, MacvlanMode},
    link::flags::UP,
};
use rtnl::{
    Batch,
    link::attribute as ifla,
    message::{flags, kind},
    messages,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv, send,
    socket_with, sockopt,
};

/// `struct ifinfomsg`.
const HEADER: [u8; 16] = [0; 16];
/// `IFLA_INFO_DATA`.
const INFO_DATA: u16 = 2;
/// `VETH_INFO_PEER`.
const VETH_PEER: u16 = 1;
/// Requests in one send: the answers have room in the socket's buffer.
const BATCH: u32 = 100;
const BUFFER: usize = 64 << 10;

/// Runs `ip` commands, one a line.
pub(crate) fn ip(commands: &str) -> Result<()> {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().context("iproute2")?;
    child.stdin.take().context("a pipe")?.write_all(commands.as_bytes())?;
    ensure!(child.wait()?.success(), "ip failed: {commands}");
    Ok(())
}

/// A socket that makes changes.
#[derive(Debug)]
pub(crate) struct Kernel {
    socket: OwnedFd,
}

impl Kernel {
    pub(crate) fn open() -> Result<Self> {
        Ok(Self { socket: route_socket(0)? })
    }

    /// Makes the requests and waits until each is acknowledged.
    pub(crate) fn ask(&self, batch: Batch) -> Result<()> {
        let mut open = batch.count();
        send(&self.socket, &batch.into_bytes(0), SendFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        while open > 0 {
            let (length, _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            for message in messages(&buffer[..length]) {
                let Some(answer) = message?.answer() else { continue };
                ensure!(answer.errno == 0, "{}", std::io::Error::from_raw_os_error(answer.errno));
                open -= 1;
            }
        }
        Ok(())
    }

    /// Makes many requests, some in a send.
    pub(crate) fn ask_all<T>(&self, items: impl IntoIterator<Item = T>, request: impl Fn(&mut Batch, T)) -> Result<()> {
        let mut batch = Batch::new();
        for item in items {
            request(&mut batch, item);
            if batch.count() >= BATCH {
                self.ask(std::mem::take(&mut batch))?;
            }
        }
        if batch.is_empty() { Ok(()) } else { self.ask(batch) }
    }

    pub(crate) fn add_ifbs(&self, names: impl IntoIterator<Item = String>) -> Result<()> {
        self.ask_all(names, |batch, name| {
            let mut request = batch.push(kind::NEWLINK, flags::ACK | flags::CREATE | flags::EXCL, &HEADER);
            request.string(ifla::IFNAME, name.as_bytes());
            request.nest(ifla::LINKINFO, |info| _ = info.string(ifla::INFO_KIND, b"ifb"));
        })
    }

    /// Makes veth pairs of that device group.
    pub(crate) fn add_veths(&self, pairs: impl IntoIterator<Item = (String, String)>, group: u32) -> Result<()> {
        self.ask_all(pairs, |batch, (name, peer)| {
            let mut other = HEADER.to_vec();
            let length = u16::try_from(4 + peer.len() + 1).expect("a name is short");
            other.extend(length.to_ne_bytes());
            other.extend(ifla::IFNAME.to_ne_bytes());
            other.extend(peer.as_bytes());
            other.resize(other.len().next_multiple_of(4) + 4 * usize::from(other.len().is_multiple_of(4)), 0);
            let mut request = batch.push(kind::NEWLINK, flags::ACK | flags::CREATE | flags::EXCL, &HEADER);
            request.string(ifla::IFNAME, name.as_bytes());
            request.u32(ifla::GROUP, group);
            request.nest(ifla::LINKINFO, |info| {
                info.string(ifla::INFO_KIND, b"veth");
                info.nest(INFO_DATA, |data| _ = data.attribute(VETH_PEER, &other));
            });
        })
    }

    /// Deletes all links of a device group, in one act.
    pub(crate) fn delete_group(&self, group: u32) -> Result<()> {
        let mut batch = Batch::new();
        batch.push(kind::DELLINK, flags::ACK, &HEADER).u32(ifla::GROUP, group);
        self.ask(batch)
    }

    pub(crate) fn delete(&self, name: &str) -> Result<()> {
        let mut batch = Batch::new();
        batch.push(kind::DELLINK, flags::ACK, &HEADER).string(ifla::IFNAME, name.as_bytes());
        self.ask(batch)
    }

    pub(crate) fn set_up(&self, name: &str) -> Result<()> {
        self.set_flags(name, UP)
    }

    pub(crate) fn set_down(&self, name: &str) -> Result<()> {
        self.set_flags(name, 0)
    }

    pub(crate) fn set_mtu(&self, name: &str, mtu: u32) -> Result<()> {
        let mut batch = Batch::new();
        rtnl::link::set(&mut batch, 0, 0, 0).string(ifla::IFNAME, name.as_bytes()).u32(ifla::MTU, mtu);
        self.ask(batch)
    }

    /// Creates a macvlan on a link, in another network namespace.
    pub(crate) fn add_macvlan(&self, name: &str, parent: u32, namespace: &OwnedFd) -> Result<()> {
        let mut batch = Batch::new();
        let kind = ChildKind::Macvlan { mode: MacvlanMode::Bridge };
        let descriptor = u32::try_from(namespace.as_raw_fd()).context("a descriptor is positive")?;
        let mut request = rtnl::link::create(&mut batch, 0, parent, kind);
        request.string(ifla::IFNAME, name.as_bytes()).u32(ifla::NET_NS_FD, descriptor);
        self.ask(batch)
    }

    fn set_flags(&self, name: &str, to: u32) -> Result<()> {
        let mut batch = Batch::new();
        rtnl::link::set(&mut batch, 0, to, UP).string(ifla::IFNAME, name.as_bytes());
        self.ask(batch)
    }

    /// Moves the IPv4 default route to that link.
    pub(crate) fn set_default_route(&self, link: u32) -> Result<()> {
        // struct rtmsg: a default route on the link, in the main table, with protocol boot
        let header = [2, 0, 0, 0, 254, 3, 253, 1, 0, 0, 0, 0];
        let mut batch = Batch::new();
        batch.push(kind::NEWROUTE, flags::ACK | flags::CREATE | flags::REPLACE, &header).u32(4, link);
        self.ask(batch)
    }

    /// Receives the list of all links and does nothing with it: the minimum for a program that lists them.
    pub(crate) fn list_links(&self) -> Result<()> {
        let mut batch = Batch::new();
        rtnl::link::dump(&mut batch);
        send(&self.socket, &batch.into_bytes(0), SendFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let (length, _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            if messages(&buffer[..length]).flatten().any(|message| message.answer().is_some()) {
                return Ok(());
            }
        }
    }
}

/// Index of a link.
pub(crate) fn index_of(name: &str) -> Result<u32> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex"));
    Ok(text.with_context(|| format!("no link {name}"))?.trim().parse()?)
}

/// A route socket that hears these multicast groups (a bit each, counted from group 1).
pub(crate) fn route_socket(groups: u32) -> Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    if groups != 0 {
        sockopt::set_socket_recv_buffer_size_force(&socket, 64 << 20)?;
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    }
    Ok(socket)
}
