//! Devices by annotation: gives a Pod's sandbox the interfaces that the Pod names in `netdevices.nri.containerd.io`.
//!
//! A plugin of the runtime (NRI). A Pod that asks for a device never runs without it: what could not be done when its
//! sandbox was made is done when a container is, or that container is refused. Selection, exclusion, records and moves
//! are those of the device plugin, so no device is given by both ways at a time.

mod gate;
mod known;
mod sandbox;
mod stage;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use link::Records;
use netdevice::{DeviceRequest, InterfaceName, View, annotation, choice::Allocated, record::Pod};
use nri::{Container, Plugin, PodSandbox, Refusal, Runtime};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{sleep, timeout_at},
};
use tracing::{debug, info, warn};

use crate::{
    events::{Events, Happening},
    metrics::Metrics,
};
use known::{Connection, Known};
use sandbox::{Order, Released, Site, pod};
use stage::Stage;

/// How long a Pod that was there before us may take, or the devices of one that is gone: nobody waits for an answer.
const UNHURRIED: Duration = Duration::from_secs(30);
/// How long after a connection a sandbox that the runtime did not name may still turn out to be one that is being made.
const SETTLE: Duration = Duration::from_secs(5);
/// How long the kubelet has to say which devices it gave away.
const KUBELET: Duration = Duration::from_millis(500);

/// What an injector works with.
pub(crate) struct Config {
    pub(crate) records: Records,
    /// What is offered, and where it is.
    pub(crate) views: watch::Receiver<Option<Arc<View>>>,
    /// Whom to ask which devices the kubelet gave away.
    pub(crate) pod_resources: PathBuf,
    pub(crate) metrics: Arc<Metrics>,
    /// Told of devices that came home.
    pub(crate) restored: mpsc::UnboundedSender<InterfaceName>,
    /// Told of what users should know.
    pub(crate) events: Events,
    /// Told of the text that the runtime has for us in its folder of configurations.
    pub(crate) texts: watch::Sender<Option<String>>,
}

/// The plugin.
pub(crate) struct Injector {
    config: Config,
    site: Site,
    stage: Mutex<Stage>,
    known: Mutex<Known>,
}

impl Injector {
    pub(crate) fn new(config: Config) -> Self {
        let site = Site { records: config.records.clone(), views: config.views.clone() };
        Self { config, site, stage: Mutex::default(), known: Mutex::default() }
    }

    fn known<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that a sandbox has the devices that its Pod asks for. Costs nothing for one that asks for none.
    async fn provide(&self, sandbox: PodSandbox, deadline: Instant) -> Result<(), Refusal> {
        let requests = match requests(&sandbox) {
            Ok(requests) if requests.is_empty() => return Ok(()),
            Ok(requests) => requests,
            Err(refusal) => return self.refuse(pod(&sandbox), &refusal),
        };
        let owner = pod(&sandbox);
        let provided = async {
            let allocated = self.allocated(deadline).await?;
            let (site, order) = (self.site.clone(), Order { sandbox, requests, allocated, deadline });
            let done = spawn_blocking(move || site.provide(&order).map_err(Refusal::new)).await;
            done.map_err(Refusal::new)?
        };
        match provided.await {
            Ok(count) => {
                self.config.metrics.count_injected(count);
                Ok(())
            }
            Err(refusal) => self.refuse(owner, &refusal),
        }
    }

    fn refuse(&self, pod: Pod, refusal: &Refusal) -> Result<(), Refusal> {
        self.config.metrics.count_injection_failure();
        warn!(pod = format!("{}/{}", pod.namespace, pod.name), "does not get its devices: {refusal}");
        let told = Refusal::new(format_args!("netdevice: {refusal}"));
        self.config.events.tell(Happening::InjectionRefused { pod, reason: told.to_string() });
        Err(told)
    }

    /// The devices that the kubelet gave to Pods.
    async fn allocated(&self, deadline: Instant) -> Result<Allocated, Refusal> {
        let pools = self.config.views.borrow().as_ref().map(|view| view.pools.clone()).unwrap_or_default();
        let resources = pools.iter().map(|pool| pool.resource.clone()).collect();
        let deadline = deadline.min(Instant::now() + KUBELET);
        let asking = device_plugin::allocated(&self.config.pod_resources, &resources);
        let unknown = "the kubelet does not say which devices it gave to pods";
        match timeout_at(deadline.into(), asking).await {
            Ok(Ok(allocated)) => Ok(allocated),
            Ok(Err(error)) => Err(Refusal::new(format_args!("{unknown}: {error}"))),
            Err(_) => Err(Refusal::new(format_args!("{unknown}: it takes too long"))),
        }
    }

