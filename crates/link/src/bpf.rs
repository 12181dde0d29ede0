//! BPF programs on a device, by bpf(2). Netlink shows XDP programs only, and removes none that a BPF link holds; tcx
//! and netkit programs it does not know. All of them stay with a device that moves.
//!
//! The calling thread must be in the device's namespace: the kernel looks there for the index.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use netdevice::state::BpfProgram;

/// `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
mod command {
    pub(super) const PROG_DETACH: libc::c_long = 9;
    pub(super) const PROG_GET_FD_BY_ID: libc::c_long = 13;
    pub(super) const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    pub(super) const PROG_QUERY: libc::c_long = 16;
    pub(super) const LINK_GET_FD_BY_ID: libc::c_long = 30;
    pub(super) const LINK_GET_NEXT_ID: libc::c_long = 31;
    pub(super) const LINK_DETACH: libc::c_long = 34;
}

/// `BPF_TCX_INGRESS`, `BPF_TCX_EGRESS` (Linux 6.6).
const TCX: [u32; 2] = [46, 47];
/// `BPF_NETKIT_PRIMARY`, `BPF_NETKIT_PEER` (Linux 6.7), which only a netkit has.
const NETKIT: [u32; 2] = [54, 55];
/// `BPF_LINK_TYPE_XDP`.
const LINK_TYPE_XDP: u32 = 6;
/// `BPF_MPROG_MAX`: more programs are not on one hook of a link.
const MAX_PROGRAMS: usize = 64;
/// How many BPF links of the node are looked at for the one that holds an XDP program.
const MAX_LINKS: u32 = 100_000;

/// The part of `union bpf_attr` for `BPF_PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// The part for `BPF_PROG_DETACH`.
#[repr(C)]
#[derive(Default)]
struct Detach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced: u32,
    relative: u32,
    revision: u64,
}

/// The part for what is found by a number: an id, or a descriptor.
#[repr(C)]
#[derive(Default)]
struct ByNumber {
    number: u32,
    next: u32,
    flags: u32,
}

/// The part for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct GetInfo {
    descriptor: u32,
    length: u32,
    info: u64,
}

/// The beginning of `struct bpf_link_info`, of an XDP link.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    ifindex: u32,
    rest: u32,
}

/// # Safety
///
/// `attributes` must be what the command takes, and addresses in it must be of memory that the kernel may write as much
/// to as it is told to be there.
#[allow(unsafe_code)] // no crate wraps it
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes at most the size that it is told, which is that of `attributes`; the caller
    // answers for what these lead to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result.try_into().unwrap_or(i32::MAX)) }
}

/// A command with a number, and what it returns.
#[allow(unsafe_code)] // no crate wraps it
fn by_number(command: libc::c_long, attributes: &mut ByNumber) -> io::Result<i32> {
    // SAFETY: it has numbers only.
    unsafe { bpf(command, attributes) }
}

/// A descriptor of the program or link with that id.
#[allow(unsafe_code)] // no crate makes an owner of a number
fn open(command: libc::c_long, id: u32) -> io::Result<OwnedFd> {
    let descriptor = by_number(command, &mut ByNumber { number: id, ..ByNumber::default() })?;
    // SAFETY: the kernel has just made this descriptor for the caller, and only the caller knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn number(descriptor: &OwnedFd) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

/// The tcx programs on a link, and those of a netkit.
///
/// # Errors
///
/// Without `CAP_NET_ADMIN` on the node, or where bpf(2) is forbidden. A kernel that does not know these programs has none,
/// nor has a node that is itself in a user namespace: no process there may attach one.
pub(crate) fn programs(index: u32, kind: Option<&str>) -> io::Result<Vec<BpfProgram>> {
    let mut all = Vec::new();
    for attach_type in TCX.into_iter().chain(NETKIT.into_iter().filter(|_| kind == Some("netkit"))) {
        match query(index, attach_type) {
            Ok(programs) => all.extend(programs),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::ENOENT)) => {}
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && is_in_user_namespace() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Whether this process has its capabilities over a part of the machine only (`user_namespaces(7)`).
fn is_in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

#[allow(unsafe_code)] // no crate wraps it
fn query(index: u32, attach_type: u32) -> io::Result<impl Iterator<Item = BpfProgram>> {
    let (mut programs, mut links) = ([0u32; MAX_PROGRAMS], [0u32; MAX_PROGRAMS]);
    let mut attributes = Query {
        target: index,
        attach_type,
        programs: programs.as_mut_ptr() as u64,
        links: links.as_mut_ptr() as u64,
        count: u32::try_from(MAX_PROGRAMS).expect("64 fits"),
        ..Query::default()
    };
    // SAFETY: both addresses are of `count` numbers each, which outlive the call.
    unsafe { bpf(command::PROG_QUERY, &mut attributes)? };
    let found = programs.into_iter().zip(links).take(attributes.count as usize);
    Ok(found.map(move |(program, link)| BpfProgram { attach_type, program, link }))
}

/// Takes a program from a link.
///
/// # Errors
///
/// Without `CAP_SYS_ADMIN` on the node, by which programs and BPF links are reached by their ids.
#[allow(unsafe_code)] // no crate wraps it
pub(crate) fn remove(index: u32, program: &BpfProgram) -> io::Result<()> {
    if program.link != 0 {
        return detach_link(program.link);
    }
    let descriptor = open(command::PROG_GET_FD_BY_ID, program.program)?;
    let (program, attach_type) = (number(&descriptor), program.attach_type);
    // SAFETY: it has numbers only.
    unsafe { bpf(command::PROG_DETACH, &mut Detach { target: index, program, attach_type, ..Detach::default() }) }
        .map(drop)
}

/// Makes a BPF link hold its program nowhere any more; its owner keeps an empty one.
fn detach_link(id: u32) -> io::Result<()> {
    let link = open(command::LINK_GET_FD_BY_ID, id)?;
    by_number(command::LINK_DETACH, &mut ByNumber { number: number(&link), ..ByNumber::default() }).map(drop)
}

/// Takes off an XDP program that a BPF link holds.
///
/// # Errors
///
/// As of [`remove`]; and when there is no such BPF link.
pub(crate) fn remove_xdp(index: u32, program: u32) -> io::Result<()> {
    let mut attributes = ByNumber::default();
    for _ in 0..MAX_LINKS {
        by_number(command::LINK_GET_NEXT_ID, &mut attributes)?;
        attributes.number = attributes.next;
        // it may have ended since
        let Ok(link) = open(command::LINK_GET_FD_BY_ID, attributes.number) else { continue };
        let Ok(info) = link_info(&link) else { continue };
        if (info.kind, info.ifindex, info.program) == (LINK_TYPE_XDP, index, program) {
            return by_number(command::LINK_DETACH, &mut ByNumber { number: number(&link), ..ByNumber::default() })
                .map(drop);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

#[allow(unsafe_code)] // no crate wraps it
fn link_info(link: &OwnedFd) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let length = u32::try_from(size_of::<LinkInfo>()).expect("24 fits");
    let mut attributes = GetInfo { descriptor: number(link), length, info: (&raw mut info) as u64 };
    // SAFETY: `info` has `length` bytes and outlives the call.
    unsafe { bpf(command::OBJ_GET_INFO_BY_FD, &mut attributes)? };
    Ok(info)
}
