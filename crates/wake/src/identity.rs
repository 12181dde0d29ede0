//! The identity of the file at a path: whether the file was replaced.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// What a file is recognised by. An inode number may be used again at once, but not with the same time of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    size: u64,
}

impl FileIdentity {
    /// The file at that path now, itself and not what a symbolic link leads to; none when it cannot be seen.
    pub fn of(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().as_ref().map(Self::from)
    }

    /// Device and inode of the directory at that path now; what it contains changes neither.
    pub fn of_directory(path: &Path) -> Option<(u64, u64)> {
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_dir)?;
        Some((metadata.dev(), metadata.ino()))
    }
}

impl From<&fs::Metadata> for FileIdentity {
    fn from(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            size: metadata.size(),
        }
    }
}
