//! Installs the hook on the host, where the container runtime starts it.

use std::{
    fs,
    io::{self, Read, Seek},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use wake::{Backoff, Ticks};

use crate::{metrics::Metrics, problem::Kind};

/// Whether the hook is on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HookState {
    /// It is not: no Pod can get a device.
    Missing,
    /// It is.
    Installed,
}

/// How often the file is checked: it may be removed.
const CHECK: Duration = Duration::from_secs(60);
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// Installs the hook, again if it is removed, and retries after a failure.
pub(crate) async fn run(
    source: PathBuf,
    target: String,
    state: watch::Sender<HookState>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    // not read into memory: it is as large as all other memory of the agent
    let mut hook = fs::File::open(&source).with_context(|| {
        format!("cannot read the hook {}: install it beside netdevice-agent, or set -hook-source", source.display())
    })?;
    let target = PathBuf::from(target);
    metrics.report(Kind::Hook, vec!["the hook is not installed yet".into()]);
    let mut backoff = Backoff::new(FIRST_RETRY, CHECK);
    let mut logged: Option<String> = None;
    let checks = Ticks::every(CHECK);
    let mut seen = None;
    loop {
        // a file that has not changed since it was compared is not compared again
        let is_as_seen = seen.is_some() && seen == identity(&target);
        let wait = match if is_as_seen { Ok(false) } else { install(&mut hook, &target) } {
            Ok(installed) => {
                seen = identity(&target);
                if installed {
                    info!(file = %target.display(), "the hook is installed");
                }
                backoff.reset();
                let obstacle = obstacle(&target);
                if let Some(obstacle) = obstacle.as_ref().filter(|obstacle| logged.as_ref() != Some(*obstacle)) {
                    warn!("{obstacle}");
                }
                metrics.report(Kind::Hook, obstacle.iter().cloned().collect());
                logged = obstacle;
                state.send_replace(HookState::Installed);
                None
            }
            Err(error) => {
                let error = error.to_string();
                if logged.as_ref() != Some(&error) {
                    warn!(file = %target.display(), "cannot install the hook, so no device is offered: {error}");
                    metrics
                        .report(Kind::Hook, vec![format!("the hook {} is not installed: {error}", target.display())]);
                    logged = Some(error);
                }
                Some(backoff.next_pause())
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = checks.next() => {}
            () = sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
    }
}

/// What differs when a file was replaced or changed: device, inode, size, mode and times.
fn identity(file: &Path) -> Option<[i64; 8]> {
    let file = fs::metadata(file).ok()?;
    let (device, inode) = (file.dev().cast_signed(), file.ino().cast_signed());
    let (size, mode) = (file.size().cast_signed(), i64::from(file.mode()));
    Some([device, inode, size, mode, file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()])
}

/// Why the runtime cannot start the installed hook, as far as that can be seen without starting it.
fn obstacle(target: &Path) -> Option<String> {
    let path = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
    // the mounts of the runtime, if this process may read them
    let mounts = fs::read_to_string("/proc/1/mountinfo").or_else(|_| fs::read_to_string("/proc/self/mountinfo"));
    if let Some(mount) = mounts.ok().and_then(|mounts| noexec_mount(&mounts, &path)) {
        return Some(format!(
            "the runtime cannot start the hook {}: {} is mounted noexec: choose another path with -hook-path",
            target.display(),
            mount.display()
        ));
    }
    let (ours, hook) = (machine(Path::new("/proc/self/exe"))?, machine(target)?);
    (ours != hook).then(|| {
        format!("the runtime cannot start the hook {}: it is for another processor architecture", target.display())
    })
}

/// The mount that a file is on, if programs on it cannot be started (`proc_pid_mountinfo(5)`).
fn noexec_mount(mounts: &str, file: &Path) -> Option<PathBuf> {
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(4);
        // a space, a tab, a newline and a backslash are in octal
        let point = ["\\040", "\\011", "\\012", "\\134"].iter().zip([" ", "\t", "\n", "\\"]);
        let point = point.fold(fields.next()?.to_owned(), |path, (code, byte)| path.replace(code, byte));
        let is_noexec = fields.next()?.split(',').any(|option| option == "noexec");
        Some((PathBuf::from(point), is_noexec))
    };
    // of several mounts on one path the last one is on top
    let on = mounts.lines().filter_map(mount).filter(|(point, _)| file.starts_with(point));
    let (point, is_noexec) = on.max_by_key(|(point, _)| point.components().count())?;
    is_noexec.then_some(point)
}

/// Class, byte order and machine of an ELF file; nothing of another file.
fn machine(file: &Path) -> Option<[u8; 4]> {
    let mut header = [0; 20];
    fs::File::open(file).and_then(|mut file| file.read_exact(&mut header)).ok()?;
    header.starts_with(b"\x7fELF").then(|| [header[4], header[5], header[18], header[19]])
}

/// Installs the hook by renaming, unless it is there already: a runtime starts the old one or the new one.
fn install(hook: &mut (impl Read + Seek), target: &Path) -> io::Result<bool> {
    let is_executable = fs::metadata(target).is_ok_and(|file| file.permissions().mode() & 0o111 == 0o111);
    if is_executable
        && fs::File::open(target).and_then(|mut there| have_same_content(hook, &mut there)).unwrap_or(false)
    {
        return Ok(false);
    }
    let directory = target.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let beside = directory.join(format!(".netdevice-hook.{}", std::process::id()));
    // the file is closed before it is renamed: one that is open for writing cannot be executed
    let write = |mut file: fs::File| {
        hook.rewind()?;
        io::copy(hook, &mut file)?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        file.sync_all()
    };
    store::replace(target, &beside, 0o755, write)?;
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
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("bin/netdevice-hook");
        assert!(install(&mut Cursor::new("one"), &target).unwrap());
        assert!(!install(&mut Cursor::new("one"), &target).unwrap());
        let running = fs::File::open(&target).unwrap();
        assert!(install(&mut Cursor::new("another"), &target).unwrap());
        assert_eq!(io::read_to_string(running).unwrap(), "one", "a process that runs the old one keeps it");
        assert_eq!(fs::read(&target).unwrap(), b"another");
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_hook_that_the_runtime_cannot_start_is_reported() {
        let mounts = "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
            30 22 0:20 / /var/lib rw,noexec - ext4 /dev/sdb1 rw\n\
            31 30 0:21 / /var/lib/a\\040b rw - tmpfs tmpfs rw\n\
            32 22 0:22 / /run rw,nosuid,noexec - tmpfs tmpfs rw\n\
            33 32 0:23 / /run rw - tmpfs tmpfs rw\n";
        let noexec = |path: &str| noexec_mount(mounts, Path::new(path)).map(|mount| mount.display().to_string());
        assert_eq!(noexec("/var/lib/netdevice/netdevice-hook").as_deref(), Some("/var/lib"));
        assert_eq!(noexec("/var/lib/a b/netdevice-hook"), None);
        assert_eq!(noexec("/var/libs/netdevice-hook"), None);
        assert_eq!(noexec("/run/hook"), None, "another one is mounted on top");
        assert_eq!(noexec_mount("nonsense", Path::new("/x")), None);

        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("netdevice-hook");
        fs::copy("/proc/self/exe", &target).unwrap();
        assert_eq!(obstacle(&target), None);
        let mut header = fs::read(&target).unwrap();
        header[18] ^= 0xff;
        fs::write(&target, header).unwrap();
        assert!(obstacle(&target).unwrap().ends_with("it is for another processor architecture"));
        fs::write(&target, "#!/bin/sh\n").unwrap();
        assert_eq!(obstacle(&target), None);
    }

    #[test]
    fn a_hook_that_cannot_be_executed_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("netdevice-hook");
        fs::write(&target, b"one").unwrap();
        assert!(install(&mut Cursor::new("one"), &target).unwrap());
    }
}
