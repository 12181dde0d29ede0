//! Keeps the view up to date: the inventory, the records and the pools go in, what is offered comes out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use netdevice::{Attachment, DeviceId, DeviceState, Ledger, Pools, Projector, Snapshot, View, link::flags};
use store::{Place, Reader, Records, Unreadable};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    directory::Directory as Folder,
    events::{Events, Happening},
    metrics::Metrics,
};

/// How long the kernel's notification of a device that returned to the host is waited for. It takes milliseconds, or the
/// device is gone.
const RETURN: Duration = Duration::from_millis(500);
/// How long after a failure the records are read, or the node's addresses written, again.
const RETRY: Duration = Duration::from_secs(5);

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
    let mut ledger = LedgerReader::new(records, events);
    projector.set_pools(pools.borrow_and_update().clone());
    let mut node_addresses = NodeAddressFile::new(ledger.reader.records().clone());
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
        let failed = (node_addresses.failed || ledger.failed).then(|| Instant::now() + RETRY);
        let next = ledger.next_deadline().into_iter().chain(failed).min();
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = snapshots.changed() => {
                changed?;
                let before = projector.view().devices().len();
                projector.set_snapshot(snapshots.borrow_and_update().clone());
                // a device that left the host may be on its way into a sandbox: then its record was there first
                if projector.view().devices().len() < before {
                    ledger.read_into(&mut projector, &metrics);
                } else {
                    ledger.release_returned(&mut projector);
                }
            }
            changed = pools.changed() => {
                changed?;
                projector.set_pools(pools.borrow_and_update().clone());
                tell_selection(projector.view());
            }
            () = folder.changed() => ledger.read_into(&mut projector, &metrics),
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                ledger.read_into(&mut projector, &metrics);
            }
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

