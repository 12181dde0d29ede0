//! Waiting for a condition with a deadline: the one place where tests sleep.

use std::fmt::Debug;
use std::time::{Duration, Instant};

const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// Each look at the API server is a process that takes a tenth of a second of one core.
const BETWEEN_LOOKS_AT_OBJECTS: Duration = Duration::from_millis(250);

/// Looks until there is a value, and returns it; `None` after `limit`.
pub fn eventually<T>(limit: Duration, look: impl FnMut() -> Option<T>) -> Option<T> {
    look_until(limit, BETWEEN_LOOKS, look)
}

fn look_until<T>(limit: Duration, between: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        // looked at once more after the deadline, so that a busy machine does not decide the test
        let last = Instant::now() >= end;
        match look() {
            Some(value) => return Some(value),
            None if last => return None,
            None => std::thread::sleep(between),
        }
    }
}

/// Looks until `wanted` holds of what is seen, and returns that.
///
/// # Panics
/// After 30 seconds, with `what` and the last thing seen.
#[track_caller]
pub fn wait_for<T: Debug>(what: &str, look: impl FnMut() -> T, wanted: impl FnMut(&T) -> bool) -> T {
    wait_until(what, Duration::from_secs(30), BETWEEN_LOOKS, look, wanted)
}

/// As [`wait_for`], for objects of the API server: looks less often, and up to 90 seconds, because the kubelet tries again
/// after seconds.
///
/// # Panics
/// After 90 seconds, with `what` and the last thing seen.
#[track_caller]
pub fn wait_for_object<T: Debug>(what: &str, look: impl FnMut() -> T, wanted: impl FnMut(&T) -> bool) -> T {
    wait_until(what, Duration::from_secs(90), BETWEEN_LOOKS_AT_OBJECTS, look, wanted)
}

#[track_caller]
fn wait_until<T: Debug>(
    what: &str,
    limit: Duration,
    between: Duration,
    mut look: impl FnMut() -> T,
    mut wanted: impl FnMut(&T) -> bool,
) -> T {
    let mut last = None;
    let found = look_until(limit, between, || {
        let seen = look();
        if wanted(&seen) {
            return Some(seen);
        }
        last = Some(seen);
        None
    });
    found.unwrap_or_else(|| panic!("waited in vain: {what}; last seen: {last:#?}"))
}
