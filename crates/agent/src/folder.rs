//! Waiting for something to happen in a folder that may not be there yet.

use std::{path::PathBuf, sync::Arc, time::Duration};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::Notify, time::timeout};

/// How long inotify is believed: a folder that was replaced, or a lost event, shows by then.
const SAFETY_NET: Duration = Duration::from_secs(30);

/// Tells when something in a folder changed.
pub(crate) struct Folder {
    path: PathBuf,
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
}

impl Folder {
    /// Watches that folder from now on, or from when it is there.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        let mut folder = Self { path: path.into(), changed: Arc::default(), watcher: None };
        folder.watch();
        folder
    }

    fn watch(&mut self) {
        let changed = self.changed.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // our own reading is no change
            if !event.is_ok_and(|event| event.kind.is_access()) {
                changed.notify_one();
            }
        });
        let watching = watcher.and_then(|mut watcher| {
            watcher.watch(&self.path, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        // without it the safety net remains
        self.watcher = watching.ok();
    }

    /// Waits for a change; at times there was none.
    pub(crate) async fn changed(&mut self) {
        if timeout(SAFETY_NET, self.changed.notified()).await.is_err() {
            self.watch();
        }
    }
}
