//! A stand-in for the kubelet: a server that speaks the real device plugin and PodResources protocols.
//!
//! The tests of the device plugin use it, and `hack/demo` where there is no Go to build the kubelet with. It does what
//! was measured on kubelet 1.36, its odd sides included: it dials the plugin within Register, keeps one client per
//! resource name, and lets the end of an old stream cut off the new client of the same name.

mod kubelet;
mod pod_resources;
mod registration;
mod state;

pub use kubelet::Kubelet;
pub use pod_resources::PodResources;
pub use registration::Behaviour;
pub use state::{KubeletState, Resource};
