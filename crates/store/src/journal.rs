//! The journal of what hooks did: one JSON line each in `/run/netdevice/hook.log`.
//!
//! crun loses what a hook prints, so the reason of a failure must be found elsewhere. The agent follows the file: it
//! repeats the lines in its own log and counts them.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use netdevice::{DeviceId, Pod, json};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize, Serializer};

use crate::records::Records;

/// Size from which the file is put aside, as `hook.log.1`, and begun anew.
const MAX_SIZE: u64 = 1 << 20;
/// Longest message in bytes: some 150 reasons why a route was left out.
const MAX_MESSAGE: usize = 16 << 10;
/// Longest line that a reader takes, in bytes: hooks of earlier versions did not shorten what they had to say.
const MAX_LINE: u64 = 1 << 20;
/// How often, and how long after one another, a writer checks whether the file is free; then it writes all the same.
const LOOKS: u32 = 50;
const LOOK: Duration = Duration::from_millis(1);

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
    /// What the device is called now that it is on the host, where its name was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renamed: Option<DeviceId>,
    /// The error, or what was left out.
    #[serde(default, skip_serializing_if = "String::is_empty", serialize_with = "shortened")]
    pub message: String,
}

fn path(records: &Records) -> PathBuf {
    records.directory().join("hook.log")
}

/// A message as the file has it: a device with thousands of routes may have thousands of reasons.
fn shortened<S: Serializer>(message: &str, to: S) -> Result<S::Ok, S::Error> {
    if message.len() <= MAX_MESSAGE {
        return to.serialize_str(message);
    }
    let mut end = MAX_MESSAGE;
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    to.serialize_str(&[&message[..end], " ... (shortened)"].concat())
}

/// Adds a line. Lines of several hooks at once do not mix, and a file that was put aside gets no further line: who
/// writes holds the lock of the file that is in place.
///
/// # Errors
///
/// When the disk does not take it; a hook has done its work all the same.
pub fn append(records: &Records, entry: &Entry) -> io::Result<()> {
    let path = path(records);
    let open = || OpenOptions::new().append(true).create(true).mode(0o644).open(&path);
    let mut file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(records.directory())?;
            open()?
        }
        other => other?,
    };
    let mut size = 0;
    for _ in 0..LOOKS {
        // not for ever: every process may read the file, and so lock it
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            sleep(LOOK);
            continue;
        }
        let opened = file.metadata()?;
        let is_in_place = fs::metadata(&path).is_ok_and(|there| identity(&there) == identity(&opened));
        size = opened.len();
        if is_in_place && (size <= MAX_SIZE || fs::rename(&path, aside(&path)).is_err()) {
            break;
        }
        file = open()?;
    }
    let mut line = json::to_text(entry, 512)?;
    line.push(b'\n');
    // half a line would spoil the next one
    file.write_all(&line).inspect_err(|_| _ = file.set_len(size))
}

/// Seconds since 1970, as entries and records have them.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Follows the journal from where it ended when this was made. It loses no line of a file that is put aside, unless a
/// third one is begun between two readings.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    current: Option<Followed>,
    /// What was aside when the current file was begun to be read: its inode may be used again, but not with the same size and time.
    aside: Option<[u64; 4]>,
}

/// A file that is read as far as it goes. It is kept open, so that its inode is not used again.
#[derive(Debug)]
struct Followed {
    file: File,
    identity: (u64, u64),
    offset: u64,
    /// Whether the end of a line that is too long is still to come.
    is_in_long_line: bool,
}

impl Follower {
    /// Starts at the present end of the journal.
    pub fn new(records: &Records) -> Self {
        let path = path(records);
        let current = Followed::open(&path).map(|current| {
            let offset = current.file.metadata().map_or(0, |file| file.len());
            Followed { offset, ..current }
        });
        let aside = Followed::open(&aside(&path)).and_then(|aside| aside.state());
        Self { path, current, aside }
    }

    /// The lines that came since the last call; other lines are skipped.
    pub fn next_entries(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        // first: what is not in place any more by now gets no further line
        let now = Followed::open(&self.path);
        let before = self.current.as_mut().map(|current| {
            current.read_into(&mut entries);
            current.identity
        });
        let Some(mut now) = now.filter(|now| Some(now.identity) != before) else { return entries };
        if let Some(mut between) = Followed::open(&aside(&self.path)) {
            let state = between.state();
            let is_read = Some(between.identity) == before || between.identity == now.identity;
            if before.is_some() && !is_read && self.aside != state {
                between.read_into(&mut entries);
            }
            self.aside = state;
        }
        now.read_into(&mut entries);
        self.current = Some(now);
        entries
    }
}

impl Followed {
    fn open(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let identity = identity(&file.metadata().ok()?);
        Some(Self { file, identity, offset: 0, is_in_long_line: false })
    }

    fn state(&self) -> Option<[u64; 4]> {
        let file = self.file.metadata().ok()?;
        Some([file.ino(), file.len(), file.mtime().cast_unsigned(), file.mtime_nsec().cast_unsigned()])
    }

