//! When something is written.
//!
//! A change is written at once if nothing was written in the last seconds, and otherwise after a pause, which grows while there is
//! always something to write: a link that flaps costs two writes a minute. What others changed is put right after a second: the
//! kubelet, which deletes the slices of its node one by one, has then finished. If that goes on, the pause grows too.

use std::time::Duration;

use tokio::time::Instant;

/// Durations. All but those of tests are the default.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long changes are taken together.
    pub settle: Duration,
    /// The pause between writes, unless there is something to write for long.
    pub interval: Duration,
    /// The longest pause between writes.
    pub longest_interval: Duration,
    /// How long after something was changed by others it is put right; counted from the last of such changes.
    pub repair: Duration,
    /// The longest such time.
    pub longest_repair: Duration,
    /// The pause after a request that failed; it doubles.
    pub retry: Duration,
    /// The longest pause after requests that failed.
    pub longest_retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(5),
            interval: Duration::from_secs(2),
            longest_interval: Duration::from_secs(30),
            repair: Duration::from_secs(1),
            longest_repair: Duration::from_secs(60),
            retry: Duration::from_millis(500),
            longest_retry: Duration::from_secs(60),
        }
    }
}

/// How many repairs in a row are made without a longer pause.
const QUICK_REPAIRS: u32 = 3;

/// Decides when the next request is sent. A round is all requests until nothing is left to write.
#[derive(Debug)]
pub(super) struct Pace {
    timing: Timing,
    /// When what is wanted is written.
    change: Option<Instant>,
    /// When what others changed is put right. Then nothing is written before.
    repair: Option<Repair>,
    /// When a round began that is not complete, and its last request.
    round: Option<(Instant, Instant)>,
    /// No request before, because one failed.
    not_before: Option<Instant>,
    /// The end of the last round.
    last: Option<Instant>,
    interval: Duration,
    /// Repairs in a row, and when the last one became necessary.
    repairs: (u32, Option<Instant>),
}

#[derive(Debug)]
struct Repair {
    /// Deletions that do not end are not waited for.
    at_latest: Instant,
    due: Instant,
    pause: Duration,
}

impl Pace {
    pub(super) fn new(timing: Timing) -> Self {
        let interval = timing.interval;
        Self {
            timing,
            change: None,
            repair: None,
            round: None,
            not_before: None,
            last: None,
            interval,
            repairs: (0, None),
        }
    }

    /// When the next request is due; none if there is nothing to do.
    pub(super) fn due(&self) -> Option<Instant> {
        let round = self.round.map(|(_, last)| last);
        let repair = self.repair.as_ref().map(|repair| repair.due);
        let due = repair.or(round).or(self.change)?;
        Some(self.not_before.map_or(due, |time| time.max(due)))
    }

    /// Something else is wanted.
    pub(super) fn wanted_changed(&mut self, now: Instant) {
        let settled = now + self.timing.settle;
        let after_pause = self.last.map_or(settled, |last| settled.max(last + self.interval));
        self.change.get_or_insert(after_pause);
    }

    /// Whether something that others changed is to be put right.
    pub(super) fn is_repairing(&self) -> bool {
        self.repair.is_some()
    }

    /// Others changed what is there. Returns whether that has to be put right anew.
    pub(super) fn present_changed(&mut self, now: Instant) -> bool {
        if let Some(repair) = &mut self.repair {
            repair.due = (now + repair.pause).min(repair.at_latest);
            return false;
        }
        let (before, last) = self.repairs;
        let is_in_a_row = last.is_some_and(|last| now < last + 2 * self.timing.longest_repair);
        let repairs = if is_in_a_row { before + 1 } else { 1 };
        self.repairs = (repairs, Some(now));
        let doublings = repairs.saturating_sub(QUICK_REPAIRS).min(16);
        let pause = (self.timing.repair * (1 << doublings)).min(self.timing.longest_repair);
        let at_latest = now + pause + self.timing.repair * 4 / 5;
        self.repair = Some(Repair { at_latest, due: now + pause, pause });
        true
    }

    /// A request succeeded: there may be more to do.
    pub(super) fn written(&mut self, now: Instant) {
        let began = self.round.map_or(now, |(began, _)| began);
        self.round = Some((began, now));
        self.repair = None;
        self.not_before = None;
    }

    /// A request failed.
    pub(super) fn failed(&mut self, now: Instant, pause: Duration) {
        self.not_before = Some(now + pause);
    }

