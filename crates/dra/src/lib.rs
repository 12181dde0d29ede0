//! Devices by claim: a driver for Dynamic Resource Allocation (DRA).
//!
//! The kubelet asks it to prepare the claims of a Pod; what it decides is in `netdevice::claims`.

pub mod holders;
pub mod slices;
