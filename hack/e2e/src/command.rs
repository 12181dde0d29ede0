//! Running the programs of `hack/` and keeping what they said.

use std::ffi::OsStr;
use std::fmt;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What a command did.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command, as a reader would type it.
    pub command: String,
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote, invalid UTF-8 replaced.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Output {
    /// Whether it exited with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Its standard output without the last line's end.
    ///
    /// # Panics
    /// When it failed, with everything that it said.
    #[track_caller]
    pub fn text(&self) -> &str {
        assert!(self.success(), "{self}");
        self.stdout.trim_end()
    }

    /// Its standard output as JSON.
    ///
    /// # Panics
    /// When it failed or wrote something else.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.text()).unwrap_or_else(|error| panic!("no JSON: {error}\n{self}"))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "$ {}\n{}{}", self.command, self.stdout, self.stderr)?;
        match self.code {
            Some(code) => write!(f, "exit code {code}"),
            None => write!(f, "ended by a signal"),
        }
    }
}

/// A program below `hack/`.
pub(crate) fn hack(program: &str) -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("this crate lies in hack/").join(program)
}

/// Runs a command to its end, with `input` as its standard input.
pub(crate) fn run<I>(program: PathBuf, args: I, input: &str) -> Output
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shown = show(&command);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("$ {shown}\n{error}"));
    let stdin = child.stdin.take();
    let done = std::thread::scope(|scope| {
        // a command that does not read its input closes the pipe, and that is its right
        scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input.as_bytes())));
        child.wait_with_output()
    });
    let done = done.unwrap_or_else(|error| panic!("$ {shown}\n{error}"));
    Output {
        command: shown,
        code: done.status.code(),
        stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
    }
}

/// The command as one line.
pub(crate) fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
