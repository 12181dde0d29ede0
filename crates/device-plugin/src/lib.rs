//! The kubelet device plugin of a pool, and the CDI file that its answers depend on.
//!
//! ```text
//! view ──► publisher ──► CDI file, then the list ──► registrar ──► kubelet
//!              ▲                                        ▲
//!           memory ◄── Allocate, recovery            folders (inotify, poll)
//! ```
//!
//! What always holds: a device is in the list only when its CDI name resolves, or when a Pod has it already. Allocate
//! hands out exactly what the kubelet named. A kubelet that comes, goes or comes back is met with a fresh socket.

mod allocation;
mod backoff;
mod cdi_file;
mod config;
mod conflicts;
mod dial;
mod error;
mod folders;
mod identity;
mod memory;
mod offer;
mod plugin;
pub mod preference;
mod publisher;
mod recovery;
mod registrar;
mod reservations;
mod service;
mod socket;
mod stats;
mod tick;

pub use config::{Config, Paths, RecordCheck, Timing};
pub use error::Error;
pub use plugin::{DevicePlugin, resources};
pub use recovery::{allocated, known_pods};
pub use reservations::Reservations;
pub use socket::SOCKET_PREFIX;
pub use stats::{CdiReport, Stats};
pub use tick::Ticks;
