//! The name of the plugin's socket in the kubelet's directory: a new one for each registration.

use std::{os::unix::ffi::OsStrExt, path::Path};

use kubelet::{MAX_PATH, PluginSocket};
use netdevice::ResourceName;
use tokio::net::UnixListener;

use crate::cdi_file::random;

/// What the names of the sockets of all plugins begin with.
pub const SOCKET_PREFIX: &str = "netdevice-";

/// Creates a socket with a name that was never used.
pub(crate) fn bind(directory: &Path, resource: &ResourceName) -> Result<(PluginSocket, UnixListener), kubelet::Error> {
    PluginSocket::bind(directory.join(name(directory, resource)))
}

/// Removes the sockets that killed instances left.
pub(crate) async fn remove_stale(directory: &Path) {
    kubelet::remove_stale(directory, |name| name.starts_with(SOCKET_PREFIX) && name.ends_with(".sock")).await;
}

/// `netdevice-<class>-<random>.sock`, with as much of the class as there is room for.
fn name(directory: &Path, resource: &ResourceName) -> String {
    let end = format!("{:08x}.sock", random() as u32);
    let used = directory.as_os_str().as_bytes().len() + 1 + SOCKET_PREFIX.len() + 1 + end.len();
    let class: String = resource.class().chars().take(MAX_PATH.saturating_sub(used)).collect();
    if class.is_empty() { format!("{SOCKET_PREFIX}{end}") } else { format!("{SOCKET_PREFIX}{class}-{end}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_name_fits_whatever_the_resource_is_called() {
        let long: ResourceName =
            format!("{}/{}", ["a".repeat(63).as_str(); 3].join("."), "c".repeat(63)).parse().unwrap();
        for directory in ["/var/lib/kubelet/device-plugins", &format!("/{}", "f".repeat(80))] {
            let name = name(Path::new(directory), &long);
            assert!(name.starts_with(SOCKET_PREFIX) && name.ends_with(".sock"), "{name}");
            assert!(directory.len() + 1 + name.len() <= MAX_PATH, "{name}");
        }
        assert!(name(Path::new("/d"), &ResourceName::default()).starts_with("netdevice-netdevice-"));
    }
}
