//! A tick every few seconds that wakes the process once.
//!
//! A timer of tokio wakes it up to three times on the way to 5 s, from wheel to wheel. And ticks are at multiples of
//! their period, so that all tasks of a process wake up together.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::{
    fs::Timespec,
    time::{
        ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, clock_gettime, timerfd_create,
        timerfd_settime,
    },
};
use tokio::{io::unix::AsyncFd, time::sleep};

/// A periodic timer.
#[derive(Debug)]
pub struct Ticks {
    period: Duration,
    /// None when the process had no file descriptor left: tokio's timer then.
    timer: Option<AsyncFd<OwnedFd>>,
}

impl Ticks {
    /// Starts; the first tick comes within one period.
    pub fn every(period: Duration) -> Self {
        // all zero would stop the timer
        let period = period.max(Duration::from_millis(1));
        Self { period, timer: start(period).ok() }
    }

    /// Waits for the next tick; those that were missed count as one.
    pub async fn next(&self) {
        let Some(timer) = &self.timer else { return sleep(self.period).await };
        let Ok(mut ready) = timer.readable().await else { return sleep(self.period).await };
        // the number of ticks, which is not needed
        let _ = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0; 8])?));
        ready.clear_ready();
    }
}

fn start(period: Duration) -> io::Result<AsyncFd<OwnedFd>> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
    let past = u64::try_from(now.as_nanos() % period.as_nanos()).unwrap_or(0);
    let first = now + period - Duration::from_nanos(past);
    let spec = |time| Timespec::try_from(time).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let ticks = Itimerspec { it_interval: spec(period)?, it_value: spec(first)? };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &ticks)?;
    adopt(timer)
}

/// A descriptor that the runtime waits for.
pub(crate) fn adopt(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[allow(deprecated, reason = "what replaces it is unsafe, for owners that may close early: an OwnedFd does not")]
    AsyncFd::new(descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ticks_again_and_again() {
        let began = std::time::Instant::now();
        let ticks = Ticks::every(Duration::from_millis(20));
        for _ in 0..5 {
            ticks.next().await;
        }
        assert!(began.elapsed() >= Duration::from_millis(80), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_descriptor_it_ticks_all_the_same() {
        let ticks = Ticks { period: Duration::from_secs(5), timer: None };
        ticks.next().await;
        ticks.next().await;
    }
}
