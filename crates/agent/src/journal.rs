//! Copies what hooks did to the agent's log and metrics: a hook runs for milliseconds and has no metrics of its own.

use std::sync::Arc;

use device_plugin::Reservations;
use netdevice::{DeviceId, InterfaceName};
use store::{
    Records,
    journal::{Action, Entry, Follower, Outcome},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    directory::Directory,
    events::{Events, Occurrence},
    metrics::Metrics,
};

/// Where the entries of the journal are reported.
pub(crate) struct Listeners {
    pub(crate) metrics: Arc<Metrics>,
    /// Receives the names of devices that have returned to the host under their name.
    pub(crate) restored: mpsc::UnboundedSender<InterfaceName>,
    pub(crate) events: Events,
    /// The reservation of a device ends when a hook was run for it.
    pub(crate) reservations: Arc<Reservations>,
}

/// Follows the hooks' journal from now on.
pub(crate) async fn run(records: Records, listeners: Listeners, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Listeners { metrics, restored, events, reservations } = listeners;
    let mut directory = Directory::new(records.directory());
    let mut follower = Follower::new(&records);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = directory.changed() => {}
        }
        for entry in follower.next_entries() {
            log(&entry);
            metrics.count_hook(entry.action, entry.outcome);
            if let Some(occurrence) = occurrence(&entry) {
                events.report(occurrence);
            }
            let Ok(device) = entry.device.parse::<DeviceId>() else { continue };
            reservations.end(&device);
            if (entry.action, entry.outcome) == (Action::Detach, Outcome::Ok) {
                // the receiver is gone only while the agent ends
                let _ = restored.send(device.to_name());
            }
        }
    }
}

/// The occurrence to post as an Event, if it is one. When a hook cannot attach a device, the kubelet posts its error.
fn occurrence(entry: &Entry) -> Option<Occurrence> {
    let (device, pod) = (entry.device.parse().ok()?, entry.pod.clone());
    match (&entry.renamed, entry.outcome) {
        (_, Outcome::Lost) => Some(Occurrence::Lost { device, pod }),
        (Some(name), Outcome::Ok) => Some(Occurrence::Renamed { device, pod, name: name.to_name() }),
        _ => None,
    }
}

fn log(entry: &Entry) {
    let Entry { device, holder, action, outcome, .. } = entry;
    let message = if entry.message.is_empty() { "done" } else { &entry.message };
    match outcome {
        Outcome::Ok | Outcome::Nothing => info!(%device, %holder, ?action, ?outcome, "hook: {message}"),
        Outcome::Failed | Outcome::Lost => warn!(%device, %holder, ?action, ?outcome, "hook: {message}"),
    }
}
