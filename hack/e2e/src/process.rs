//! A program that runs in a node while the test goes on, such as the agent.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::command::show;
use crate::wait::{eventually, wait_for};

/// A running program; it is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    command: String,
    log: PathBuf,
}

impl Process {
    /// Starts `hack/node/node run NODE ...`, output into `log`.
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Process {
        let open = || File::options().create(true).append(true).open(&log);
        let (out, err) = (open(), open());
        let (out, err) =
            out.and_then(|out| Ok((out, err?))).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let shown = show(&command);
        let child = command.spawn().unwrap_or_else(|error| panic!("$ {shown}\n{error}"));
        Process { child, command: shown, log }
    }

    /// Its pid as this machine, not the node, knows it.
    ///
    /// # Panics
    /// When it is not there within 30 seconds.
    #[must_use]
    #[track_caller]
    pub fn pid(&self) -> i32 {
        // The child is the script, and then what enters the node for it; only then its only child is the program itself. That
        // one is first a copy of its parent, and then setpriv, which arranges that it dies with its parent.
        let wrapper = self.child.id();
        let children = format!("/proc/{wrapper}/task/{wrapper}/children");
        let name = |pid: &str| Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned());
        let read = || {
            let has_entered = name(&wrapper.to_string())? == "nsenter";
            let children = fs::read_to_string(&children).ok().filter(|_| has_entered)?;
            let first = children.split_whitespace().next()?;
            let is_program = !["nsenter", "setpriv"].contains(&name(first)?.as_str());
            first.parse().ok().filter(|_| is_program)
        };
        wait_for(&format!("{} is started", self.command), read, Option::is_some).expect("waited for it")
    }

    /// Sends a signal to the program itself.
    ///
    /// # Panics
    /// When the program is gone.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid()).expect("a pid is not 0");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{}: {error}\n{}", self.command, self.output()));
    }

    /// Everything that it wrote so far, standard output and standard error together.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until it has written `text`.
    ///
    /// # Panics
    /// When it does not within 30 seconds.
    #[track_caller]
    pub fn wait_for_output(&self, text: &str) {
        wait_for(&format!("{} writes {text:?}", self.command), || self.output(), |output| output.contains(text));
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not within 30 seconds.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let status = eventually(Duration::from_secs(30), || self.child.try_wait().ok().flatten());
        status.unwrap_or_else(|| panic!("{} does not end\n{}", self.command, self.output()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // the program in the node dies with the one that entered for it (`node run` arranges that)
        if self.runs() && self.child.kill().is_ok() {
            // an error here means that it is gone, which is what is wanted
            drop(self.child.wait());
        }
    }
}
