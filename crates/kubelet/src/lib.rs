//! The kubelet's sockets, for plugins.
//!
//! | socket, below `/var/lib/kubelet` | who serves | here |
//! |---|---|---|
//! | `device-plugins/kubelet.sock` | the kubelet | [`DevicePluginRegistry`] |
//! | `pod-resources/kubelet.sock` | the kubelet | [`PodResources`] |
//! | `plugins_registry/*.sock` | the plugin; the kubelet connects | [`PluginRegistration`] |
//! | a plugin's own | the plugin | [`PluginSocket`] |
//!
//! Each call has a deadline. Nothing is retried: the caller decides on that.

mod authority;
mod connection;
mod device_plugin_registry;
mod error;
mod plugin_registration;
mod plugin_socket;
mod pod_resources;

pub use authority::ReadableAuthority;
pub use connection::connect;
pub use device_plugin_registry::{DevicePlugin, DevicePluginRegistry};
pub use error::Error;
pub use plugin_registration::{PluginInfo, PluginKind, PluginRegistration, RegistrationState};
pub use plugin_socket::{MAX_PATH, PluginSocket, remove_stale};
pub use pod_resources::{DEFAULT_SOCKET as POD_RESOURCES_SOCKET, Devices, Pod, PodResources};
