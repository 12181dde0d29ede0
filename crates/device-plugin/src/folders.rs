//! Says when to look again: something changed in the kubelet's folder or about the CDI file, or some seconds went by.
//!
//! It tells that, not what: whoever hears it compares what is there with what it wants, so a lost event costs a delay
//! and nothing else. A folder that is missing is waited for in the nearest one above it that exists.
//!
//! What is none of ours is no reason to look: runtimes open CDI files all the time, the kubelet writes its checkpoint
//! beside its sockets, and we write a file beside ours for each device that comes or goes.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{error::Error, identity::FileIdentity, tick::Ticks};

/// Who looks again.
#[derive(Debug)]
pub(crate) struct Looks {
    /// At the sockets in the kubelet's folder.
    pub(crate) sockets: watch::Sender<()>,
    /// At the CDI file. We change it ourselves, for each device that comes or goes: no reason to look at sockets.
    pub(crate) file: watch::Sender<()>,
}

/// Follows folders.
pub(crate) struct Folders {
    wanted: Wanted,
    /// Folders that inotify follows, as they were when it began.
    watched: BTreeMap<PathBuf, Option<(u64, u64)>>,
    /// None where inotify is used up: the poll remains.
    watcher: Option<RecommendedWatcher>,
    heard: watch::Receiver<Heard>,
    poll: Duration,
}

impl Folders {
    /// Follows the sockets in the one folder, and the CDI file.
    pub(crate) fn new(sockets: &Path, file: &Path, poll: Duration) -> Self {
        let wanted = Wanted { sockets: sockets.to_owned(), file: file.to_owned() };
        let (sender, heard) = watch::channel(Heard::default());
        let matters = wanted.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let (of_sockets, of_file) = event.map_or((true, true), |event| matters.to_look_at(&event));
            sender.send_if_modified(|heard| {
                heard.of_sockets += u64::from(of_sockets);
                heard.of_file += u64::from(of_file);
                of_sockets || of_file
            });
        });
        let watcher = watcher
            .inspect_err(|error| {
                let seconds = poll.as_secs();
                tracing::warn!("cannot use inotify, so folders are looked at every {seconds} s: {error}");
            })
            .ok();
        Self { wanted, watched: BTreeMap::new(), watcher, heard, poll }
    }

    /// Makes one of `looks` change whenever there may be something to see, until it is stopped.
    pub(crate) async fn run(mut self, looks: Looks, stop: CancellationToken) -> Result<(), Error> {
        let ticks = Ticks::every(self.poll).map_err(Error::TimerFailed)?;
        let mut seen = *self.heard.borrow_and_update();
        let (mut of_sockets, mut of_file) = (true, true);
        loop {
            // first watch, then look: what happens between is an event
            self.arm();
            if of_sockets {
                looks.sockets.send_replace(());
            }
            if of_file {
                looks.file.send_replace(());
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = ticks.next() => (of_sockets, of_file) = (true, true),
                Ok(()) = self.heard.changed() => {
                    let heard = *self.heard.borrow_and_update();
                    (of_sockets, of_file) = (heard.of_sockets != seen.of_sockets, heard.of_file != seen.of_file);
                    seen = heard;
                }
            }
        }
    }

    /// Watches each wanted folder, or what exists of the way there.
    fn arm(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let now: BTreeMap<PathBuf, Option<(u64, u64)>> = self
            .wanted
            .folders()
            .filter_map(nearest)
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

/// How often there was something to see.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    of_sockets: u64,
    of_file: u64,
}

#[derive(Debug, Clone)]
struct Wanted {
    sockets: PathBuf,
    file: PathBuf,
}

impl Wanted {
    fn folders(&self) -> impl Iterator<Item = &Path> {
        [Some(self.sockets.as_path()), self.file.parent()].into_iter().flatten()
    }

    /// Whether an event is about a socket, and about the file.
    fn to_look_at(&self, event: &notify::Event) -> (bool, bool) {
        if matches!(event.kind, EventKind::Access(_)) {
            return (false, false);
        }
        if event.need_rescan() || event.paths.is_empty() {
            return (true, true);
        }
        let is_wanted = |folder: &Path| self.folders().any(|wanted| wanted == folder);
        event.paths.iter().fold((false, false), |(of_sockets, of_file), path| match path.parent() {
            Some(folder) if is_wanted(folder) => {
                let is_socket = folder == self.sockets && path.extension() == Some(OsStr::new("sock"));
                (of_sockets || is_socket, of_file || *path == self.file)
            }
            // a folder itself, or one on the way to it
            _ => (true, true),
        })
    }
}

