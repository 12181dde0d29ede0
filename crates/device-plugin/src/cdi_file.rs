//! The CDI file of one pool: written whole or not at all, and only when its contents change.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use netdevice::{DeviceId, ResourceName, cdi};
use wake::FileIdentity;

use crate::{config::Config, error::Error};

/// Longest file that is read back, in bytes: room for 20,000 devices.
const MAX_FILE: u64 = 16 << 20;

/// Bytes that are read or written at once: a large file is never in memory as a whole.
const BUFFER: usize = 32 << 10;

/// The file and what is known to be in it.
#[derive(Debug)]
pub(crate) struct CdiFile {
    resource: ResourceName,
    hook: String,
    state_dir: Option<String>,
    directory: PathBuf,
    path: PathBuf,
    written: Written,
    /// Kept between writes: allocating it again costs as much as making the text.
    buffer: Vec<u8>,
}

/// What was at the path when it was last checked.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    Unknown,
    /// The plugin's text with these devices, and how they are created; no file if there are none.
    Ours(Option<FileIdentity>, Arc<BTreeSet<DeviceId>>, Option<cdi::Creation>),
}

impl CdiFile {
    /// Removes the temporary files of a killed instance; the file itself stays.
    pub(crate) fn open(config: &Config) -> Self {
        let directory = config.paths.cdi.clone();
        let path = directory.join(cdi::file_name(&config.resource));
        let file = Self {
            resource: config.resource.clone(),
            hook: config.paths.hook.clone(),
            state_dir: config.paths.state_dir.clone(),
            directory,
            path,
            written: Written::Unknown,
            buffer: Vec::new(),
        };
        file.remove_leftovers();
        file
    }

    /// The devices in the file at the path, by any author; none if it is not a file of this pool.
    pub(crate) fn read_devices(&self) -> BTreeSet<DeviceId> {
        let file = File::open(&self.path).map(|file| BufReader::with_capacity(BUFFER, file.take(MAX_FILE)));
        file.map(|file| cdi::read_devices(file, &self.resource)).unwrap_or_default()
    }

    /// The devices that resolve now: those that were written, or those of a file that replaced it.
    pub(crate) fn resolvable(&self) -> Arc<BTreeSet<DeviceId>> {
        match &self.written {
            Written::Ours(_, devices, _) if self.is_intact() => devices.clone(),
            _ => Arc::new(self.read_devices()),
        }
    }

    /// Whether these devices were written last. The file may have changed since.
    pub(crate) fn wrote(&self, devices: &Arc<BTreeSet<DeviceId>>, creation: Option<cdi::Creation>) -> bool {
        let Written::Ours(_, ours, written) = &self.written else { return false };
        *written == creation && (Arc::ptr_eq(ours, devices) || ours == devices)
    }

    /// Whether the file at the path is the one that was written.
    pub(crate) fn is_intact(&self) -> bool {
        matches!(&self.written, Written::Ours(identity, ..) if *identity == FileIdentity::of(&self.path))
    }

    /// Makes the file name these devices; removes it when there are none.
    ///
    /// # Errors
    ///
    /// [`Error::CdiWriteFailed`]; the file is then unchanged.
    pub(crate) fn write(
        &mut self,
        devices: Arc<BTreeSet<DeviceId>>,
        creation: Option<cdi::Creation>,
    ) -> Result<(), Error> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let document = cdi::Document {
            resource: &self.resource,
            hook: &self.hook,
            state_dir: self.state_dir.as_deref(),
            devices: &devices,
            creation,
        };
        let present = FileIdentity::of(&self.path);
        let done = if devices.is_empty() {
            remove(&self.path).map(|()| None)
        } else if present.is_some() && !self.is_intact() && is_in(&document, &self.path) {
            // another instance wrote the same: programs that watch the directory need not read it again
            Ok(present)
        } else {
            self.replace(&document, &mut buffer).map(Some)
        };
        self.buffer = buffer;
        let identity = done.map_err(|cause| Error::CdiWriteFailed { path: self.path.clone(), cause })?;
        self.written = Written::Ours(identity, devices, creation);
        Ok(())
    }

    /// Writes the file, and returns which one it is: what is at the path a moment later may be another.
    fn replace(&self, document: &cdi::Document<'_>, buffer: &mut Vec<u8>) -> io::Result<FileIdentity> {
        // CDI implementations skip spec.*.tmp; two instances must not write to one file
        let temporary = self.directory.join(format!("{}{:016x}.tmp", self.leftover_prefix(), random()));
        let mut replace = || {
            store::replace(&self.path, &temporary, 0o644, |file| {
                write_file(&file, document, buffer)?;
                Ok(FileIdentity::from(&file.metadata()?))
            })
        };
        match replace() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o755).create(&self.directory)?;
                replace()
            }
            replaced => replaced,
        }
    }

    fn leftover_prefix(&self) -> String {
        format!("spec.{}.", cdi::file_name(&self.resource))
    }

    fn remove_leftovers(&self) {
        let prefix = self.leftover_prefix();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
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

fn write_file(mut file: &File, document: &cdi::Document<'_>, buffer: &mut Vec<u8>) -> io::Result<()> {
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
    // not synced: after a crash of the node the next start compares the file and writes it again
    file.write_all(buffer)
}

/// Whether the file has that document and nothing else.
fn is_in(document: &cdi::Document<'_>, path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut expected = Expected(BufReader::with_capacity(BUFFER, file));
    let is_so = document.for_each_piece(|piece| expected.write_all(piece.as_bytes()));
    is_so.is_ok() && expected.0.fill_buf().is_ok_and(<[u8]>::is_empty)
}

/// A file that must have the same bytes at the same place as what is written to it.
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
        // also when the directory is not a directory
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Err(error),
        _ => Ok(()),
    }
}
