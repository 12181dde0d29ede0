//! Requests about an interface that rtnetlink does not know: `ioctl` on a route socket, which acts in the socket's namespace
//! as all else that is sent through it.

use std::{ffi::c_char, io, os::fd::AsRawFd};

use netdevice::InterfaceName;

use crate::socket::RouteSocket;

/// Adds a multicast group to a link for good, as `ip maddress add` does (`dev_mc_add_global`).
pub(crate) fn add_group(socket: &RouteSocket, name: &InterfaceName, group: &[u8]) -> io::Result<()> {
    let mut address = libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
    for (place, byte) in address.sa_data.iter_mut().zip(group) {
        *place = byte.cast_signed() as c_char;
    }
    let argument = libc::__c_anonymous_ifr_ifru { ifru_hwaddr: address };
    call(socket, SIOCADDMULTI, name, argument).map(drop)
}

/// Bytes of the largest structure of fixed size, and of the largest answer at all that is asked for; see [`Driver::ask`].
/// Most devices need no more than the first: each page of a stack that is touched for the first time costs 2 µs.
pub(crate) const FIXED: usize = 256;
pub(crate) const ROOM: usize = 8192;

/// A structure of ethtool, with room behind it.
#[repr(align(8))]
pub(crate) struct Buffer<const SIZE: usize = FIXED>([u8; SIZE]);

impl<const SIZE: usize> Buffer<SIZE> {
    pub(crate) fn new() -> Self {
        Self([0; SIZE])
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        self.0[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }

    pub(crate) fn set_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
}

/// The driver of a link.
pub(crate) struct Driver<'a> {
    pub(crate) socket: &'a RouteSocket,
    pub(crate) name: &'a InterfaceName,
}

impl Driver<'_> {
    /// Sends the structure to the driver, which answers in its place (`SIOCETHTOOL`).
    ///
    /// The answer must have room: structures of fixed size have less than [`FIXED`] bytes, three masks of link modes at most
    /// 1,524, and of features and of the receive hash the request says how much it wants, which its user keeps below the
    /// buffer's size.
    pub(crate) fn ask<const SIZE: usize>(&mut self, buffer: &mut Buffer<SIZE>) -> io::Result<()> {
        const { assert!(SIZE >= FIXED) };
        let argument = libc::__c_anonymous_ifr_ifru { ifru_data: buffer.0.as_mut_ptr().cast() };
        call(self.socket, SIOCETHTOOL, self.name, argument).map(drop)
    }
}

/// `include/uapi/linux/sockios.h`.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const SIOCADDMULTI: libc::Ioctl = 0x8931;

/// One request about an interface. What `argument` points to, if it does, must have the room that the request needs.
#[allow(unsafe_code)] // no crate wraps these requests
fn call(
    socket: &RouteSocket,
    request: libc::Ioctl,
    name: &InterfaceName,
    argument: libc::__c_anonymous_ifr_ifru,
) -> io::Result<i32> {
    let mut interface = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: argument };
    // a name has at most 15 bytes
    for (place, byte) in interface.ifr_name.iter_mut().zip(name.as_bytes()) {
        *place = byte.cast_signed() as c_char;
    }
    // SAFETY: the kernel reads and writes `interface`, which is a whole `struct ifreq` and outlives the call, and what its
    // argument points to, of which the callers in this file say why there is room.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut interface) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
