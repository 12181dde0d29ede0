//! The kubelet's sockets, from a plugin's side.
//!
//! | socket, below `/var/lib/kubelet` | who serves | here |
//! |---|---|---|
//! | `device-plugins/kubelet.sock` | the kubelet | [`DevicePluginRegistry`] |
//! | `pod-resources/kubelet.sock` | the kubelet | [`PodResources`] |
//! | `plugins_registry/*.sock` | the plugin; the kubelet finds it | [`PluginRegistration`] |
//! | a plugin's own | the plugin | [`PluginSocket`] |
//!
//! Nothing waits for ever: each call has a deadline. Nothing is retried: that is for the caller to decide.

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
pub use pod_resources::{Devices, Pod, PodResources};
