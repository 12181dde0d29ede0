//! The wire APIs that we speak: Rust types, clients and servers, generated from the files in `/proto`.
//!
//! A module per API, named after its file. The comments of the `.proto` files become the documentation.

/// The kubelet's device plugin API, package `v1beta1`.
#[allow(missing_docs, unreachable_pub, reason = "generated: what the .proto file says nothing of has no comment")]
#[allow(clippy::all, clippy::pedantic, reason = "generated")]
pub mod deviceplugin {
    tonic::include_proto!("v1beta1");

    /// `version` of `RegisterRequest`.
    pub const VERSION: &str = "v1beta1";
    /// `health` of a device that may be handed out.
    pub const HEALTHY: &str = "Healthy";
    /// `health` of a device that may not.
    pub const UNHEALTHY: &str = "Unhealthy";
}

/// The kubelet's PodResources API, package `v1`.
#[allow(missing_docs, unreachable_pub, reason = "generated: what the .proto file says nothing of has no comment")]
#[allow(clippy::all, clippy::pedantic, reason = "generated")]
pub mod podresources {
    tonic::include_proto!("v1");
}
