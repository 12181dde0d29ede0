//! Which reports become Events, and which repeat an earlier one: a Pod that is refused each minute has one Event with a
//! count, not sixty. Both the number of series and the number of posts are bounded.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::happening::Report;

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
pub(super) enum Step {
    /// Make an Event.
    Create,
    /// It happened before: the Event of that name counts so many.
    Count(String, i32),
    /// It happened a moment ago: the next post includes it.
    Join,
    /// There are too many.
    Refuse,
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
pub(super) struct SeriesBook {
    series: BTreeMap<Report, Series>,
    /// Posts that may be made now, and since when the next one is being saved.
    allowance: u32,
    since: Instant,
}

impl SeriesBook {
    pub(super) fn new(now: Instant) -> Self {
        Self { series: BTreeMap::new(), allowance: BURST, since: now }
    }

    /// What to do with a report that comes now.
    pub(super) fn step(&mut self, report: &Report, now: Instant) -> Step {
        self.series.retain(|_, series| now.duration_since(series.posted_at) < WINDOW);
        if let Some(series) = self.series.get_mut(report) {
            series.count = series.count.saturating_add(1);
            let is_due =
                series.count >= series.posted.saturating_mul(2) || now.duration_since(series.posted_at) >= HEARTBEAT;
            let step = Step::Count(series.event.clone(), series.count);
            return if is_due && self.spend(now) { step } else { Step::Join };
        }
        if self.spend(now) { Step::Create } else { Step::Refuse }
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
    use super::{super::happening::tests::refused, *};

    fn report(reason: &str) -> Report {
        refused(reason).reports(None).remove(0)
    }

    fn count(count: i32) -> Step {
        Step::Count("e1".into(), count)
    }

    #[test]
    fn the_same_again_raises_the_count_and_is_posted_ever_more_rarely() {
        let now = Instant::now();
        let (mut book, same) = (SeriesBook::new(now), report("no such device"));
        assert_eq!(book.step(&same, now), Step::Create);
        book.created(same.clone(), "e1".into(), now);
        let mut steps = Vec::new();
        for _ in 0..7 {
            let step = book.step(&same, now);
            if step != Step::Join {
                book.counted(&same, now);
            }
            steps.push(step);
        }
        assert_eq!(steps, [count(2), Step::Join, count(4), Step::Join, Step::Join, Step::Join, count(8)]);
        assert_eq!(book.step(&same, now + HEARTBEAT), count(9), "what goes on for long is told each minute");
    }

    #[test]
    fn another_note_or_a_long_silence_makes_another_event() {
        let now = Instant::now();
        let (mut book, first) = (SeriesBook::new(now), report("no such device"));
        book.created(first.clone(), "e1".into(), now);
        assert_eq!(book.step(&report("it is held"), now), Step::Create);
        assert_eq!(book.step(&first, now + WINDOW), Step::Create);
        book.created(first.clone(), "e1".into(), now);
        book.forget(&first);
        assert_eq!(book.step(&first, now), Step::Create, "its Event is no more");
    }

    #[test]
    fn a_flood_of_different_reports_is_cut_off_and_comes_back_slowly() {
        let now = Instant::now();
        let mut book = SeriesBook::new(now);
        let mut made = |from: u32, now| {
            (from..from + 1000).filter(|n| book.step(&report(&n.to_string()), now) == Step::Create).count()
        };
        assert_eq!(made(0, now), 32);
        assert_eq!(made(1000, now + REFILL * 3), 3);
        assert_eq!(made(2000, now + REFILL * 10_000), 32);
    }

    #[test]
    fn no_more_series_are_remembered_than_there_is_room_for() {
        let now = Instant::now();
        let mut book = SeriesBook::new(now);
        for n in 0..1000_u32 {
            book.created(report(&n.to_string()), n.to_string(), now + Duration::from_millis(n.into()));
        }
        assert_eq!(book.series.len(), MAX_SERIES);
        assert!(book.series.contains_key(&report("999")), "the newest ones stay");
    }
}
