//! Small BPF programs, loaded and attached by bpf(2) as a container may: there may be no program here that does it.

#![allow(unsafe_code)] // no crate of ours wraps it

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use nix::libc;

pub(crate) const TCX_INGRESS: u32 = 46;
pub(crate) const TCX_EGRESS: u32 = 47;
pub(crate) const XDP: u32 = 37;

/// What a program answers to each packet.
#[derive(Clone, Copy)]
pub(crate) enum Verdict {
    TcNext,
    TcDrop,
    XdpPass,
}

/// `bpf(2)` with attributes as numbers of 8 bytes each.
fn bpf(command: libc::c_long, attributes: &mut [u64]) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes at most the size that it is told; addresses in the attributes are of memory
    // that the callers keep, and it is told how much that is.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap()) }
}

/// Two numbers of 4 bytes as one.
fn pair(first: u32, second: u32) -> u64 {
    let bytes = [first.to_ne_bytes(), second.to_ne_bytes()].concat();
    u64::from_ne_bytes(bytes.try_into().unwrap())
}

fn fd(descriptor: &OwnedFd) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

fn own(descriptor: io::Result<i32>) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor, and only the caller knows it.
    unsafe { OwnedFd::from_raw_fd(descriptor.unwrap()) }
}

/// Loads a program that always answers the same.
pub(crate) fn load(verdict: Verdict) -> OwnedFd {
    let (kind, answer, attach_type) = match verdict {
        Verdict::TcNext => (3, -1i32, 0),
        Verdict::TcDrop => (3, 2, 0),
        Verdict::XdpPass => (6, 2, XDP),
    };
    // r0 = answer; exit
    let code = [u64::from(answer.cast_unsigned()) << 32 | 0xb7, 0x95];
    let licence = CString::new("GPL").unwrap();
    let mut attributes = [0u64; 16];
    attributes[0] = pair(kind, 2);
    attributes[1] = code.as_ptr() as u64;
    attributes[2] = licence.as_ptr() as u64;
    attributes[8] = pair(0, attach_type);
    own(bpf(5, &mut attributes))
}

/// Attaches a tcx program to a link of the calling thread's namespace: it stays without any process.
pub(crate) fn attach_tcx(index: u32, program: &OwnedFd, attach_type: u32) {
    bpf(8, &mut [pair(index, fd(program)), pair(attach_type, 0), 0, 0, 0]).unwrap();
}

/// Attaches a program to a link by a BPF link, which holds it for as long as somebody has that.
pub(crate) fn link(index: u32, program: &OwnedFd, attach_type: u32) -> OwnedFd {
    let flags = if attach_type == XDP { 2 } else { 0 };
    own(bpf(28, &mut [pair(fd(program), index), pair(attach_type, flags), 0, 0, 0, 0, 0, 0]))
}

/// How many programs are on a link.
pub(crate) fn count(index: u32, attach_type: u32) -> u32 {
    let mut ids = [0u32; 64];
    let mut attributes = [pair(index, attach_type), 0, ids.as_mut_ptr() as u64, pair(64, 0), 0, 0, 0, 0];
    bpf(16, &mut attributes).unwrap();
    u32::from_ne_bytes(attributes[3].to_ne_bytes()[..4].try_into().unwrap())
}

/// Gives a program a path in a BPF file system.
pub(crate) fn pin(program: &OwnedFd, path: &Path) {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    bpf(6, &mut [path.as_ptr() as u64, pair(fd(program), 0)]).unwrap();
}
