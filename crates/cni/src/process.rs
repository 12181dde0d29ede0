//! A plugin's process: fed, read within limits, and ended with its process group when its time is over.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        Pid, PidfdFlags, Signal, getpid, getppid, kill_process_group, pidfd_open, set_parent_process_death_signal,
    },
};

/// Most bytes of a result.
const MAX_OUTPUT: usize = 1 << 20;
/// The last bytes of standard error that are kept.
const MAX_ERRORS: usize = 16 << 10;
/// `PATH` of a plugin in a clean environment: plugins start iptables, nft and the like.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How often a plugin is started that is being written (`ETXTBSY`), and the pause between two attempts.
const BUSY_ATTEMPTS: usize = 5;
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// What plugins get of this process' environment, beside the variables of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// All of it, as libcni does it.
    Inherited,
    /// Nothing but a `PATH` with the usual directories: of a daemon, or in another mount namespace than this program's.
    Clean,
}

/// How long a plugin may run.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For each call.
    pub time: Duration,
    /// Becomes readable when running plugins are to be killed, such as a pipe that a signal handler writes to or closes.
    pub stop: Option<Arc<OwnedFd>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: Duration::from_secs(60), stop: None }
    }
}

/// What a plugin did until it exited.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) output: Vec<u8>,
    pub(crate) errors: String,
}

/// Why a plugin did not exit by itself.
#[derive(Debug)]
pub(crate) enum RunError {
    Start(io::Error),
    Io(io::Error),
    TimedOut(Duration, String),
    Stopped,
    TooLong,
}

/// Runs a plugin to its end.
pub(crate) fn run(
    program: &Path,
    variables: &BTreeMap<&'static str, String>,
    environment: Environment,
    input: &[u8],
    limits: &Limits,
) -> Result<Finished, RunError> {
    let deadline = Instant::now() + limits.time;
    let mut command = Command::new(program);
    if environment == Environment::Clean {
        command.env_clear().env("PATH", USUAL_PATH);
    }
    command.envs(variables).current_dir("/").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    die_with_parent(&mut command);
    let mut running = Running::start(&mut command, limits, deadline)?;
    match running.follow(input, limits, deadline) {
        Ok(finished) => Ok(finished),
        Err(error) => {
            running.kill();
            Err(error)
        }
    }
}

/// The plugin is killed if the thread that started it ends: nobody would undo what it does.
#[allow(unsafe_code)] // a program cannot set it from outside: it must be done between fork and exec
fn die_with_parent(command: &mut Command) {
    let parent = getpid();
    let setup = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // the parent may have ended before that
        if getppid() == Some(parent) { Ok(()) } else { Err(io::Error::from(io::ErrorKind::BrokenPipe)) }
    };
    // SAFETY: the closure makes two system calls; it allocates nothing, and takes no lock.
    unsafe {
        command.pre_exec(setup);
    }
}

struct Running {
    child: Child,
    /// Readable when it has exited.
    exit: OwnedFd,
}

impl Running {
    fn start(command: &mut Command, limits: &Limits, deadline: Instant) -> Result<Self, RunError> {
        let mut attempts = 0;
        let mut child = loop {
            match command.spawn() {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && attempts < BUSY_ATTEMPTS => {
                    attempts += 1;
                    pause(limits, (Instant::now() + BUSY_PAUSE).min(deadline))?;
                }
                started => break started.map_err(RunError::Start)?,
            }
        };
        let opened = Pid::from_raw(child.id().cast_signed()).ok_or(io::ErrorKind::NotFound.into());
        let opened = opened.and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
        match opened {
            Ok(exit) => Ok(Self { child, exit }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(RunError::Io(error))
            }
        }
    }

    fn kill(&mut self) {
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            // not waited for yet, so that the group is still its own
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }

