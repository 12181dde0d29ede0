//! Waiting for a condition with a deadline: the one place where tests sleep.

use std::fmt::Debug;
use std::time::{Duration, Instant};

const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Looks until there is a value, and returns it; `None` after `limit`.
pub fn eventually<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        // looked at once more after the deadline, so that a busy machine does not decide the test
        let last = Instant::now() >= end;
        match look() {
            Some(value) => return Some(value),
            None if last => return None,
            None => std::thread::sleep(BETWEEN_LOOKS),
        }
    }
}

/// Looks until `wanted` holds of what is seen, and returns that.
///
/// # Panics
/// After 30 seconds, with `what` and the last thing seen.
#[track_caller]
pub fn wait_for<T: Debug>(what: &str, mut look: impl FnMut() -> T, mut wanted: impl FnMut(&T) -> bool) -> T {
    let mut last = None;
    let found = eventually(Duration::from_secs(30), || {
        let seen = look();
        if wanted(&seen) {
            return Some(seen);
        }
        last = Some(seen);
        None
    });
    found.unwrap_or_else(|| panic!("waited in vain: {what}; last seen: {last:#?}"))
}
