//! Changes in directories, by inotify, also in those that do not exist yet.
//!
//! An event says that something may have changed, not what to do: the task that waits compares what is there with what it wants,
//! so a lost event costs a delay and nothing else. Who only reads causes no event. A directory that is missing is waited
//! for in the nearest one above it that exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};
use tokio::{io::unix::AsyncFd, time::sleep};

use crate::{identity::FileIdentity, ticks::Ticks, ticks::adopt};

/// How long changes are taken together: a record is written in four steps, and each reader reads the whole directory.
const TOGETHER: Duration = Duration::from_millis(2);
/// Names that are kept of one wait; more of them count as "anything".
const MAX_NAMES: usize = 1024;

/// The watch of the event that says that events were lost.
const OVERFLOW: i32 = -1;

/// What may be different since the last wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// Anything: a directory itself changed, events were lost, or it is time to look anyway.
    Anything,
    /// These files of the directories.
    Files(BTreeSet<PathBuf>),
}

/// Directories that are followed.
#[derive(Debug)]
pub struct Directories {
    wanted: Vec<PathBuf>,
    /// None where inotify is used up: the ticks remain.
    inotify: Option<AsyncFd<OwnedFd>>,
    /// What is watched: wanted directories, or the nearest ones above them.
    watched: BTreeMap<PathBuf, Watch>,
    ticks: Ticks,
}

/// A directory as it was when its watch began.
#[derive(Debug, Clone, Copy)]
struct Watch {
    identity: (u64, u64),
    descriptor: i32,
}

impl Directories {
    /// Follows these directories from now on, or from when they exist; `poll` is how often they are to be looked at
    /// whatever inotify says.
    pub fn new(directories: impl IntoIterator<Item = impl Into<PathBuf>>, poll: Duration) -> Self {
        let wanted = directories.into_iter().map(Into::into).collect();
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        let inotify = inotify.map_err(io::Error::from).and_then(adopt).inspect_err(|error| {
            let seconds = poll.as_secs();
            tracing::warn!("inotify is not available, directories are read every {seconds} s instead: {error}");
        });
        let mut directories =
            Self { wanted, inotify: inotify.ok(), watched: BTreeMap::new(), ticks: Ticks::every(poll) };
        directories.renew_watches();
        directories
    }

    /// Waits for a change. Those that follow within 2 ms are in the same answer.
    pub async fn changed(&mut self) -> Changes {
        loop {
            let changes = tokio::select! {
                events = events(self.inotify.as_ref()) => self.of_events(events),
                () = self.ticks.next() => None,
            };
            // first watch, then look: what happens between the two is an event
            let is_renewed = self.renew_watches();
            match changes {
                Some(files) if !is_renewed && files.is_empty() => {}
                Some(files) if !is_renewed => return Changes::Files(files),
                _ => return Changes::Anything,
            }
        }
    }

    /// The files that events are about; none when they are about more than files.
    fn of_events(&self, events: Vec<Event>) -> Option<BTreeSet<PathBuf>> {
        let mut files = BTreeSet::new();
        for event in events {
            let watch = self.watched.iter().find(|(_, watch)| watch.descriptor == event.descriptor);
            match (watch, event.name) {
                (Some((directory, _)), Some(name)) if files.len() < MAX_NAMES && self.wanted.contains(directory) => {
                    files.insert(directory.join(OsStr::from_bytes(&name)));
                }
                // of a watch that has ended, which was reported when it was renewed
                (None, _) if event.descriptor != OVERFLOW => {}
                _ => return None,
            }
        }
        Some(files)
    }

    /// Watches each wanted directory, or what exists of the path to it; says whether that is another one than before.
    fn renew_watches(&mut self) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let nearest = |wanted: &PathBuf| {
            let exists = |path: &Path| FileIdentity::of_directory(path).map(|identity| (path.to_owned(), identity));
            wanted.ancestors().map(or_current).find_map(exists)
        };
        let now: BTreeMap<PathBuf, (u64, u64)> = self.wanted.iter().filter_map(nearest).collect();
        let is_as_before = |path: &PathBuf, watch: &Watch| now.get(path) == Some(&watch.identity);
        let ended: Vec<PathBuf> = self
            .watched
            .iter()
            .filter(|(path, watch)| !is_as_before(path, watch))
            .map(|(path, _)| path.clone())
            .collect();
        for path in &ended {
            if let Some(watch) = self.watched.remove(path) {
                // the kernel ends a watch by itself when its directory is removed
                let _ = inotify::remove_watch(inotify, watch.descriptor);
            }
        }
        let begun = now.into_iter().filter(|(path, _)| !self.watched.contains_key(path));
        let begun: BTreeMap<PathBuf, Watch> = begun
            .filter_map(|(path, identity)| {
                // where there is no watch left, the ticks remain
                let descriptor = inotify::add_watch(inotify, &path, what()).ok()?;
                Some((path, Watch { identity, descriptor }))
            })
            .collect();
        let is_renewed = !ended.is_empty() || !begun.is_empty();
        self.watched.extend(begun);
        is_renewed
    }
}

