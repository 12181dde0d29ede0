//! Reads the records into the view.

use std::{collections::BTreeSet, io, sync::Arc};

use netdevice::{DeviceId, Ledger, Projector};
use store::{Reader, RecordDirectory, Records, Unreadable};
use tokio::time::Instant;
use tracing::debug;

use super::{returning::ReturningDevices, unreadable::UnreadableReport};
use crate::{events::Events, metrics::Metrics};

/// The records as they were read last.
pub(super) struct LedgerReader {
    reader: Reader,
    metrics: Arc<Metrics>,
    report: UnreadableReport,
    returning: ReturningDevices,
    /// Whether the records could not be read: those that were read before count until they can.
    failed: bool,
}

impl LedgerReader {
    pub(super) fn new(records: Records, metrics: Arc<Metrics>, events: Events) -> Self {
        let report = UnreadableReport::new(events);
        Self { reader: Reader::new(records), metrics, report, returning: ReturningDevices::default(), failed: false }
    }

    /// Whether the last attempt to read the records failed.
    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    /// When the records are to be read again at the latest, for a device that has not returned to the host.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.returning.next_deadline()
    }

    /// Takes the records as they are now. Returns whether the view differs.
    pub(super) fn read_into(&mut self, projector: &mut Projector) -> bool {
        let (result, differs) = match self.list() {
            Ok((ledger, unreadable)) => {
                let differs = self.take(ledger, &unreadable, projector);
                (Ok(unreadable), differs)
            }
            Err(error) => (Err(error.to_string()), false),
        };
        self.failed = result.is_err();
        self.report.report(self.reader.records().directory(), result);
        differs
    }

    /// Ends the wait for devices that a new snapshot has.
    pub(super) fn release_returned(&mut self, projector: &mut Projector) {
        if let Some(ledger) = self.returning.without_returned(projector.view()) {
            projector.set_ledger(Arc::new(ledger));
        }
    }

    /// All records. Those that cannot be read are put in quarantine first, unless a hook works on that device.
    fn list(&mut self) -> io::Result<(Ledger, Vec<Unreadable>)> {
        let (ledger, unreadable) = self.reader.list()?;
        let mut is_complete = true;
        for Unreadable { device, path, .. } in unreadable.iter().filter(|file| file.place == RecordDirectory::Records) {
            match device.as_ref().map_or(Ok(None), |device| self.reader.records().quarantine(device)) {
                Ok(None) => {}
                Ok(Some(_)) => is_complete = false,
                Err(error) => debug!(file = %path.display(), "cannot move the record to the quarantine: {error}"),
            }
        }
        if is_complete { Ok((ledger, unreadable)) } else { self.reader.list() }
    }

    fn take(&mut self, mut ledger: Ledger, unreadable: &[Unreadable], projector: &mut Projector) -> bool {
        let quarantined = unreadable.iter().filter(|file| file.place == RecordDirectory::Quarantine).count();
        self.metrics.set_records(ledger.len(), unreadable.len() - quarantined, quarantined);
        let view = projector.view();
        // a record that cannot be read now counts as it was read last
        let held = unreadable.iter().filter(|file| file.place == RecordDirectory::Records);
        let known = held.filter_map(|file| view.ledger.get_key_value(file.device.as_ref()?));
        known.for_each(|(device, record)| _ = ledger.entry(device.clone()).or_insert_with(|| record.clone()));
        self.returning.add_to(&mut ledger, view);
        let unknown: BTreeSet<DeviceId> = unreadable.iter().filter_map(|file| file.device.clone()).collect();
        // an unchanged part stays the same value, so that tasks that follow it are not woken
        let (has_other_records, has_other_unknown) = (ledger != *view.ledger, unknown != *view.unknown);
        if has_other_records {
            projector.set_ledger(Arc::new(ledger));
        }
        if has_other_unknown {
            projector.set_unknown(unknown);
        }
        has_other_records || has_other_unknown
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use netdevice::{Attachment, Link, Pools, Refusal, ResourceName, Snapshot, fixture, link::flags};

    use super::*;

    fn reader(directory: &Path) -> LedgerReader {
        LedgerReader::new(Records::new(directory), Arc::default(), Events::none())
    }

    fn projector() -> Projector {
        let mut projector = Projector::new();
        projector.set_pools(Arc::new(Pools::by_name("dummy".parse().unwrap())));
        projector
    }

    fn is_held(projector: &Projector) -> bool {
        let device = projector.view().devices().get(&"dummy0".parse::<DeviceId>().unwrap());
        device.is_some_and(|device| device.owner().is_some())
    }

    #[tokio::test(start_paused = true)]
    async fn records_that_cannot_be_read_stay_what_they_were() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("state");
        fs::create_dir(&directory).unwrap();
        let file = directory.join("dummy0.json");
        let record = Attachment { resource: Some(ResourceName::default()), ..fixture::record("dummy0") };
        fs::write(&file, record.to_json()).unwrap();
        let (mut reader, mut projector) = (reader(&directory), projector());
        assert!(reader.read_into(&mut projector) && is_held(&projector));
        assert!(!reader.read_into(&mut projector), "nothing has changed");
        // an error of the file, and then one of the directory
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        reader.read_into(&mut projector);
        assert!(is_held(&projector) && reader.next_deadline().is_none());
        fs::remove_dir_all(&directory).unwrap();
        fs::write(&directory, "").unwrap();
        reader.read_into(&mut projector);
        assert!(is_held(&projector) && reader.failed());
        fs::remove_file(&directory).unwrap();
        reader.read_into(&mut projector);
        tokio::time::sleep_until(reader.next_deadline().unwrap()).await;
        reader.read_into(&mut projector);
        assert!(!is_held(&projector) && !reader.failed());
    }

    #[test]
    fn a_device_whose_record_cannot_be_read_is_not_offered_until_the_file_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("dummy0.json");
        fs::write(&file, "{\"version\": 1, rubb").unwrap();
        fs::write(root.path().join("newer0.json"), "{\"version\": 99}").unwrap();
        let (mut reader, mut projector) = (reader(root.path()), projector());
        let mut snapshot = Snapshot::default();
        snapshot.insert_link(Arc::new(Link { flags: flags::UP, kind: None, ..fixture::link(7, "dummy0") }));
        projector.set_snapshot(snapshot);
        assert_eq!(projector.view().devices().len(), 1);
        // while a hook works on the device its record is left to the hook, and the device is refused all the same
        let lock = Records::new(root.path()).lock(&"dummy0".parse().unwrap()).unwrap();
        reader.read_into(&mut projector);
        assert!(file.exists() && projector.view().devices().is_empty());
        drop(lock);
        reader.read_into(&mut projector);
        assert!(!file.exists(), "it is in quarantine");
        let refusal = projector.view().allocate(&ResourceName::default(), &"dummy0".parse().unwrap()).unwrap_err();
        assert_eq!(refusal, Refusal::Unknown);
        let text = reader.metrics.text();
        assert!(text.contains("netdevice_records_quarantined 1\n"), "{text}");
        assert!(text.contains("netdevice_unreadable_records 1\n"), "{text}");
        fs::remove_file(root.path().join("quarantine/dummy0.1.json")).unwrap();
        reader.read_into(&mut projector);
        assert_eq!(projector.view().devices().len(), 1, "it is offered again");
    }
}
