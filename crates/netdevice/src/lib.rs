//! The domain of netdevice: everything that decides, and nothing that acts.
//!
//! Values in, values out: no clock, no file, no socket, no async. The crates around this one read
//! the kernel, the disk and the kubelet into these types, ask them what to do, and do it.

pub mod acquisition;
#[cfg(feature = "selection")]
pub mod annotation;
pub mod bytes;
pub mod cdi;
#[cfg(feature = "selection")]
pub mod cdi_spec;
pub mod children;
#[cfg(feature = "selection")]
pub mod choice;
#[cfg(feature = "selection")]
pub mod claims;
pub mod configuration;
pub mod encoded_name;
pub mod exclusion;
pub mod fixture;
pub mod go_flags;
pub mod id;
pub mod json;
pub mod link;
pub mod name;
#[cfg(feature = "selection")]
pub mod networks;
pub mod node_address;
pub mod oci;
pub mod owner;
pub mod plan;
#[cfg(feature = "selection")]
pub mod pool;
#[cfg(feature = "selection")]
pub mod projection;
pub mod record;
pub mod record_text;
pub mod resource;
mod route_lifetime;
pub mod sandbox;
pub mod sandbox_name;
#[cfg(feature = "selection")]
pub mod selector;
pub mod snapshot;
pub mod state;
pub mod sysctl;
#[cfg(feature = "selection")]
mod yaml;

pub use acquisition::{Acquired, Acquisition, Moved};
#[cfg(feature = "selection")]
pub use annotation::{DeviceRequest, PoolName, Wanted};
pub use bytes::{HardwareAddress, KernelString};
pub use configuration::SandboxConfiguration;
pub use id::{DeviceId, DeviceIdError};
pub use link::Link;
pub use name::{InterfaceName, InterfaceNameError};
pub use owner::{Owner, Pod};
#[cfg(feature = "selection")]
pub use pool::{Pool, Pools};
#[cfg(feature = "selection")]
pub use projection::{Device, DeviceState, Form, Projector, Refusal, View};
pub use record::{Attachment, Ledger, Phase, Reservation};
pub use resource::{ResourceName, ResourceNameError};
pub use sandbox::Sandbox;
pub use sandbox_name::SandboxInterfaceName;
pub use snapshot::Snapshot;
pub use state::LinkState;
