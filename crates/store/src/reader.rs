//! Reading all records again and again: a record's file is read only when it may say something new.
//!
//! A Pod with 64 devices changes 64 records within two seconds. If each change meant that all of them were parsed again,
//! the agent's thread would do nothing else, and the runtime would give up waiting for its answer.

use std::{
    collections::BTreeMap,
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use netdevice::{Attachment, DeviceId, Ledger};

use crate::records::{Records, Unreadable};

/// How old the last change of a file must be before its time says that nothing changed since. A file system counts in
/// ticks of the kernel's clock, 1 to 10 ms: two changes within one tick look like one.
const SETTLED: Duration = Duration::from_millis(100);

/// Reads the directory of the records, and remembers what it read.
#[derive(Debug)]
pub struct Reader {
    records: Records,
    known: BTreeMap<DeviceId, Known>,
    files_read: u64,
}

/// A record as it was read.
#[derive(Debug)]
struct Known {
    version: Version,
    record: Arc<Attachment>,
}

/// Distinguishes two states of one path, once the newer one is older than the clock's resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    file: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl From<&Metadata> for Version {
    fn from(file: &Metadata) -> Self {
        Self { file: (file.dev(), file.ino()), size: file.size(), changed: (file.ctime(), file.ctime_nsec()) }
    }
}

impl Version {
    /// Whether the last change is long enough ago. A clock that was set back makes it look as if it were to come.
    fn is_settled(&self, now: SystemTime) -> bool {
        let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(self.changed.0), u32::try_from(self.changed.1)) else {
            return false;
        };
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        now.duration_since(changed).is_ok_and(|age| age >= SETTLED)
    }
}

impl Reader {
    /// A reader that knows nothing yet.
    pub fn new(records: Records) -> Self {
        Self { records, known: BTreeMap::new(), files_read: 0 }
    }

    /// What it reads.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// How many records it has read from disk. The number grows with what changed, not with what is there.
    pub fn files_read(&self) -> u64 {
        self.files_read
    }

    /// All records, and the files that cannot be used, in quarantine or not.
    ///
    /// # Errors
    ///
    /// Those of [`Records::list`].
    pub fn list(&mut self) -> io::Result<(Ledger, Vec<Unreadable>)> {
        let now = SystemTime::now();
        let Self { records, known, files_read } = self;
        let (ledger, unreadable) = records.list_by(|device, entry| {
            // taken before the file is read: whatever changes it after that makes another version
            let version = entry.metadata().ok().as_ref().map(Version::from).filter(|version| version.is_settled(now));
            if let (Some(version), Some(known)) = (version, known.get(device))
                && known.version == version
            {
                return Ok(Some(known.record.clone()));
            }
            known.remove(device);
            *files_read += 1;
            let record = records.read_record(device)?.map(Arc::new);
            if let (Some(version), Some(record)) = (version, &record) {
                known.insert(device.clone(), Known { version, record: record.clone() });
            }
            Ok(record)
        })?;
        known.retain(|device, _| ledger.contains_key(device));
        Ok((ledger, unreadable))
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use netdevice::Phase;

    use super::*;
    use netdevice::fixture::record;

    fn version(records: &Records, device: &DeviceId) -> Version {
        Version::from(&records.path(device).metadata().unwrap())
    }

    #[test]
    fn only_what_changed_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        let names = ["a", "b", "c"];
        names.iter().for_each(|name| drop(records.write(&record(name)).unwrap()));
        let mut reader = Reader::new(records.clone());
        while !names.iter().all(|name| version(&records, &name.parse().unwrap()).is_settled(SystemTime::now())) {
            sleep(Duration::from_millis(5));
        }
        let (all, _) = reader.list().unwrap();
        assert_eq!((all.len(), reader.files_read()), (3, 3));
        assert_eq!(reader.list().unwrap().0, all);
        assert_eq!(reader.files_read(), 3, "nothing changed");
        let mut other = record("b");
        other.since += 1;
        records.write(&other).unwrap();
        let (now, _) = reader.list().unwrap();
        assert_eq!(*now[&other.device], other);
        assert_eq!(reader.files_read(), 4);
        assert!(Arc::ptr_eq(&now[&"a".parse().unwrap()], &all[&"a".parse().unwrap()]));
        records.remove(&other.device).unwrap();
        assert_eq!(reader.list().unwrap().0.len(), 2);
        assert_eq!((reader.files_read(), reader.known.len()), (4, 2));
    }

    #[test]
    fn a_change_in_place_right_after_the_reading_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        let mut reader = Reader::new(records.clone());
        let mut attachment = record("a");
        // many times: each falls otherwise into the ticks of the file system's clock
        for _ in 0..100 {
            attachment.phase = Phase::Attaching;
            let written = records.write(&attachment).unwrap();
            assert_eq!(reader.list().unwrap().0[&attachment.device].phase, Phase::Attaching);
            written.note_attached().unwrap();
            assert_eq!(reader.list().unwrap().0[&attachment.device].phase, Phase::Attached);
        }
    }

    #[test]
    fn a_file_from_the_future_has_not_settled() {
        let of = |seconds| Version { file: (1, 1), size: 1, changed: (seconds, 0) };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert!(of(999).is_settled(now) && !of(-1).is_settled(now));
        assert!(!of(1000).is_settled(now) && !of(2000).is_settled(now));
    }
}