/// Publishes the view; whoever holds the one before keeps it.
fn publish(projector: &Projector, views: &watch::Sender<Option<Arc<View>>>) -> Arc<View> {
    let before = views.borrow().clone();
    if let Some(before) = &before {
        for device in projector.view().changed_since(before) {
            let was = before.devices().get(&device.id);
            if was.is_none_or(|was| was.state != device.state) {
                match &device.state {
                    DeviceState::Offered { healthy, .. } => debug!(device = %device.id, healthy, "offered"),
                    DeviceState::Held(owner, phase) => debug!(device = %device.id, %owner, ?phase, "attached"),
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

/// A device whose record has ended, until the snapshot has it.
struct Returning {
    record: Arc<Attachment>,
    deadline: Instant,
}

impl Returning {
    /// Whether the snapshot has the device, healthy or as it was before it left.
    fn has_returned(&self, view: &View) -> bool {
        let before = self.record.host.flags & (flags::UP | flags::LOWER_UP);
        let link = view.snapshot.link_named(&self.record.device.to_name());
        link.is_some_and(|link| {
            let is_healthy = view.pools.of(link).is_none_or(|pool| pool.health.is_healthy(link));
            is_healthy || link.flags & before == before
        })
    }
}

/// Reads the records, and reports once those that cannot be followed.
///
/// A record ends when its device is on the host, and that it is there may still be on its way to us. Without it the device
/// would be withdrawn for a moment, and a Pod that asks in that moment be rejected for good. So such a device counts as
/// held a while longer; no other device waits for it.
struct LedgerReader {
    reader: Reader,
    events: Events,
    told: Option<Result<Vec<Unreadable>, String>>,
    returning: BTreeMap<DeviceId, Returning>,
    /// Whether the records could not be read: those that were read before count until they can.
    failed: bool,
}

impl LedgerReader {
    fn new(records: Records, events: Events) -> Self {
        Self { reader: Reader::new(records), events, told: None, returning: BTreeMap::new(), failed: false }
    }

    /// When a device that has not returned is not waited for any longer.
    fn next_deadline(&self) -> Option<Instant> {
        self.returning.values().map(|returning| returning.deadline).min()
    }

    /// What the view takes for the records: those that there are, and those of devices that are returning.
    fn with_returning(&mut self, mut ledger: Ledger, view: &View) -> Ledger {
        let now = Instant::now();
        for (device, record) in view.ledger.iter().filter(|(device, _)| !ledger.contains_key(*device)) {
            let returning = || Returning { record: record.clone(), deadline: now + RETURN };
            self.returning.entry(device.clone()).or_insert_with(returning);
        }
        let ended = |device: &DeviceId| !ledger.contains_key(device);
        self.returning
            .retain(|device, returning| ended(device) && now < returning.deadline && !returning.has_returned(view));
        ledger.extend(self.returning.iter().map(|(device, returning)| (device.clone(), returning.record.clone())));
        ledger
    }

    /// Looks at a new snapshot for devices that are returning.
    fn release_returned(&mut self, projector: &mut Projector) {
        if self.returning.is_empty() {
            return;
        }
        let mut ledger = (*projector.view().ledger).clone();
        self.returning.keys().for_each(|device| _ = ledger.remove(device));
        let ledger = self.with_returning(ledger, projector.view());
        projector.set_ledger(Arc::new(ledger));
    }

    /// All records. What nobody can follow is put aside first, unless a hook is at work on that device.
    fn list(&mut self) -> std::io::Result<(Ledger, Vec<Unreadable>)> {
        let (ledger, unreadable) = self.reader.list()?;
        let mut is_as_it_was = true;
        for Unreadable { device, path, .. } in unreadable.iter().filter(|file| file.place == Place::Records) {
            match device.as_ref().map_or(Ok(None), |device| self.reader.records().quarantine(device)) {
                Ok(None) => {}
                Ok(Some(_)) => is_as_it_was = false,
                Err(error) => debug!(file = %path.display(), "it cannot be put aside: {error}"),
            }
        }
        if is_as_it_was { Ok((ledger, unreadable)) } else { self.reader.list() }
    }

    fn read_into(&mut self, projector: &mut Projector, metrics: &Metrics) {
        let result = match self.list() {
            Ok((ledger, unreadable)) => {
                let quarantined = unreadable.iter().filter(|file| file.place == Place::Quarantine).count();
                metrics.set_records(ledger.len(), unreadable.len() - quarantined, quarantined);
                let (mut ledger, before) = (ledger, projector.view().ledger.clone());
                // a file that cannot be read now says what it said before
                let held = unreadable.iter().filter(|file| file.place == Place::Records);
                let known = held.filter_map(|file| before.get_key_value(file.device.as_ref()?));
                known.for_each(|(device, record)| _ = ledger.entry(device.clone()).or_insert_with(|| record.clone()));
                let ledger = self.with_returning(ledger, projector.view());
                projector.set_ledger(Arc::new(ledger));
                projector.set_unknown(unreadable.iter().filter_map(|file| file.device.clone()).collect());
                Ok(unreadable)
            }
            Err(error) => Err(error.to_string()),
        };
        self.failed = result.is_err();
        if self.told.as_ref() != Some(&result) {
            match &result {
                Ok(unreadable) => {
                    unreadable.iter().for_each(tell_unreadable);
                    self.tell_quarantined(unreadable);
                }
                Err(error) => {
                    warn!(folder = %self.reader.records().folder().display(), "cannot read the records: {error}")
                }
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
            "the device is quarantined, it is neither moved nor offered: see that the interface is on the node and as it should be, then remove that file: {reason}"
        ),
        _ => warn!(file = %path, "a record cannot be followed, its device is left alone: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use netdevice::{Link, Owner, fixture};

    use super::*;

    fn reader(records: Records) -> LedgerReader {
        LedgerReader::new(records, Events::none())
    }

    fn snapshot(state: u32) -> Snapshot {
        let link = Link { flags: state, kind: None, ..fixture::link(7, "dummy0") };
        let mut snapshot = Snapshot::default();
        snapshot.insert_link(Arc::new(link));
        snapshot
    }

    fn record() -> Attachment {
        let mut record = Attachment { resource: Some(netdevice::ResourceName::default()), ..fixture::record("dummy0") };
        record.owner = Owner::Container { id: "c0ffee".into(), sandbox: None, pod: None };
        record
    }

    /// A device that Pods have by the pool's rule, its record, and who reads it.
    struct Attached {
        _folder: tempfile::TempDir,
        file: std::path::PathBuf,
        projector: Projector,
        ledger: LedgerReader,
        metrics: Metrics,
    }

    impl Attached {
        fn new(pools: Pools, host: u32) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("dummy0.json");
            let mut record = record();
            record.host.flags = host;
            std::fs::write(&file, record.to_json()).unwrap();
            let mut projector = Projector::new();
            projector.set_pools(Arc::new(pools));
            projector.set_snapshot(Snapshot::default());
            let mut ledger = reader(Records::new(folder.path()));
            let metrics = Metrics::default();
            ledger.read_into(&mut projector, &metrics);
            Self { _folder: folder, file, projector, ledger, metrics }
        }

        fn read(&mut self) {
            self.ledger.read_into(&mut self.projector, &self.metrics);
        }

        fn sees(&mut self, snapshot: Snapshot) {
            self.projector.set_snapshot(snapshot);
            self.ledger.release_returned(&mut self.projector);
        }

        fn device(&self) -> Option<&Arc<netdevice::Device>> {
            self.projector.view().devices().get(&"dummy0".parse::<DeviceId>().unwrap())
        }

        fn is_held(&self) -> bool {
            self.device().is_some_and(|device| device.owner().is_some())
        }
    }

    fn by_name() -> Pools {
        Pools::by_name("dummy".parse().unwrap())
    }

    /// The kernel's notifications come late, and in parts: first a link that is not up yet.
    #[tokio::test(start_paused = true)]
    async fn a_device_that_returns_to_the_host_is_listed_and_healthy_all_the_while() {
        let mut attached = Attached::new(by_name(), flags::UP);
        assert!(attached.is_held());
        std::fs::remove_file(&attached.file).unwrap();
        attached.read();
        assert!(attached.is_held(), "the reader did not wait for the kernel's notification");
        attached.sees(snapshot(0));
        assert!(attached.is_held(), "the link is not up yet");
        attached.sees(snapshot(flags::UP));
        assert!(attached.device().unwrap().is_healthy() && !attached.is_held());
        assert_eq!(attached.ledger.next_deadline(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_is_gone_for_good_is_not_waited_for_long() {
        let mut attached = Attached::new(by_name(), flags::UP);
        std::fs::remove_file(&attached.file).unwrap();
        attached.read();
        assert!(attached.is_held());
        tokio::time::sleep_until(attached.ledger.next_deadline().unwrap()).await;
        attached.read();
        assert!(attached.projector.view().devices().is_empty());
        assert_eq!(attached.ledger.next_deadline(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_was_down_or_without_a_carrier_on_the_host_is_not_waited_for_to_become_healthy() {
        let carrier = "pools: [{resource: networking.k8s.io/netdevice, select: {names: [dummy]}, health: carrier}]";
        for (pools, host) in [(by_name(), 0), (Pools::from_yaml(carrier).unwrap(), flags::UP)] {
            let mut attached = Attached::new(pools, host);
            std::fs::remove_file(&attached.file).unwrap();
            attached.read();
            attached.sees(snapshot(host));
            assert!(!attached.is_held() && !attached.device().unwrap().is_healthy());
            assert_eq!(attached.ledger.next_deadline(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_is_attached_again_before_it_was_seen_on_the_host_stays_held() {
        let mut attached = Attached::new(by_name(), flags::UP);
        std::fs::remove_file(&attached.file).unwrap();
        attached.read();
        std::fs::write(&attached.file, record().to_json()).unwrap();
        attached.read();
        attached.sees(snapshot(flags::UP));
        assert!(attached.is_held());
        assert_eq!(attached.ledger.next_deadline(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn records_that_cannot_be_read_stay_what_they_were() {
        let mut attached = Attached::new(by_name(), flags::UP);
        let directory = attached.file.parent().unwrap().to_owned();
        std::fs::remove_file(&attached.file).unwrap();
        // an error of the file, and then one of the directory
        std::fs::create_dir(&attached.file).unwrap();
        attached.read();
        assert!(attached.is_held() && attached.ledger.next_deadline().is_none());
        std::fs::remove_dir_all(&directory).unwrap();
        std::fs::write(&directory, "").unwrap();
        attached.read();
        assert!(attached.is_held() && attached.ledger.failed);
        std::fs::remove_file(&directory).unwrap();
        attached.read();
        tokio::time::sleep_until(attached.ledger.next_deadline().unwrap()).await;
        attached.read();
        assert!(!attached.is_held() && !attached.ledger.failed);
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
        let lock = records.lock(&"dummy0".parse().unwrap()).unwrap();
        ledger.read_into(&mut projector, &metrics);
        assert!(file.exists() && projector.view().devices().is_empty());
        drop(lock);
        ledger.read_into(&mut projector, &metrics);
        assert!(!file.exists(), "it is put aside");
        let resource = netdevice::ResourceName::default();
        let refusal = projector.view().allocate(&resource, &"dummy0".parse().unwrap()).unwrap_err();
        assert_eq!(refusal, netdevice::Refusal::Unknown);
        let text = metrics.text();
        assert!(text.contains("netdevice_records_quarantined 1\n"), "{text}");
        assert!(text.contains("netdevice_unreadable_records 1\n"), "{text}");
        std::fs::remove_file(folder.path().join("quarantine/dummy0.1.json")).unwrap();
        ledger.read_into(&mut projector, &metrics);
        assert_eq!(projector.view().devices().len(), 1, "it is offered again");
    }
}
