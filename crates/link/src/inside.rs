//! Doing something inside a network namespace.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use rustix::{
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use store::Namespace;

use crate::{directory::Directory, socket::RouteSocket};

/// The namespace that a socket acts in. Its descriptor has the namespace's own name in `/proc/<pid>/fd`, however the
/// namespace was found: one that was opened by a mount has the mount's path there, and `/` once that is unmounted.
///
/// # Errors
///
/// Without `CAP_NET_ADMIN` there.
pub(crate) fn namespace_of(socket: &impl AsRawFd) -> io::Result<Namespace> {
    Namespace::from_descriptor(descriptor_of(socket)?)
}

/// Runs `work` inside, on a thread that ends afterwards, whatever `work` does.
///
/// # Errors
///
/// When the namespace cannot be entered: without `CAP_SYS_ADMIN`, or because the file is not a namespace.
pub fn run_inside<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let inside = || {
            enter(namespace)?;
            Ok(work())
        };
        let thread = std::thread::Builder::new().spawn_scoped(scope, inside)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `work` in a network namespace that is made for it, on a thread that ends afterwards, and the namespace with it.
///
/// # Errors
///
/// Without `CAP_SYS_ADMIN`.
pub(crate) fn run_in_new_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let inside = || {
            unshare_network()?;
            Ok(work())
        };
        let thread = std::thread::Builder::new().spawn_scoped(scope, inside)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A socket that acts inside, usable from outside.
///
/// The calling thread, which is in the namespace of `home`, enters the other one and returns: making a thread for it costs a
/// hook ten times as much. Nothing is between the two but the making of the socket, so that there is no other way out.
///
/// # Errors
///
/// When the namespace cannot be entered or the socket cannot be made.
pub fn socket_inside(namespace: &Namespace, home: &RouteSocket) -> io::Result<RouteSocket> {
    briefly_inside(namespace, home, || home.open_beside())
}

/// The root of a sysfs that shows this namespace: a mount of our own, in no directory, so that no process inside can
/// change it. What is asked of it does not wait for RTNL.
///
/// # Errors
///
/// When the namespace cannot be entered, or the caller may not mount.
pub(crate) fn sysfs_inside(namespace: &Namespace, home: &RouteSocket) -> io::Result<Directory> {
    let context = briefly_inside(namespace, home, || Ok(fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?))?;
    fsconfig_create(context.as_fd())?;
    let root = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    Ok(Directory::from(root))
}

/// Runs `work`, which only makes a socket or a file system context or writes a setting, inside, as [`socket_inside`] does.
pub(crate) fn briefly_inside<T>(
    namespace: &Namespace,
    home: &RouteSocket,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let way_back = descriptor_of(home)?;
    enter(namespace)?;
    let made = work();
    if move_into_link_name_space(way_back.as_fd(), Some(LinkNameSpaceType::Network)).is_err() {
        // Whatever this thread did now, it would do in the wrong place. The record says what the next program has to do.
        std::process::abort();
    }
    made
}

/// Moves the calling thread into a new network namespace.
#[allow(unsafe_code)] // rustix calls it unsafe for what it can do to descriptors
fn unshare_network() -> io::Result<()> {
    // SAFETY: descriptors stay shared; no memory depends on the thread's network namespace.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?)
}

/// Moves the calling thread inside.
fn enter(namespace: &Namespace) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// The namespace that a socket acts in (`SIOCGSKNS` in `net/socket.c`, with `CAP_NET_ADMIN` there): without
/// `/proc`, which makes a directory for each process and thread that is looked up.
#[allow(unsafe_code)] // no crate wraps it
fn descriptor_of(socket: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no argument, and the kernel writes nothing.
    let descriptor = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGSKNS as _) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for the caller, and only the caller knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
