//! Directories that the kernel makes up, of settings or of a link: each short file is opened below a directory that is open
//! already, read with one call and closed.

use std::{ffi::CStr, mem::MaybeUninit, path::Path};

use rustix::{
    fd::OwnedFd,
    fs::{CWD, Mode, OFlags, RawDir, fstat, openat},
    io::{Errno, read},
};

/// Longest text that is read of a file: a number, or a few.
pub(crate) const MAX_VALUE: usize = 64;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory(OwnedFd);

impl From<OwnedFd> for Directory {
    fn from(directory: OwnedFd) -> Self {
        Self(directory)
    }
}

impl Directory {
    pub(crate) fn open(path: &Path) -> Result<Self, Errno> {
        openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map(Self)
    }

    /// A directory below.
    pub(crate) fn open_below(&self, path: &[u8]) -> Result<Self, Errno> {
        openat(&self.0, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map(Self)
    }

    /// Its inode.
    pub(crate) fn inode(&self) -> Result<u64, Errno> {
        fstat(&self.0).map(|status| status.st_ino)
    }

    /// Reads a file of one short line.
    pub(crate) fn read<'a>(&self, file: &CStr, value: &'a mut [u8]) -> Result<&'a [u8], Errno> {
        let file = openat(&self.0, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let length = read(&file, &mut value[..])?;
        Ok(&value[..length])
    }

    /// Calls `look` with the name of each entry; an error ends the list.
    #[inline(never)] // its buffer is in no larger stack, so that the same pages serve what comes after it
    pub(crate) fn each_name(&self, mut look: impl FnMut(&CStr)) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut entries = RawDir::new(&self.0, &mut buffer);
        while let Some(Ok(entry)) = entries.next() {
            look(entry.file_name());
        }
    }
}
