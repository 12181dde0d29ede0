//! Pauses between attempts: none at first, then longer and longer.

use std::time::Duration;

/// First pause that is one.
const SHORTEST: Duration = Duration::from_millis(10);

/// Counts failures in a row.
#[derive(Debug)]
pub(crate) struct Backoff {
    longest: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(longest: Duration) -> Self {
        Self { longest, failures: 0 }
    }

    /// The pause after one more failure: nothing, 10 ms, 20 ms, … up to the longest.
    pub(crate) fn next(&mut self) -> Duration {
        let doublings = self.failures.checked_sub(1);
        self.failures = self.failures.saturating_add(1);
        let pause = |doublings: u32| SHORTEST.saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX));
        doublings.map_or(Duration::ZERO, pause).min(self.longest)
    }

    /// All is well.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_begin_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(50));
        let pauses: Vec<u128> = (0..40).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(pauses[..6], [0, 10, 20, 40, 50, 50]);
        assert_eq!(pauses[39], 50);
        backoff.reset();
        assert_eq!(backoff.next(), Duration::ZERO);
    }
}
