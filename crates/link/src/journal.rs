//! The journal of what hooks did: one JSON line each in `/run/netdevice/hook.log`.
//!
//! crun loses what a hook prints, so the reason of a failure must be found elsewhere. The agent follows the file: it
//! repeats the lines in its own log and counts them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use netdevice::{DeviceId, record::Pod};
use serde::{Deserialize, Serialize};

use crate::ledger::Records;

/// Size from which the file is put aside, as `hook.log.1`, and begun anew.
const MAX_SIZE: u64 = 1 << 20;
/// Longest line that a reader takes.
const MAX_LINE: usize = 8 << 10;

/// What a hook was started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// A device went, or was to go, into a sandbox.
    Attach,
    /// A device came, or was to come, home.
    Detach,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should.
    Ok,
    /// Nothing was to be done: it was done before.
    Nothing,
    /// It is not done.
    Failed,
    /// The device is gone for good.
    Lost,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Seconds since 1970.
    pub time: u64,
    /// What was to be done.
    pub action: Action,
    /// The device.
    pub device: String,
    /// For whom: the Pod, or the container.
    pub holder: String,
    /// The Pod, if there is one; a hook of an earlier version does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// How it went.
    pub outcome: Outcome,
    /// What the device is called now that it is home, where its name was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renamed: Option<DeviceId>,
    /// The error, or what was left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

fn path(records: &Records) -> PathBuf {
    records.folder().join("hook.log")
}

/// Adds a line. Lines of several hooks at once do not mix: each is one write to the end of the file.
///
/// # Errors
///
/// When the disk does not take it; a hook has done its work all the same.
pub fn append(records: &Records, entry: &Entry) -> io::Result<()> {
    let path = path(records);
    let open = || OpenOptions::new().append(true).create(true).mode(0o644).open(&path);
    let mut file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(records.folder())?;
            open()?
        }
        other => other?,
    };
    if file.metadata()?.len() > MAX_SIZE {
        fs::rename(&path, path.with_extension("log.1"))?;
        file = open()?;
    }
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    file.write_all(&line)
}

/// Seconds since 1970, as entries and records have them.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Follows the journal from where it ended when this was made.
#[derive(Debug)]
pub struct Follower {
    records: Records,
    inode: u64,
    offset: u64,
}

impl Follower {
    /// Starts at the present end of the journal.
    pub fn new(records: &Records) -> Self {
        let (inode, offset) = fs::metadata(path(records)).map_or((0, 0), |file| (file.ino(), file.len()));
        Self { records: records.clone(), inode, offset }
    }

    /// The lines that came since the last call; what is no line of a journal is passed over.
    pub fn next_entries(&mut self) -> Vec<Entry> {
        let Ok(mut file) = File::open(path(&self.records)) else { return Vec::new() };
        let Ok(inode) = file.metadata().map(|file| file.ino()) else { return Vec::new() };
        if inode != self.inode {
            (self.inode, self.offset) = (inode, 0);
        }
        if file.seek(SeekFrom::Start(self.offset)).is_err() {
            return Vec::new();
        }
        let mut entries = Vec::new();
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        while let Ok(length) = reader.read_until(b'\n', &mut line) {
            // a line without its end is still being written
            if length == 0 || !line.ends_with(b"\n") {
                break;
            }
            self.offset += length as u64;
            if length <= MAX_LINE {
                entries.extend(serde_json::from_slice::<Entry>(&line));
            }
            line.clear();
        }
        entries
    }
}
