//! Attaches devices to sandboxes, and detaches them: an interface of the host moves there and back, any other device is created
//! there and deleted.
//!
//! One routine for each direction, [`attach`] and [`detach`], for every way in. Both can be repeated, by any program, after
//! they were killed between any two steps: the record on disk says what the device was and where it went, and
//! [`netdevice::plan`] finds what is left to do.
//!
//! Synchronous throughout: a hook is a process that lives for one move.

mod announce;
mod attach;
mod bpf;
#[cfg(feature = "selection")]
mod choose;
#[cfg(feature = "selection")]
mod claims;
mod clean;
mod configure;
mod create;
#[cfg(feature = "selection")]
mod default_route;
mod detach;
mod device_files;
mod devices;
mod directory;
mod end;
mod error;
mod ethtool;
mod fetch;
mod identity;
mod inside;
mod ioctl;
mod kept;
mod mounts;
mod move_in;
mod namespace;
mod neighbourhood;
mod nested;
mod read;
mod repair;
mod restore;
mod sandbox;
mod sandbox_link;
mod skipped;
mod socket;
mod step;
mod strip;
mod support;
mod sysctl;
mod task;
mod waiting;

pub use announce::{Announcement, announce_in_sandbox, announce_on_host};
pub use attach::attach;
#[cfg(feature = "selection")]
pub use choose::{ChooseError, ChooseRequest, Chooser, choose_and_reserve};
#[cfg(feature = "selection")]
pub use claims::{
    AttachClaims, AttachClaimsError, AttachedClaim, Unprepared, attach_claims, hand_claim_over, reserved_by_claims,
    unprepare,
};
#[cfg(feature = "selection")]
pub use default_route::{default_routes_of_others, restore_default_routes, take_default_route};
pub use detach::{DetachRequest, Detached, detach, detach_from_sandbox};
pub use devices::{AttachAllError, ReserveError, Reserved, attach_all, detach_all};
pub use end::Ended;
pub use error::Error;
pub use inside::{run_inside, socket_inside};
pub use mounts::{sees_mounts, sees_no_mounts};
pub use read::read_link;
pub use repair::{Diagnosis, Repair, diagnose, keep_sandbox, repair};
pub use sandbox::{OpenSandbox, OpenSandboxError};
pub use sandbox_link::{delete_created, has_link, link_names};
pub use skipped::Skipped;
pub use socket::{KernelError, RouteSocket};
pub use support::{follow_namespaces, supported_kinds};
pub use task::{AttachRequest, Attached};
pub use waiting::{Restored, restore_name};
