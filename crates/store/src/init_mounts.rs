//! The mount namespace of PID 1, which the container runtime and its hooks are in.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// Whether the calling thread is in the mount namespace of PID 1, or cannot see that one.
pub fn is_in_mounts_of_init() -> bool {
    let inode = |path: &str| std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let init = inode("/proc/1/ns/mnt");
    init.is_err() || init.ok() == inode("/proc/thread-self/ns/mnt").ok()
}

/// Runs `work` in the mount namespace of PID 1, where the node's own paths are: on a thread that ends afterwards, or on the
/// calling thread if that is in it already.
///
/// # Errors
///
/// When the namespace cannot be entered: without `CAP_SYS_ADMIN`, `CAP_SYS_CHROOT` and `CAP_SYS_PTRACE`.
pub fn run_in_mounts_of_init<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    if is_in_mounts_of_init() {
        return Ok(work());
    }
    let (mut work, mut result) = (Some(work), None);
    in_mounts_of_init(&mut || {
        result = work.take().map(|work| work());
        Ok(())
    })?;
    result.ok_or_else(|| io::Error::other("nothing was run"))
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
