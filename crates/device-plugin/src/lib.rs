//! The kubelet device plugin of a pool, and the CDI file that its answers depend on.
//!
//! ```text
//! view ──► publisher ──► CDI file, then the list ──► registrar ──► kubelet
//!              ▲                                        ▲
//!      allocated devices ◄── Allocate, recovery     directories (inotify, poll)
//! ```
//!
//! Invariants: a device is in the list only when its CDI name resolves, or when a Pod has it already. Allocate allocates
//! exactly the devices that the kubelet named. Each kubelet process gets a registration with a new socket.

mod allocated;
mod allocation;
mod cdi_file;
mod config;
mod conflicts;
mod directories;
mod error;
mod offer;
mod plugin;
pub mod preference;
mod publisher;
mod recovery;
mod registrar;
mod reservations;
mod service;
mod shared;
mod socket;
mod stats;

pub use config::{Config, Paths, RecordCheck, Timing};
pub use error::Error;
pub use offer::resources;
pub use plugin::DevicePlugin;
pub use reservations::Reservations;
pub use socket::SOCKET_PREFIX;
pub use stats::{CdiReport, Stats};
