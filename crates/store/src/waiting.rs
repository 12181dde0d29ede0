//! Devices that are on the host under another name, since theirs was taken, and get it as soon as it is free.
//!
//! The record of such a device goes on, as `waiting/<id>.<index>.json`: it says what the device is, where it is and what it
//! is to be called, also after a restart of the agent.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use netdevice::{
    Attachment, DeviceId, InterfaceName, Moved, Phase,
    acquisition::HomePlace,
    record::{quarantined_device, quarantined_name},
};

use crate::{
    error::Error,
    records::{Records, read_record_file},
};

const DIRECTORY: &str = "waiting";

/// A device that waits for its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The device; it has the name that it waits for.
    pub device: DeviceId,
    /// What it is called until then.
    pub present: InterfaceName,
    /// Its index on the host.
    pub index: u32,
    record: Attachment<Moved>,
    path: PathBuf,
}

impl Records {
    /// Ends the record of a device that is on the host as `present`, and remembers that it waits for its name. Its lock is
    /// held. Where that cannot be remembered, the device is on the host all the same.
    pub fn end_waiting(&self, mut record: Attachment<Moved>, present: &InterfaceName, index: u32) -> Result<(), Error> {
        let device = record.device.clone();
        record.phase = Phase::Detaching;
        record.acquired.home = Some(HomePlace { name: present.clone(), ifindex: index });
        let directory = self.directory().join(DIRECTORY);
        if self.write(&record).is_ok() && (directory.exists() || fs::create_dir(&directory).is_ok()) {
            let _ = fs::rename(self.path(&device), directory.join(quarantined_name(&device, index)));
        }
        self.remove(&device)
    }

    /// The devices that wait for their name. Files that are no such record are passed over.
    ///
    /// # Errors
    ///
    /// When the directory is there and cannot be read.
    pub fn waiting(&self) -> io::Result<Vec<Waiting>> {
        let entries = match fs::read_dir(self.directory().join(DIRECTORY)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut waiting = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(device) = quarantined_device(name) else { continue };
            match read_record_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                read => waiting.extend(Waiting::from_text(device, &read?, &path)),
            }
        }
        Ok(waiting)
    }
}

impl Waiting {
    fn from_text(device: DeviceId, text: &[u8], path: &Path) -> Option<Self> {
        let record = Attachment::from_json(&device, text).ok()?.into_moved().ok()?;
        let home = record.acquired.home.as_ref()?;
        Some(Self { device, present: home.name.clone(), index: home.ifindex, path: path.to_owned(), record })
    }

    /// What the device was on the host, and where it is now.
    pub fn attachment(&self) -> &Attachment<Moved> {
        &self.record
    }

    /// Ends the wait.
    ///
    /// # Errors
    ///
    /// When the file cannot be removed.
    pub fn end(&self) -> Result<(), Error> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::Record { path: self.path.clone(), error })
            }
            _ => Ok(()),
        }
    }
}
