//! One at a time: of all injectors on the node, the one that is passing the gate gives and takes devices.
//!
//! During a rolling update two are connected and both get every event. The first that passes does the work, and the
//! other finds it done.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// How often somebody who waits looks again.
const LOOK: Duration = Duration::from_millis(2);

/// Passing; until it is dropped nobody else does.
#[derive(Debug)]
pub(crate) struct Gate(#[expect(dead_code, reason = "held for its lock")] File);

impl Gate {
    /// Waits until the gate is free; none if that is not before the deadline.
    pub(crate) fn pass(folder: &Path, deadline: Instant) -> io::Result<Option<Self>> {
        fs::create_dir_all(folder)?;
        let path = folder.join("injector.lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Self(file))),
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
}
