//! The inventory: the links of the host and what their selection and exclusion depend on, from rtnetlink and sysfs.
//!
//! [`read_once`] reads the kernel once. [`Inventory`] follows it: it publishes an immutable [`Snapshot`] through a
//! `watch` channel whenever something in it has changed, soon after the change, and never more than once in
//! [`Config::bound`]. Its cost grows with what changed.

mod connections;
mod error;
mod follow;
mod hardware;
mod socket;
mod state;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
};

pub use error::Error;
pub use follow::{Config, Inventory, Stats};
use netdevice::{Snapshot, link::Hardware};
pub use state::Part;

/// Where sysfs is mounted.
pub const SYSFS: &str = "/sys";

/// Reads the links, default routes and rules of the calling thread's namespace, and the hardware below `sysfs`; and which
/// links have `node_addresses`.
///
/// # Errors
///
/// When the kernel does not answer.
pub fn read_once(sysfs: &Path, node_addresses: BTreeSet<IpAddr>) -> Result<Snapshot, Error> {
    let mut requests = socket::Requests::open()?;
    let mut state = state::State::new();
    state.set_node_addresses(node_addresses);
    follow::list_stale(&mut requests, &mut state)?;
    let mut reader = hardware::Reader::new(sysfs);
    Ok(state.next_snapshot(|link| reader.read(link)).unwrap_or_default())
}

/// Reads the hardware at a resolved path below `/sys/devices`, in whichever network namespace its interface is. The speed is
/// not known, and nothing is if the path does not exist.
pub fn read_hardware(path: &Path) -> Hardware {
    hardware::Reader::new(Path::new(SYSFS)).read_device(path)
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sysfs: PathBuf::from(SYSFS),
            receive_buffer: 16 << 20,
            quiet: std::time::Duration::from_millis(3),
            bound: std::time::Duration::from_millis(15),
            refresh: std::time::Duration::from_secs(60),
            node_addresses: BTreeSet::new(),
            api_server: None,
        }
    }
}
