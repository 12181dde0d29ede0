//! Replacing a file as a whole: readers find the old content or the new one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Creates `beside`, lets `write` fill it, and renames it to `path`. The caller is the only one that may write `beside`.
///
/// # Errors
///
/// When the disk does not take it; the file at `path` is then unchanged, and `beside` is gone.
pub fn replace<T>(path: &Path, beside: &Path, mode: u32, write: impl FnOnce(File) -> io::Result<T>) -> io::Result<T> {
    let replace = || {
        let written = write(OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(beside)?)?;
        fs::rename(beside, path)?;
        Ok(written)
    };
    // a full disk gets its space back; the first error is the one to report
    replace().inspect_err(|_| _ = fs::remove_file(beside))
}

/// Replaces a file by `text`. The new file is returned for writing in place.
pub(crate) fn replace_by_text(path: &Path, beside: &Path, text: &[u8], mode: u32) -> io::Result<File> {
    let write = |mut file: File| {
        file.write_all(text)?;
        Ok(file)
    };
    replace(path, beside, mode, write)
}
