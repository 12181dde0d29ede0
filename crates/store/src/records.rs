//! The records: one file for each device that is attached.
//!
//! A record is replaced as a whole; only that an attachment is complete is noted in place.

use std::{
    collections::BTreeSet,
    fs::{self, DirEntry, File},
    io::{self, Read},
    net::IpAddr,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use netdevice::{
    Attachment, DeviceId, Ledger, Phase,
    acquisition::Recorded,
    node_address::{self, MAX_NODE_ADDRESSES, NODE_ADDRESSES},
    record_text::{MAX_RECORD, RecordError, attached_in_place},
};

use crate::{
    error::{Error, is_shortage},
    mounts::{Held, Mounts},
    read_limited::read_limited,
    replace::replace_by_text,
};

/// Where records are kept unless a flag says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/run/netdevice";

const SUFFIX: &str = ".json";
/// A file that is being written: `.<name>.new`. No device id begins with a dot, and no file but a record is called `.json`.
pub(crate) const BESIDE: &str = ".new";

/// The directory of the records.
#[derive(Debug, Clone)]
pub struct Records {
    directory: PathBuf,
    pub(crate) mounts: Mounts,
    pub(crate) held: Option<Held>,
}

/// A record's file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The file.
    pub path: PathBuf,
    /// The device that it is named after; none if the name is not a device's.
    pub device: Option<DeviceId>,
    /// What is wrong with it.
    pub reason: String,
    /// Where it is.
    pub place: RecordDirectory,
}

/// Where a file is that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordDirectory {
    /// Among the records: a newer program wrote it, or it was not put aside yet.
    Records,
    /// Put aside.
    Quarantine,
}

/// Why a record was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// Nor can the file be read.
    Io(PathBuf, io::Error),
    /// It says nothing that can be followed.
    Unfollowed(PathBuf, RecordError),
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(path, error) => Self::Record { path, error },
            ReadError::Unfollowed(path, error) => Self::Unreadable { path, reason: error.to_string() },
        }
    }
}

/// A record that was just written.
#[derive(Debug)]
pub struct Written {
    path: PathBuf,
    file: File,
    /// What makes the text one of a whole attachment, if it is of half of one.
    attached: Option<(u64, &'static [u8])>,
}

impl Written {
    /// Says of a record that was of half an attachment that it is of a whole one: four bytes in place, for all else stands
    /// there.
    ///
    /// # Errors
    ///
    /// When the disk does not take them.
    pub fn note_attached(self) -> Result<(), Error> {
        let (at, bytes) = self.attached.expect("only an attachment that has begun is complete");
        let written = self.file.write_all_at(bytes, at);
        written.map_err(|error| Error::Record { path: self.path, error })
    }
}

impl Records {
    /// The records in that directory, which need not be there yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), mounts: Mounts::Runtime, held: None }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn path(&self, device: &DeviceId) -> PathBuf {
        self.directory.join(format!("{device}{SUFFIX}"))
    }

    /// Where a file of the directory is written before it takes its place.
    fn beside(&self, name: &str) -> PathBuf {
        self.directory.join([".", name, BESIDE].concat())
    }

    /// Where a record is written before it takes its place.
    fn record_beside(&self, device: &DeviceId) -> PathBuf {
        self.directory.join([".", device.as_str(), SUFFIX, BESIDE].concat())
    }

    /// The record of a device; none if there is none. Without the device's lock another program may be about to put aside what
    /// cannot be used.
    pub(crate) fn read_record(&self, device: &DeviceId) -> Result<Option<Attachment>, ReadError> {
        let path = self.path(device);
        let read = || match read_record_file(&path) {
            Ok(text) => Ok(Some(Attachment::from_json(device, &text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ReadError::Io(path.clone(), error)),
        };
        let record = match read()? {
            // its phase may have changed at this very moment
            Some(Err(_)) => read()?,
            other => other,
        };
        record.transpose().map_err(|error| ReadError::Unfollowed(path, error))
    }

    /// The record of a device as the disk says at this moment; none if the device is on the host.
    ///
    /// # Errors
    ///
    /// When there is a record that cannot be read or followed.
    pub fn read(&self, device: &DeviceId) -> Result<Option<Attachment>, Error> {
        Ok(self.read_record(device)?)
    }

    /// Writes a record, in place of the one that is there, all or nothing.
    ///
    /// # Errors
    ///
    /// When the disk does not take it; the record that was there stays.
    pub fn write<A: Recorded>(&self, record: &Attachment<A>) -> Result<Written, Error> {
        let path = self.path(&record.device);
        let text = record.to_json();
        if text.len() > MAX_RECORD {
            return Err(Error::RecordTooLarge(text.len()));
        }
        match replace_by_text(&path, &self.record_beside(&record.device), &text, 0o600) {
            Ok(file) => {
                let is_begun = record.phase == Phase::Attaching;
                let attached = is_begun.then(|| attached_in_place(&text)).flatten();
                Ok(Written { path, file, attached })
            }
            Err(error) => Err(Error::Record { path, error }),
        }
    }

    /// Ends a record: the device is home.
    ///
    /// # Errors
    ///
    /// When the file cannot be removed.
    pub fn remove(&self, device: &DeviceId) -> Result<(), Error> {
        // a program that is killed in between leaves a record whose device is on the host
        self.unpin(device);
        // of a writer that was killed, and mostly not there
        let _ = fs::remove_file(self.record_beside(device));
        let path = self.path(device);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|error| Error::Record { path, error }),
        }
    }

