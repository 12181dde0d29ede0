//! Keeps the hook on the host, where the container runtime starts it.

use std::{
    fs,
    io::{self, Read, Seek},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use device_plugin::Ticks;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What is on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// No hook: a Pod could not be given a device.
    Missing,
    /// Our hook.
    Installed,
    /// This process offers nothing that a hook would move.
    Unneeded,
}

/// How often the file is looked at: somebody may remove it.
const CHECK: Duration = Duration::from_secs(60);
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// Installs the hook, again if it goes, and tries until the disk takes it.
pub(crate) async fn keep(
    source: PathBuf,
    target: String,
    state: watch::Sender<State>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    // open, and not in memory: it is as large as all else that the agent keeps
    let mut hook = fs::File::open(&source).with_context(|| {
        format!(
            "cannot read the hook {}: it belongs beside netdevice-agent, or name it with -hook-source",
            source.display()
        )
    })?;
    let target = PathBuf::from(target);
    let mut retry = FIRST_RETRY;
    let mut told = None;
    let checks = Ticks::every(CHECK)?;
    let mut seen = None;
    loop {
        // a file that is as it was when we looked into it needs no second look
        let is_as_seen = seen.is_some() && seen == identity(&target);
        let wait = match if is_as_seen { Ok(false) } else { install(&mut hook, &target) } {
            Ok(installed) => {
                seen = identity(&target);
                if installed {
                    info!(file = %target.display(), "the hook is installed");
                }
                (retry, told) = (FIRST_RETRY, None);
                state.send_replace(State::Installed);
                None
            }
            Err(error) => {
                let error = error.to_string();
                if told.as_ref() != Some(&error) {
                    warn!(file = %target.display(), "cannot install the hook, devices are not offered without it: {error}");
                    told = Some(error);
                }
                retry = (retry * 2).min(CHECK);
                Some(retry)
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = checks.next() => {}
            () = sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
    }
}

/// What shows that a file is another one, or was changed: device, inode, size, mode and times.
fn identity(file: &Path) -> Option<[i64; 8]> {
    let file = fs::metadata(file).ok()?;
    let (device, inode) = (file.dev().cast_signed(), file.ino().cast_signed());
    let (size, mode) = (file.size().cast_signed(), i64::from(file.mode()));
    Some([device, inode, size, mode, file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()])
}

/// Puts the hook in place whole, unless it is there already: a runtime starts the old one or the new one.
fn install(hook: &mut (impl Read + Seek), target: &Path) -> io::Result<bool> {
    let is_executable = fs::metadata(target).is_ok_and(|file| file.permissions().mode() & 0o111 == 0o111);
    if is_executable
        && fs::File::open(target).and_then(|mut there| have_same_content(hook, &mut there)).unwrap_or(false)
    {
        return Ok(false);
    }
    let folder = target.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let beside = folder.join(format!(".netdevice-hook.{}", std::process::id()));
    let mut write = || {
        // a file that is being executed cannot be written, and one that is being written cannot be executed
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&beside)?;
        hook.rewind()?;
        io::copy(hook, &mut file)?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&beside, target)
    };
    write().inspect_err(|_| _ = fs::remove_file(&beside))?;
    Ok(true)
}

fn have_same_content(one: &mut (impl Read + Seek), other: &mut impl Read) -> io::Result<bool> {
    const PIECE: u64 = 16 << 10;
    one.rewind()?;
    let (mut piece, mut there) = (Vec::new(), Vec::new());
    loop {
        piece.clear();
        there.clear();
        one.by_ref().take(PIECE).read_to_end(&mut piece)?;
        other.by_ref().take(PIECE).read_to_end(&mut there)?;
        if piece != there || piece.is_empty() {
            return Ok(piece == there);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn the_hook_is_replaced_whole_and_only_when_it_differs() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("bin/netdevice-hook");
        assert!(install(&mut Cursor::new("one"), &target).unwrap());
        assert!(!install(&mut Cursor::new("one"), &target).unwrap());
        let running = fs::File::open(&target).unwrap();
        assert!(install(&mut Cursor::new("another"), &target).unwrap());
        assert_eq!(io::read_to_string(running).unwrap(), "one", "who runs the old one keeps it");
        assert_eq!(fs::read(&target).unwrap(), b"another");
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_hook_that_cannot_be_executed_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("netdevice-hook");
        fs::write(&target, b"one").unwrap();
        assert!(install(&mut Cursor::new("one"), &target).unwrap());
    }
}