    /// Brings home what a sandbox has.
    async fn release(&self, sandbox: &str, deadline: Instant) -> Result<(), Refusal> {
        let (site, id) = (self.site.clone(), sandbox.to_owned());
        let released = spawn_blocking(move || site.release(&id, deadline)).await;
        let released = released.map_err(Refusal::new)?.map_err(Refusal::new)?;
        let mut failed = None;
        for (device, pod, released) in released {
            self.config.metrics.count_release(released.label());
            match released {
                Released::Home(None) => {
                    // nobody listens only while the agent ends
                    let _ = self.config.restored.send(device.to_name());
                    info!(%device, sandbox, "brought home");
                }
                Released::Home(Some(name)) => {
                    warn!(%device, sandbox, "brought home as {name}, for its name was taken");
                    self.config.events.tell(Happening::Renamed { device, pod, name });
                }
                Released::Nothing => debug!(%device, sandbox, "is home already"),
                Released::Lost => {
                    warn!(%device, sandbox, "it is gone: a virtual link that was deleted in the pod");
                    self.config.events.tell(Happening::Lost { device, pod });
                }
                Released::Failed(reason) => {
                    warn!(%device, sandbox, "should come home and does not, it is tried again: {reason}");
                    failed.get_or_insert_with(|| Refusal::new(format_args!("netdevice: device {device}: {reason}")));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Looks after sandboxes that ended while we were not connected, as the list of a connection tells.
    async fn release_ended(&self, list: Connection) {
        sleep(SETTLE).await;
        let site = self.site.clone();
        let holders = match spawn_blocking(move || site.holders()).await {
            Ok(Ok(holders)) => holders,
            Ok(Err(error)) => return warn!("cannot read the records: {error}"),
            Err(error) => return warn!("the records were not read: {error}"),
        };
        for sandbox in holders {
            if self.known(|known| known.has_ended(&sandbox, list)) {
                // what goes wrong is told, and tried again by the repair
                let _ = self.release(&sandbox, Instant::now() + UNHURRIED).await;
            }
        }
    }
}

impl Plugin for Injector {
    fn configure(&self, runtime: Runtime) {
        let stage = Stage::of(&runtime.name, &runtime.version);
        info!(
            runtime = runtime.name,
            version = runtime.version,
            "connected: a pod that cannot have its devices is refused at its {stage}"
        );
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
        if !runtime.config.trim().is_empty() {
            self.config.texts.send_replace(Some(runtime.config));
        }
    }

    async fn synchronize(&self, pods: Vec<PodSandbox>, _: Vec<Container>) {
        let list = self.known(|known| known.add_list(pods.iter().map(|pod| pod.id.clone())));
        for pod in pods {
            // a Pod that started without us, or whose devices another runtime's end has left half way
            let _ = self.provide(pod, Instant::now() + UNHURRIED).await;
        }
        self.release_ended(list).await;
    }

    fn disconnected(&self) {
        self.known(Known::end_connection);
    }

    async fn run_pod_sandbox(&self, pod: PodSandbox, deadline: Instant) -> Result<(), Refusal> {
        self.known(|known| known.add(&pod.id));
        let provided = self.provide(pod, deadline);
        if self.stage() == Stage::Sandbox {
            return provided.await;
        }
        // An error is told again, and to the runtime, when a container is made. So is a delay: what is begun goes on.
        if timeout_at(deadline.into(), provided).await.is_err() {
            warn!("the devices of a sandbox are late: its first container waits for them");
        }
        Ok(())
    }

    async fn create_container(&self, pod: PodSandbox, _: Container, deadline: Instant) -> Result<(), Refusal> {
        self.provide(pod, deadline).await
    }

    async fn stop_pod_sandbox(&self, pod: PodSandbox, deadline: Instant) -> Result<(), Refusal> {
        self.release(&pod.id, deadline).await
    }

    async fn remove_pod_sandbox(&self, pod: PodSandbox, deadline: Instant) -> Result<(), Refusal> {
        self.known(|known| known.remove(&pod.id));
        self.release(&pod.id, deadline).await
    }
}

/// The devices that a Pod's annotation asks for.
fn requests(pod: &PodSandbox) -> Result<Vec<DeviceRequest>, Refusal> {
    let Some(selected) = annotation::select(|key| pod.annotations.get(key).map(String::as_str)) else {
        return Ok(Vec::new());
    };
    if !selected.others.is_empty() {
        info!(
            pod = format!("{}/{}", pod.namespace, pod.name),
            "the annotation {} counts, and these do not: {}",
            selected.key,
            selected.others.join(", ")
        );
    }
    let refuse = |error| Refusal::new(format_args!("annotation {}: {error}", selected.key));
    annotation::parse(selected.value).map_err(refuse)
}
