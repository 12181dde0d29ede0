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

use crate::{conflicts::is_document, error::Error, identity::FileIdentity, tick::Ticks};

/// Who looks again.
#[derive(Debug)]
pub(crate) struct Looks {
    /// At the sockets in the kubelet's folder.
    pub(crate) sockets: watch::Sender<()>,
    /// At the CDI file. We change it ourselves, for each device that comes or goes: no reason to look at sockets.
    pub(crate) file: watch::Sender<()>,
    /// At the CDI files of others.
    pub(crate) others: watch::Sender<()>,
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
    /// Follows the sockets in the one folder, the CDI file, and what others have in CDI folders.
    pub(crate) fn new(sockets: &Path, file: &Path, cdi_folders: &[PathBuf], poll: Duration) -> Self {
        let wanted = Wanted { sockets: sockets.to_owned(), file: file.to_owned(), cdi_folders: cdi_folders.to_owned() };
        let (sender, heard) = watch::channel(Heard::default());
        let matters = wanted.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let matter = event.map_or(Matter::ALL, |event| matters.to_look_at(&event));
            sender.send_if_modified(|heard| {
                heard.of_sockets += u64::from(matter.sockets);
                heard.of_file += u64::from(matter.file);
                heard.of_others += u64::from(matter.others);
                matter != Matter::NONE
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
        let mut matter = Matter::ALL;
        loop {
            // first watch, then look: what happens between is an event
            self.arm();
            if matter.sockets {
                looks.sockets.send_replace(());
            }
            if matter.file {
                looks.file.send_replace(());
            }
            if matter.others {
                looks.others.send_replace(());
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = ticks.next() => matter = Matter::ALL,
                Ok(()) = self.heard.changed() => {
                    let heard = *self.heard.borrow_and_update();
                    matter = Matter {
                        sockets: heard.of_sockets != seen.of_sockets,
                        file: heard.of_file != seen.of_file,
                        others: heard.of_others != seen.of_others,
                    };
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
    of_others: u64,
}

/// What there may be to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Matter {
    sockets: bool,
    file: bool,
    others: bool,
}

impl Matter {
    const NONE: Self = Self { sockets: false, file: false, others: false };
    const ALL: Self = Self { sockets: true, file: true, others: true };

    fn and(self, other: Self) -> Self {
        Self {
            sockets: self.sockets || other.sockets,
            file: self.file || other.file,
            others: self.others || other.others,
        }
    }
}

#[derive(Debug, Clone)]
struct Wanted {
    sockets: PathBuf,
    file: PathBuf,
    cdi_folders: Vec<PathBuf>,
}

impl Wanted {
    fn folders(&self) -> impl Iterator<Item = &Path> {
        let ours = [Some(self.sockets.as_path()), self.file.parent()].into_iter().flatten();
        ours.chain(self.cdi_folders.iter().map(PathBuf::as_path))
    }

    /// What an event is about.
    fn to_look_at(&self, event: &notify::Event) -> Matter {
        if matches!(event.kind, EventKind::Access(_)) {
            return Matter::NONE;
        }
        if event.need_rescan() || event.paths.is_empty() {
            return Matter::ALL;
        }
        let is_wanted = |folder: &Path| self.folders().any(|wanted| wanted == folder);
        let of_path = |path: &PathBuf| match path.parent() {
            Some(folder) if is_wanted(folder) => Matter {
                sockets: folder == self.sockets && path.extension() == Some(OsStr::new("sock")),
                file: *path == self.file,
                others: *path != self.file && folder != self.sockets && is_document(path),
            },
            // a folder itself, or one on the way to it
            _ => Matter::ALL,
        };
        event.paths.iter().map(of_path).fold(Matter::NONE, Matter::and)
    }
}

fn nearest(folder: &Path) -> Option<&Path> {
    folder.ancestors().find(|path| FileIdentity::of_folder(path).is_some())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use notify::event::{AccessKind, AccessMode, CreateKind, Flag, ModifyKind, RemoveKind, RenameMode};
    use tokio::time::timeout;

    use super::*;

    /// Long enough on any machine, and shorter than the poll of these tests.
    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn what_is_ours_is_looked_at_and_what_is_not_is_not() {
        let wanted = Wanted {
            sockets: "/plugins".into(),
            file: "/cdi/ours.json".into(),
            cdi_folders: vec!["/etc/cdi".into(), "/cdi".into()],
        };
        let create = EventKind::Create(CreateKind::File);
        let moved = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let (nothing, all) = (Matter::NONE, Matter::ALL);
        let file = Matter { file: true, ..nothing };
        let others = Matter { others: true, ..nothing };
        let sockets = Matter { sockets: true, ..nothing };
        for (kind, path, looks) in [
            (create, "/cdi/spec.ours.json.0.tmp", nothing),
            (create, "/cdi/other.json", others),
            (moved, "/etc/cdi/other.yaml", others),
            (create, "/etc/cdi/other.txt", nothing),
            (EventKind::Remove(RemoveKind::File), "/cdi/other.yaml", others),
            (create, "/plugins/other.json", nothing),
            (create, "/plugins/kubelet_internal_checkpoint", nothing),
            (written, "/cdi/ours.json", nothing),
            (moved, "/cdi/ours.json", file),
            (EventKind::Remove(RemoveKind::File), "/cdi/ours.json", file),
            (create, "/plugins/kubelet.sock", sockets),
            (EventKind::Remove(RemoveKind::File), "/plugins/kubelet.sock", sockets),
            (create, "/cdi/other.sock", nothing),
            (EventKind::Remove(RemoveKind::Folder), "/cdi", all),
            (EventKind::Create(CreateKind::Folder), "/plugins", all),
        ] {
            let event = notify::Event::new(kind).add_path(path.into());
            assert_eq!(wanted.to_look_at(&event), looks, "{event:?}");
        }
        assert_eq!(wanted.to_look_at(&notify::Event::new(EventKind::Other).set_flag(Flag::Rescan)), all);
        let two = notify::Event::new(moved).add_path("/cdi/x.tmp".into()).add_path("/cdi/ours.json".into());
        assert_eq!(wanted.to_look_at(&two), file);
    }

    /// What happens to a folder counts for both; what happens to one of them alone shows in the difference.
    #[tokio::test]
    async fn folders_that_were_replaced_are_watched() {
        for above in ["a", "a/cdi", "a/sockets"] {
            for is_file in [true, false] {
                let root = tempfile::tempdir().unwrap();
                let path = |path: &str| root.path().join(path);
                let (sockets, file) = (path("a/sockets"), path("a/cdi/ours.json"));
                let mut folders = Folders::new(&sockets, &file, &[], Duration::from_secs(3600));
                folders.arm();
                for turn in 0..3 {
                    fs::create_dir_all(&sockets).unwrap();
                    fs::create_dir_all(path("a/cdi")).unwrap();
                    folders.arm();
                    if turn < 2 {
                        // the one before stays somewhere, so that the new one is another one for certain
                        fs::rename(path(above), path(&format!("before-{turn}"))).unwrap();
                    }
                }
                fs::write(if is_file { file } else { sockets.join("kubelet.sock") }, "").unwrap();
                let is_heard = |heard: &Heard| {
                    if is_file { heard.of_file > heard.of_sockets } else { heard.of_sockets > heard.of_file }
                };
                let heard = timeout(SOON, folders.heard.wait_for(is_heard)).await;
                heard.unwrap_or_else(|_| panic!("after {above} came again, file: {is_file}")).unwrap();
            }
        }
    }
}
