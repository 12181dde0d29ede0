//! Keeps the view up to date: the inventory, the records and the pools go in, what is offered comes out.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use link::{Place, Records, Unreadable};
use netdevice::{DeviceState, Ledger, Pools, Projector, Snapshot, View};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    events::{Events, Happening},
    folder::Folder,
    metrics::Metrics,
};

/// How long the kernel's word of a device that came home is waited for. It takes milliseconds, or the device is gone.
const HOMECOMING: Duration = Duration::from_millis(500);

/// What a view is made from.
pub(crate) struct Inputs {
    pub(crate) snapshots: watch::Receiver<Snapshot>,
    pub(crate) pools: watch::Receiver<Arc<Pools>>,
    pub(crate) records: Records,
}

/// Who is told of it.
pub(crate) struct Outputs {
    pub(crate) views: watch::Sender<Option<Arc<View>>>,
    pub(crate) ledgers: watch::Sender<Arc<Ledger>>,
    pub(crate) metrics: Arc<Metrics>,
    /// Told of records that nobody can follow.
    pub(crate) events: Events,
}

/// Publishes a view for each change of what it is made from, the first one complete.
pub(crate) async fn keep(inputs: Inputs, outputs: Outputs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Inputs { mut snapshots, mut pools, records } = inputs;
    let Outputs { views, ledgers, metrics, events } = outputs;
    if let Err(error) = std::fs::create_dir_all(records.folder()) {
        warn!(folder = %records.folder().display(), "cannot make the folder of the records: {error}");
    }
    let mut folder = Folder::new(records.folder());
    let mut projector = Projector::new();
    let mut ledger = LedgerReader { records, events, told: None };
    projector.set_pools(pools.borrow_and_update().clone());
    let mut node_addresses = NodeAddressFile::new(ledger.records.clone());
    projector.set_snapshot(snapshots.borrow_and_update().clone());
    ledger.read_into(&mut projector, &metrics);
    tell_selection(projector.view());
    loop {
        // hooks know before the kubelet does
        node_addresses.keep(&projector.view().snapshot);
        metrics.set_view(publish(&projector, &views));
        let ledger_now = &projector.view().ledger;
        ledgers.send_if_modified(|ledger| {
            let differs = *ledger != *ledger_now;
            *ledger = ledger_now.clone();
            differs
        });
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = snapshots.changed() => {
                changed?;
                let before = projector.view().devices().len();
                projector.set_snapshot(snapshots.borrow_and_update().clone());
                // a device that left the host may be on its way into a sandbox: then its record was there first
                if projector.view().devices().len() < before {
                    ledger.read_with(&mut snapshots, &mut projector, &metrics).await?;
                }
            }
            changed = pools.changed() => {
                changed?;
                projector.set_pools(pools.borrow_and_update().clone());
                tell_selection(projector.view());
            }
            () = folder.changed() => ledger.read_with(&mut snapshots, &mut projector, &metrics).await?,
        }
    }
}

/// Leaves the addresses that the node is known by where hooks find them: a device is asked about once more when it moves.
struct NodeAddressFile {
    records: Records,
    written: Option<BTreeSet<IpAddr>>,
    /// Whether the last attempt failed, which was told.
    failed: bool,
}

impl NodeAddressFile {
    fn new(records: Records) -> Self {
        Self { records, written: None, failed: false }
    }

    fn keep(&mut self, snapshot: &Snapshot) {
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
            // it is tried again with each view; until then Allocate refuses, and hooks go by what they know
            Err(error) => {
                let folder = self.records.folder().display();
                warn!(%folder, "cannot leave the node's addresses for hooks: {error}");
                self.failed = true;
            }
        }
    }
}

/// Whether a device whose record ended is not, or not up, on the host as far as we know.
fn is_on_its_way(before: &Ledger, now: &View) -> bool {
    let mut ended = before.keys().filter(|device| !now.ledger.contains_key(*device));
    ended.any(|device| now.devices().get(device).is_none_or(|device| !device.is_healthy()))
}

/// Publishes the view; whoever holds the one before keeps it.
fn publish(projector: &Projector, views: &watch::Sender<Option<Arc<View>>>) -> Arc<View> {
    let before = views.borrow().clone();
    if let Some(before) = &before {
        for device in projector.view().changed_since(before) {
            let was = before.devices().get(&device.id);
            if was.is_none_or(|was| was.state != device.state) {
                match &device.state {
                    DeviceState::Offered { healthy, .. } => debug!(device = %device.id, healthy, "offered"),
                    DeviceState::Held(holder, phase) => debug!(device = %device.id, %holder, ?phase, "attached"),
                }
            }
        }
    }
    let view = Arc::new(projector.view().clone());
    views.send_replace(Some(view.clone()));
    view
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
    events: Events,
    told: Option<Result<Vec<Unreadable>, String>>,
}

