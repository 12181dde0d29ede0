//! The ResourceSlices of this node, kept as they should be.
//!
//! A watch says what is there (`known.rs`), the view says what is wanted, and `netdevice::claims::slice` says what has to be
//! written. Some requests at a time (`writer.rs`); when something is written is decided in `pace.rs`. Nothing is deleted at the end: the kubelet does that if the driver does not come back.

mod change;
mod known;
mod object;
mod pace;
mod request;
mod stats;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;

use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt,
        watcher::{self, watcher},
    },
};
use netdevice::{
    View,
    claims::{DRIVER, slice::Tracker},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

use known::{Known, Seen};
use object::Slice;
use pace::Pace;
pub use pace::Timing;
pub use stats::Stats;
use writer::{Done, End, Writer};

/// Slices in one answer of a list: each may have 100 kB.
const PAGE: u32 = 8;

/// What is published, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the Node: also the name of the pool.
    pub node: String,
    /// When something is written.
    pub timing: Timing,
    /// What is counted.
    pub stats: Arc<Stats>,
}

impl Settings {
    /// Those of a node.
    pub fn new(node: impl Into<String>) -> Self {
        Self { node: node.into(), timing: Timing::default(), stats: Arc::default() }
    }
}

/// Keeps the slices of the node as the view requires, until `shutdown` or until there is no more view.
pub async fn run(
    settings: Settings,
    client: Client,
    mut views: watch::Receiver<Arc<View>>,
    shutdown: CancellationToken,
) {
    let selector = format!("spec.driver={DRIVER},spec.nodeName={}", settings.node);
    let config = watcher::Config::default().fields(&selector).page_size(PAGE);
    let mut events = Box::pin(watcher(Api::<Slice>::all(client.clone()), config).default_backoff());
    let mut publisher = Publisher::new(client, settings);
    views.mark_changed();
    loop {
        publisher.count();
        let (due, doubt) = (publisher.due(), publisher.known.next_doubt());
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            changed = views.changed() => {
                if changed.is_err() {
                    return;
                }
                let view = views.borrow_and_update().clone();
                publisher.set_view(view);
            }
            event = events.next() => match event {
                None => return,
                Some(Err(error)) => publisher.writer.watch_failed(&error),
                Some(Ok(event)) => publisher.take_event(event),
            },
            () = sleep_until(doubt.unwrap_or_else(Instant::now)), if doubt.is_some() => tokio::select! {
                () = shutdown.cancelled() => return,
                () = publisher.read_doubtful() => {}
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => publisher.begin_round(),
            Some(done) = publisher.writer.done(), if publisher.writer.is_busy() => publisher.take_answer(done),
        }
    }
}

/// What is wanted, what is there, and the requests between.
struct Publisher {
    stats: Arc<Stats>,
    tracker: Tracker,
    known: Known,
    pace: Pace,
    writer: Writer,
    /// Whether others changed something during a round.
    is_disturbed: bool,
}

impl Publisher {
    fn new(client: Client, settings: Settings) -> Self {
        let writer = Writer::new(client, &settings);
        let Settings { node, timing, stats } = settings;
        let (tracker, known, pace) = (Tracker::default(), Known::new(node), Pace::new(timing));
        Self { stats, tracker, known, pace, writer, is_disturbed: false }
    }

    fn count(&self) {
        let devices = self.tracker.wanted().map_or(0, std::collections::BTreeMap::len);
        self.stats.set_present(self.known.pool.slices().len(), devices);
    }

    /// When the next round begins.
    fn due(&self) -> Option<Instant> {
        self.pace.due().filter(|_| self.known.is_complete && !self.writer.is_busy())
    }

    fn set_view(&mut self, view: Arc<View>) {
        if self.tracker.set_view(view, &mut self.known.pool) {
            self.pace.wanted_changed(Instant::now());
        }
    }

    fn take_event(&mut self, event: watcher::Event<Slice>) {
        let seen = self.known.event(event, Instant::now());
        if seen == Seen::Listed {
            self.writer.watch_succeeded();
            for (name, speed) in std::mem::take(&mut self.known.speeds) {
                self.tracker.remember_speed(&name, speed, &mut self.known.pool);
            }
            self.pace.wanted_changed(Instant::now());
        }
        self.take_seen(seen);
    }

    fn take_seen(&mut self, seen: Seen) {
        if seen == Seen::Deleted {
            // the Node may be another one of the same name
            self.writer.forget_node();
        }
        if !matches!(seen, Seen::Foreign | Seen::Deleted) {
            return;
        }
        if self.writer.is_busy() {
            self.is_disturbed = true;
        } else if self.pace.is_repairing() || self.known.needs(self.tracker.wanted()) {
            // a repair that is due is put off by more of the same, without a plan for each
            self.repair();
        }
    }

    fn repair(&mut self) {
        if self.pace.present_changed(Instant::now()) {
            self.stats.count_repair();
        }
    }

    /// Reads a slice that the watch did not show: it may have been deleted while there was no watch.
    async fn read_doubtful(&mut self) {
        let Some(name) = self.known.doubtful(Instant::now()) else { return };
        if !self.writer.look_at(&name, &mut self.known).await {
            self.known.doubt_later(&name, Instant::now());
        }
        if !self.writer.is_busy() && self.known.needs(self.tracker.wanted()) {
            self.repair();
        }
    }

    fn begin_round(&mut self) {
        self.is_disturbed = false;
        let end = self.writer.begin(&self.tracker, &mut self.known);
        self.end_round(end);
    }

    fn take_answer(&mut self, done: Done) {
        let (is_written, seen) = self.writer.take(done, &mut self.known);
        if is_written {
            self.pace.written(Instant::now());
        }
        self.is_disturbed |= matches!(seen, Seen::Foreign | Seen::Deleted);
        if seen == Seen::Deleted {
            self.writer.forget_node();
        }
        let end = self.writer.go_on(&self.tracker, &mut self.known);
        self.end_round(end);
    }

    fn end_round(&mut self, end: Option<End>) {
        match end {
            None => {}
            Some(End::Complete) => self.pace.completed(),
            Some(End::Interrupted) => {
                self.pace.interrupted(Instant::now());
                if self.is_disturbed {
                    self.repair();
                }
            }
            Some(End::Failed(pause)) => self.pace.failed(Instant::now(), pause),
        }
    }
}
