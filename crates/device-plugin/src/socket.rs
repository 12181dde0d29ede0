//! Our socket in the kubelet's folder: a new name each time, and gone when it is not served any more.

use std::{
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use netdevice::ResourceName;
use tokio::{
    net::{UnixListener, UnixStream},
    time::timeout,
};

use crate::{cdi_file::random, error::Error, identity::FileIdentity};

/// What the names of all our sockets begin with.
pub const SOCKET_PREFIX: &str = "netdevice-";

/// `sizeof(sun_path)` less the final NUL (`include/uapi/linux/un.h`).
const MAX_PATH: usize = 107;

/// A socket that is ours to remove.
#[derive(Debug)]
pub(crate) struct PluginSocket {
    path: PathBuf,
    identity: Option<FileIdentity>,
}

impl PluginSocket {
    /// Makes a socket of a name that never was.
    pub(crate) fn bind(folder: &Path, resource: &ResourceName) -> Result<(Self, UnixListener), Error> {
        let path = folder.join(name(folder, resource));
        if path.as_os_str().len() > MAX_PATH {
            return Err(Error::SocketPathTooLong(path));
        }
        let listener = UnixListener::bind(&path).map_err(|source| Error::BindFailed { path: path.clone(), source })?;
        let identity = FileIdentity::of(&path);
        Ok((Self { path, identity }, listener))
    }

    /// What the kubelet is told: the name without the folder.
    pub(crate) fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether the kubelet would still find it.
    pub(crate) fn is_there(&self) -> bool {
        self.identity.is_some() && FileIdentity::of(&self.path) == self.identity
    }
}

impl Drop for PluginSocket {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// `netdevice-<class>-<random>.sock`, with as much of the class as there is room for.
fn name(folder: &Path, resource: &ResourceName) -> String {
    let end = format!("{:08x}.sock", random() as u32);
    let used = folder.as_os_str().as_bytes().len() + 1 + SOCKET_PREFIX.len() + 1 + end.len();
    let class: String = resource.class().chars().take(MAX_PATH.saturating_sub(used)).collect();
    if class.is_empty() { format!("{SOCKET_PREFIX}{end}") } else { format!("{SOCKET_PREFIX}{class}-{end}") }
}

/// Removes the sockets that killed instances left: ours by name, and nobody listens.
pub(crate) async fn remove_stale(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_ours =
            entry.file_name().to_str().is_some_and(|name| name.starts_with(SOCKET_PREFIX) && name.ends_with(".sock"));
        if !is_ours {
            continue;
        }
        let answer = timeout(Duration::from_millis(100), UnixStream::connect(&path)).await;
        if matches!(answer, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused) {
            tracing::debug!("removing the stale socket {}", path.display());
            let _ = std::fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_name_fits_whatever_the_resource_is_called() {
        let long: ResourceName =
            format!("{}/{}", ["a".repeat(63).as_str(); 3].join("."), "c".repeat(63)).parse().unwrap();
        for folder in ["/var/lib/kubelet/device-plugins", &format!("/{}", "f".repeat(80))] {
            let name = name(Path::new(folder), &long);
            assert!(name.starts_with(SOCKET_PREFIX) && name.ends_with(".sock"), "{name}");
            assert!(folder.len() + 1 + name.len() <= MAX_PATH, "{name}");
        }
        assert!(name(Path::new("/d"), &ResourceName::default()).starts_with("netdevice-netdevice-"));
    }

    #[tokio::test]
    async fn only_sockets_that_nobody_serves_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let _live = UnixListener::bind(path("netdevice-live.sock")).unwrap();
        drop(UnixListener::bind(path("netdevice-stale.sock")).unwrap());
        drop(UnixListener::bind(path("other.sock")).unwrap());
        std::fs::write(path("netdevice-note"), "").unwrap();
        remove_stale(folder.path()).await;
        let left = |name: &str| path(name).exists();
        assert!(left("netdevice-live.sock") && left("other.sock") && left("netdevice-note"));
        assert!(!left("netdevice-stale.sock"));
    }

    #[tokio::test]
    async fn a_folder_that_leaves_no_room_is_an_error() {
        let folder = PathBuf::from(format!("/tmp/{}", "f".repeat(100)));
        let error = PluginSocket::bind(&folder, &ResourceName::default()).unwrap_err().to_string();
        assert!(error.ends_with("is too long for the path of a socket: choose a shorter folder"), "{error}");
    }
}
