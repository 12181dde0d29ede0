//! Pauses between attempts: each twice as long as the one before, and up to a quarter longer at random, so that processes
//! that failed together do not try together.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// By how much of itself a pause may be longer.
const JITTER: f64 = 0.25;

/// Counts failures in a row.
#[derive(Debug)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    /// Failures that are followed by another attempt without a pause.
    at_once: u32,
    failures: u32,
}

impl Backoff {
    /// Pauses from `shortest` to `longest`.
    pub fn new(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, at_once: 0, failures: 0 }
    }

    /// No pause after the first failure in a row.
    #[must_use]
    pub fn with_first_at_once(self) -> Self {
        Self { at_once: 1, ..self }
    }

    /// The pause after one more failure.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.pause(random());
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// An attempt succeeded: the next pause is the first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    fn pause(&self, random: f64) -> Duration {
        let Some(doublings) = self.failures.checked_sub(self.at_once) else { return Duration::ZERO };
        let doubled = self.shortest.saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX));
        let longest = self.longest.div_f64(1.0 + JITTER);
        doubled.min(longest).mul_f64(1.0 + JITTER * random)
    }
}

/// From 0 to below 1. The keys of a hasher are random enough.
fn random() -> f64 {
    f64::from(RandomState::new().build_hasher().finish() as u32) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);

    fn pause(failures: u32, random: f64) -> Duration {
        Backoff { failures, ..Backoff::new(SHORTEST, LONGEST) }.pause(random)
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let shortest = |failures| pause(failures, 0.0).as_millis();
        assert_eq!([0, 1, 2, 5, 6, 7, u32::MAX].map(shortest), [100, 200, 400, 3200, 4000, 4000, 4000]);
        assert!(pause(u32::MAX, 0.999_999) <= LONGEST);
    }

    #[test]
    fn pauses_of_two_processes_differ() {
        let pauses: BTreeSet<Duration> = (0..100).map(|_| Backoff::new(SHORTEST, LONGEST).next_pause()).collect();
        assert!(pauses.len() > 50);
        assert!(pauses.iter().all(|pause| (SHORTEST..SHORTEST * 5 / 4).contains(pause)), "{pauses:?}");
    }

    #[test]
    fn the_first_attempt_may_follow_at_once_and_success_starts_again() {
        let mut backoff = Backoff::new(SHORTEST, LONGEST).with_first_at_once();
        assert_eq!(backoff.next_pause(), Duration::ZERO);
        assert!((SHORTEST..SHORTEST * 5 / 4).contains(&backoff.next_pause()));
        (0..20).for_each(|_| _ = backoff.next_pause());
        assert!(backoff.next_pause() >= Duration::from_secs(4));
        backoff.reset();
        assert_eq!(backoff.next_pause(), Duration::ZERO);
    }
}
