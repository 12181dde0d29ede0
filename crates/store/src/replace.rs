//! Replacing a file as a whole: readers find the old text or the new one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Writes `text` to `beside` and renames that to `path`. Whoever calls it has the only right to write `beside`. The file is
/// returned for writing in place.
///
/// # Errors
///
/// When the disk does not take it; the file that was there stays, and `beside` is gone.
pub(crate) fn replace(path: &Path, beside: &Path, text: &[u8], mode: u32) -> io::Result<File> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(beside)?;
        file.write_all(text)?;
        fs::rename(beside, path)?;
        Ok(file)
    };
    // what is left of a full disk is better free; the error to report is the first one
    write().inspect_err(|_| _ = fs::remove_file(beside))
}
