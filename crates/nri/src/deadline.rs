//! How long a handler may work, so that its answer arrives before the runtime stops waiting.

use std::time::Duration;

/// How long a runtime waits that does not say so (the default of containerd's `plugin_request_timeout`).
pub(crate) const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Reserved for the transport, for the roll-back of a handler that is late and for a busy machine.
const RESERVE: Duration = Duration::from_millis(300);
/// No handler gets more, whatever the runtime allows: the runtime holds a lock on all Pods of the node meanwhile.
const LONGEST: Duration = Duration::from_millis(1500);
/// How long after its deadline a handler's own answer is still preferred to DEADLINE_EXCEEDED.
const GRACE: Duration = Duration::from_millis(100);

/// How much of the runtime's timeout a handler has: all but 300 ms, at least two fifths, at most 1.5 s.
pub(crate) fn budget(request_timeout: Duration) -> Duration {
    request_timeout.saturating_sub(RESERVE).max(request_timeout * 2 / 5).min(LONGEST)
}

/// When the answer is given without the handler: 100 ms after its deadline, less when the runtime's timeout is short.
pub(crate) fn limit(request_timeout: Duration) -> Duration {
    budget(request_timeout) + GRACE.min(request_timeout / 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_has_the_timeout_less_300_ms_and_at_most_1500_ms() {
        for (timeout, expected) in
            [(10_000, 1500), (2000, 1500), (1700, 1400), (1000, 700), (500, 200), (100, 40), (0, 0)]
        {
            assert_eq!(budget(Duration::from_millis(timeout)), Duration::from_millis(expected), "of {timeout} ms");
        }
    }

    #[test]
    fn the_answer_leaves_before_the_runtime_stops_waiting() {
        for timeout in (1..5000).map(Duration::from_millis) {
            assert!(budget(timeout) < limit(timeout), "of {timeout:?}");
            assert!(timeout - limit(timeout) >= Duration::from_millis(200).min(timeout / 3), "of {timeout:?}");
        }
    }
}
