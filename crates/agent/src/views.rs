//! Keeps the view up to date: the inventory, the records and the pools go in, what is offered comes out.

use std::sync::Arc;

use link::{Records, Unreadable};
use netdevice::{DeviceState, Ledger, Pools, Projector, Snapshot, View};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{folder::Folder, metrics::Metrics};

/// Publishes a view for each change of what it is made from, the first one complete.
pub(crate) async fn keep(
    mut snapshots: watch::Receiver<Snapshot>,
    mut pools: watch::Receiver<Arc<Pools>>,
    records: Records,
    metrics: Arc<Metrics>,
    views: watch::Sender<Option<Arc<View>>>,
    ledgers: watch::Sender<Arc<Ledger>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    if let Err(error) = std::fs::create_dir_all(records.folder()) {
        warn!(folder = %records.folder().display(), "cannot make the folder of the records: {error}");
    }
    let mut folder = Folder::new(records.folder());
    let mut projector = Projector::new();
    let mut ledger = LedgerReader { records, told: None };
    projector.set_pools(pools.borrow_and_update().clone());
    projector.set_snapshot(snapshots.borrow_and_update().clone());
    ledger.read_into(&mut projector, &metrics);
    tell_selection(projector.view());
    loop {
        publish(&projector, &views);
        let ledger_now = &projector.view().ledger;
        ledgers.send_if_modified(|ledger| {
            let differs = *ledger != *ledger_now;
            *ledger = ledger_now.clone();
            differs
        });
        metrics.set_view(projector.view());
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = snapshots.changed() => {
                changed?;
                let before = projector.view().devices().len();
                projector.set_snapshot(snapshots.borrow_and_update().clone());
                // a device that left the host may be on its way into a sandbox: then its record was there first
                if projector.view().devices().len() < before {
                    ledger.read_into(&mut projector, &metrics);
                }
            }
            changed = pools.changed() => {
                changed?;
                projector.set_pools(pools.borrow_and_update().clone());
                tell_selection(projector.view());
            }
            () = folder.changed() => ledger.read_into(&mut projector, &metrics),
        }
    }
}

/// Publishes the view; whoever holds the one before keeps it.
fn publish(projector: &Projector, views: &watch::Sender<Option<Arc<View>>>) {
    let before = views.borrow().clone();
    if let Some(before) = &before {
        for device in projector.view().devices().values() {
            let was = before.devices().get(&device.id);
            if was.is_none_or(|was| was.state != device.state) {
                match &device.state {
                    DeviceState::Offered { healthy, .. } => debug!(device = %device.id, healthy, "offered"),
                    DeviceState::Held(holder, phase) => debug!(device = %device.id, %holder, ?phase, "attached"),
                }
            }
        }
    }
    views.send_replace(Some(Arc::new(projector.view().clone())));
}

/// Says what a new selection came to; that it came to nothing is worth a warning.
fn tell_selection(view: &View) {
    for pool in view.pools.iter() {
        let names: Vec<String> = view.devices_of(&pool.resource).map(|device| device.id.to_string()).collect();
        if !names.is_empty() {
            info!(resource = %pool.resource, devices = names.join(" "), "offered");
            continue;
        }
        let excluded = view.snapshot.links().values().filter(|link| pool.takes(link));
        let reasons = excluded.filter_map(|link| Some(format!("{}: {}", link.name, view.explain(link).exclusion?)));
        let reasons: Vec<String> = reasons.collect();
        if reasons.is_empty() {
            warn!(resource = %pool.resource, "the selection matches no interface of this node: waiting for one");
        } else {
            warn!(resource = %pool.resource, "the selection matches only what is never handed out: {}", reasons.join("; "));
        }
    }
}

/// Reads the records, and tells once of those that cannot be followed.
struct LedgerReader {
    records: Records,
    told: Option<Result<Vec<Unreadable>, String>>,
}

impl LedgerReader {
    fn read_into(&mut self, projector: &mut Projector, metrics: &Metrics) {
        let result = match self.records.list() {
            Ok((ledger, unreadable)) => {
                metrics.set_records(ledger.len(), unreadable.len());
                projector.set_ledger(Arc::new(ledger));
                Ok(unreadable)
            }
            Err(error) => Err(error.to_string()),
        };
        if self.told.as_ref() != Some(&result) {
            match &result {
                Ok(unreadable) => {
                    for Unreadable { path, reason, .. } in unreadable {
                        warn!(file = %path.display(), "a record cannot be followed, its device is left alone: {reason}");
                    }
                }
                Err(error) => warn!(folder = %self.records.folder().display(), "cannot read the records: {error}"),
            }
            self.told = Some(result);
        }
    }
}
