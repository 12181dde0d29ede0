//! Says when to look again: something changed in the kubelet's folder or the CDI folder, or some seconds went by.
//!
//! It tells that, not what: whoever hears it compares what is there with what it wants, so a lost event costs a delay
//! and nothing else. A folder that is missing is waited for in the nearest one above it that exists.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{error::Error, identity::FileIdentity, tick::Ticks};

/// Follows folders.
pub(crate) struct Folders {
    wanted: Vec<PathBuf>,
    /// Folders that inotify follows, as they were when it began.
    watched: BTreeMap<PathBuf, Option<(u64, u64)>>,
    /// None where inotify is used up: the poll remains.
    watcher: Option<RecommendedWatcher>,
    events: watch::Receiver<()>,
    poll: Duration,
}

impl Folders {
    pub(crate) fn new(wanted: Vec<PathBuf>, poll: Duration) -> Self {
        let (event, events) = watch::channel(());
        let heard = move |event_or_error: notify::Result<notify::Event>| {
            // the runtime opens and closes CDI files all the time
            if !matches!(&event_or_error, Ok(notify::Event { kind: EventKind::Access(_), .. })) {
                event.send_replace(());
            }
        };
        let watcher = notify::recommended_watcher(heard)
            .inspect_err(|error| {
                let seconds = poll.as_secs();
                tracing::warn!("cannot use inotify, so folders are looked at every {seconds} s: {error}");
            })
            .ok();
        Self { wanted, watched: BTreeMap::new(), watcher, events, poll }
    }

    /// Makes `look` change whenever there may be something to see, until it is stopped.
    pub(crate) async fn run(mut self, look: watch::Sender<()>, stop: CancellationToken) -> Result<(), Error> {
        let ticks = Ticks::every(self.poll).map_err(Error::TimerFailed)?;
        loop {
            // first watch, then look: what happens between is an event
            self.events.mark_unchanged();
            self.arm();
            look.send_replace(());
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = ticks.next() => {}
                Ok(()) = self.events.changed() => {}
            }
        }
    }

    /// Watches each wanted folder, or what exists of the way there.
    fn arm(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let now: BTreeMap<PathBuf, Option<(u64, u64)>> = self
            .wanted
            .iter()
            .filter_map(|folder| nearest(folder))
            .map(|folder| (folder.to_owned(), FileIdentity::of_folder(folder)))
            .collect();
        if now == self.watched {
            return;
        }
        for (gone, _) in self.watched.iter().filter(|(path, identity)| now.get(*path) != Some(identity)) {
            // inotify ends a watch by itself when its folder goes
            let _ = watcher.unwatch(gone);
        }
        self.watched.retain(|path, identity| now.get(path) == Some(identity));
        for (path, identity) in now {
            if !self.watched.contains_key(&path) && watcher.watch(&path, RecursiveMode::NonRecursive).is_ok() {
                self.watched.insert(path, identity);
            }
        }
    }
}

fn nearest(folder: &Path) -> Option<&Path> {
    folder.ancestors().find(|path| FileIdentity::of_folder(path).is_some())
}
