//! An attachment in the cache, and whether its Pod still runs.

use std::{fs, io, path::Path};

use cni::{CacheEntry, Target};
use link::{RouteSocket, run_inside};
use rustix::io::Errno;
use store::Namespace;

/// Which boot of the node this is: a cookie of a network namespace may be used again after a reboot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot(String);

impl Boot {
    /// This one.
    ///
    /// # Errors
    ///
    /// When `/proc` does not say.
    pub fn current() -> io::Result<Self> {
        Ok(Self(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The cookie of a namespace.
pub(crate) fn cookie(namespace: &Namespace) -> io::Result<u64> {
    run_inside(namespace, || RouteSocket::open().map(|socket| socket.cookie()))?
}

/// The namespace of an entry that one of our programs made, if it is still the one that it was made in. What cannot be read
/// is not gone.
///
/// # Errors
///
/// When that cannot be found out.
pub(crate) fn namespace_of(entry: &CacheEntry, boot: &Boot) -> io::Result<Option<Namespace>> {
    let Some(marker) = entry.marker().filter(|marker| marker.boot == boot.0) else { return Ok(None) };
    let Some(namespace) = open(Path::new(entry.namespace()))? else { return Ok(None) };
    Ok((cookie(&namespace)? == marker.cookie).then_some(namespace))
}

/// Opens a network namespace; none if there is no such file, or the file is not a namespace: one under a mount that is gone.
pub(crate) fn open(path: &Path) -> io::Result<Option<Namespace>> {
    let namespace = match Namespace::open(path) {
        Err(error) if is_gone(&error) => return Ok(None),
        namespace => namespace?,
    };
    // entering anything else fails
    match run_inside(&namespace, || ()) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        entered => entered.map(|()| Some(namespace)),
    }
}

/// Whether the network namespace of a target exists and has no link of the target's name: for [`cni::Runtime::is_gone`].
#[must_use]
pub fn is_without_link(target: &Target) -> bool {
    let namespace = open(Path::new(&target.namespace)).ok().flatten();
    namespace.is_some_and(|namespace| link::has_link(&namespace, &target.interface).is_ok_and(|has| !has))
}

/// Whether a path leads to nothing. `/proc/PID/ns/net` of a process that has just exited is there and cannot be opened (`ESRCH`).
fn is_gone(error: &io::Error) -> bool {
    let is_missing = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    is_missing || Errno::from_io_error(error) == Some(Errno::SRCH)
}
