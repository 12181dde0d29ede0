//! Says when to look again: something changed in the kubelet's folder or the CDI folder, or some seconds went by.
//!
//! It tells that, not what: whoever hears it compares what is there with what it wants, so a lost event costs a delay
//! and nothing else. A folder that is missing is waited for in the nearest one above it that exists.
//!
//! No thread of its own, and no look for what is none of ours: runtimes open CDI files all the time, the kubelet
//! writes its checkpoint beside its sockets, and we write a file beside ours for each device that comes or goes.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::{io::unix::AsyncFd, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{error::Error, identity::FileIdentity, tick::Ticks};

/// What of a folder is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Contents {
    /// Sockets that come and go.
    Sockets,
    /// The file of this name.
    File(OsString),
    /// Everything: a wanted folder may appear in it.
    All,
}

/// Who looks again.
#[derive(Debug)]
pub(crate) struct Looks {
    /// At the sockets in the kubelet's folder.
    pub(crate) sockets: watch::Sender<()>,
    /// At the CDI file. We change it ourselves, for each device that comes or goes: no reason to look at sockets.
    pub(crate) file: watch::Sender<()>,
}

/// Follows folders.
#[derive(Debug)]
pub(crate) struct Folders {
    wanted: Vec<(PathBuf, Contents)>,
    /// None where inotify is used up: the poll remains.
    watch: Option<Watch>,
    is_failure_told: bool,
    poll: Duration,
}

impl Folders {
    /// Follows the sockets in the one folder, and the CDI file.
    pub(crate) fn new(sockets: &Path, file: &Path, poll: Duration) -> Self {
        let name = file.file_name().unwrap_or_default().to_owned();
        let folder = file.parent().unwrap_or(file).to_owned();
        let wanted = vec![(sockets.to_owned(), Contents::Sockets), (folder, Contents::File(name))];
        Self { wanted, watch: None, is_failure_told: false, poll }
    }

    /// Makes one of `looks` change whenever there may be something to see, until it is stopped.
    pub(crate) async fn run(mut self, looks: Looks, stop: CancellationToken) -> Result<(), Error> {
        let ticks = Ticks::every(self.poll).map_err(Error::TimerFailed)?;
        let mut heard = Heard::ALL;
        loop {
            if let (true, Some(watch)) = (heard.is_lost, &mut self.watch) {
                watch.watched.clear();
            }
            // first watch, then look: what happens between is an event
            self.arm();
            if heard.of_sockets {
                looks.sockets.send_replace(());
            }
            if heard.of_file {
                looks.file.send_replace(());
            }
            heard = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = ticks.next() => Heard { is_lost: false, ..Heard::ALL },
                heard = hear(self.watch.as_ref()) => heard,
            };
        }
    }

    /// Watches each wanted folder, or what exists of the way there.
    fn arm(&mut self) {
        let now: Vec<Watched> = self.wanted.iter().filter_map(|(folder, contents)| nearest(folder, contents)).collect();
        if self.watch.as_ref().is_some_and(|watch| watch.watched == now) {
            return;
        }
        let watch = self.watch.take().map_or_else(Watch::new, Ok);
        self.watch = watch
            .and_then(|watch| watch.follow(now))
            .inspect_err(|error| {
                if !std::mem::replace(&mut self.is_failure_told, true) {
                    let seconds = self.poll.as_secs();
                    tracing::warn!("cannot use inotify, so folders are looked at every {seconds} s: {error}");
                }
            })
            .ok();
    }
}

/// A folder, as it was when it was begun to be watched.
#[derive(Debug, PartialEq, Eq)]
struct Watched {
    path: PathBuf,
    identity: (u64, u64),
    contents: Contents,
}

/// The wanted folder, or the nearest one above it that exists.
fn nearest(wanted: &Path, contents: &Contents) -> Option<Watched> {
    wanted.ancestors().find_map(|path| {
        let contents = if path == wanted { contents.clone() } else { Contents::All };
        Some(Watched { path: path.to_owned(), identity: FileIdentity::of_folder(path)?, contents })
    })
}

/// What inotify told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Heard {
    of_sockets: bool,
    of_file: bool,
    /// A folder is no longer watched.
    is_lost: bool,
}

impl Heard {
    const ALL: Self = Self { of_sockets: true, of_file: true, is_lost: true };
}

#[derive(Debug)]
struct Watch {
    events: AsyncFd<OwnedFd>,
    watched: Vec<Watched>,
    /// By descriptor; one folder may be wanted for several things.
    contents: BTreeMap<i32, Vec<Contents>>,
}

impl Watch {
    fn new() -> io::Result<Self> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        #[allow(
            deprecated,
            reason = "what takes its place is unsafe, for owners that may close early: an OwnedFd does not"
        )]
        let events = AsyncFd::new(events)?;
        Ok(Self { events, watched: Vec::new(), contents: BTreeMap::new() })
    }

    /// Follows these folders in place of those before. The descriptor stays: closing it waits for readers in the whole
    /// kernel (`fsnotify_destroy_group`), some 20 ms.
    fn follow(mut self, watched: Vec<Watched>) -> io::Result<Self> {
        for descriptor in std::mem::take(&mut self.contents).into_keys() {
            // one whose folder is gone has ended by itself
            let _ = inotify::remove_watch(&self.events, descriptor);
        }
        for Watched { path, contents, .. } in &watched {
            let descriptor = inotify::add_watch(&self.events, path, contents.flags())?;
            self.contents.entry(descriptor).or_default().push(contents.clone());
        }
        self.watched = watched;
        Ok(self)
    }

    /// Reads all that is queued.
    fn read(&self) -> Heard {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.events, &mut buffer);
        let mut heard = Heard::default();
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            match (self.contents.get(&event.wd()), name) {
                (Some(contents), Some(name)) => contents.iter().for_each(|contents| contents.add(name, &mut heard)),
                // of a folder that is not followed any more; descriptors are not used again
                (None, _) if !event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {}
                // the folder itself, or there was too much to tell
                _ => {
                    (heard.of_sockets, heard.of_file) = (true, true);
                    heard.is_lost |= event.events().intersects(ReadFlags::IGNORED | ReadFlags::UNMOUNT);
                }
            }
        }
        heard
    }
}

impl Contents {
    /// What wakes us up. A file is complete when it is closed or moved in place, a socket or folder once it is there.
    fn flags(&self) -> WatchFlags {
        let always = WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
            | WatchFlags::MASK_ADD;
        match self {
            Self::File(_) => always | WatchFlags::CLOSE_WRITE,
            Self::Sockets | Self::All => always | WatchFlags::CREATE,
        }
    }

    /// Something happened to what has that name.
    fn add(&self, name: &OsStr, heard: &mut Heard) {
        match self {
            Self::Sockets => heard.of_sockets |= Path::new(name).extension() == Some(OsStr::new("sock")),
            Self::File(file) => heard.of_file |= file == name,
            Self::All => (heard.of_sockets, heard.of_file) = (true, true),
        }
    }
}

/// Waits until something happened that matters.
async fn hear(watch: Option<&Watch>) -> Heard {
    let Some(watch) = watch else { return std::future::pending().await };
    loop {
        let Ok(mut ready) = watch.events.readable().await else { return std::future::pending().await };
        let heard = watch.read();
        ready.clear_ready();
        if heard != Heard::default() {
            return heard;
        }
    }
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
