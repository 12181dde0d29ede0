//! A plugin's own socket: removed when it is no longer served. A removal by another process is noticed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    time::timeout,
};
use wake::FileIdentity;

use crate::error::Error;

/// Longest path of a socket in bytes: `sizeof(sun_path)` less the final NUL (`include/uapi/linux/un.h`).
pub const MAX_PATH: usize = 107;

/// How long a socket that may be stale may take to accept a connection.
const CONNECT: Duration = Duration::from_millis(100);

/// A socket that is removed when this is dropped.
#[derive(Debug)]
pub struct PluginSocket {
    path: PathBuf,
    identity: Option<FileIdentity>,
}

impl PluginSocket {
    /// Creates the socket. The path must be free.
    ///
    /// # Errors
    ///
    /// When the path is too long, or the socket cannot be created.
    pub fn bind(path: PathBuf) -> Result<(Self, UnixListener), Error> {
        if path.as_os_str().len() > MAX_PATH {
            return Err(Error::SocketPathTooLong(path));
        }
        let listener = UnixListener::bind(&path).map_err(|cause| Error::BindFailed { socket: path.clone(), cause })?;
        let identity = FileIdentity::of(&path);
        Ok((Self { path, identity }, listener))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name without the directory.
    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether it is still at its path.
    pub fn is_there(&self) -> bool {
        self.identity.is_some() && FileIdentity::of(&self.path) == self.identity
    }
}

impl Drop for PluginSocket {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the sockets of killed instances from a directory: those whose name is ours and on which no process listens.
pub async fn remove_stale(directory: &Path, is_ours: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_name().to_str().is_some_and(&is_ours) {
            continue;
        }
        let answer = timeout(CONNECT, UnixStream::connect(&path)).await;
        if matches!(answer, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused) {
            tracing::debug!("removing the stale socket {}", path.display());
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_sockets_that_nobody_serves_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let _live = UnixListener::bind(path("ours-live.sock")).unwrap();
        drop(UnixListener::bind(path("ours-stale.sock")).unwrap());
        drop(UnixListener::bind(path("other.sock")).unwrap());
        fs::write(path("ours-note.sock"), "").unwrap();
        remove_stale(directory.path(), |name| name.starts_with("ours-") && name.ends_with(".sock")).await;
        assert!(path("ours-live.sock").exists() && path("other.sock").exists());
        assert!(!path("ours-stale.sock").exists());
    }

    #[tokio::test]
    async fn the_end_removes_the_socket_and_not_what_took_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plugin.sock");
        let (socket, _listener) = PluginSocket::bind(path.clone()).unwrap();
        assert!(socket.is_there() && socket.file_name() == "plugin.sock");
        drop(socket);
        assert!(!path.exists());
        let (socket, _listener) = PluginSocket::bind(path.clone()).unwrap();
        fs::rename(&path, directory.path().join("away")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        assert!(!socket.is_there());
        drop(socket);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_directory_that_leaves_no_room_is_an_error() {
        let path = PathBuf::from(format!("/tmp/{}/plugin.sock", "f".repeat(100)));
        let error = PluginSocket::bind(path).unwrap_err().to_string();
        assert!(error.ends_with("/plugin.sock is too long: choose a shorter directory"), "{error}");
    }
}
