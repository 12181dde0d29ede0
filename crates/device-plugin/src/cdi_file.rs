//! The CDI file of one pool: written whole or not at all, and only when its contents change.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use netdevice::{DeviceId, ResourceName, cdi};
use serde::Deserialize;

use crate::{config::Config, error::Error, identity::FileIdentity};

/// Longest file that is read back, in bytes: room for 20,000 devices.
const MAX_FILE: u64 = 16 << 20;

/// The file and what is known to be in it.
#[derive(Debug)]
pub(crate) struct CdiFile {
    resource: ResourceName,
    hook: String,
    state_dir: Option<String>,
    folder: PathBuf,
    path: PathBuf,
    written: Written,
}

/// What was seen at the path last.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    Unknown,
    /// Our text with these devices; for none there is no file.
    Ours(Option<FileIdentity>, Arc<BTreeSet<DeviceId>>),
}

impl CdiFile {
    /// Removes what a killed instance left of its attempts to write; the file itself stays.
    pub(crate) fn open(config: &Config) -> Self {
        let folder = config.paths.cdi.clone();
        let path = folder.join(cdi::file_name(&config.resource));
        let file = Self {
            resource: config.resource.clone(),
            hook: config.paths.hook.clone(),
            state_dir: config.paths.state_dir.clone(),
            folder,
            path,
            written: Written::Unknown,
        };
        file.remove_leftovers();
        file
    }

    /// The devices that the file at the path names, whoever wrote it; none if it is not a file of this pool.
    pub(crate) fn read_devices(&self) -> BTreeSet<DeviceId> {
        #[derive(Deserialize)]
        struct Spec {
            kind: String,
            devices: Vec<Device>,
        }
        #[derive(Deserialize)]
        struct Device {
            name: String,
        }
        let spec: Option<Spec> = read(&self.path).ok().and_then(|text| serde_json::from_str(&text).ok());
        let devices = spec.filter(|spec| spec.kind == self.resource.as_str()).map(|spec| spec.devices);
        devices.into_iter().flatten().filter_map(|device| device.name.parse().ok()).collect()
    }

    /// The devices that resolve now: those that we wrote, or what somebody else put in place of our file.
    pub(crate) fn resolvable(&self) -> Arc<BTreeSet<DeviceId>> {
        match &self.written {
            Written::Ours(identity, devices) if *identity == FileIdentity::of(&self.path) => devices.clone(),
            _ => Arc::new(self.read_devices()),
        }
    }

    /// Whether we wrote these devices last, whatever became of the file since.
    pub(crate) fn wrote(&self, devices: &Arc<BTreeSet<DeviceId>>) -> bool {
        matches!(&self.written, Written::Ours(_, ours) if Arc::ptr_eq(ours, devices) || ours == devices)
    }

    /// Whether the file at the path is the one that we wrote.
    pub(crate) fn is_intact(&self) -> bool {
        matches!(&self.written, Written::Ours(identity, _) if *identity == FileIdentity::of(&self.path))
    }

    /// Makes the file name these devices; removes it when there are none.
    ///
    /// # Errors
    ///
    /// [`Error::CdiWriteFailed`]; then the file is what it was.
    pub(crate) fn write(&mut self, devices: Arc<BTreeSet<DeviceId>>) -> Result<(), Error> {
        let document = cdi::Document {
            resource: &self.resource,
            hook: &self.hook,
            state_dir: self.state_dir.as_deref(),
            devices: &devices,
        };
        let done = match document.to_json() {
            None => remove(&self.path),
            // an earlier instance wrote the same: nobody who watches the folder needs to look again
            Some(text) if read(&self.path).is_ok_and(|present| present == text) => Ok(()),
            Some(text) => self.replace(text.as_bytes()),
        };
        done.map_err(|source| Error::CdiWriteFailed { path: self.path.clone(), source })?;
        self.written = Written::Ours(FileIdentity::of(&self.path), devices);
        Ok(())
    }

    fn replace(&self, text: &[u8]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o755).create(&self.folder)?;
        // CDI implementations skip spec.*.tmp; two instances must not write to one file
        let temporary = self.folder.join(format!("{}{:016x}.tmp", self.leftover_prefix(), random()));
        let written = write_file(&temporary, text).and_then(|()| fs::rename(&temporary, &self.path));
        if written.is_err() {
            // the error that is told is the first one
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn leftover_prefix(&self) -> String {
        format!("spec.{}.", cdi::file_name(&self.resource))
    }

    fn remove_leftovers(&self) {
        let prefix = self.leftover_prefix();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with(&prefix) && name.ends_with(".tmp")) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// A number that no other process has, for names.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn write_file(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(text)?;
    file.sync_data()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        // also when the folder is none
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Err(error),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}
