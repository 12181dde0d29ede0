//! What the agent leaves beside the records for people on the node: what is wrong, and that it runs at all.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
};

use rustix::fs::{FlockOperation, flock};

use crate::{read_limited::read_text_limited, records::Records, replace::replace_by_text};

/// One problem a line, as `/readyz` has them.
const PROBLEMS: &str = "problems";
/// Locked as long as an agent runs, shared: during an update there are two.
const AGENT_LOCK: &str = "agent.lock";
/// Longest text that is read back, in bytes.
const MAX_PROBLEMS: usize = 1 << 20;

impl Records {
    /// Says to others that an agent runs, until the file is dropped.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or written.
    pub fn lock_agent(&self) -> io::Result<File> {
        fs::create_dir_all(self.directory())?;
        let path = self.directory().join(AGENT_LOCK);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        // a program that asks whether an agent runs holds it for a moment
        flock(&file, FlockOperation::LockShared)?;
        Ok(file)
    }

    /// Whether an agent runs on this node.
    pub fn has_agent(&self) -> bool {
        let file = OpenOptions::new().read(true).open(self.directory().join(AGENT_LOCK));
        file.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_err())
    }

    /// Leaves the agent's problems, all or nothing.
    ///
    /// # Errors
    ///
    /// When the disk does not take them; those that were there stay.
    pub fn write_problems(&self, lines: &[String]) -> io::Result<()> {
        // during an update two agents write
        let beside = self.directory().join(format!(".{PROBLEMS}.{}", std::process::id()));
        let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        replace_by_text(&self.directory().join(PROBLEMS), &beside, text.as_bytes(), 0o644).map(drop)
    }

    /// The problems that the agent wrote; none without an agent.
    ///
    /// # Errors
    ///
    /// When the file is there and cannot be read.
    pub fn problems(&self) -> io::Result<Vec<String>> {
        let text = match File::open(self.directory().join(PROBLEMS)) {
            Ok(file) => read_text_limited(file, MAX_PROBLEMS)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        Ok(text.lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_seen_while_it_runs_and_what_it_left_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path().join("records"));
        assert!(!records.has_agent() && records.problems().unwrap().is_empty());
        let (one, other) = (records.lock_agent().unwrap(), records.lock_agent().unwrap());
        drop(one);
        assert!(records.has_agent() && records.has_agent());
        drop(other);
        assert!(!records.has_agent());
        let lines = ["the hook is not installed".to_owned(), "warning: é".to_owned()];
        records.write_problems(&lines).unwrap();
        assert_eq!(records.problems().unwrap(), lines);
        records.sweep();
        assert_eq!(records.problems().unwrap(), lines);
        records.write_problems(&[]).unwrap();
        assert!(records.problems().unwrap().is_empty());
        assert!(records.list().unwrap().1.is_empty(), "none of these files is taken for a record");
    }
}
