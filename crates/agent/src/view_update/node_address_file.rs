//! The node's own addresses, in a file for hooks: a hook checks a device once more before it moves it.

use std::{collections::BTreeSet, net::IpAddr};

use netdevice::Snapshot;
use store::Records;
use tracing::{info, warn};

/// The file, and what was written to it.
pub(super) struct NodeAddressFile {
    records: Records,
    written: Option<BTreeSet<IpAddr>>,
    /// Whether the last attempt failed, which was logged.
    failed: bool,
}

impl NodeAddressFile {
    pub(super) fn new(records: Records) -> Self {
        Self { records, written: None, failed: false }
    }

    /// Whether the file does not have the addresses of the last snapshot.
    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    /// Writes the addresses of a snapshot, unless the file has them. Until it does, Allocate refuses, and hooks use the
    /// addresses that the file had before.
    pub(super) fn update(&mut self, snapshot: &Snapshot) {
        let addresses = snapshot.node_addresses();
        if self.written.as_ref().is_some_and(|written| written.iter().eq(addresses)) {
            return;
        }
        match self.records.write_node_addresses(addresses) {
            Ok(()) => {
                let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                info!(addresses = texts.join(" "), "links with the node's addresses are never offered");
                (self.written, self.failed) = (Some(addresses.iter().copied().collect()), false);
            }
            Err(_) if self.failed => {}
            Err(error) => {
                let directory = self.records.directory().display();
                warn!(%directory, "cannot write the node's addresses for hooks: {error}");
                self.failed = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_could_not_be_written_are_written_later() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state");
        std::fs::write(&state, "a file where the directory should be").unwrap();
        let records = Records::new(&state);
        let mut file = NodeAddressFile::new(records.clone());
        let mut snapshot = Snapshot::default();
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        snapshot.set_node_addresses([address]);
        file.update(&snapshot);
        assert!(file.failed());
        std::fs::remove_file(&state).unwrap();
        file.update(&snapshot);
        assert!(!file.failed());
        assert_eq!(records.node_addresses().unwrap(), BTreeSet::from([address]));
    }
}
