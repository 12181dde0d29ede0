//! The wire APIs that we speak: Rust types, and for gRPC clients and servers, generated from the files in `/proto`.
//!
//! A module per API, named after its file. The comments of the `.proto` files become the documentation.

/// The Container Runtime Interface, package `runtime.v1`.
#[allow(missing_docs, unreachable_pub, reason = "generated: what the .proto file says nothing of has no comment")]
#[allow(clippy::all, clippy::pedantic, reason = "generated")]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

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

/// How the kubelet learns of plugins, package `pluginregistration`.
#[allow(missing_docs, unreachable_pub, reason = "generated: what the .proto file says nothing of has no comment")]
#[allow(clippy::all, clippy::pedantic, reason = "generated")]
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}

/// The Node Resource Interface, package `nri.pkg.api.v1alpha1`: messages only, spoken over ttrpc.
#[allow(missing_docs, unreachable_pub, reason = "generated: what the .proto file says nothing of has no comment")]
#[allow(clippy::all, clippy::pedantic, reason = "generated")]
pub mod nri {
    tonic::include_proto!("nri.pkg.api.v1alpha1");

    /// The service that a plugin serves, on connection 1.
    pub const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
    /// The service that the runtime serves, on connection 2.
    pub const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";
}

/// What wraps each message of NRI, package `ttrpc`.
#[allow(missing_docs, unreachable_pub, reason = "generated: what the .proto file says nothing of has no comment")]
#[allow(clippy::all, clippy::pedantic, reason = "generated")]
pub mod ttrpc {
    tonic::include_proto!("ttrpc");
}
