//! The domain of netdevice: everything that decides, and nothing that acts.
//!
//! Values in, values out: no clock, no file, no socket, no async. The crates around this one read
//! the kernel, the disk and the kubelet into these types, ask them what to do, and do it.

pub mod id;
pub mod name;

pub use id::{DeviceId, DeviceIdError};
pub use name::{InterfaceName, InterfaceNameError, SandboxInterfaceName};