/// The parent of a relative name is empty and means the current directory.
fn or_current(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn what() -> WatchFlags {
    WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::MODIFY
        | WatchFlags::ATTRIB
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR
}

/// An event of inotify.
#[derive(Debug)]
struct Event {
    descriptor: i32,
    /// None when it is about the directory itself.
    name: Option<Vec<u8>>,
}

/// Waits for events and takes all that are there.
async fn events(inotify: Option<&AsyncFd<OwnedFd>>) -> Vec<Event> {
    let Some(inotify) = inotify else { return std::future::pending().await };
    let Ok(_) = inotify.readable().await else { return std::future::pending().await };
    sleep(TOGETHER).await;
    // asked again: an event that came meanwhile is read below and must not wake the task once more
    let Ok(mut ready) = inotify.readable().await else { return std::future::pending().await };
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    let mut events: Vec<Event> = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => {
                let name = event.file_name().map(|name| name.to_bytes().to_vec());
                // the end of a watch is not a change
                let is_end = event.events() == ReadFlags::IGNORED;
                if !is_end && events.len() <= MAX_NAMES {
                    events.push(Event { descriptor: event.wd(), name });
                }
            }
            Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    ready.clear_ready();
    events
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::timeout;

    use super::*;

    /// Long enough on any machine, and shorter than the poll of these tests.
    const SOON: Duration = Duration::from_secs(20);
    const NEVER: Duration = Duration::from_secs(3600);

    async fn soon(directories: &mut Directories, why: &str) -> Changes {
        timeout(SOON, directories.changed()).await.unwrap_or_else(|_| panic!("no change was reported: {why}"))
    }

    #[tokio::test]
    async fn changes_are_reported_with_their_file_and_reads_are_not() {
        let root = tempfile::tempdir().unwrap();
        let (file, other) = (root.path().join("record"), root.path().join("other"));
        fs::write(&file, "one").unwrap();
        let mut directories = Directories::new([root.path()], NEVER);
        fs::read(&file).unwrap();
        fs::read_dir(root.path()).unwrap().count();
        timeout(Duration::from_millis(50), directories.changed()).await.expect_err("nothing changed");
        let files = |files: &[&PathBuf]| Changes::Files(files.iter().map(|file| (*file).clone()).collect());
        fs::write(&file, "two").unwrap();
        assert_eq!(soon(&mut directories, "write").await, files(&[&file]));
        fs::rename(&file, &other).unwrap();
        assert_eq!(soon(&mut directories, "rename").await, files(&[&file, &other]));
        fs::remove_file(&other).unwrap();
        assert_eq!(soon(&mut directories, "remove").await, files(&[&other]));
    }

    #[tokio::test]
    async fn a_flood_of_names_counts_as_anything() {
        let root = tempfile::tempdir().unwrap();
        let mut directories = Directories::new([root.path()], NEVER);
        for name in 0..MAX_NAMES + 100 {
            fs::write(root.path().join(name.to_string()), "").unwrap();
        }
        assert_eq!(soon(&mut directories, "many files").await, Changes::Anything);
    }

    #[tokio::test]
    async fn directories_that_were_replaced_or_come_late_are_watched() {
        for replaced in ["a", "a/one", "a/two"] {
            for written in ["a/one", "a/two"] {
                let root = tempfile::tempdir().unwrap();
                let path = |path: &str| root.path().join(path);
                let mut directories = Directories::new([path("a/one"), path("a/two")], NEVER);
                for turn in 0..3 {
                    fs::create_dir_all(path("a/one")).unwrap();
                    fs::create_dir_all(path("a/two")).unwrap();
                    // as after an event or a tick: the move of a directory above is not an event
                    directories.renew_watches();
                    if turn < 2 {
                        // the one before stays somewhere, so that the new one has another inode for certain
                        fs::rename(path(replaced), path(&format!("before-{turn}"))).unwrap();
                        directories.renew_watches();
                    }
                }
                let file = path(written).join("file");
                fs::write(&file, "").unwrap();
                while soon(&mut directories, "written").await != Changes::Files([file.clone()].into()) {}
            }
        }
    }

    #[tokio::test]
    async fn without_inotify_there_are_ticks() {
        let ticks = Ticks::every(Duration::from_millis(5));
        let mut directories = Directories { wanted: vec!["/".into()], inotify: None, watched: BTreeMap::new(), ticks };
        assert_eq!(directories.changed().await, Changes::Anything);
    }

    #[tokio::test]
    async fn a_directory_is_waited_for_where_it_will_be() {
        let root = tempfile::tempdir().unwrap();
        let mut directories = Directories::new([root.path().join("a/b")], NEVER);
        fs::create_dir(root.path().join("a")).unwrap();
        assert_eq!(soon(&mut directories, "the parent").await, Changes::Anything);
        fs::create_dir(root.path().join("a/b")).unwrap();
        assert_eq!(soon(&mut directories, "the directory").await, Changes::Anything);
        let file = root.path().join("a/b/file");
        fs::write(&file, "").unwrap();
        assert_eq!(soon(&mut directories, "a file in it").await, Changes::Files([file].into()));
        fs::remove_dir_all(root.path().join("a")).unwrap();
        assert_eq!(soon(&mut directories, "removed").await, Changes::Anything);
    }
}
