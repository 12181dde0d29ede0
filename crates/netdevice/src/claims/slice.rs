//! The ResourceSlices of this node: which devices are in them, with which attributes and taints, and what has to be written.

mod attribute;
mod device;
mod fingerprint;
mod name;
mod plan;
mod pool;
mod wanted;

pub use attribute::{Attribute, Attributes, MAX_STRING};
pub use device::{HELD, LINK_DOWN, NO_CARRIER, QUARANTINED, SliceDevice, Taint, devices};
pub(crate) use device::{Obstacle, Offered, candidates};
pub use fingerprint::{Fingerprint, Members};
pub use name::{DeviceName, DeviceNameError, device_name, find};
pub use plan::{Change, Content, Form, MOST_DEVICES, Present, Slices, Wanted, devices_per_slice};
pub use pool::Pool;
pub use wanted::Tracker;
