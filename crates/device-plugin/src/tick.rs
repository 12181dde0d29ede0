//! A tick every few seconds that wakes the process once.
//!
//! A timer of tokio wakes it up to three times on the way to 5 s, from wheel to wheel. And ticks are at multiples of
//! their period, so that all plugins of a process wake up together.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::{
    fs::Timespec,
    time::{
        ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, clock_gettime, timerfd_create,
        timerfd_settime,
    },
};
use tokio::io::unix::AsyncFd;

/// A periodic timer.
#[derive(Debug)]
pub struct Ticks(AsyncFd<OwnedFd>);

impl Ticks {
    /// Starts; the first tick comes within one period.
    ///
    /// # Errors
    ///
    /// When the process has no file descriptor left.
    pub fn every(period: Duration) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // all zero would stop the timer
        let period = period.max(Duration::from_millis(1));
        let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
        let past = u64::try_from(now.as_nanos() % period.as_nanos()).unwrap_or(0);
        let first = now + period - Duration::from_nanos(past);
        let spec = |time| Timespec::try_from(time).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let ticks = Itimerspec { it_interval: spec(period)?, it_value: spec(first)? };
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &ticks)?;
        #[allow(
            deprecated,
            reason = "what takes its place is unsafe, for owners that may close early: an OwnedFd does not"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self(timer))
    }

    /// Waits for the next tick; those that were missed count as one.
    pub async fn next(&self) {
        // a timer that cannot be waited for would only be one that never ticks: events go on
        let Ok(mut ready) = self.0.readable().await else { return std::future::pending().await };
        // the number of ticks, which nobody asks for
        let _ = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0; 8])?));
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ticks_again_and_again() {
        let began = std::time::Instant::now();
        let ticks = Ticks::every(Duration::from_millis(20)).unwrap();
        for _ in 0..5 {
            ticks.next().await;
        }
        assert!(began.elapsed() >= Duration::from_millis(80), "{:?}", began.elapsed());
    }
}