impl LedgerReader {
    /// Reads the records together with what the kernel told: a record ends when its device is home, and that the device
    /// is home may still be on its way to us. Without it the device would be withdrawn for a moment, and a Pod that asks
    /// in that moment be rejected for good.
    async fn read_with(
        &mut self,
        snapshots: &mut watch::Receiver<Snapshot>,
        projector: &mut Projector,
        metrics: &Metrics,
    ) -> anyhow::Result<()> {
        let before = projector.view().ledger.clone();
        self.read_into(projector, metrics);
        let deadline = Instant::now() + HOMECOMING;
        while is_on_its_way(&before, projector.view()) {
            let Ok(changed) = timeout_at(deadline, snapshots.changed()).await else { break };
            changed?;
            projector.set_snapshot(snapshots.borrow_and_update().clone());
        }
        Ok(())
    }

    /// All records. What nobody can follow is put aside first, unless a hook is at work on that device.
    fn list(&self) -> std::io::Result<(Ledger, Vec<Unreadable>)> {
        let (ledger, unreadable) = self.records.list()?;
        let mut is_as_it_was = true;
        for Unreadable { device, path, .. } in unreadable.iter().filter(|file| file.place == Place::Records) {
            match device.as_ref().map_or(Ok(None), |device| self.records.quarantine(device)) {
                Ok(None) => {}
                Ok(Some(_)) => is_as_it_was = false,
                Err(error) => debug!(file = %path.display(), "it cannot be put aside: {error}"),
            }
        }
        if is_as_it_was { Ok((ledger, unreadable)) } else { self.records.list() }
    }

    fn read_into(&mut self, projector: &mut Projector, metrics: &Metrics) {
        let result = match self.list() {
            Ok((ledger, unreadable)) => {
                let quarantined = unreadable.iter().filter(|file| file.place == Place::Quarantine).count();
                metrics.set_records(ledger.len(), unreadable.len() - quarantined, quarantined);
                projector.set_ledger(Arc::new(ledger));
                projector.set_unknown(unreadable.iter().filter_map(|file| file.device.clone()).collect());
                Ok(unreadable)
            }
            Err(error) => Err(error.to_string()),
        };
        if self.told.as_ref() != Some(&result) {
            match &result {
                Ok(unreadable) => {
                    unreadable.iter().for_each(tell_unreadable);
                    self.tell_quarantined(unreadable);
                }
                Err(error) => warn!(folder = %self.records.folder().display(), "cannot read the records: {error}"),
            }
            self.told = Some(result);
        }
    }

    /// Events of what was put aside since the last look; what was there before this agent was told by another.
    fn tell_quarantined(&self, unreadable: &[Unreadable]) {
        let Some(Ok(before)) = &self.told else { return };
        for file in unreadable.iter().filter(|file| file.place == Place::Quarantine && !before.contains(file)) {
            if let Some(device) = file.device.clone() {
                let (file, reason) = (file.path.display().to_string(), file.reason.to_string());
                self.events.tell(Happening::RecordQuarantined { device, file, reason });
            }
        }
    }
}

