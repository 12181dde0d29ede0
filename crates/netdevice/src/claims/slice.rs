//! The ResourceSlices of this node.

pub mod name;

pub use name::{DeviceName, DeviceNameError, device_name, find};
