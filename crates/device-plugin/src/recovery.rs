//! Asks the kubelet which Pods have which devices: at start, to know what an earlier instance handed out, and later
//! only when a device that was handed out is nowhere to be seen, to know when it may be forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use netdevice::{DeviceId, ResourceName, View};
use proto::podresources::{
    ListPodResourcesRequest, PodResources, pod_resources_lister_client::PodResourcesListerClient,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{config::Config, dial::connect, error::Error, identity::FileIdentity, service::Shared, stats::Trouble};

/// How long after the start the kubelet is asked for what an earlier instance handed out, if it names no Pod at all.
const RECOVERY: Duration = Duration::from_secs(60);

/// Longest answer that is read, in bytes (Multus takes as much).
const MAX_ANSWER: usize = 16 << 20;

/// What the kubelet says.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// There is no kubelet on this node.
    NoKubelet,
    /// It names no Pod: right after its start it knows none.
    NoPods,
    /// Devices of our pool that Pods have.
    Devices(BTreeSet<DeviceId>),
}

/// Asks when there is a reason to.
pub(crate) struct Recovery {
    pub(crate) config: Config,
    pub(crate) shared: Arc<Shared>,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) look: watch::Receiver<()>,
}

impl Recovery {
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let kubelet_socket = self.config.paths.device_plugins.join("kubelet.sock");
        let timing = self.config.timing.clone();
        let stats = self.shared.stats.clone();
        let mut trouble = Trouble::new(&stats);
        let started = Instant::now();
        let mut kubelet = (FileIdentity::of(&kubelet_socket), started);
        let mut is_recovered = false;
        let mut asked: Option<Instant> = None;
        loop {
            let now = FileIdentity::of(&kubelet_socket);
            if now != kubelet.0 {
                kubelet = (now, Instant::now());
            }
            let is_settled = kubelet.1.elapsed() >= timing.settle;
            let is_wanted = !is_recovered && started.elapsed() < RECOVERY || is_settled && self.has_lost();
            // ticks are not exact
            let is_due = asked.is_none_or(|asked| asked.elapsed() >= timing.poll * 9 / 10);
            if is_wanted && is_due {
                asked = Some(Instant::now());
                let answer = tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    answer = ask(&self.config.paths.pod_resources, &self.config.resource) => answer,
                };
                match answer {
                    Ok(answer) => {
                        trouble.passed();
                        is_recovered |= answer != Answer::NoPods;
                        self.hear(answer, is_settled);
                    }
                    Err(error) => trouble.failed(&self.config.resource, &error),
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = self.look.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }

    /// Whether a device that was handed out is neither on the host nor in a sandbox.
    fn has_lost(&self) -> bool {
        let view = self.view.borrow();
        let is_there =
            |id: &DeviceId| view.devices().get(id).is_some_and(|device| device.resource == self.shared.resource);
        self.shared.memory.borrow().ids().any(|id| !is_there(id))
    }

    fn hear(&self, answer: Answer, is_settled: bool) {
        let named = match answer {
            Answer::NoPods => return,
            Answer::NoKubelet => BTreeSet::new(),
            Answer::Devices(named) => named,
        };
        self.shared.memory.send_if_modified(|memory| {
            let before = memory.clone();
            if is_settled {
                memory.hear_all(named)
            } else {
                memory.hear_some(named)
            }
            !before.ids().eq(memory.ids())
        });
    }
}

async fn list(socket: &Path) -> Result<Vec<PodResources>, Error> {
    let asking = async {
        let mut client = PodResourcesListerClient::new(connect(socket).await?).max_decoding_message_size(MAX_ANSWER);
        client.list(ListPodResourcesRequest {}).await.map_err(|status| Error::PodResourcesFailed(Box::new(status)))
    };
    let too_late = |_| Error::PodResourcesFailed(Box::new(Status::deadline_exceeded("no answer within 10 s")));
    Ok(timeout(Duration::from_secs(10), asking).await.map_err(too_late)??.into_inner().pod_resources)
}

/// The Pods that the kubelet knows, by namespace and name. It knows none for a second after its start.
///
/// # Errors
///
/// When there is no kubelet, or it does not answer.
pub async fn known_pods(socket: &Path) -> Result<BTreeSet<(String, String)>, Error> {
    Ok(list(socket).await?.into_iter().map(|pod| (pod.namespace, pod.name)).collect())
}

/// The devices that the kubelet has given to Pods, each with its Pod; none without a kubelet. Of whichever resource: the
/// agent that offers a device may have other pools than the caller, or be another program.
///
/// # Errors
///
/// When there is a kubelet and it does not answer.
pub async fn allocated(socket: &Path) -> Result<BTreeMap<DeviceId, String>, Error> {
    if FileIdentity::of(socket).is_none() {
        return Ok(BTreeMap::new());
    }
    let mut allocated = BTreeMap::new();
    for PodResources { namespace, name, containers } in list(socket).await? {
        let devices = containers.into_iter().flat_map(|container| container.devices);
        let ids = devices.flat_map(|devices| devices.device_ids).filter_map(|id| id.parse().ok());
        allocated.extend(ids.map(|id: DeviceId| (id, format!("{namespace}/{name}"))));
    }
    Ok(allocated)
}

async fn ask(socket: &Path, resource: &ResourceName) -> Result<Answer, Error> {
    if FileIdentity::of(socket).is_none() {
        return Ok(Answer::NoKubelet);
    }
    let pods = list(socket).await?;
    if pods.is_empty() {
        return Ok(Answer::NoPods);
    }
    let devices = pods.into_iter().flat_map(|pod| pod.containers).flat_map(|container| container.devices);
    let ids =
        devices.filter(|devices| devices.resource_name == resource.as_str()).flat_map(|devices| devices.device_ids);
    Ok(Answer::Devices(ids.filter_map(|id| id.parse().ok()).collect()))
}
