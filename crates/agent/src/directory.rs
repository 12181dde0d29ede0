//! A directory on disk that is followed.

use std::{path::PathBuf, time::Duration};

use wake::Directories;

/// How often a directory is read without an event of inotify: a multiple of the interval of the device plugins.
const POLL: Duration = Duration::from_secs(30);

/// A directory that is followed, whether it exists yet or not.
pub(crate) struct Directory(Directories);

impl Directory {
    /// Follows it from now on.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(Directories::new([path], POLL))
    }

    /// Waits until something in it may have changed.
    pub(crate) async fn changed(&mut self) {
        self.0.changed().await;
    }
}
