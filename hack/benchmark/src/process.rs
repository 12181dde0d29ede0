//! Processes and threads: how long they take, and how much of a processor.

use std::{
    collections::BTreeMap,
    fs, io,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// One run of a program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// From start to end.
    pub(crate) wall: Duration,
    /// User and system time of all its threads.
    pub(crate) cpu: Duration,
}

/// A program that is running.
#[derive(Debug)]
pub(crate) struct Started {
    pid: libc::pid_t,
    began: Instant,
    shown: String,
}

/// Starts a program.
pub(crate) fn start(command: &mut Command) -> Result<Started> {
    let began = Instant::now();
    let child = command.spawn().with_context(|| format!("{command:?}"))?;
    let pid = i32::try_from(child.id()).context("a pid fits")?;
    // not waited for by the standard library: it does not return the times
    drop(child);
    Ok(Started { pid, began, shown: String::new() })
}

/// Runs a program that must succeed.
pub(crate) fn timed(command: &mut Command) -> Result<Run> {
    let mut started = start(command)?;
    started.shown = format!("{command:?}");
    started.wait()
}

impl Started {
    /// Waits for its end, which must be a success.
    pub(crate) fn wait(self) -> Result<Run> {
        let (status, cpu) = wait4(self.pid).context("wait4")?;
        let wall = self.began.elapsed();
        if !libc::WIFEXITED(status) || libc::WEXITSTATUS(status) != 0 {
            bail!("{} failed with status {status:#x}", self.shown);
        }
        Ok(Run { wall, cpu })
    }
}

#[allow(unsafe_code)] // no crate wraps wait4 with its times
fn wait4(pid: libc::pid_t) -> io::Result<(libc::c_int, Duration)> {
    let mut status = 0;
    // SAFETY: all zero is a value of this structure of numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers lead to values that outlive the call.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    if waited != pid {
        return Err(io::Error::last_os_error());
    }
    let time = |time: libc::timeval| {
        let micros = time.tv_sec * 1_000_000 + time.tv_usec;
        Duration::from_micros(micros.try_into().unwrap_or(0))
    };
    Ok((status, time(usage.ru_utime) + time(usage.ru_stime)))
}

/// Processor time of a process so far, threads that ended included.
pub(crate) fn cpu_of(pid: u32) -> Result<Duration> {
    // CPUCLOCK_SCHED of the process (include/linux/posix-timers_types.h), what clock_getcpuclockid(3) gives
    let clock = (!i32::try_from(pid)? << 3) | 2;
    clock_time(clock).with_context(|| format!("processor time of {pid}"))
}

/// RSS, PSS and anonymous memory of a process in MB.
pub(crate) fn memory_of(pid: u32) -> Result<[f64; 3]> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let mut sizes: BTreeMap<&str, f64> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(Ok(kb))) = (words.next(), words.next().map(str::parse::<f64>)) {
            sizes.insert(name, kb / 1024.0);
        }
    }
    let size = |name: &str| sizes.get(name).copied().with_context(|| format!("no {name} in smaps_rollup"));
    Ok([size("Rss:")?, size("Pss:")?, size("Anonymous:")?])
}

/// Processor time of the calling thread so far.
pub(crate) fn cpu_of_this_thread() -> Result<Duration> {
    clock_time(libc::CLOCK_THREAD_CPUTIME_ID).context("processor time of a thread")
}

#[allow(unsafe_code)] // clocks of other processes are in no crate
fn clock_time(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer leads to a value that outlives the call.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0)))
}

/// Milliseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Runs async work on this thread; calls that wait for the kernel have threads of their own.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Whether a program is installed.
pub(crate) fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|done| done.status.success())
}
