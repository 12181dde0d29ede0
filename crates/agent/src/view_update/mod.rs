//! Updates the view, from the interfaces, the pools and the records.

mod ledger_reader;
mod node_address_file;
mod offer_log;
mod returning;
mod unreadable;

use std::{sync::Arc, time::Duration};

use netdevice::{Pools, Projector, Snapshot, View};
use store::Records;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{directory::Directory, events::Events, metrics::Metrics, view::Views};
use ledger_reader::LedgerReader;
use node_address_file::NodeAddressFile;
use offer_log::{log_changes, log_selection};

/// How long after a failure the records are read, or the node's addresses written, again.
const RETRY: Duration = Duration::from_secs(5);

/// What a view is made from.
pub(crate) struct Inputs {
    pub(crate) snapshots: watch::Receiver<Snapshot>,
    pub(crate) pools: watch::Receiver<Arc<Pools>>,
    pub(crate) records: Records,
}

/// Reads the hardware of devices that are in Pods: their records do not have all of it.
fn read_hardware(projector: &mut Projector) {
    let ledger = projector.view().ledger.clone();
    for (device, record) in ledger.iter() {
        if let Some(place) = record.host().and_then(|host| host.hardware.as_ref()) {
            projector.set_hardware(device.clone(), inventory::read_hardware(place.path.as_ref()));
        }
    }
}

/// Updates the view.
pub(crate) struct Updater {
    snapshots: watch::Receiver<Snapshot>,
    pools: watch::Receiver<Arc<Pools>>,
    /// That of the records.
    directory: Directory,
    projector: Projector,
    ledger: LedgerReader,
    node_addresses: NodeAddressFile,
    views: watch::Sender<Arc<View>>,
}

impl Updater {
    /// Makes the first view. Later ones are made by [`Self::run`].
    pub(crate) fn open(inputs: Inputs, metrics: Arc<Metrics>, events: Events) -> Self {
        let Inputs { mut snapshots, mut pools, records } = inputs;
        if let Err(error) = std::fs::create_dir_all(records.directory()) {
            warn!(directory = %records.directory().display(), "cannot create the directory of the records: {error}");
        }
        // followed before it is read
        let directory = Directory::new(records.directory());
        let mut projector = Projector::new();
        projector.set_pools(pools.borrow_and_update().clone());
        projector.set_snapshot(snapshots.borrow_and_update().clone());
        let mut node_addresses = NodeAddressFile::new(records.clone());
        let mut ledger = LedgerReader::new(records, metrics, events);
        ledger.read_into(&mut projector);
        read_hardware(&mut projector);
        log_selection(projector.view());
        node_addresses.update(&projector.view().snapshot);
        let views = watch::Sender::new(Arc::new(projector.view().clone()));
        Self { snapshots, pools, directory, projector, ledger, node_addresses, views }
    }

    /// A receiver of the view.
    pub(crate) fn subscribe(&self) -> Views {
        self.views.subscribe()
    }

    /// Publishes a view whenever what it is made from has changed.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        loop {
            let next = self.next_attempt();
            let differs = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                changed = self.snapshots.changed() => {
                    changed?;
                    self.take_snapshot();
                    true
                }
                changed = self.pools.changed() => {
                    changed?;
                    self.projector.set_pools(self.pools.borrow_and_update().clone());
                    log_selection(self.projector.view());
                    true
                }
                () = self.directory.changed() => self.ledger.read_into(&mut self.projector),
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    self.ledger.read_into(&mut self.projector)
                }
            };
            // hooks know them before the kubelet knows the devices
            self.node_addresses.update(&self.projector.view().snapshot);
            if differs {
                let view = Arc::new(self.projector.view().clone());
                let before = self.views.send_replace(view.clone());
                log_changes(&before, &view);
            }
        }
    }

    /// When something is tried again at the latest.
    fn next_attempt(&self) -> Option<Instant> {
        let failed = self.node_addresses.failed() || self.ledger.failed();
        let retry = failed.then(|| Instant::now() + RETRY);
        self.ledger.next_deadline().into_iter().chain(retry).min()
    }

    fn take_snapshot(&mut self) {
        let before = self.projector.view().devices().len();
        self.projector.set_snapshot(self.snapshots.borrow_and_update().clone());
        // a device that is no longer on the host may be on its way into a sandbox: its record was written before
        if self.projector.view().devices().len() < before {
            self.ledger.read_into(&mut self.projector);
        } else {
            self.ledger.release_returned(&mut self.projector);
        }
    }
}
