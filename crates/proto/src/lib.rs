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

/// The kubelet's DRA plugin API, package `k8s.io.kubelet.pkg.apis.dra.v1`.
#[allow(missing_docs, unreachable_pub, reason = "generated: what the .proto file says nothing of has no comment")]
#[allow(clippy::all, clippy::pedantic, reason = "generated")]
pub mod dra {
    include!(concat!(env!("OUT_DIR"), "/dra/k8s.io.kubelet.pkg.apis.dra.v1.rs"));

    /// The version as the driver registers it.
    pub const VERSION: &str = "v1.DRAPlugin";
}

/// The same API of kubelets before 1.34, package `k8s.io.kubelet.pkg.apis.dra.v1beta1`: the service, with the messages of v1.
#[allow(missing_docs, unreachable_pub, reason = "generated: what the .proto file says nothing of has no comment")]
#[allow(clippy::all, clippy::pedantic, reason = "generated")]
pub mod dra_v1beta1 {
    include!(concat!(env!("OUT_DIR"), "/dra-v1beta1/k8s.io.kubelet.pkg.apis.dra.v1beta1.rs"));

    /// The version as the driver registers it.
    pub const VERSION: &str = "v1beta1.DRAPlugin";
}

/// The kubelet's API for the health of devices in claims, package `v1`.
#[allow(missing_docs, unreachable_pub, reason = "generated: what the .proto file says nothing of has no comment")]
#[allow(clippy::all, clippy::pedantic, reason = "generated")]
pub mod drahealth {
    include!(concat!(env!("OUT_DIR"), "/drahealth/v1.rs"));

    /// The version as the driver registers it.
    pub const VERSION: &str = "v1.DRAResourceHealth";
}

/// The same API of kubelets before 1.37, package `v1alpha1`: the service, with the messages of v1.
#[allow(missing_docs, unreachable_pub, reason = "generated: what the .proto file says nothing of has no comment")]
#[allow(clippy::all, clippy::pedantic, reason = "generated")]
pub mod drahealth_v1alpha1 {
    include!(concat!(env!("OUT_DIR"), "/drahealth-v1alpha1/v1alpha1.rs"));

    /// The version as the driver registers it.
    pub const VERSION: &str = "v1alpha1.DRAResourceHealth";
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
