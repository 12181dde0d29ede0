//! Pauses between attempts: longer and longer, and never quite the same, so that plugins do not knock in step.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// Shortest pause.
const SHORTEST: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(5);
/// By how much of itself a pause may be longer.
const JITTER: f64 = 0.25;

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = pause_after(self.failures, random());
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// All is well.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// 0.1 s, 0.2 s, … and up to a quarter more, but never more than 5 s.
fn pause_after(failures: u32, random: f64) -> Duration {
    let doubled = SHORTEST.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX));
    let longest = LONGEST.div_f64(1.0 + JITTER);
    doubled.min(longest).mul_f64(1.0 + JITTER * random)
}

/// From 0 to below 1. The keys of a hasher are all the chance that is needed.
fn random() -> f64 {
    f64::from(RandomState::new().build_hasher().finish() as u32) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_100_ms_to_5_s() {
        let shortest = |failures| pause_after(failures, 0.0).as_millis();
        assert_eq!([0, 1, 2, 5, 6, 7, u32::MAX].map(shortest), [100, 200, 400, 3200, 4000, 4000, 4000]);
        assert!(pause_after(u32::MAX, 0.999_999) <= LONGEST);
    }

    #[test]
    fn pauses_differ() {
        let pauses: std::collections::BTreeSet<Duration> = (0..100).map(|_| Backoff::default().next()).collect();
        assert!(pauses.len() > 50);
        assert!(pauses.iter().all(|pause| (SHORTEST..SHORTEST * 5 / 4).contains(pause)), "{pauses:?}");
    }

    #[test]
    fn pauses_begin_anew() {
        let mut backoff = Backoff { failures: 9 };
        assert!(backoff.next() >= Duration::from_secs(4));
        backoff.reset();
        assert!(backoff.next() < Duration::from_millis(125));
    }
}
