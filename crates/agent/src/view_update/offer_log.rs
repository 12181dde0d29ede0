//! What is offered, in the log.

use netdevice::{DeviceState, View};
use tracing::{debug, info, warn};

/// Logs what a new selection offers, and warns if that is nothing.
pub(super) fn log_selection(view: &View) {
    for pool in view.pools.iter() {
        let names: Vec<String> = view.devices_of(&pool.resource).map(|device| device.id.to_string()).collect();
        if !names.is_empty() {
            info!(resource = %pool.resource, devices = names.join(" "), "offered");
            continue;
        }
        let excluded = view.snapshot.links().values().filter(|link| pool.takes(link));
        let reasons = excluded.filter_map(|link| Some(format!("{}: {}", link.name, view.explain(link).exclusion?)));
        let reasons: Vec<String> = reasons.collect();
        if reasons.is_empty() {
            warn!(resource = %pool.resource, "the selection matches no interface of this node: waiting for one");
        } else {
            warn!(resource = %pool.resource, "the selection matches only interfaces that are never offered: {}", reasons.join("; "));
        }
    }
}

/// Logs the devices whose state has changed.
pub(super) fn log_changes(before: &View, now: &View) {
    for device in now.changed_since(before) {
        if before.devices().get(&device.id).is_some_and(|known| known.state == device.state) {
            continue;
        }
        match &device.state {
            DeviceState::Offered { healthy, .. } => debug!(device = %device.id, healthy, "offered"),
            DeviceState::Held(owner, phase) => debug!(device = %device.id, %owner, ?phase, "attached"),
        }
    }
}
