//! The mounts by which a runtime keeps a sandbox's network namespace, such as `/run/netns/<name>`.
//!
//! Of a sandbox without a process they alone show whether it has ended: what else keeps the namespace alive,
//! as the agent does for a virtual device, keeps the kernel from reporting its end.

use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
};

use netdevice::{
    Attachment,
    record::{SandboxPlace, Viewpoint},
};
use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat2};

/// The paths of a record that are mounts.
fn mounts(place: &SandboxPlace) -> impl Iterator<Item = &str> {
    place.paths.iter().map(String::as_str).filter(|path| !path.starts_with("/proc/"))
}

/// Whether the mounts of a sandbox are gone, seen in the mount namespace that the record was written in: that of this
/// process, or the node's own, if this process sees the node's first process. False if that is not known.
pub(crate) fn are_gone(place: &SandboxPlace, here: Viewpoint) -> bool {
    if mounts(place).next().is_none() {
        return false;
    }
    let root = if here.mount_namespace == place.seen_from.mount_namespace { "/" } else { "/proc/1/root" };
    // a link in a path leads to somewhere below that root
    let open_below = |root: &OwnedFd, path: &str| {
        let opened = openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)?;
        Ok::<_, io::Error>(fstat(&opened)?.st_ino)
    };
    let are_gone = || {
        if root != "/" && fs::metadata("/proc/1/ns/mnt")?.ino() != place.seen_from.mount_namespace {
            return Ok(false);
        }
        let root = OwnedFd::from(File::open(root)?);
        Ok::<_, io::Error>(mounts(place).all(|path| is_other(open_below(&root, path), place.inode)))
    };
    are_gone().unwrap_or(false)
}

/// Whether this process sees a mount of the record's namespace, in whichever mount namespace it is.
pub fn sees_mounts<A>(record: &Attachment<A>) -> bool {
    mounts(&record.sandbox).any(|path| inode(path).is_ok_and(|inode| inode == record.sandbox.inode))
}

/// Whether this process sees no mount of the record's namespace. Only where it saw one before does that say that the
/// runtime took them away.
pub fn sees_no_mounts<A>(record: &Attachment<A>) -> bool {
    mounts(&record.sandbox).all(|path| is_other(inode(path), record.sandbox.inode))
}

fn inode(path: &str) -> io::Result<u64> {
    Ok(fs::metadata(path)?.ino())
}

/// Whether a file is not the namespace of that inode. One that cannot be looked at may be.
fn is_other(found: io::Result<u64>, inode: u64) -> bool {
    match found {
        Ok(found) => found != inode,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}
