//! The CDI file of a claim: written whole, always anew, and removed when the claim is unprepared.

use std::{
    fs::{self, DirBuilder},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use netdevice::claims::document;

/// Where CDI files are written. CDI implementations skip `spec.*.tmp`.
fn temporary(directory: &Path, uid: &str) -> PathBuf {
    directory.join(format!("spec.{}.tmp", document::file_name(uid)))
}

/// The path of a claim's file.
pub(crate) fn path(directory: &Path, uid: &str) -> PathBuf {
    directory.join(document::file_name(uid))
}

/// Writes the file of a claim, whose lock is held.
pub(crate) fn write(directory: &Path, uid: &str, text: &str) -> io::Result<()> {
    replace(&path(directory, uid), &temporary(directory, uid), text.as_bytes())
}

/// Writes a file whose directory may be missing.
pub(crate) fn replace(path: &Path, beside: &Path, text: &[u8]) -> io::Result<()> {
    let replace = || store::replace(path, beside, 0o644, |mut file| file.write_all(text));
    match replace() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or(Path::new("/"));
            DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
            replace()
        }
        replaced => replaced,
    }
}

/// Removes the file of a claim, whose lock is held, and what a killed writer left.
pub(crate) fn remove(directory: &Path, uid: &str) -> io::Result<()> {
    // mostly it is not there
    let _ = fs::remove_file(temporary(directory, uid));
    match fs::remove_file(path(directory, uid)) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_anew_and_removed_with_what_a_killed_writer_left() {
        let directory = tempfile::tempdir().unwrap();
        let cdi = directory.path().join("cdi");
        remove(&cdi, "0c1d").unwrap();
        write(&cdi, "0c1d", "one").unwrap();
        write(&cdi, "0c1d", "two").unwrap();
        assert_eq!(fs::read_to_string(path(&cdi, "0c1d")).unwrap(), "two");
        fs::write(temporary(&cdi, "0c1d"), "half").unwrap();
        remove(&cdi, "0c1d").unwrap();
        assert_eq!(fs::read_dir(&cdi).unwrap().count(), 0);
        remove(&cdi, "0c1d").unwrap();
    }
}
