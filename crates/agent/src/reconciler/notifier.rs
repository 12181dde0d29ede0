//! Reports what was done with a device: in the log, the metrics and Events, and to the task that guards names.

use std::sync::Arc;

use link::Ended;
use netdevice::{Attachment, DeviceId, InterfaceName, Pod};
use store::journal::{Action, Outcome as HookOutcome};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::work::Cause;
use crate::{
    events::{Events, Occurrence},
    metrics::Metrics,
};

/// Where the reconciler reports.
pub(crate) struct Notifier {
    pub(crate) metrics: Arc<Metrics>,
    /// Receives the names of devices that have returned to the host under their name.
    pub(crate) restored: mpsc::UnboundedSender<InterfaceName>,
    pub(crate) events: Events,
}

impl Notifier {
    /// A device was returned to the host, or is lost.
    pub(super) fn report(&self, device: &DeviceId, pod: Option<Pod>, cause: Cause, ended: Ended) {
        let Self { metrics, restored, events } = self;
        match ended {
            Ended::Returned { renamed: None, skipped } => {
                // the receiver is gone only while the agent ends
                let _ = restored.send(device.to_name());
                let left_out: String = skipped.iter().map(|skipped| format!("; {skipped}")).collect();
                match cause {
                    Cause::ContainerEnded => {
                        metrics.count_hook(Action::Detach, HookOutcome::Ok);
                        info!(%device, "returned to the host: its container ended{left_out}");
                    }
                    Cause::PodEnded => {
                        metrics.count_release("ok");
                        info!(%device, "returned to the host: its pod ended{left_out}");
                    }
                    Cause::NotReturned => {
                        metrics.count_repair("ok");
                        info!(%device, "returned to the host: no hook had done so{left_out}");
                        events.report(Occurrence::returned(device.clone(), pod, None, &skipped));
                    }
                }
            }
            Ended::Returned { renamed: Some(name), skipped } => {
                metrics.count_repair("ok");
                let left_out: String = skipped.iter().map(|skipped| format!("; {skipped}")).collect();
                warn!(
                    %device,
                    "returned to the host as {name}: another interface has its name; it is renamed as soon as that name is free{left_out}"
                );
                events.report(Occurrence::returned(device.clone(), pod, Some(name), &skipped));
            }
            Ended::Lost => {
                metrics.count_repair("lost");
                warn!(%device, "lost: the virtual link was deleted with its sandbox before it could be returned, or the device was unplugged or switched off");
                events.report(Occurrence::Lost { device: device.clone(), pod });
            }
            Ended::Deleted => {
                metrics.count_repair("ok");
                info!(%device, "deleted: its sandbox ended");
            }
            Ended::OutOfReach => {}
        }
    }

    /// An attachment by a command has ended: the command has returned the device, or this agent.
    pub(super) fn ended(&self, record: &Attachment) {
        // the receiver is gone only while the agent ends
        let _ = self.restored.send(record.device.to_name());
        info!(device = %record.device, owner = %record.owner, "no longer in the pod, for which a command had attached it");
    }

    /// A device cannot be returned, for a reason that was not reported yet.
    pub(super) fn report_failure(&self, device: &DeviceId, reason: &str) {
        self.metrics.count_repair("failed");
        warn!(%device, "cannot be returned to the host; the agent and the next hook on this node try again: {reason}");
    }
}
