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
    call(socket, libc::SIOCADDMULTI as libc::Ioctl, name, argument).map(drop)
}

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
