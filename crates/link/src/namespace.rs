//! Network namespaces: which one it is, and doing something inside.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use crate::{folder::Folder, socket::RouteSocket};

/// `SO_NETNS_COOKIE` (`include/uapi/asm-generic/socket.h`, Linux 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// An open network namespace. While this lives, the namespace does.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    path: PathBuf,
    inode: u64,
}

impl Namespace {
    /// Opens the namespace at a path like `/proc/<pid>/ns/net` or `/run/netns/<name>`.
    ///
    /// # Errors
    ///
    /// Those of `open` and `fstat`; a file that is no namespace shows when it is entered.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let file = File::open(&path)?;
        let status = rustix::fs::fstat(&file)?;
        Ok(Self { file, path, inode: status.st_ino })
    }

    /// The namespace that a socket acts in. Its descriptor has the namespace's own name in `/proc/<pid>/fd`, however the
    /// namespace was found: one that was opened by a mount has the mount's path there, and `/` once that is unmounted.
    ///
    /// # Errors
    ///
    /// Without `CAP_NET_ADMIN` there.
    pub(crate) fn of(socket: &impl AsRawFd) -> io::Result<Self> {
        let file = File::from(namespace_of(socket)?);
        let inode = rustix::fs::fstat(&file)?.st_ino;
        Ok(Self { path: format!("/proc/self/fd/{}", file.as_raw_fd()).into(), file, inode })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same, once more.
    ///
    /// # Errors
    ///
    /// When there are too many descriptors.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, path: self.path.clone(), inode: self.inode })
    }

    /// Where this process finds it while this lives.
    pub(crate) fn descriptor_path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// Its inode, which another namespace may have after this one's end.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Runs `work` inside, on a thread that ends afterwards, whatever `work` does.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered: without `CAP_SYS_ADMIN`, or because the file is none.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let inside = || {
                self.enter()?;
                Ok(work())
            };
            let thread = std::thread::Builder::new().spawn_scoped(scope, inside)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A socket that acts inside, usable from outside.
    ///
    /// The calling thread, which is in the namespace of `home`, goes inside and comes back: making a thread for it costs a
    /// hook ten times as much. Nothing is between the two but the making of the socket, so that there is no other way out.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered or the socket not be made.
    pub fn socket(&self, home: &RouteSocket) -> io::Result<RouteSocket> {
        self.briefly(home, || home.open_beside())
    }

    /// The root of a sysfs that shows this namespace: a mount of our own, in no directory, so that nobody inside has a hand
    /// in it. What is asked of it does not wait for RTNL.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered, or the caller may not mount.
    pub(crate) fn sysfs(&self, home: &RouteSocket) -> io::Result<Folder> {
        let context = self.briefly(home, || Ok(fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?))?;
        fsconfig_create(context.as_fd())?;
        let root = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        Ok(Folder::from(root))
    }

    /// Runs `work`, which only makes a socket or a file system context, inside, as [`Namespace::socket`] does.
    pub(crate) fn briefly<T>(&self, home: &RouteSocket, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let way_back = namespace_of(home)?;
        self.enter()?;
        let made = work();
        if move_into_link_name_space(way_back.as_fd(), Some(LinkNameSpaceType::Network)).is_err() {
            // Whatever this thread did now, it would do in the wrong place. A record tells the next start what to do.
            std::process::abort();
        }
        made
    }

    /// Moves the calling thread inside.
    fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The namespace that a socket acts in (`SIOCGSKNS` in `net/socket.c`, for whoever has `CAP_NET_ADMIN` there): without
/// `/proc`, which makes a folder for each process and thread that somebody looks for.
#[allow(unsafe_code)] // no crate wraps it
fn namespace_of(socket: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no argument, and the kernel writes nothing.
    let descriptor = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGSKNS as _) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for the caller, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Runs `work` in the mount namespace of PID 1, on a thread that ends afterwards.
///
/// # Errors
///
/// Those of `work`, and without `CAP_SYS_ADMIN`, `CAP_SYS_CHROOT` and `CAP_SYS_PTRACE`.
pub(crate) fn in_mounts_of_init(work: &mut (dyn FnMut() -> io::Result<()> + Send)) -> io::Result<()> {
    let mounts = File::open("/proc/1/ns/mnt")?;
    std::thread::scope(|scope| {
        let inside = || {
            enter_mounts(&mounts)?;
            work()
        };
        let thread = std::thread::Builder::new().spawn_scoped(scope, inside)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves the calling thread, which ends afterwards, into a mount namespace; root and working directory become its own.
#[allow(unsafe_code)] // rustix calls it unsafe for what it can do to descriptors
fn enter_mounts(mounts: &File) -> io::Result<()> {
    // SAFETY: descriptors stay shared; what this thread stops to share are its root and working directory, which no memory
    // depends on.
    unsafe { unshare_unsafe(UnshareFlags::FS) }?;
    Ok(move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?)
}

/// The cookie of the namespace that a socket acts in: counts up and is never used again while the node runs.
#[allow(unsafe_code)] // no crate wraps it
pub(crate) fn cookie(socket: &impl AsRawFd) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).expect("8 fits");
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which has that many and outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
