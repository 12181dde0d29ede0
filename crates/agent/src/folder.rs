//! Waiting for something to happen in a folder that may not be there yet.
//!
//! Without a thread of its own, and without waking up for what we read ourselves: an agent that has nothing to do wakes
//! up once in five seconds, for everything that is looked at again from time to time.

use std::{io, os::fd::OwnedFd, os::unix::fs::MetadataExt, path::PathBuf, time::Duration};

use device_plugin::Ticks;
use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::{Errno, read},
};
use tokio::{io::unix::AsyncFd, time::sleep};

/// How long inotify is believed: a folder that was replaced, or a lost event, shows by then. A multiple of what the
/// device plugins wake up for anyhow.
const SAFETY_NET: Duration = Duration::from_secs(30);

/// How long changes are taken together: one record is written in four steps, and each reader reads the whole directory.
const TOGETHER: Duration = Duration::from_millis(2);

/// Tells when something in a folder changed.
pub(crate) struct Folder {
    path: PathBuf,
    watch: Option<Watch>,
    /// None only without a file descriptor left: events go on.
    safety_net: Option<Ticks>,
}

struct Watch {
    events: AsyncFd<OwnedFd>,
    /// Device and inode of the folder.
    identity: (u64, u64),
}

impl Folder {
    /// Watches that folder from now on, or from when it is there.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        let mut folder = Self { path: path.into(), watch: None, safety_net: Ticks::every(SAFETY_NET).ok() };
        folder.look_after_watch();
        folder
    }

    /// Waits for a change; at times there was none.
    pub(crate) async fn changed(&mut self) {
        tokio::select! {
            () = heard(self.watch.as_ref()) => {}
            () = tick(self.safety_net.as_ref()) => {}
        }
        self.look_after_watch();
    }

    /// Watches the folder that is there now, if that is another one than before.
    fn look_after_watch(&mut self) {
        let now = self.path.metadata().ok().map(|folder| (folder.dev(), folder.ino()));
        if self.watch.as_ref().map(|watch| watch.identity) != now {
            // without it the safety net remains
            self.watch = now.and_then(|identity| self.begin(identity).ok());
        }
    }

    fn begin(&self, identity: (u64, u64)) -> io::Result<Watch> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let what = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        inotify::add_watch(&events, &self.path, what | WatchFlags::ONLYDIR)?;
        #[allow(
            deprecated,
            reason = "what takes its place is unsafe, for owners that may close early: an OwnedFd does not"
        )]
        let events = AsyncFd::new(events)?;
        Ok(Watch { events, identity })
    }
}

async fn heard(watch: Option<&Watch>) {
    let Some(watch) = watch else { return std::future::pending().await };
    let Ok(mut ready) = watch.events.readable().await else { return std::future::pending().await };
    sleep(TOGETHER).await;
    // that something changed is enough: whoever hears it compares what is there with what was
    while matches!(read(&watch.events, &mut [0; 4096]), Ok(1..) | Err(Errno::INTR)) {}
    ready.clear_ready();
}

async fn tick(ticks: Option<&Ticks>) {
    match ticks {
        Some(ticks) => ticks.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::timeout;

    use super::*;

    /// Long enough on any machine, and shorter than the safety net.
    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn changes_are_told_and_readers_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("record");
        fs::write(&file, "one").unwrap();
        let mut watched = Folder::new(folder.path());
        // it might tick in that very moment
        watched.safety_net = None;
        fs::read(&file).unwrap();
        fs::read_dir(folder.path()).unwrap().count();
        timeout(Duration::from_millis(50), watched.changed()).await.expect_err("nothing changed");
        for change in ["append", "rename", "remove"] {
            match change {
                "append" => fs::write(&file, "two").unwrap(),
                "rename" => fs::rename(&file, folder.path().join("other")).unwrap(),
                _ => fs::remove_file(folder.path().join("other")).unwrap(),
            }
            timeout(SOON, watched.changed()).await.expect(change);
        }
    }

    #[tokio::test]
    async fn a_folder_that_took_the_place_of_another_is_watched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        fs::create_dir(&path).unwrap();
        let mut watched = Folder::new(&path);
        fs::rename(&path, folder.path().join("old")).unwrap();
        fs::create_dir(&path).unwrap();
        timeout(SOON, watched.changed()).await.expect("the folder was moved away");
        fs::write(path.join("record"), "").unwrap();
        timeout(SOON, watched.changed()).await.expect("a file in the new folder");
    }
}
