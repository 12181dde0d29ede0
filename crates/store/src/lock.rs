//! Locks: files that are locked (`flock`), so that a lock ends with the process that has it.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use netdevice::DeviceId;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::{error::Error, records::Records};

/// The pause between two attempts to take a lock with a deadline.
const PAUSE: Duration = Duration::from_millis(2);
/// Most bytes of an id that count for the name of its lock; runtimes give 64.
const MAX_ID: usize = 80;

/// How long a lock is waited for.
#[derive(Debug, Clone, Copy)]
enum Wait {
    /// Until it is free.
    Forever,
    /// Until then.
    Until(Instant),
    /// Not at all.
    No,
}

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// With others.
    Shared,
    /// Alone.
    Exclusive,
}

/// The lock of one device, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    is_left: bool,
    _file: File,
}

impl Lock {
    /// Releases the lock and keeps its file, which is removed at the end of the record that there is now.
    pub fn leave(mut self) {
        self.is_left = true;
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.is_left {
            // it is still locked: a program that waits for it checks afterwards that the file is still there
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A lock that is not a device's, held until it is dropped.
#[derive(Debug)]
pub struct NamedLock {
    /// None if the file stays.
    path: Option<PathBuf>,
    _file: File,
}

impl Drop for NamedLock {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

impl Records {
    /// Waits for the lock of a device.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or written.
    pub fn lock(&self, device: &DeviceId) -> Result<Lock, Error> {
        loop {
            if let Some(lock) = self.lock_device(device, Wait::Forever)? {
                return Ok(lock);
            }
        }
    }

    /// The lock of a device; none if another program has it.
    ///
    /// # Errors
    ///
    /// Those of [`Records::lock`].
    pub fn try_lock(&self, device: &DeviceId) -> Result<Option<Lock>, Error> {
        self.lock_device(device, Wait::No)
    }

    /// Waits for the lock of a device; none if another program has it until the deadline.
    ///
    /// # Errors
    ///
    /// Those of [`Records::lock`].
    pub fn lock_until(&self, device: &DeviceId, deadline: Instant) -> Result<Option<Lock>, Error> {
        self.lock_device(device, Wait::Until(deadline))
    }

    /// Whether a program has the lock of a device. It creates no file.
    pub(crate) fn is_locked(&self, device: &DeviceId) -> bool {
        let file = OpenOptions::new().read(true).open(self.locks().join(device.as_str()));
        file.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    }

    fn lock_device(&self, device: &DeviceId, wait: Wait) -> Result<Option<Lock>, Error> {
        let path = self.locks().join(device.as_str());
        match lock(&path, wait) {
            Ok(file) => Ok(file.map(|file| Lock { path, is_left: false, _file: file })),
            Err(error) => Err(Error::Record { path, error }),
        }
    }

    /// The right to choose devices for annotations: one injector of a node at a time has it. Waits until the deadline; none
    /// if another one has it until then.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or written.
    pub fn lock_choice(&self, deadline: Instant) -> io::Result<Option<NamedLock>> {
        let file = lock(&self.directory().join("injector.lock"), Wait::Until(deadline))?;
        Ok(file.map(|_file| NamedLock { path: None, _file }))
    }

    /// The right to work on one sandbox. Waits until the deadline; none if another program works on it until then.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or written.
    pub fn lock_sandbox(&self, sandbox: &str, deadline: Instant) -> io::Result<Option<NamedLock>> {
        let path = self.locks().join(file_name("sandbox ", sandbox));
        Ok(lock(&path, Wait::Until(deadline))?.map(|_file| NamedLock { path: Some(path), _file }))
    }

    /// The right to prepare or unprepare a claim; none if another instance of the agent has it.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or written.
    pub fn try_lock_claim(&self, claim: &str) -> io::Result<Option<NamedLock>> {
        let path = self.locks().join(file_name("claim ", claim));
        Ok(lock(&path, Wait::No)?.map(|_file| NamedLock { path: Some(path), _file }))
    }

    /// The right to work on CNI networks: shared by all that add and delete attachments, exclusive for a program that tells
    /// plugins which attachments there are. Waits until the deadline; none if others have it until then.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or written.
    pub fn lock_networks(&self, mode: LockMode, deadline: Instant) -> io::Result<Option<NamedLock>> {
        let file = lock_as(&self.directory().join("networks.lock"), Wait::Until(deadline), mode)?;
        Ok(file.map(|_file| NamedLock { path: None, _file }))
    }

    fn locks(&self) -> PathBuf {
        self.directory().join("lock")
    }
}

/// A name that no device's lock has: an interface's name has no space.
fn file_name(prefix: &str, id: &str) -> String {
    let mut name = prefix.to_owned();
    for byte in id.bytes().take(MAX_ID) {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' => name.push(char::from(byte)),
            other => write!(name, "%{other:02x}").expect("a string takes any text"),
        }
    }
    name
}

fn lock(path: &Path, wait: Wait) -> io::Result<Option<File>> {
    lock_as(path, wait, LockMode::Exclusive)
}

fn lock_as(path: &Path, wait: Wait, mode: LockMode) -> io::Result<Option<File>> {
    let open = || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let operation = match (wait, mode) {
        (Wait::Forever, LockMode::Exclusive) => FlockOperation::LockExclusive,
        (Wait::Forever, LockMode::Shared) => FlockOperation::LockShared,
        (Wait::Until(_) | Wait::No, LockMode::Exclusive) => FlockOperation::NonBlockingLockExclusive,
        (Wait::Until(_) | Wait::No, LockMode::Shared) => FlockOperation::NonBlockingLockShared,
    };
    loop {
        let file = match (open(), path.parent()) {
            // the first one on this node
            (Err(error), Some(directory)) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(directory)?;
                open()?
            }
            (opened, _) => opened?,
        };
        loop {
            match flock(&file, operation) {
                // its holder may have removed the file: then the next program would lock another one
                Ok(()) if file.metadata()?.nlink() > 0 => return Ok(Some(file)),
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if matches!(wait, Wait::Until(deadline) if Instant::now() < deadline) => {
                    sleep(PAUSE);
                }
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> (tempfile::TempDir, Records) {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        (directory, records)
    }

    #[test]
    fn one_chooses_at_a_time_and_nobody_waits_past_the_deadline() {
        let (_directory, records) = records();
        let first = records.lock_choice(Instant::now()).unwrap();
        assert!(first.is_some());
        assert!(records.lock_choice(Instant::now()).unwrap().is_none());
        let waiting = std::thread::scope(|scope| {
            let second = scope.spawn(|| records.lock_choice(Instant::now() + Duration::from_secs(60)));
            drop(first);
            second.join().unwrap()
        });
        assert!(waiting.unwrap().is_some());
    }

    #[test]
    fn each_sandbox_has_a_lock_of_its_own_which_leaves_nothing_behind() {
        let (_directory, records) = records();
        let take = |id: &str| records.lock_sandbox(id, Instant::now()).unwrap();
        let (a, b) = (take("a/../../x"), take("b"));
        assert!(a.is_some() && b.is_some() && take("b").is_none());
        let waiting = std::thread::scope(|scope| {
            let second = scope.spawn(|| records.lock_sandbox("b", Instant::now() + Duration::from_secs(60)));
            drop(b);
            second.join().unwrap().unwrap().is_some()
        });
        assert!(waiting);
        drop(a);
        assert_eq!(fs::read_dir(records.locks()).unwrap().count(), 0);
    }

    #[test]
    fn a_claim_is_worked_on_by_one_at_a_time() {
        let (_directory, records) = records();
        let first = records.try_lock_claim("0c1d").unwrap();
        assert!(first.is_some() && records.try_lock_claim("0c1d").unwrap().is_none());
        assert!(records.try_lock_claim("0c1e").unwrap().is_some());
        drop(first);
        assert!(records.try_lock_claim("0c1d").unwrap().is_some());
        assert_eq!(fs::read_dir(records.locks()).unwrap().count(), 0);
    }

    #[test]
    fn a_device_is_locked_by_one_at_a_time_and_waited_for() {
        let (_directory, records) = records();
        let device: DeviceId = "eth0".parse().unwrap();
        let first = records.lock(&device).unwrap();
        assert!(records.try_lock(&device).unwrap().is_none());
        assert!(records.lock_until(&device, Instant::now()).unwrap().is_none());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| records.lock(&device).map(drop));
            drop(first);
            second.join().unwrap().unwrap();
        });
        assert!(records.try_lock(&device).unwrap().is_some());
    }

    #[test]
    fn no_sandbox_has_the_lock_of_a_device() {
        let id: Result<DeviceId, _> = file_name("sandbox ", "eth0").parse();
        assert!(id.is_err());
        assert_eq!(file_name("sandbox ", "../x y"), "sandbox %2e%2e%2fx%20y");
        assert!(file_name("claim ", &"/".repeat(10_000)).len() < 255);
    }
}
