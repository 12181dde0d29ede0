//! Waits for processes to end: one descriptor for each process, however many devices its container has.

use std::{collections::BTreeMap, os::fd::OwnedFd};

use netdevice::record::Process;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::{AbortHandle, JoinSet},
};
use tracing::warn;

/// A process: its id and its start time.
pub(super) type Key = (i32, u64);

pub(super) fn key(process: Process) -> Key {
    (process.pid, process.start_time)
}

/// The processes that are waited for.
#[derive(Default)]
pub(super) struct ProcessEnds {
    waiting: BTreeMap<Key, Option<AbortHandle>>,
    tasks: JoinSet<Key>,
    /// How many may be waited for at a time.
    limit: usize,
    is_at_limit: bool,
}

impl ProcessEnds {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Waits for exactly these processes.
    pub(super) fn set(&mut self, wanted: impl IntoIterator<Item = Key>) {
        let mut before = std::mem::take(&mut self.waiting);
        for process in wanted {
            let waiting = before.remove(&process).flatten();
            let waiting = waiting.or_else(|| (self.tasks.len() < self.limit).then(|| self.wait_for(process)).flatten());
            self.waiting.insert(process, waiting);
        }
        before.into_values().flatten().for_each(|task| task.abort());
        let is_at_limit = self.are_some_unwatched();
        if is_at_limit && !self.is_at_limit {
            warn!(
                processes = self.waiting.len(),
                "too few file descriptors to watch every process that has a device: the end of some is noticed up to 5 s late"
            );
        }
        self.is_at_limit = is_at_limit;
    }

    /// Whether the end of a process is not watched, because no descriptor is left for it.
    pub(super) fn are_some_unwatched(&self) -> bool {
        self.waiting.values().any(Option::is_none)
    }

    /// The next process that ended, or cannot be waited for.
    pub(super) async fn next(&mut self) -> Key {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(process)) => return process,
                // one that was aborted
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    fn wait_for(&mut self, process: Key) -> Option<AbortHandle> {
        let opened = pidfd_open(Pid::from_raw(process.0)?, PidfdFlags::NONBLOCK);
        match opened {
            Ok(descriptor) => Some(self.tasks.spawn(async move {
                end_of(descriptor).await;
                process
            })),
            // it has ended: its record is checked anyway, since it is new
            Err(rustix::io::Errno::SRCH) => Some(self.tasks.spawn(async move { process })),
            Err(_) => None,
        }
    }
}

/// Waits until a process has ended: then its descriptor is readable. An error ends the wait as well.
async fn end_of(process: OwnedFd) {
    #[allow(
        deprecated,
        reason = "what takes its place is unsafe, for owners that may close early: an OwnedFd does not"
    )]
    if let Ok(process) = AsyncFd::with_interest(process, Interest::READABLE) {
        let _ = process.readable().await;
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn the_end_of_a_process_is_reported_and_of_one_that_is_no_longer_watched_is_not() {
        let mut ends = ProcessEnds::new(8);
        let mut children = [(); 2].map(|()| Command::new("sleep").arg("600").spawn().unwrap());
        let keys = children.each_ref().map(|child| (i32::try_from(child.id()).unwrap(), 1));
        ends.set(keys);
        ends.set([keys[1]]);
        children.iter_mut().for_each(|child| child.kill().unwrap());
        assert_eq!(timeout(Duration::from_secs(60), ends.next()).await.unwrap(), keys[1]);
        for child in &mut children {
            child.wait().unwrap();
        }
    }

    #[tokio::test]
    async fn a_process_beyond_the_limit_is_known_to_be_unwatched() {
        let mut ends = ProcessEnds::new(1);
        let own = i32::try_from(std::process::id()).unwrap();
        ends.set([(own, 1)]);
        assert!(!ends.are_some_unwatched());
        ends.set([(own, 1), (own, 2)]);
        assert!(ends.are_some_unwatched());
    }
}
