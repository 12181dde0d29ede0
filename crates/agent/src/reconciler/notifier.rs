//! Says what became of a device: to the log, the metrics, Events, and whoever guards names.

use std::sync::Arc;

use link::Ended;
use netdevice::{DeviceId, InterfaceName, Pod};
use store::journal::{Action, Outcome as HookOutcome};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::work::Cause;
use crate::{
    events::{Events, Occurrence},
    metrics::Metrics,
};

/// Whom the reconciler tells.
pub(crate) struct Notifier {
    pub(crate) metrics: Arc<Metrics>,
    /// Told of devices that are on the host again under their name.
    pub(crate) restored: mpsc::UnboundedSender<InterfaceName>,
    pub(crate) events: Events,
}

impl Notifier {
    /// A device was returned to the host, or is lost.
    pub(super) fn report(&self, device: &DeviceId, pod: Option<Pod>, cause: Cause, ended: Ended) {
        let Self { metrics, restored, events } = self;
        match ended {
            Ended::Returned { renamed: None, skipped } => {
                // nobody listens only while the agent ends
                let _ = restored.send(device.to_name());
                let left_out: String = skipped.iter().map(|skipped| format!("; {skipped}")).collect();
                if cause == Cause::ContainerEnded {
                    metrics.count_hook(Action::Detach, HookOutcome::Ok);
                    info!(%device, "returned to the host: its container ended{left_out}");
                    return;
                }
                metrics.count_repair("ok");
                info!(%device, "returned to the host, for no hook did{left_out}");
                events.report(Occurrence::returned(device.clone(), pod, None, &skipped));
            }
            Ended::Returned { renamed: Some(name), skipped } => {
                metrics.count_repair("ok");
                let left_out: String = skipped.iter().map(|skipped| format!("; {skipped}")).collect();
                warn!(
                    %device,
                    "returned to the host as {name}: another interface has its name, which it gets as soon as that is free{left_out}"
                );
                events.report(Occurrence::returned(device.clone(), pod, Some(name), &skipped));
            }
            Ended::Lost => {
                metrics.count_repair("lost");
                warn!(%device, "it is gone: a virtual link that was deleted with its sandbox before it could be returned, or a device that was unplugged or switched off");
                events.report(Occurrence::Lost { device: device.clone(), pod });
            }
            Ended::Deleted => {
                metrics.count_repair("ok");
                info!(%device, "deleted: its sandbox ended");
            }
            Ended::OutOfReach => {}
        }
    }

    /// A device cannot be returned; `reason` is another one than before.
    pub(super) fn report_failure(&self, device: &DeviceId, reason: &str) {
        self.metrics.count_repair("failed");
        warn!(%device, "cannot be returned to the host, which the agent and the next hook on this node try again: {reason}");
    }
}