fn tell_unreadable(file: &Unreadable) {
    let Unreadable { path, reason, device, place } = file;
    let path = path.display();
    match (place, device) {
        (Place::Quarantine, Some(device)) => warn!(
            %device, file = %path,
            "its record cannot be followed and was put aside, the device is neither moved nor offered: see that the interface is on the node and as it should be, then remove that file: {reason}"
        ),
        _ => warn!(file = %path, "a record cannot be followed, its device is left alone: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use netdevice::{
        DeviceId, Holder, InterfaceName, Link, LinkState, Phase, Record,
        link::flags,
        record::{RECORD_VERSION, SandboxPlace, Viewpoint},
    };

    use super::*;

    fn reader(records: Records) -> LedgerReader {
        LedgerReader { records, events: Events::none(), told: None }
    }

    fn name() -> InterfaceName {
        InterfaceName::try_from("dummy0").unwrap()
    }

    fn snapshot(state: u32) -> Snapshot {
        let link = Link {
            index: 7,
            name: name(),
            altnames: Box::default(),
            alias: None,
            kind: None,
            mac: None,
            flags: state,
            mtu: 1500,
            master: None,
            parent: None,
            link_netnsid: None,
            hardware: None,
        };
        let mut snapshot = Snapshot::default();
        snapshot.insert_link(Arc::new(link));
        snapshot
    }

    fn record() -> Record {
        let device = DeviceId::from(&name());
        Record {
            version: RECORD_VERSION,
            device: device.clone(),
            resource: Some(netdevice::ResourceName::default()),
            phase: Phase::Attached,
            holder: Holder { container: "c0ffee".into(), sandbox: None, pod: None },
            process: None,
            sandbox: SandboxPlace {
                cookie: 7,
                inode: 7,
                nsid: None,
                seen_from: Viewpoint { pid_namespace: 1, mount_namespace: 2 },
                paths: Vec::new(),
                name: device,
                ifindex: 7,
            },
            configuration: None,
            home: None,
            host: LinkState { flags: flags::UP, ..LinkState::new(name(), 7) },
            since: 0,
        }
    }

    /// The kernel's word comes late, and in parts: first a link that is not up yet.
    #[test]
    fn a_device_that_comes_home_is_listed_and_healthy_all_the_while() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dummy0.json");
        std::fs::write(&file, record().to_json()).unwrap();
        let pools = Arc::new(Pools::by_name("dummy".parse().unwrap()));
        let (sender, mut snapshots) = watch::channel(Snapshot::default());
        let mut projector = Projector::new();
        projector.set_pools(pools);
        projector.set_snapshot(Snapshot::default());
        let mut ledger = reader(Records::new(folder.path()));
        let metrics = Metrics::default();
        ledger.read_into(&mut projector, &metrics);
        let device = DeviceId::from(&name());
        assert!(projector.view().devices()[&device].holder().is_some());

        std::fs::remove_file(&file).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let tell = async {
                tokio::task::yield_now().await;
                sender.send_replace(snapshot(0));
                tokio::task::yield_now().await;
                sender.send_replace(snapshot(flags::UP));
            };
            let read = ledger.read_with(&mut snapshots, &mut projector, &metrics);
            let (read, ()) = tokio::join!(read, tell);
            read.unwrap();
            assert!(projector.view().devices()[&device].is_healthy(), "the reader did not wait for the kernel's word");
            // one that is gone for good is not waited for long
            std::fs::write(&file, record().to_json()).unwrap();
            ledger.read_into(&mut projector, &metrics);
            projector.set_snapshot(Snapshot::default());
            std::fs::remove_file(&file).unwrap();
            ledger.read_with(&mut snapshots, &mut projector, &metrics).await.unwrap();
            assert!(projector.view().devices().is_empty());
        });
    }

    #[test]
    fn a_device_whose_record_nobody_can_follow_is_not_offered_until_the_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dummy0.json");
        std::fs::write(&file, "{\"version\": 1, rubb").unwrap();
        std::fs::write(folder.path().join("newer0.json"), "{\"version\": 99}").unwrap();
        let mut projector = Projector::new();
        projector.set_pools(Arc::new(Pools::by_name("dummy".parse().unwrap())));
        projector.set_snapshot(snapshot(flags::UP));
        assert_eq!(projector.view().devices().len(), 1);
        let records = Records::new(folder.path());
        let mut ledger = reader(records.clone());
        let metrics = Metrics::default();
        // a hook is at work on it: it is left to the hook, and refused all the same
        let lock = records.lock(&DeviceId::from(&name())).unwrap();
        ledger.read_into(&mut projector, &metrics);
        assert!(file.exists() && projector.view().devices().is_empty());
        drop(lock);
        ledger.read_into(&mut projector, &metrics);
        assert!(!file.exists(), "it is put aside");
        let resource = netdevice::ResourceName::default();
        let refusal = projector.view().allocate(&resource, &DeviceId::from(&name())).unwrap_err();
        assert_eq!(refusal, netdevice::Refusal::Unknown);
        let text = metrics.text();
        assert!(text.contains("netdevice_records_quarantined 1\n"), "{text}");
        assert!(text.contains("netdevice_unreadable_records 1\n"), "{text}");
        std::fs::remove_file(folder.path().join("quarantine/dummy0.1.json")).unwrap();
        ledger.read_into(&mut projector, &metrics);
        assert_eq!(projector.view().devices().len(), 1, "it is offered again");
    }
}