    fn read_into(&mut self, entries: &mut Vec<Entry>) {
        // it may have been emptied
        if self.file.metadata().is_ok_and(|file| file.len() < self.offset) {
            self.offset = 0;
        }
        if self.file.seek(SeekFrom::Start(self.offset)).is_err() {
            return;
        }
        let mut reader = BufReader::new(&self.file);
        let mut line = Vec::new();
        while let Ok(length) = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            let length = u64::try_from(length).unwrap_or(MAX_LINE);
            let is_whole = line.ends_with(b"\n");
            // a line without its end is still being written
            if !is_whole && length < MAX_LINE {
                break;
            }
            self.offset += length;
            if is_whole && !self.is_in_long_line {
                entries.extend(serde_json::from_slice::<Entry>(&line));
            }
            self.is_in_long_line = !is_whole;
            line.clear();
        }
    }
}

/// Where the journal is put when it has become large.
fn aside(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Barrier, thread};

    use super::*;

    fn entry(number: u64, message: String) -> Entry {
        Entry {
            time: number,
            action: Action::Detach,
            device: "eth2".into(),
            holder: "pod default/web".into(),
            pod: None,
            outcome: Outcome::Ok,
            renamed: None,
            message,
        }
    }

    /// Each round is larger than a file may be, so that both writers put it aside, often at once.
    #[test]
    fn two_writers_put_the_file_aside_and_a_follower_loses_no_line() {
        const ROUNDS: u64 = 12;
        const LINES: u64 = 80;
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        let mut follower = Follower::new(&records);
        append(&records, &entry(u64::MAX, String::new())).unwrap();
        let mut seen: Vec<u64> = follower.next_entries().iter().map(|entry| entry.time).collect();
        assert_eq!(seen, [u64::MAX], "a journal that is new is read from its beginning");
        seen.clear();
        let barrier = Barrier::new(3);
        thread::scope(|scope| {
            for writer in 0..2 {
                let (records, barrier) = (&records, &barrier);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        barrier.wait();
                        for line in 0..LINES {
                            let number = (round * LINES + line) * 2 + writer;
                            append(records, &entry(number, "x".repeat(10_000))).unwrap();
                        }
                        barrier.wait();
                    }
                });
            }
            for _ in 0..ROUNDS {
                barrier.wait();
                seen.extend(follower.next_entries().iter().map(|entry| entry.time));
                barrier.wait();
                seen.extend(follower.next_entries().iter().map(|entry| entry.time));
            }
        });
        let numbers: BTreeSet<u64> = seen.iter().copied().collect();
        assert_eq!((seen.len(), numbers.len()), (seen.len(), seen.len()), "no line comes twice");
        assert_eq!(numbers, (0..ROUNDS * LINES * 2).collect());
        assert!(directory.path().join("hook.log.1").exists());
    }

    #[test]
    fn both_of_two_files_that_were_put_aside_between_two_looks_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        let mut numbers = 0..;
        let mut fill = || {
            let mut written = 0;
            // one line more than fits
            while written <= MAX_SIZE + 10_000 {
                append(&records, &entry(numbers.next().unwrap(), "x".repeat(10_000))).unwrap();
                written += 10_000;
            }
        };
        append(&records, &entry(u64::MAX, String::new())).unwrap();
        let mut follower = Follower::new(&records);
        fill();
        fill();
        let seen: Vec<u64> = follower.next_entries().iter().map(|entry| entry.time).collect();
        assert_eq!(seen, (0..numbers.next().unwrap()).collect::<Vec<u64>>());
        assert!(follower.next_entries().is_empty());
        // what was aside before is not new when the journal is removed
        fs::remove_file(path(&records)).unwrap();
        append(&records, &entry(7, String::new())).unwrap();
        let seen: Vec<u64> = follower.next_entries().iter().map(|entry| entry.time).collect();
        assert_eq!(seen, [7]);
    }

    #[test]
    fn a_long_message_is_shortened_and_its_line_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        let mut follower = Follower::new(&records);
        // 75 routes that were left out
        let routes = "route 10.0.0.0/24 via 192.0.2.1: the gateway cannot be reached in the pod: left out; ".repeat(95);
        append(&records, &entry(1, routes.clone())).unwrap();
        append(&records, &entry(2, "\u{1}é".repeat(1 << 20))).unwrap();
        let read = follower.next_entries();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].message, routes);
        assert!(read[1].message.ends_with(" ... (shortened)"));
        assert!(fs::metadata(path(&records)).unwrap().len() < 200_000);
    }

    #[test]
    fn what_is_no_line_of_a_journal_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        let mut follower = Follower::new(&records);
        let mut file = OpenOptions::new().append(true).create(true).open(path(&records)).unwrap();
        file.write_all(&vec![b'x'; 3 << 20]).unwrap();
        assert!(follower.next_entries().is_empty());
        file.write_all(b"x\n{}\n\xff\n").unwrap();
        let line = serde_json::to_string(&entry(3, String::new())).unwrap();
        let (begin, end) = line.split_at(10);
        file.write_all(begin.as_bytes()).unwrap();
        assert!(follower.next_entries().is_empty());
        file.write_all(format!("{end}\n").as_bytes()).unwrap();
        assert_eq!(follower.next_entries(), [entry(3, String::new())]);
        // it is emptied
        file.set_len(0).unwrap();
        append(&records, &entry(4, String::new())).unwrap();
        assert_eq!(follower.next_entries(), [entry(4, String::new())]);
    }
}
