//! Settings of drivers, by the ioctls of ethtool.

#![allow(unsafe_code)] // no crate wraps them

use std::{net::UdpSocket, os::fd::AsRawFd};

use nix::libc;

/// `ETHTOOL_GFEATURES`, `ETHTOOL_STSO`, `ETHTOOL_SGSO`, `ETHTOOL_GCHANNELS`, `ETHTOOL_SCHANNELS`.
const GET_FEATURES: u32 = 0x3a;
pub(crate) const SET_TSO: u32 = 0x1f;
pub(crate) const SET_GSO: u32 = 0x24;
const GET_CHANNELS: u32 = 0x3c;
const SET_CHANNELS: u32 = 0x3d;

/// Sends words to a driver in the calling thread's namespace, and returns its answer.
fn ask(link: &str, request: &[u32]) -> Option<Vec<u32>> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let mut words = [0u32; 64];
    words[..request.len()].copy_from_slice(request);
    // SAFETY: all zeros is a structure of this kind.
    let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in interface.ifr_name.iter_mut().zip(link.bytes()) {
        *place = byte.cast_signed();
    }
    interface.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    // SAFETY: both structures outlive the call, and no answer that is asked for here has more than 256 bytes.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), 0x8946, &raw mut interface) };
    (result >= 0).then(|| words.to_vec())
}

/// Features and channels, as facts.
pub(crate) fn facts(link: &str) -> Vec<String> {
    let features = ask(link, &[GET_FEATURES, 2]).into_iter().flat_map(|words| {
        // available, requested, active
        (0..2).map(move |word| format!("features {word} = {:x?}", &words[2 + 4 * word..5 + 4 * word]))
    });
    let channels = ask(link, &[GET_CHANNELS]).map(|words| format!("channels = {:?}", &words[5..9]));
    features.chain(channels).map(|fact| format!("link {link} {fact}")).collect()
}

/// `ETHTOOL_GTSO`, `ETHTOOL_GGSO`, `ETHTOOL_GGRO`.
pub(crate) const GET_TSO: u32 = 0x1e;
pub(crate) const GET_GSO: u32 = 0x23;
pub(crate) const GET_GRO: u32 = 0x2b;

/// Whether a feature is in use.
pub(crate) fn is_on(link: &str, command: u32) -> bool {
    ask(link, &[command]).is_some_and(|words| words[1] != 0)
}

/// Switches a feature on or off.
pub(crate) fn switch(link: &str, command: u32, value: u32) {
    assert!(ask(link, &[command, value]).is_some(), "{link}: {command:#x}");
}

/// Gives a link so many queues of each kind.
pub(crate) fn set_channels(link: &str, count: u32) {
    assert!(ask(link, &[SET_CHANNELS, 0, 0, 0, 0, count, count, 0, 0]).is_some(), "{link}: {count} channels");
}
