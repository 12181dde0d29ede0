//! Waits until something is mounted or unmounted. A sandbox without a process has ended when the runtime has unmounted its
//! network namespace, and nothing else shows that.

use std::{fs, fs::File, io, os::unix::fs::MetadataExt};

use tokio::io::{Interest, Ready, unix::AsyncFd};
use tracing::debug;

/// The mount tables that are watched (`proc_pid_mountinfo(5)`: a change is an exceptional condition, `POLLPRI`): that of
/// this process, and the node's own where this process is in a container and sees the node's first process.
pub(super) struct MountChanges {
    tables: Vec<AsyncFd<File>>,
}

impl MountChanges {
    /// Watches from now on.
    pub(super) fn new() -> Self {
        let inode = |process: &str| fs::metadata(format!("/proc/{process}/ns/mnt")).map(|file| file.ino());
        let is_same = inode("self").ok() == inode("1").ok();
        let processes = if is_same { &["self"][..] } else { &["self", "1"] };
        let opened = processes.iter().filter_map(|process| {
            let table = open(process);
            table.inspect_err(|error| debug!("cannot watch the mounts of process {process}: {error}")).ok()
        });
        Self { tables: opened.collect() }
    }

    /// Whether no mount table can be watched.
    pub(super) fn is_blind(&self) -> bool {
        self.tables.is_empty()
    }

    /// Waits for a change.
    pub(super) async fn changed(&self) {
        let first = changed(self.tables.first());
        let second = changed(self.tables.get(1));
        tokio::select! {
            () = first => {}
            () = second => {}
        }
    }
}

fn open(process: &str) -> io::Result<AsyncFd<File>> {
    let table = File::open(format!("/proc/{process}/mountinfo"))?;
    #[allow(deprecated, reason = "what takes its place is unsafe, for owners that may close early: a File does not")]
    AsyncFd::with_interest(table, Interest::PRIORITY)
}

async fn changed(table: Option<&AsyncFd<File>>) {
    let Some(table) = table else { return std::future::pending().await };
    match table.ready(Interest::PRIORITY).await {
        Ok(mut ready) => ready.clear_ready_matching(Ready::PRIORITY | Ready::ERROR),
        Err(_) => std::future::pending().await,
    }
}