    /// The round ends although there is more to do: the next one is after a pause.
    pub(super) fn interrupted(&mut self, now: Instant) {
        self.completed();
        self.wanted_changed(now);
    }

    /// There is nothing left to do.
    pub(super) fn completed(&mut self) {
        if let Some((began, end)) = self.round.take() {
            let is_busy = self.last.is_some_and(|last| began < last + 2 * self.interval);
            let longer = (2 * self.interval).min(self.timing.longest_interval);
            self.interval = if is_busy { longer } else { self.timing.interval };
            self.last = Some(end);
        }
        (self.change, self.repair, self.not_before) = (None, None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Clock(Pace, Instant, Instant);

    impl Clock {
        fn new() -> Self {
            let now = Instant::now();
            Self(Pace::new(Timing::default()), now, now)
        }

        /// Waits until the next request is due, sends it, and says when that was: milliseconds from the start.
        fn round(&mut self) -> u128 {
            self.1 = self.1.max(self.0.due().expect("something is due"));
            self.0.written(self.1);
            self.0.completed();
            (self.1 - self.2).as_millis()
        }

        fn wait(&mut self, milliseconds: u64) -> Instant {
            self.1 += Duration::from_millis(milliseconds);
            self.1
        }
    }

    #[test]
    fn a_change_is_written_at_once_and_the_next_one_after_a_pause() {
        let mut clock = Clock::new();
        assert_eq!(clock.0.due(), None);
        clock.0.wanted_changed(clock.1);
        assert_eq!(clock.round(), 5);
        assert_eq!(clock.0.due(), None);
        let now = clock.wait(100);
        clock.0.wanted_changed(now);
        assert_eq!(clock.round(), 2005);
        let now = clock.wait(60_000);
        clock.0.wanted_changed(now);
        assert_eq!(clock.round(), 62_010);
    }

    #[test]
    fn a_link_that_flaps_costs_two_writes_a_minute() {
        let mut clock = Clock::new();
        let mut times = Vec::new();
        while clock.1 - clock.2 < Duration::from_secs(600) {
            clock.0.wanted_changed(clock.1);
            times.push(clock.round());
        }
        assert_eq!(times[..6], [5, 2005, 6005, 14_005, 30_005, 60_005]);
        assert_eq!(times.len(), 24);
    }

    #[test]
    fn a_round_that_is_interrupted_is_continued_after_the_pause_of_a_link_that_flaps() {
        let mut clock = Clock::new();
        clock.0.wanted_changed(clock.1);
        let mut times = Vec::new();
        for _ in 0..6 {
            clock.1 = clock.1.max(clock.0.due().unwrap());
            clock.0.written(clock.1);
            times.push((clock.1 - clock.2).as_millis());
            clock.0.interrupted(clock.1);
        }
        assert_eq!(times, [5, 2005, 6005, 14_005, 30_005, 60_005]);
        clock.round();
        assert_eq!(clock.0.due(), None);
    }

    #[test]
    fn what_others_deleted_is_put_right_within_two_seconds_and_later_if_it_goes_on() {
        let mut clock = Clock::new();
        clock.0.wanted_changed(clock.1);
        clock.round();
        // one by one, for a while
        let began = clock.wait(5000);
        for _ in 0..40 {
            let now = clock.wait(100);
            _ = clock.0.present_changed(now);
            if clock.0.due().unwrap() <= now {
                break;
            }
        }
        assert!(clock.1 - began < Duration::from_millis(2000), "{:?}", clock.1 - began);
        clock.round();
        let pauses: Vec<u128> = (0..10)
            .map(|_| {
                clock.0.present_changed(clock.1);
                let before = clock.1;
                clock.round();
                (clock.1 - before).as_millis()
            })
            .collect();
        assert_eq!(pauses, [1000, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        let now = clock.wait(200_000);
        clock.0.present_changed(now);
        assert_eq!(clock.0.due(), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn a_change_does_not_hurry_a_repair_and_a_failure_delays_all() {
        let mut clock = Clock::new();
        clock.0.present_changed(clock.1);
        clock.0.wanted_changed(clock.1);
        assert_eq!(clock.0.due(), Some(clock.1 + Duration::from_secs(1)));
        let now = clock.wait(1000);
        clock.0.failed(now, Duration::from_secs(7));
        assert_eq!(clock.0.due(), Some(now + Duration::from_secs(7)));
        assert_eq!(clock.round(), 8000);
    }
}
