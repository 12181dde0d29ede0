//! The CDI file of one pool: written whole or not at all, and only when its contents change.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use netdevice::{DeviceId, ResourceName, cdi};
use wake::FileIdentity;

use crate::{config::Config, error::Error};

/// Longest file that is read back, in bytes: room for 20,000 devices.
const MAX_FILE: u64 = 16 << 20;

/// Bytes that are read or written at once: the text of a large file is never in memory as a whole.
const BUFFER: usize = 32 << 10;

/// The file and what is known to be in it.
#[derive(Debug)]
pub(crate) struct CdiFile {
    resource: ResourceName,
    hook: String,
    state_dir: Option<String>,
    folder: PathBuf,
    path: PathBuf,
    written: Written,
    /// What is to be written next. Kept: fresh memory for each text would cost as much as the text.
    buffer: Vec<u8>,
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
            buffer: Vec::new(),
        };
        file.remove_leftovers();
        file
    }

    /// The devices that the file at the path names, whoever wrote it; none if it is not a file of this pool.
    pub(crate) fn read_devices(&self) -> BTreeSet<DeviceId> {
        let file = File::open(&self.path).map(|file| BufReader::with_capacity(BUFFER, file.take(MAX_FILE)));
        file.map(|file| cdi::read_devices(file, &self.resource)).unwrap_or_default()
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
        let mut buffer = std::mem::take(&mut self.buffer);
        let document = cdi::Document {
            resource: &self.resource,
            hook: &self.hook,
            state_dir: self.state_dir.as_deref(),
            devices: &devices,
        };
        let done = if devices.is_empty() {
            remove(&self.path)
        } else if !self.is_intact() && is_in(&document, &self.path) {
            // another instance wrote the same: nobody who watches the folder needs to look again
            Ok(())
        } else {
            self.replace(&document, &mut buffer)
        };
        self.buffer = buffer;
        done.map_err(|cause| Error::CdiWriteFailed { path: self.path.clone(), cause })?;
        self.written = Written::Ours(FileIdentity::of(&self.path), devices);
        Ok(())
    }

    fn replace(&self, document: &cdi::Document<'_>, buffer: &mut Vec<u8>) -> io::Result<()> {
        // CDI implementations skip spec.*.tmp; two instances must not write to one file
        let temporary = self.folder.join(format!("{}{:016x}.tmp", self.leftover_prefix(), random()));
        let file = match create(&temporary) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o755).create(&self.folder)?;
                create(&temporary)?
            }
            created => created?,
        };
        let written = write_file(file, document, buffer).and_then(|()| fs::rename(&temporary, &self.path));
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

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)
}

fn write_file(mut file: File, document: &cdi::Document<'_>, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    buffer.reserve_exact(BUFFER);
    document.for_each_piece(|piece| {
        if buffer.len() + piece.len() > BUFFER {
            file.write_all(buffer)?;
            buffer.clear();
        }
        buffer.extend_from_slice(piece.as_bytes());
        Ok::<_, io::Error>(())
    })?;
    // not synced: what a crash of the node leaves is compared and written again at the next start
    file.write_all(buffer)
}

/// Whether the file has that document and nothing else.
fn is_in(document: &cdi::Document<'_>, path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut expected = Expected(BufReader::with_capacity(BUFFER, file));
    let is_so = document.for_each_piece(|piece| expected.write_all(piece.as_bytes()));
    is_so.is_ok() && expected.0.fill_buf().is_ok_and(<[u8]>::is_empty)
}

/// A file that must have what is written, where it is written.
struct Expected(BufReader<File>);

impl Write for Expected {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let present = self.0.fill_buf()?;
        let length = present.len().min(text.len());
        if length == 0 || present[..length] != text[..length] {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.0.consume(length);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        // also when the folder is none
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Err(error),
        _ => Ok(()),
    }
}
