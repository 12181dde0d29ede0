//! Moves a device into a sandbox and home again.
//!
//! One routine for each direction, [`attach`] and [`detach`], for every way in. Both can be repeated, by anybody, after
//! they were killed between any two steps: the record on disk says what the device was and where it went, and
//! [`netdevice::plan`] finds what is left to do.
//!
//! Synchronous throughout: a hook is a process that lives for one move.

mod announce;
mod attach;
mod bpf;
mod clean;
mod configure;
mod detach;
mod device_files;
mod error;
mod ethtool;
mod folder;
mod identity;
mod inside;
mod ioctl;
mod kept;
mod mounts;
mod neighbourhood;
mod nested;
mod read;
mod sandbox;
mod socket;
mod step;
mod strip;
mod sysctl;
mod waiting;

pub use announce::{Announcement, announce_in_sandbox, announce_on_host};
pub use attach::{AttachRequest, Attached, attach};
pub use detach::{
    DetachRequest, Detached, Diagnosis, Homecoming, Repair, detach, detach_from_sandbox, diagnose, keep_sandbox,
    rename_link, repair,
};
pub use error::Error;
pub use inside::{run_inside, socket_inside};
pub use mounts::{sees_mounts, sees_no_mounts};
pub use read::read_link;
pub use sandbox::{AttachAllError, ReserveError, Reserved, attach_all, detach_all};
pub use socket::{KernelError, RouteSocket};
pub use step::Skipped;
pub use waiting::{Restored, restore_name};