fn nearest(folder: &Path) -> Option<&Path> {
    folder.ancestors().find(|path| FileIdentity::of_folder(path).is_some())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixListener};

    use tempfile::TempDir;
    use tokio::{
        task::JoinHandle,
        time::{sleep, timeout},
    };

    use super::*;

    /// Long enough on any machine, and shorter than the poll of these tests.
    const SOON: Duration = Duration::from_secs(20);

    struct Rig {
        folder: TempDir,
        sockets: watch::Receiver<()>,
        file: watch::Receiver<()>,
        running: JoinHandle<Result<(), Error>>,
    }

    impl Rig {
        /// Folders `a/sockets` and `a/cdi`, of which the second is not there yet.
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir_all(folder.path().join("a/sockets")).unwrap();
            let (sockets_folder, path) = (folder.path().join("a/sockets"), folder.path().join("a/cdi/ours.json"));
            let folders = Folders::new(&sockets_folder, &path, Duration::from_secs(3600));
            let ((sockets_sender, sockets), (file_sender, file)) = (watch::channel(()), watch::channel(()));
            let looks = Looks { sockets: sockets_sender, file: file_sender };
            let running = tokio::spawn(folders.run(looks, CancellationToken::new()));
            let mut rig = Self { folder, sockets, file, running };
            rig.looks_at_sockets("at first").await;
            rig.looks_at_file("at first").await;
            rig
        }

        fn path(&self, path: &str) -> PathBuf {
            self.folder.path().join(path)
        }

        async fn looks_at_sockets(&mut self, why: &str) {
            timeout(SOON, self.sockets.changed()).await.expect(why).unwrap();
        }

        async fn looks_at_file(&mut self, why: &str) {
            timeout(SOON, self.file.changed()).await.expect(why).unwrap();
        }

        /// Forgets what belongs to the same cause: it may be told in two parts.
        async fn rests(&mut self) {
            sleep(Duration::from_millis(50)).await;
            self.sockets.mark_unchanged();
            self.file.mark_unchanged();
        }

        async fn looks_away(&self, why: &str) {
            sleep(Duration::from_millis(50)).await;
            assert!(!self.sockets.has_changed().unwrap() && !self.file.has_changed().unwrap(), "it looked {why}");
        }
    }

    impl Drop for Rig {
        fn drop(&mut self) {
            self.running.abort();
        }
    }

    #[tokio::test]
    async fn what_is_ours_is_looked_at_and_what_is_not_is_not() {
        let mut rig = Rig::new().await;
        fs::create_dir(rig.path("a/cdi")).unwrap();
        rig.looks_at_file("its folder came").await;
        rig.rests().await;
        fs::write(rig.path("a/cdi/spec.ours.json.0.tmp"), "{}").unwrap();
        fs::write(rig.path("a/cdi/other.json"), "{}").unwrap();
        fs::write(rig.path("a/sockets/kubelet_internal_checkpoint"), "{}").unwrap();
        rig.looks_away("at files of others, or at one that is not ready").await;
        fs::rename(rig.path("a/cdi/spec.ours.json.0.tmp"), rig.path("a/cdi/ours.json")).unwrap();
        rig.looks_at_file("it is in place").await;
        assert!(!rig.sockets.has_changed().unwrap(), "it looked at sockets for a file");
        fs::read(rig.path("a/cdi/ours.json")).unwrap();
        rig.looks_away("at a reader").await;
        fs::write(rig.path("a/cdi/ours.json"), "[]").unwrap();
        rig.looks_at_file("somebody wrote it").await;
        rig.rests().await;
        fs::remove_file(rig.path("a/cdi/ours.json")).unwrap();
        rig.looks_at_file("it is gone").await;
        rig.rests().await;
        let socket = UnixListener::bind(rig.path("a/sockets/kubelet.sock")).unwrap();
        rig.looks_at_sockets("a kubelet came").await;
        rig.rests().await;
        drop(socket);
        fs::remove_file(rig.path("a/sockets/kubelet.sock")).unwrap();
        rig.looks_at_sockets("it went").await;
    }

    #[tokio::test]
    async fn folders_that_were_replaced_are_watched() {
        let mut rig = Rig::new().await;
        for above in ["a/cdi", "a", "a/cdi"] {
            fs::create_dir_all(rig.path("a/cdi")).unwrap();
            rig.looks_at_file("its folder came").await;
            rig.rests().await;
            fs::write(rig.path("a/cdi/ours.json"), "{}").unwrap();
            rig.looks_at_file("it is in the folder").await;
            rig.rests().await;
            fs::remove_dir_all(rig.path(above)).unwrap();
            rig.looks_at_file("the folder went").await;
            rig.rests().await;
        }
        fs::create_dir_all(rig.path("a/sockets")).unwrap();
        rig.looks_at_sockets("their folder came").await;
        rig.rests().await;
        let _socket = UnixListener::bind(rig.path("a/sockets/kubelet.sock")).unwrap();
        rig.looks_at_sockets("a kubelet in it").await;
    }
}
