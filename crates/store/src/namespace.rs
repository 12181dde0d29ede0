//! An open network namespace: a file of the kernel that keeps it alive.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// An open network namespace. While this lives, the namespace does.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    path: PathBuf,
    inode: u64,
}

impl Namespace {
    /// Opens the namespace at a path like `/proc/<pid>/ns/net` or `/run/netns/<name>`.
    ///
    /// # Errors
    ///
    /// Those of `open` and `fstat`; a file that is not a namespace shows when it is entered.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let file = File::open(&path)?;
        let inode = rustix::fs::fstat(&file)?.st_ino;
        Ok(Self { file, path, inode })
    }

    /// A namespace that is open already. Its path is that of the descriptor.
    ///
    /// # Errors
    ///
    /// Those of `fstat`.
    pub fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        let file = File::from(descriptor);
        let inode = rustix::fs::fstat(&file)?.st_ino;
        Ok(Self { path: format!("/proc/self/fd/{}", file.as_raw_fd()).into(), file, inode })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same, once more.
    ///
    /// # Errors
    ///
    /// When there are too many descriptors.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, path: self.path.clone(), inode: self.inode })
    }

    /// Where this process finds it while this lives.
    pub fn descriptor_path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// Its inode, which another namespace may have after this one's end.
    pub fn inode(&self) -> u64 {
        self.inode
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
