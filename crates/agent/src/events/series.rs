//! Which reports become Events, and which repeat an earlier one: a Pod that is refused each minute gets one Event with a
//! count, not sixty in an hour. Both the number of series and the number of posts are bounded.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::occurrence::Report;

/// How many series are kept; the one without a report for the longest time is dropped first.
const MAX_SERIES: usize = 128;
/// How long a report counts as the same again. The API server itself keeps an Event for an hour after its last change.
const WINDOW: Duration = Duration::from_secs(30 * 60);
/// A series that goes on is posted when its count has doubled, or when it was not posted for this long.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// Posts at once, and how often one more may be made.
const BURST: u32 = 32;
const REFILL: Duration = Duration::from_secs(5);

/// What to do with a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Make an Event.
    Create,
    /// It is a repetition: set the count of the Event of that name.
    Count(String, i32),
    /// It was posted a moment ago: the next count includes this one.
    Join,
    /// Too many were posted.
    Drop,
}

/// What is known of one series.
#[derive(Debug)]
struct Series {
    /// The Event's name, once there is one.
    event: String,
    count: i32,
    posted: i32,
    posted_at: Instant,
}

/// All series.
#[derive(Debug)]
pub(super) struct AllSeries {
    series: BTreeMap<Report, Series>,
    /// How many posts may be made now, and since when the next one accrues.
    allowance: u32,
    since: Instant,
}

impl AllSeries {
    pub(super) fn new(now: Instant) -> Self {
        Self { series: BTreeMap::new(), allowance: BURST, since: now }
    }

    /// Decides what to do with a report.
    pub(super) fn decide(&mut self, report: &Report, now: Instant) -> Decision {
        self.series.retain(|_, series| now.duration_since(series.posted_at) < WINDOW);
        if let Some(series) = self.series.get_mut(report) {
            series.count = series.count.saturating_add(1);
            let is_due =
                series.count >= series.posted.saturating_mul(2) || now.duration_since(series.posted_at) >= HEARTBEAT;
            let count = Decision::Count(series.event.clone(), series.count);
            return if is_due && self.spend(now) { count } else { Decision::Join };
        }
        if self.spend(now) { Decision::Create } else { Decision::Drop }
    }

    /// An Event was created.
    pub(super) fn created(&mut self, report: Report, event: String, now: Instant) {
        if self.series.len() >= MAX_SERIES {
            let quietest = self.series.iter().min_by_key(|(_, series)| series.posted_at);
            if let Some(report) = quietest.map(|(report, _)| report.clone()) {
                self.series.remove(&report);
            }
        }
        self.series.insert(report, Series { event, count: 1, posted: 1, posted_at: now });
    }

    /// The count of a series was posted.
    pub(super) fn counted(&mut self, report: &Report, now: Instant) {
        if let Some(series) = self.series.get_mut(report) {
            (series.posted, series.posted_at) = (series.count, now);
        }
    }

    /// The Event was deleted: the next report creates a new one.
    pub(super) fn forget(&mut self, report: &Report) {
        self.series.remove(report);
    }

    /// Takes from the allowance, which grows with time; no timer is needed.
    fn spend(&mut self, now: Instant) -> bool {
        let saved = now.duration_since(self.since).as_secs() / REFILL.as_secs();
        if saved > 0 {
            self.allowance = self.allowance.saturating_add(u32::try_from(saved).unwrap_or(u32::MAX)).min(BURST);
            self.since = now;
        }
        let may = self.allowance > 0;
        self.allowance = self.allowance.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::{super::occurrence::tests::refused, *};

    fn report(reason: &str) -> Report {
        refused(reason).reports(None).remove(0)
    }

    fn count(count: i32) -> Decision {
        Decision::Count("e1".into(), count)
    }

    #[test]
    fn the_same_again_raises_the_count_and_is_posted_ever_more_rarely() {
        let now = Instant::now();
        let (mut all, same) = (AllSeries::new(now), report("no such device"));
        assert_eq!(all.decide(&same, now), Decision::Create);
        all.created(same.clone(), "e1".into(), now);
        let mut decisions = Vec::new();
        for _ in 0..7 {
            let decision = all.decide(&same, now);
            if decision != Decision::Join {
                all.counted(&same, now);
            }
            decisions.push(decision);
        }
        assert_eq!(
            decisions,
            [count(2), Decision::Join, count(4), Decision::Join, Decision::Join, Decision::Join, count(8)]
        );
        assert_eq!(all.decide(&same, now + HEARTBEAT), count(9), "a series that goes on is posted each minute");
    }

    #[test]
    fn another_note_or_a_long_silence_makes_another_event() {
        let now = Instant::now();
        let (mut all, first) = (AllSeries::new(now), report("no such device"));
        all.created(first.clone(), "e1".into(), now);
        assert_eq!(all.decide(&report("it is held"), now), Decision::Create);
        assert_eq!(all.decide(&first, now + WINDOW), Decision::Create);
        all.created(first.clone(), "e1".into(), now);
        all.forget(&first);
        assert_eq!(all.decide(&first, now), Decision::Create, "its Event was deleted");
    }

    #[test]
    fn many_different_reports_are_limited_and_allowed_again_over_time() {
        let now = Instant::now();
        let mut all = AllSeries::new(now);
        let mut made = |from: u32, now| {
            (from..from + 1000).filter(|n| all.decide(&report(&n.to_string()), now) == Decision::Create).count()
        };
        assert_eq!(made(0, now), 32);
        assert_eq!(made(1000, now + REFILL * 3), 3);
        assert_eq!(made(2000, now + REFILL * 10_000), 32);
    }

    #[test]
    fn no_more_series_are_remembered_than_there_is_room_for() {
        let now = Instant::now();
        let mut all = AllSeries::new(now);
        for n in 0..1000_u32 {
            all.created(report(&n.to_string()), n.to_string(), now + Duration::from_millis(n.into()));
        }
        assert_eq!(all.series.len(), MAX_SERIES);
        assert!(all.series.contains_key(&report("999")), "the newest ones stay");
    }
}
