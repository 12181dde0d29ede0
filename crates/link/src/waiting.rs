//! Devices that are on the host under another name, since theirs was taken, and get it as soon as it is free.
//!
//! The record of such a device goes on, as `waiting/<id>.<index>.json`: it says what the device is, where it is and what it
//! is to be called, to whoever comes next, also after a restart of the agent.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use netdevice::{
    DeviceId, InterfaceName, Phase, Record,
    record::{HomePlace, quarantined_device, quarantined_name},
};
use rtnl::link::attribute as ifla;

use crate::{
    error::{Error, WithSubject},
    identity::is_device,
    ledger::{Records, read_limited},
    read::{Which, read_bare},
    socket::RouteSocket,
};

const FOLDER: &str = "waiting";

/// A device that waits for its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The device; it has the name that it waits for.
    pub device: DeviceId,
    /// What it is called until then.
    pub present: InterfaceName,
    /// Its index on the host.
    pub index: u32,
    record: Record,
    path: PathBuf,
}

/// What became of the attempt to give a device its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// It has it.
    Done,
    /// Not now: the name is taken or somebody works on the device.
    NotYet,
    /// The device is gone, or somebody gave it another name: nothing waits any more.
    Void,
}

impl Records {
    /// Ends the record of a device that is on the host as `present`, and remembers that it waits for its name. Its lock is
    /// held. Where that cannot be remembered, the device is on the host all the same.
    pub(crate) fn end_waiting(&self, mut record: Record, present: &InterfaceName, index: u32) -> Result<(), Error> {
        let device = record.device.clone();
        record.phase = Phase::Detaching;
        record.home = Some(HomePlace { name: DeviceId::from(present), ifindex: index });
        let folder = self.folder().join(FOLDER);
        if self.write(&record).is_ok() && (folder.exists() || fs::create_dir(&folder).is_ok()) {
            let _ = fs::rename(self.path(&device), folder.join(quarantined_name(&device, index)));
        }
        self.remove(&device)
    }

    /// The devices that wait for their name. Files that are no such record are passed over.
    ///
    /// # Errors
    ///
    /// When the directory is there and cannot be read.
    pub fn waiting(&self) -> io::Result<Vec<Waiting>> {
        let entries = match fs::read_dir(self.folder().join(FOLDER)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut waiting = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(device) = quarantined_device(name) else { continue };
            match read_limited(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                read => waiting.extend(Waiting::from_text(device, &read?, &path)),
            }
        }
        Ok(waiting)
    }
}

impl Waiting {
    fn from_text(device: DeviceId, text: &[u8], path: &Path) -> Option<Self> {
        let record = Record::from_json(&device, text).ok()?;
        let home = record.home.as_ref()?;
        Some(Self { device, present: home.name.to_name(), index: home.ifindex, path: path.to_owned(), record })
    }

    /// Gives the device its name, if that is free and the link is the device still: by index, name, kind and permanent
    /// address.
    ///
    /// # Errors
    ///
    /// When the kernel refuses for another reason than that the name is taken; the device waits on.
    pub fn restore(&self, records: &Records) -> Result<Restored, Error> {
        let present = DeviceId::from(&self.present);
        // nobody shall move it meanwhile, nor a device that has its name
        let (Some(_lock), Some(_present)) = (records.try_lock(&self.device)?, records.try_lock(&present)?) else {
            return Ok(Restored::NotYet);
        };
        // in a Pod, under the name that it has now; or another device of its name is, and comes back
        if records.read(&self.device)?.is_some() || records.read(&present)?.is_some() {
            return Ok(Restored::NotYet);
        }
        let mut home = RouteSocket::open().subject("the node's network namespace")?;
        let link = read_bare(&mut home, Which::Index(self.index))?;
        if !link.is_some_and(|link| link.name == self.present && is_device(&self.record, &link)) {
            return self.end(Restored::Void);
        }
        let (index, name) = (self.index, self.device.to_name());
        let bytes = name.as_bytes().to_vec();
        let renamed = home.change_one(move |batch| {
            rtnl::link::set(batch, index, 0, 0).string(ifla::IFNAME, &bytes);
        });
        match renamed.subject("the kernel's network configuration")? {
            Ok(()) => self.end(Restored::Done),
            Err(error) if error.errno == libc::EEXIST => Ok(Restored::NotYet),
            Err(source) => Err(Error::Configure { what: format!("the name {name}"), source }),
        }
    }

    fn end(&self, restored: Restored) -> Result<Restored, Error> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::Record { path: self.path.clone(), source: error })
            }
            _ => Ok(restored),
        }
    }
}