    /// The addresses that the node is known by, as the agent left them; none where no agent did. One read takes them:
    /// a hook asks.
    ///
    /// # Errors
    ///
    /// When the file is there and cannot be read.
    pub fn node_addresses(&self) -> Result<BTreeSet<IpAddr>, Error> {
        let path = self.directory.join(NODE_ADDRESSES);
        let mut text = [0; MAX_NODE_ADDRESSES];
        match File::open(&path).and_then(|mut file| file.read(&mut text)) {
            Ok(length) => Ok(node_address::from_text(text.get(..length).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(Error::Record { path, error }),
        }
    }

    /// Leaves the addresses that the node is known by for hooks and `netdevctl`, all or nothing.
    ///
    /// # Errors
    ///
    /// When the disk does not take them; those that were there stay.
    pub fn write_node_addresses<'a>(&self, addresses: impl IntoIterator<Item = &'a IpAddr>) -> io::Result<()> {
        self.replace(NODE_ADDRESSES, node_address::to_text(addresses).as_ref())
    }

    /// Writes a file of the directory other than a record, all or nothing.
    ///
    /// # Errors
    ///
    /// When the disk does not take it; the file that was there stays.
    pub fn replace(&self, name: &str, text: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        replace_by_text(&self.directory.join(name), &self.beside(name), text, 0o644).map(drop)
    }

    /// Removes what writers that were killed left half written, and pins without a record, except of devices that a program
    /// works on.
    pub fn sweep(&self) {
        self.sweep_pins();
        self.sweep_reservations();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let device = || name.to_str()?.strip_prefix('.')?.strip_suffix(BESIDE)?.strip_suffix(SUFFIX)?.parse().ok();
            if let Some(device) = device()
                && let Ok(Some(_lock)) = self.try_lock(&device)
            {
                let _ = fs::remove_file(self.record_beside(&device));
            }
        }
    }

    /// Whether there is a record of the device, one that can be followed or not, in its place or in quarantine.
    pub(crate) fn has_file(&self, device: &DeviceId) -> bool {
        let is_gone = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        !fs::symlink_metadata(self.path(device)).is_err_and(is_gone) || !matches!(self.quarantined_of(device), Ok(None))
    }

    /// All records, and the files that cannot be used, in quarantine or not.
    ///
    /// # Errors
    ///
    /// When the directory is there and cannot be read, or the system has no descriptor or memory left to read a record.
    pub fn list(&self) -> io::Result<(Ledger, Vec<Unreadable>)> {
        self.list_by(|device, _| Ok(self.read_record(device)?.map(Arc::new)))
    }

    /// [`Records::list`], each record as `read` gives it.
    pub(crate) fn list_by(
        &self,
        mut read: impl FnMut(&DeviceId, &DirEntry) -> Result<Option<Arc<Attachment>>, ReadError>,
    ) -> io::Result<(Ledger, Vec<Unreadable>)> {
        let (mut ledger, mut unreadable) = (Ledger::new(), Vec::new());
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((ledger, unreadable)),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(device) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) else { continue };
            let problem =
                |device, reason| Unreadable { path: entry.path(), device, reason, place: RecordDirectory::Records };
            match device.parse::<DeviceId>() {
                Err(error) => unreadable.push(problem(None, error.to_string())),
                Ok(device) => match read(&device, &entry) {
                    // it ended since the directory was read
                    Ok(None) => {}
                    Ok(Some(record)) => drop(ledger.insert(device, record)),
                    Err(ReadError::Unfollowed(_, error)) => unreadable.push(problem(Some(device), error.to_string())),
                    // there is a record, and a list without it would say that the device is on the host
                    Err(ReadError::Io(_, error)) if is_shortage(&error) => return Err(error),
                    Err(ReadError::Io(_, error)) => unreadable.push(problem(Some(device), error.to_string())),
                },
            }
        }
        unreadable.extend(self.quarantined()?);
        Ok((ledger, unreadable))
    }
}

/// The content of a record's file, or of another one of its form.
pub(crate) fn read_record_file(path: &Path) -> io::Result<Vec<u8>> {
    // most records have room, so that one call reads them
    read_limited(File::open(path)?, 16 << 10, MAX_RECORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_record_is_swept_unless_somebody_writes_it() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        let (left, written) = (directory.path().join(".a.json.new"), directory.path().join(".b.json.new"));
        fs::write(&left, "{").unwrap();
        fs::write(&written, "{").unwrap();
        let _lock = records.lock(&"b".parse().unwrap()).unwrap();
        records.sweep();
        assert!(!left.exists() && written.exists());
        records.remove(&"b".parse().unwrap()).unwrap();
        assert!(!written.exists());
    }

    #[test]
    fn a_file_that_another_writer_is_about_to_put_in_its_place_is_not_swept() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        // what earlier versions call it, too
        let others = [".config.yaml.new", ".node-addresses.new", "config.yaml.new", "node-addresses.new"];
        others.iter().for_each(|name| fs::write(directory.path().join(name), "half").unwrap());
        records.sweep();
        assert!(others.iter().all(|name| directory.path().join(name).exists()));
        records.replace("config.yaml", b"whole").unwrap();
        assert_eq!(fs::read(directory.path().join("config.yaml")).unwrap(), b"whole");
        assert!(!directory.path().join(others[0]).exists());
    }
}
