//! Asks the kubelet which Pods have which devices: at the start, for the devices that an earlier instance allocated, and
//! later only when an allocated device is neither on the host nor in a Pod, to find out when it may be removed from the list.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kubelet::{Pod, PodResources};
use netdevice::{DeviceId, ResourceName, View};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use wake::FileIdentity;

use crate::{config::Config, error::Error, shared::Shared, stats::FailureLog};

/// How long after the start the kubelet is asked for the devices that an earlier instance allocated, if it lists no Pod.
const RECOVERY: Duration = Duration::from_secs(60);

/// The kubelet's answer.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// There is no kubelet on this node.
    NoKubelet,
    /// It lists no Pod: right after its start it knows none.
    NoPods,
    /// Devices of the pool that Pods have.
    Devices(BTreeSet<DeviceId>),
}

/// Asks the kubelet when there is a reason.
pub(crate) struct Recovery {
    pub(crate) config: Config,
    pub(crate) shared: Arc<Shared>,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) sockets_changed: watch::Receiver<()>,
}

impl Recovery {
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let kubelet_socket = self.config.paths.device_plugins.join("kubelet.sock");
        let pod_resources = PodResources::new(&self.config.paths.pod_resources);
        let timing = self.config.timing.clone();
        let stats = self.shared.stats.clone();
        let mut failures = FailureLog::new(&stats);
        let started = Instant::now();
        let mut kubelet = (FileIdentity::of(&kubelet_socket), started);
        let mut is_recovered = false;
        let mut asked: Option<Instant> = None;
        loop {
            let now = FileIdentity::of(&kubelet_socket);
            if now != kubelet.0 {
                kubelet = (now, Instant::now());
            }
            let is_complete = kubelet.1.elapsed() >= timing.complete_list;
            let is_wanted = !is_recovered && started.elapsed() < RECOVERY || is_complete && self.misses_a_device();
            // the ticks are not exact
            let is_due = asked.is_none_or(|asked| asked.elapsed() >= timing.poll * 9 / 10);
            if is_wanted && is_due {
                asked = Some(Instant::now());
                let listed = tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    listed = pod_resources.list() => listed,
                };
                match listed {
                    Ok(pods) => {
                        failures.succeeded();
                        let answer = Answer::of(pods, &self.config.resource);
                        is_recovered |= answer != Answer::NoPods;
                        self.apply(answer, is_complete);
                    }
                    Err(error) => failures.failed(&self.config.resource, &error.into()),
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = self.sockets_changed.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }

    /// Whether an allocated device is neither on the host nor in a sandbox.
    fn misses_a_device(&self) -> bool {
        let view = self.view.borrow();
        let is_there =
            |id: &DeviceId| view.devices().get(id).is_some_and(|device| device.resource == self.shared.resource);
        self.shared.allocated.borrow().ids().any(|id| !is_there(id))
    }

    fn apply(&self, answer: Answer, is_complete: bool) {
        let named = match answer {
            Answer::NoPods => return,
            Answer::NoKubelet => BTreeSet::new(),
            Answer::Devices(named) => named,
        };
        self.shared.allocated.send_if_modified(|allocated| {
            let before = allocated.clone();
            if is_complete {
                allocated.update(named)
            } else {
                // the answer of a kubelet that has just started may not be complete
                allocated.add(named)
            }
            !before.ids().eq(allocated.ids())
        });
    }
}

impl Answer {
    fn of(pods: Option<Vec<Pod>>, resource: &ResourceName) -> Self {
        match pods {
            None => Self::NoKubelet,
            Some(pods) if pods.is_empty() => Self::NoPods,
            Some(pods) => {
                let ids = pods.iter().flat_map(|pod| pod.ids(Some(resource.as_str())));
                Self::Devices(ids.filter_map(|id| id.parse().ok()).collect())
            }
        }
    }
}
