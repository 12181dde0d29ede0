//! The ResourceSlices of this node, kept as they should be.
//!
//! A watch says what is there (`known.rs`), the view says what is wanted, and `netdevice::claims::slice` says what has to be
//! written. One request at a time: after each one the rest is planned anew from what is there then. When something is written is
//! decided in `pace.rs`. Nothing is deleted at the end: the kubelet does that if the driver does not come back.

mod known;
mod object;
mod pace;
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
use writer::{Progress, Writer};

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
    let mut tracker = Tracker::default();
    let mut known = Known::new(settings.node.clone());
    let mut pace = Pace::new(settings.timing);
    let mut writer = Writer::new(client, &settings);
    views.mark_changed();
    loop {
        settings.stats.set_present(known.slices.len(), tracker.wanted().map_or(0, std::collections::BTreeMap::len));
        let due = pace.due().filter(|_| known.is_complete);
        let doubt = known.next_doubt();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            changed = views.changed() => {
                if changed.is_err() {
                    return;
                }
                let view = views.borrow_and_update().clone();
                if tracker.set_view(view) {
                    pace.wanted_changed(Instant::now());
                }
            }
            event = events.next() => match event {
                None => return,
                Some(Err(error)) => writer.watch_failed(&error),
                Some(Ok(event)) => {
                    let seen = known.event(event, Instant::now());
                    match seen {
                        Seen::Expected => {}
                        Seen::Listed => {
                            writer.watch_succeeded();
                            known.speeds.drain(..).for_each(|(name, speed)| tracker.remember_speed(&name, speed));
                            pace.wanted_changed(Instant::now());
                        }
                        Seen::Foreign | Seen::Deleted => {
                            if known.needs(tracker.wanted()) && pace.present_changed(Instant::now()) {
                                settings.stats.count_repair();
                            }
                        }
                    }
                    if seen == Seen::Deleted {
                        // the Node may be another one of the same name
                        writer.forget_node();
                    }
                }
            },
            () = sleep_until(doubt.unwrap_or_else(Instant::now)), if doubt.is_some() => {
                // the watch did not show it: it may have been deleted while there was no watch
                if let Some(name) = known.doubtful(Instant::now()) {
                    let is_known = tokio::select! {
                        () = shutdown.cancelled() => return,
                        is_known = writer.look_at(&name, &mut known) => is_known,
                    };
                    if !is_known {
                        known.doubt_later(&name, Instant::now());
                    }
                    if known.needs(tracker.wanted()) && pace.present_changed(Instant::now()) {
                        settings.stats.count_repair();
                    }
                }
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let progress = tokio::select! {
                    () = shutdown.cancelled() => return,
                    progress = writer.write_next(&tracker, &mut known) => progress,
                };
                match progress {
                    Progress::Written => pace.written(Instant::now()),
                    Progress::Complete => pace.completed(),
                    Progress::Interrupted => pace.interrupted(Instant::now()),
                    Progress::Failed(pause) => pace.failed(Instant::now(), pause),
                }
            }
        }
    }
}
