//! Quarantine: records that cannot be used are put aside, by the program that holds the device's lock; the device is neither
//! moved nor offered.
//!
//! What such a file would have said is lost: where the device went, and what it was. A link of its name on the host may be
//! the device, untouched or half restored, or another one. So nothing is guessed, and the device is neither moved nor
//! offered until an administrator has looked and removed the file. A record of a newer version stays where it is: the
//! program that wrote it can follow it.
//!
//! A device that is on the host with something of its Pod on it that cannot be removed is quarantined in the same way, with a
//! record that says what it is. Put back, that record is followed: the device is cleaned again, and restored.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use netdevice::{
    Attachment, DeviceId, Moved,
    record::{QUARANTINE, quarantined_device, quarantined_name},
};

use crate::{
    error::Error,
    records::{ReadError, RecordDirectory, Records, Unreadable, read_record_file},
};

/// How many files of one device are kept. The device is refused while there is one, so a second one was put there by hand.
const MAX_FILES: u32 = 100;

impl Records {
    /// The record of a device, whose lock is held; none if it is on the host. A record that cannot be used is put aside.
    ///
    /// # Errors
    ///
    /// When there is or was a record that cannot be used, or the directory cannot be read.
    pub fn take(&self, device: &DeviceId) -> Result<Option<Attachment>, Error> {
        match self.read_record(device) {
            Ok(Some(record)) => Ok(Some(record)),
            Ok(None) => match self
                .quarantined_of(device)
                .map_err(|error| Error::Record { path: self.directory().join(QUARANTINE), error })?
            {
                None => Ok(None),
                Some(path) => Err(match reason(device, &path) {
                    Reason::Unfollowed(reason) => Error::Quarantined { reason, path },
                    Reason::Unclean(reason) => Error::Unclean { reason, path },
                }),
            },
            Err(ReadError::Unfollowed(path, error)) if error.is_final() => match self.put_aside(device, &path) {
                Ok(aside) => Err(Error::Quarantined { path: aside, reason: error.to_string() }),
                // where nothing can be put, it stays, and is as good there
                Err(_) => Err(Error::Unreadable { path, reason: error.to_string() }),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Puts the record of a device aside if it cannot be used, and returns where it is then. A device that a program works on
    /// is left to them.
    ///
    /// # Errors
    ///
    /// When the lock cannot be taken or the file not be moved; it is then where it was.
    pub fn quarantine(&self, device: &DeviceId) -> Result<Option<PathBuf>, Error> {
        let Some(_lock) = self.try_lock(device)? else { return Ok(None) };
        match self.read_record(device) {
            Err(ReadError::Unfollowed(path, error)) if error.is_final() => {
                self.put_aside(device, &path).map(Some).map_err(|error| Error::Record { path, error })
            }
            _ => Ok(None),
        }
    }

    /// Puts the record of a device aside that is on the host with something on it that cannot be taken off; returns the
    /// error that says so.
    pub fn set_aside(&self, mut record: Attachment<Moved>, reason: String) -> Error {
        let device = record.device.clone();
        record.quarantined = Some(reason.clone());
        // the device is not in the namespace any more, and an administrator may remove the file
        self.unpin(&device);
        if let Err(error) = self.write(&record) {
            return error;
        }
        match self.put_aside(&device, &self.path(&device)) {
            Ok(path) => Error::Unclean { path, reason },
            Err(error) => Error::Record { path: self.path(&device), error },
        }
    }

    fn put_aside(&self, device: &DeviceId, path: &Path) -> io::Result<PathBuf> {
        let directory = self.directory().join(QUARANTINE);
        fs::create_dir_all(&directory)?;
        let mut places = (1..=MAX_FILES).map(|number| directory.join(quarantined_name(device, number)));
        let place = places.find(|place| !place.exists()).ok_or(io::ErrorKind::AlreadyExists)?;
        fs::rename(path, &place)?;
        Ok(place)
    }

    /// A file in quarantine that was a record of the device.
    pub(crate) fn quarantined_of(&self, device: &DeviceId) -> io::Result<Option<PathBuf>> {
        Ok(self.quarantined_files()?.find(|(of, _)| of == device).map(|(_, path)| path))
    }

    /// All files in quarantine.
    pub(crate) fn quarantined(&self) -> io::Result<impl Iterator<Item = Unreadable> + use<>> {
        Ok(self.quarantined_files()?.map(|(device, path)| Unreadable {
            reason: reason(&device, &path).to_string(),
            device: Some(device),
            place: RecordDirectory::Quarantine,
            path,
        }))
    }

    fn quarantined_files(&self) -> io::Result<impl Iterator<Item = (DeviceId, PathBuf)> + use<>> {
        // mostly there is no such directory: one system call says so
        let entries = match fs::read_dir(self.directory().join(QUARANTINE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other?),
        };
        let entries = entries.into_iter().flatten().flatten();
        Ok(entries.filter_map(|entry| Some((quarantined_device(entry.file_name().to_str()?)?, entry.path()))))
    }
}

/// Why a file was put aside.
enum Reason {
    /// Nobody can follow it.
    Unfollowed(String),
    /// The device has something on it that cannot be taken off.
    Unclean(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfollowed(reason) => out.write_str(reason),
            Self::Unclean(reason) => write!(out, "{reason}; the device is down: take that off and put the record back"),
        }
    }
}

/// Why a file was put aside, as it says itself.
fn reason(device: &DeviceId, path: &Path) -> Reason {
    match read_record_file(path).map(|text| Attachment::from_json(device, &text)) {
        Ok(Ok(Attachment { quarantined: Some(reason), .. })) => Reason::Unclean(reason),
        Ok(Ok(_)) => Reason::Unfollowed("it was repaired and can be followed now: move it back to the records".into()),
        Ok(Err(error)) => Reason::Unfollowed(error.to_string()),
        Err(error) => Reason::Unfollowed(error.to_string()),
    }
}
