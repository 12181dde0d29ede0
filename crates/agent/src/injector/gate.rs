//! What injectors of one node do one at a time: choose devices, and work on one sandbox.
//!
//! During a rolling update two are connected and both get every event. The first that passes does the work, and the
//! other finds it done. Nobody holds the gate while devices move: what was chosen is reserved by the locks of the devices,
//! and whoever works on a sandbox holds that sandbox's lock alone.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// How often somebody who waits looks again.
const LOOK: Duration = Duration::from_millis(2);
/// Most bytes of a sandbox's id that count for the name of its lock; runtimes give 64.
const MAX_ID: usize = 80;

/// Choosing; until it is dropped nobody else does.
#[derive(Debug)]
pub(super) struct Gate(#[expect(dead_code, reason = "held for its lock")] File);

impl Gate {
    /// Waits until the gate is free; none if that is not before the deadline.
    pub(super) fn pass(folder: &Path, deadline: Instant) -> io::Result<Option<Self>> {
        Ok(lock(&folder.join("injector.lock"), deadline)?.map(Self))
    }
}

/// At work on one sandbox; until it is dropped nobody else is.
#[derive(Debug)]
pub(super) struct SandboxLock {
    path: PathBuf,
    _file: File,
}

impl SandboxLock {
    /// Waits until nobody is at work on the sandbox; none if somebody is until the deadline.
    pub(super) fn take(folder: &Path, sandbox: &str, deadline: Instant) -> io::Result<Option<Self>> {
        let path = folder.join("lock").join(file_name(sandbox));
        Ok(lock(&path, deadline)?.map(|_file| Self { path, _file }))
    }
}

impl Drop for SandboxLock {
    fn drop(&mut self) {
        // still locked, so nobody relies on it; who waits for it looks whether the file is still there
        let _ = fs::remove_file(&self.path);
    }
}

/// A name that no device's lock has: an interface's name has no space.
fn file_name(sandbox: &str) -> String {
    let mut name = "sandbox ".to_owned();
    for byte in sandbox.bytes().take(MAX_ID) {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' => name.push(char::from(byte)),
            other => write!(name, "%{other:02x}").expect("a string takes any text"),
        }
    }
    name
}

fn lock(path: &Path, deadline: Instant) -> io::Result<Option<File>> {
    let open = || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    loop {
        let file = match (open(), path.parent()) {
            (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(folder)?;
                open()?
            }
            (opened, _) => opened?,
        };
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // who held it before may have removed the file: then a later comer would lock another one
                Ok(()) if file.metadata()?.nlink() > 0 => return Ok(Some(file)),
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => sleep(LOOK),
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_passes_at_a_time_and_nobody_waits_past_his_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let first = Gate::pass(folder.path(), Instant::now()).unwrap();
        assert!(first.is_some());
        assert!(Gate::pass(folder.path(), Instant::now()).unwrap().is_none());
        let waiting = std::thread::scope(|scope| {
            let second = scope.spawn(|| Gate::pass(folder.path(), Instant::now() + Duration::from_secs(60)));
            drop(first);
            second.join().unwrap()
        });
        assert!(waiting.unwrap().is_some());
    }

    #[test]
    fn each_sandbox_has_a_lock_of_its_own_which_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let take = |id: &str| SandboxLock::take(folder.path(), id, Instant::now()).unwrap();
        let (a, b) = (take("a/../../x"), take("b"));
        assert!(a.is_some() && b.is_some() && take("b").is_none());
        let waiting = std::thread::scope(|scope| {
            let far = Instant::now() + Duration::from_secs(60);
            let second = scope.spawn(move || SandboxLock::take(folder.path(), "b", far));
            drop(b);
            second.join().unwrap().unwrap().is_some()
        });
        assert!(waiting);
        drop(a);
    }

    #[test]
    fn no_sandbox_has_the_lock_of_a_device() {
        let id: Result<netdevice::DeviceId, _> = file_name("eth0").parse();
        assert!(id.is_err());
        assert_eq!(file_name("../x y"), "sandbox %2e%2e%2fx%20y");
        assert!(file_name(&"/".repeat(10_000)).len() < 255);
    }
}
