//! Whether a sandbox is still there, as far as one can see without entering it.

use std::{fs, io, os::unix::fs::MetadataExt};

use netdevice::record::SandboxPlace;

/// Whether the namespace of a record is gone: neither the places where it was seen nor any process has it. Where
/// processes of others cannot be looked at, it counts as there.
pub(crate) fn is_gone(sandbox: &SandboxPlace) -> bool {
    let is_at = |path: &str| fs::metadata(path).map(|file| file.ino() == sandbox.inode);
    if sandbox.paths.iter().any(|path| is_at(path).unwrap_or(false)) {
        return false;
    }
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let mut ids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.all(|id| match is_at(&format!("/proc/{id}/ns/net")) {
        Ok(is_here) => !is_here,
        Err(error) => error.kind() != io::ErrorKind::PermissionDenied,
    })
}
