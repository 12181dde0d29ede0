//! Claims: devices by Dynamic Resource Allocation (DRA, API `resource.k8s.io/v1`).

pub mod claim;
pub mod claimant;
pub mod document;
pub mod health;
pub mod parameters;
pub mod slice;
pub mod status;

/// Name of the driver, of the DeviceClass and of the attributes' domain, and group of the configuration's API.
pub const DRIVER: &str = "netdevice.networking.k8s.io";