    /// Writes the input and reads the output, until it has exited. What it started may live on and keep the pipes open.
    fn follow(&mut self, input: &[u8], limits: &Limits, deadline: Instant) -> Result<Finished, RunError> {
        let mut stdin = self.child.stdin.take();
        let (mut stdout, mut stderr) = (self.child.stdout.take(), self.child.stderr.take());
        for pipe in
            [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)]
        {
            pipe.map_or(Ok(()), set_non_blocking).map_err(RunError::Io)?;
        }
        let (mut rest, mut output, mut errors) = (input, Vec::new(), Vec::new());
        loop {
            if write_some(&mut stdin, &mut rest)? {
                stdin = None;
            }
            let mut pipes: Vec<PollFd<'_>> = stdin.iter().map(|pipe| PollFd::new(pipe, PollFlags::OUT)).collect();
            pipes.extend(stdout.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            pipes.extend(stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            let has_exited = match wait(&self.exit, &pipes, limits, deadline) {
                Err(RunError::TimedOut(time, _)) => return Err(RunError::TimedOut(time, text(&errors))),
                waited => waited?,
            };
            if read_some(&mut stdout, &mut output, usize::MAX)? {
                stdout = None;
            }
            if output.len() > MAX_OUTPUT {
                return Err(RunError::TooLong);
            }
            if read_some(&mut stderr, &mut errors, MAX_ERRORS)? {
                stderr = None;
            }
            if has_exited {
                let status = self.finish()?;
                return Ok(Finished { status, output, errors: text(&errors) });
            }
        }
    }

    /// The status. What a plugin that failed has started is killed: an ADD that failed is undone next.
    fn finish(&mut self) -> Result<ExitStatus, RunError> {
        let exited = rustix::process::waitid(
            rustix::process::WaitId::PidFd(self.exit.as_fd()),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
        );
        let has_failed = exited.is_ok_and(|status| status.is_some_and(|status| status.exit_status() != Some(0)));
        if has_failed && let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        self.child.wait().map_err(RunError::Io)
    }
}

fn text(errors: &[u8]) -> String {
    String::from_utf8_lossy(errors).trim().to_owned()
}

fn set_non_blocking(pipe: BorrowedFd<'_>) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(pipe)?;
    Ok(rustix::fs::fcntl_setfl(pipe, flags | rustix::fs::OFlags::NONBLOCK)?)
}

/// Waits until the plugin has exited, or one of its pipes is ready, at most until the deadline, or until plugins are to be
/// killed. Returns whether it has exited.
fn wait(exit: &OwnedFd, pipes: &[PollFd<'_>], limits: &Limits, deadline: Instant) -> Result<bool, RunError> {
    let mut all = vec![PollFd::new(exit, PollFlags::IN)];
    all.extend_from_slice(pipes);
    all.extend(limits.stop.as_ref().map(|stop| PollFd::new(&**stop, PollFlags::IN)));
    match poll_until(&mut all, deadline)? {
        0 => return Err(RunError::TimedOut(limits.time, String::new())),
        _ if !all[0].revents().is_empty() => return Ok(true),
        _ => {}
    }
    let is_stopped = limits.stop.is_some() && all.last().is_some_and(|stop| !stop.revents().is_empty());
    if is_stopped { Err(RunError::Stopped) } else { Ok(false) }
}

/// Waits until the deadline, or until plugins are to be killed.
fn pause(limits: &Limits, deadline: Instant) -> Result<(), RunError> {
    let mut stop: Vec<PollFd<'_>> = limits.stop.iter().map(|stop| PollFd::new(&**stop, PollFlags::IN)).collect();
    if poll_until(&mut stop, deadline)? == 0 { Ok(()) } else { Err(RunError::Stopped) }
}

fn poll_until(descriptors: &mut [PollFd<'_>], deadline: Instant) -> Result<usize, RunError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(descriptors, Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            polled => return polled.map_err(|error| RunError::Io(error.into())),
        }
    }
}

/// Writes what the pipe takes. Returns whether nothing is left, or the plugin reads no more.
fn write_some(pipe: &mut Option<impl Write>, rest: &mut &[u8]) -> Result<bool, RunError> {
    let Some(pipe) = pipe else { return Ok(false) };
    while !rest.is_empty() {
        match pipe.write(rest) {
            Ok(count) => *rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(true),
            Err(error) => return Err(RunError::Io(error)),
        }
    }
    Ok(true)
}

/// Reads what is there, and keeps the last `keep` bytes. Returns whether it was all.
fn read_some(pipe: &mut Option<impl Read>, into: &mut Vec<u8>, keep: usize) -> Result<bool, RunError> {
    let Some(pipe) = pipe else { return Ok(false) };
    let mut buffer = [0; 8192];
    while into.len() <= MAX_OUTPUT {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(count) => into.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(RunError::Io(error)),
        }
        if into.len() > keep {
            into.drain(..into.len() - keep);
        }
    }
    Ok(false)
}
