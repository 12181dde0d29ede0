//! Devices by annotation and by claim: attaches the interfaces that a Pod requests in `netdevices.nri.containerd.io`, and those
//! that Prepare reserved for its ResourceClaims, to its sandbox.
//!
//! A plugin of the runtime (NRI). A Pod that requests a device never runs without it: what could not be attached when the
//! sandbox was created is attached when a container is created, or that container is refused. Selection, exclusion, records
//! and moves are those of the device plugin, so that no device is given to two Pods.
//!
//! A request is answered by its deadline, and the work that it started continues: a sandbox whose devices take longer is
//! accepted, and its first container waits for them. So the runtime's timeout does not limit the number of devices.

mod claims;
mod known;
mod sandbox;
mod stage;
mod work;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use kubelet::PodResources;
use netdevice::{InterfaceName, Pod, Sandbox, annotation, choice::Allocated};
use nri::{Container, Plugin, PodSandbox, Refusal, Runtime};
use store::Records;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot, watch},
    task::spawn_blocking,
    time::{sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};
use wake::Ticks;

use crate::{
    events::{Events, Occurrence},
    metrics::Metrics,
    view::{Part, Views},
};
pub(crate) use claims::Holders;
use claims::{Checked, SharedError, check_shared};
use known::{Connection, KnownSandboxes};
use sandbox::{New, ProvideError, ProvideRequest, Provided, Provider, Released};
use stage::{Peer, Stage};
use work::{Sandboxes, Waited, Work};

/// How long the work on the devices of one sandbox may take in all.
const WORK_LIMIT: Duration = Duration::from_secs(30);
/// How long after a connection a sandbox that is not in the runtime's list may still be one that is being created.
const CREATION: Duration = Duration::from_secs(5);
/// How long the kubelet may take to list the devices that it allocated.
pub(crate) const KUBELET_TIMEOUT: Duration = Duration::from_millis(500);
/// How long after the API server did not answer it is asked again for the same sandbox.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How often sandboxes without devices are removed, without an event.
const FORGET: Duration = Duration::from_secs(30);
/// Sandboxes of a runtime's list that are worked on at a time. Requests do not wait for them.
const MAX_LISTED: usize = 4;

/// What an injector works with.
pub(crate) struct Config {
    pub(crate) records: Records,
    /// What is offered, and where it is.
    pub(crate) views: Views,
    /// The socket on which the kubelet lists the devices that it allocated.
    pub(crate) pod_resources: PathBuf,
    pub(crate) metrics: Arc<Metrics>,
    /// Receives the names of devices that have returned to the host.
    pub(crate) restored: mpsc::UnboundedSender<InterfaceName>,
    /// Posts what users should know.
    pub(crate) events: Events,
    /// Receives the runtime's configuration of this plugin.
    pub(crate) texts: watch::Sender<Option<String>>,
    /// Attaches the networks of Pods, if the agent does that.
    pub(crate) networks: Option<dynamic_networks::Handle>,
    /// Who knows which Pods share a claim.
    pub(crate) holders: Holders,
    /// Receives why devices of claims are not attached, for the claims' status.
    pub(crate) failures: Option<dra::status::Failures>,
}

/// The plugin. Requests are answered by their deadline; the work that they start continues until it is done.
pub(crate) struct Injector(Arc<Inner>);

struct Inner {
    config: Config,
    provider: Provider,
    peer: Mutex<Peer>,
    known: Mutex<KnownSandboxes>,
    sandboxes: Sandboxes,
    listed: Semaphore,
    /// Work that continues after its request was answered.
    jobs: TaskTracker,
}

/// Why a Pod does not start.
#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error(transparent)]
    Shared(#[from] SharedError),
    #[error(transparent)]
    Provide(#[from] ProvideError),
    #[error("the task that attaches its devices failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl WorkError {
    /// Whether a claim is the reason.
    fn is_of_claim(&self) -> bool {
        matches!(self, Self::Shared(_) | Self::Provide(ProvideError::Claim(_)))
    }
}

/// Why a sandbox is worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// A request of the runtime.
    Request,
    /// It is in the runtime's list. It may have ended.
    List,
}

impl Injector {
    pub(crate) fn new(config: Config) -> Self {
        let provider = Provider { records: config.records.clone(), views: config.views.clone() };
        Self(Arc::new(Inner {
            config,
            provider,
            peer: Mutex::default(),
            known: Mutex::default(),
            sandboxes: Sandboxes::default(),
            listed: Semaphore::new(MAX_LISTED),
            jobs: TaskTracker::new(),
        }))
    }

    /// Until `shutdown`, keeps no namespace of a sandbox without devices. Then waits for the work that was begun.
    pub(crate) fn keep(&self, shutdown: CancellationToken) -> impl Future<Output = ()> + use<> {
        let inner = self.0.clone();
        async move {
            let (mut ledger, ticks) = (Part::ledger(inner.config.views.clone()), Ticks::every(FORGET));
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    changed = ledger.changed() => if changed.is_err() { break },
                    // work that was under way at that change has ended since
                    () = ticks.next() => {}
                }
                inner.sandboxes.forget_ended(&ledger.now());
            }
            inner.jobs.close();
            inner.jobs.wait().await;
        }
    }
}

impl Inner {
    fn known<T>(&self, work: impl FnOnce(&mut KnownSandboxes) -> T) -> T {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn peer(&self) -> Peer {
        *self.peer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that a sandbox has the devices that its Pod requests and those of its claims, and waits for that until the
    /// deadline. Costs nothing for a Pod that requests none, while no device of the node is reserved.
    async fn provide(self: &Arc<Self>, sandbox: PodSandbox, deadline: Instant, reason: Reason) -> Waited {
        let annotation = annotation(&sandbox);
        if annotation.is_none() && !self.config.records.has_reservations() {
            return Waited::Done(Ok(()));
        }
        let work = self.sandboxes.of(&sandbox.id);
        if work.begin() {
            let (inner, work) = (self.clone(), work.clone());
            self.jobs.spawn(async move { inner.work(sandbox, annotation, &work, reason).await });
        }
        work.wait_until(deadline).await
    }

    /// The work on one sandbox, from its annotation and claims to its last device.
    async fn work(
        self: &Arc<Self>,
        sandbox: PodSandbox,
        annotation: Option<Annotation>,
        work: &Arc<Work>,
        reason: Reason,
    ) {
        let PodSandbox { id, name, namespace, uid, network_namespace, pid, .. } = sandbox;
        let owner = Pod { namespace, name, uid };
        let sandbox = Sandbox::from_nri(&id, owner.clone(), network_namespace, pid);
        let provided = match self.check_shared(&id, &owner, reason).await {
            Ok(()) => self.provide_all(sandbox, annotation, work, reason).await,
            Err(error) => Err(error.into()),
        };
        match &provided {
            Ok(Provided::All(new)) => self.report_new(&owner, new, reason),
            Ok(Provided::Nothing) => {}
            Err(error) => self.report_refused(owner, error),
        }
        let has_devices = matches!(provided, Ok(Provided::All(_)));
        work.end(provided.map(drop).map_err(|error| prefixed(&Refusal::new(error))));
        if !has_devices {
            self.sandboxes.forget(&id, work);
        }
    }

    /// Makes sure that the Pod does not share a claim whose devices another one has. Once for each sandbox. If the API server
    /// does not answer, a new Pod waits for a while, as it may be one that shares the claim; then a container that names the
    /// claim is still refused by the hook, and it is asked again after [`ASK_AGAIN`]. A sandbox of a list runs already.
    async fn check_shared(&self, sandbox: &str, pod: &Pod, reason: Reason) -> Result<(), SharedError> {
        let Some(holders) = self.config.holders.as_ref().filter(|_| reason == Reason::Request) else { return Ok(()) };
        if self.known(|known| known.is_checked(sandbox, Instant::now())) {
            return Ok(());
        }
        let limit = Instant::now() + WORK_LIMIT;
        let until = match check_shared(holders, &self.config.records, pod, limit).await? {
            Checked::Completely => None,
            Checked::InPart(error) => {
                let now = Instant::now();
                if self.known(|known| known.waits(sandbox, &pod.uid, now)) {
                    return Err(error);
                }
                warn!(%pod, "it starts, although it may share a claim that another pod has: {error}");
                Some(now + ASK_AGAIN)
            }
        };
        self.known(|known| known.set_checked(sandbox, until));
        Ok(())
    }

    async fn provide_all(
        self: &Arc<Self>,
        sandbox: Sandbox,
        annotation: Option<Annotation>,
        work: &Arc<Work>,
        reason: Reason,
    ) -> Result<Provided, WorkError> {
        let (inner, runtime) = (self.clone(), Handle::current());
        let order = ProvideRequest {
            sandbox,
            annotation,
            reason,
            none_is_host_network: self.peer().none_is_host_network,
            limit: Instant::now() + WORK_LIMIT,
            work: work.clone(),
            allocated: Box::new(move || runtime.block_on(inner.allocated())),
        };
        let provider = self.provider.clone();
        Ok(spawn_blocking(move || provider.provide(&order)).await??)
    }

    fn report_new(&self, pod: &Pod, new: &New, reason: Reason) {
        self.config.metrics.count_injected(new.by_annotation + new.by_claims.len());
        if reason == Reason::Request {
            return;
        }
        // the plugin was not connected when the Pod started
        for (device, claim) in &new.by_claims {
            warn!(%device, %claim, "attached after the pod had started");
            let (device, pod, claim) = (device.clone(), pod.clone(), claim.to_string());
            self.config.events.report(Occurrence::ClaimAttachedLate { device, pod, claim });
        }
    }

    fn report_refused(&self, pod: Pod, error: &WorkError) {
        self.config.metrics.count_injection_failure();
        warn!(pod = format!("{}/{}", pod.namespace, pod.name), "the pod does not get its devices: {error}");
        let reason = prefixed(&Refusal::new(error)).to_string();
        if let (Some(failures), WorkError::Provide(ProvideError::Claim(error))) = (&self.config.failures, error) {
            claims::report_failure(failures, error);
        }
        self.config.events.report(match error.is_of_claim() {
            true => Occurrence::ClaimNotAttached { pod, reason },
            false => Occurrence::InjectionRefused { pod, reason },
        });
    }

    /// The devices that the kubelet allocated.
    async fn allocated(&self) -> Result<Allocated, Refusal> {
        let unknown = "cannot get the allocated devices from the kubelet";
        match timeout(KUBELET_TIMEOUT, PodResources::new(&self.config.pod_resources).list()).await {
            Ok(Ok(pods)) => Ok(allocated(&pods.unwrap_or_default())),
            Ok(Err(error)) => Err(Refusal::new(format_args!("{unknown}: {error}"))),
            Err(_) => Err(Refusal::new(format_args!("{unknown}: no answer within {KUBELET_TIMEOUT:?}"))),
        }
    }

    /// Returns the devices of a sandbox to the host, and waits for that until the deadline.
    async fn release(self: &Arc<Self>, sandbox: &str, deadline: Instant) -> Result<(), Refusal> {
        let work = self.sandboxes.stop(sandbox);
        if work.is_none() && !self.provider.has_records() {
            return Ok(());
        }
        let (sender, result) = oneshot::channel();
        let (inner, id) = (self.clone(), sandbox.to_owned());
        self.jobs.spawn(async move {
            let released = inner.release_all(&id, work.as_ref()).await;
            if let Some(work) = work.filter(|_| released.is_ok()) {
                inner.sandboxes.forget(&id, &work);
            }
            // the request may have been answered
            let _ = sender.send(released);
        });
        match timeout_at(deadline.into(), result).await {
            Ok(released) => released.map_err(Refusal::new)?,
            Err(_) => {
                info!(sandbox, "its devices are still being returned to the node");
                Ok(())
            }
        }
    }

    async fn release_all(&self, sandbox: &str, work: Option<&Arc<Work>>) -> Result<(), Refusal> {
        let (provider, id, work) = (self.provider.clone(), sandbox.to_owned(), work.cloned());
        let released = spawn_blocking(move || {
            let kept = work.and_then(|work| work.sandbox());
            provider.release(&id, kept.as_ref().map(|sandbox| sandbox.namespace()), Instant::now() + WORK_LIMIT)
        });
        let released = released.await;
        let released = released.map_err(Refusal::new)?.map_err(Refusal::new)?;
        let mut failed = None;
        for (device, pod, released) in released {
            self.config.metrics.count_release(released.label());
            match released {
                Released::Returned(None) => {
                    // the receiver is gone only while the agent ends
                    let _ = self.config.restored.send(device.to_name());
                    info!(%device, sandbox, "returned to the node");
                }
                Released::Returned(Some(name)) => {
                    warn!(%device, sandbox, "returned to the node as {name}: its name was taken");
                    self.config.events.report(Occurrence::Renamed { device, pod, name });
                }
                Released::Nothing => debug!(%device, sandbox, "already returned to the node"),
                Released::Lost => {
                    warn!(%device, sandbox, "lost: the virtual link was deleted in the pod");
                    self.config.events.report(Occurrence::Lost { device, pod });
                }
                Released::Failed(reason) => {
                    warn!(%device, sandbox, "not returned to the node yet, trying again: {reason}");
                    failed.get_or_insert_with(|| Refusal::new(format_args!("netdevice: device {device}: {reason}")));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Returns the devices of sandboxes that ended while this plugin was not connected: those that are not in the list.
    async fn release_ended(self: &Arc<Self>, list: Connection) {
        sleep(CREATION).await;
        let provider = self.provider.clone();
        let owners = match spawn_blocking(move || provider.owners()).await {
            Ok(Ok(owners)) => owners,
            Ok(Err(error)) => return warn!("cannot read the records: {error}"),
            Err(error) => return warn!("the task that reads the records failed: {error}"),
        };
        for sandbox in owners {
            if self.known(|known| known.has_ended(&sandbox, list)) {
                // a failure is logged, and the reconciler tries again
                let _ = self.release(&sandbox, Instant::now()).await;
            }
        }
    }
}

impl Plugin for Injector {
    fn configure(&self, runtime: Runtime) {
        let peer = Peer::of(&runtime.name, &runtime.version);
        info!(
            runtime = runtime.name,
            version = runtime.version,
            "connected: a pod that cannot have its devices is refused at its {}",
            peer.stage
        );
        *self.0.peer.lock().unwrap_or_else(PoisonError::into_inner) = peer;
        if !runtime.config.trim().is_empty() {
            self.0.config.texts.send_replace(Some(runtime.config));
        }
    }

    async fn synchronize(&self, pods: Vec<PodSandbox>, _: Vec<Container>) {
        let list = self.0.known(|known| known.add_list(pods.iter().map(|pod| pod.id.clone())));
        let jobs = TaskTracker::new();
        for pod in pods {
            // a Pod that started without this plugin, or whose devices are attached in part
            let inner = self.0.clone();
            jobs.spawn(async move {
                let _permit = inner.listed.acquire().await;
                inner.provide(pod, Instant::now() + WORK_LIMIT, Reason::List).await;
            });
        }
        jobs.close();
        jobs.wait().await;
        self.0.release_ended(list).await;
    }

    fn disconnected(&self) {
        self.0.known(KnownSandboxes::end_connection);
    }

    async fn run_pod_sandbox(&self, pod: PodSandbox, deadline: Instant) -> Result<(), Refusal> {
        self.0.known(|known| known.add(&pod.id));
        let name = format!("{}/{}", pod.namespace, pod.name);
        match self.0.provide(pod, deadline, Reason::Request).await {
            Waited::Done(Err(refusal)) if self.0.peer().stage == Stage::Sandbox => Err(refusal),
            // the refusal is repeated when a container is created
            Waited::Done(_) => Ok(()),
            Waited::Late(obstacle) => {
                let why = obstacle.unwrap_or_default();
                info!(pod = name, why, "its devices are still being attached: its first container waits for them");
                Ok(())
            }
        }
    }

    async fn create_container(&self, pod: PodSandbox, _: Container, deadline: Instant) -> Result<(), Refusal> {
        if let Some(networks) = &self.0.config.networks
            && [netdevice::networks::KEY, annotation::attach::KEY]
                .iter()
                .any(|key| pod.annotations.get(*key).is_some_and(|text| !text.trim().is_empty()))
        {
            // the sandbox runs: the runtime lists it from now on
            let attached = networks.ensure(&pod.uid, deadline).await;
            attached.map_err(|error| prefixed(&Refusal::new(error)))?;
        }
        match self.0.provide(pod, deadline, Reason::Request).await {
            Waited::Done(result) => result,
            Waited::Late(None) => {
                Err(prefixed(&Refusal::new("the pod's devices are still being attached: the container is tried again")))
            }
            Waited::Late(Some(why)) => {
                Err(prefixed(&Refusal::new(format_args!("the pod's devices are still being attached: {why}"))))
            }
        }
    }

    async fn stop_pod_sandbox(&self, pod: PodSandbox, deadline: Instant) -> Result<(), Refusal> {
        self.0.release(&pod.id, deadline).await
    }

    async fn remove_pod_sandbox(&self, pod: PodSandbox, deadline: Instant) -> Result<(), Refusal> {
        self.0.known(|known| known.remove(&pod.id));
        self.0.release(&pod.id, deadline).await
    }
}

/// The devices that are allocated to Pods, of whichever resource: the agent that offers a device may have other pools, or be
/// another program.
pub(crate) fn allocated(pods: &[kubelet::Pod]) -> Allocated {
    let of_pod = |pod: &kubelet::Pod| {
        let owner = format!("{}/{}", pod.namespace, pod.name);
        pod.ids(None).filter_map(move |id| Some((id.parse().ok()?, owner.clone()))).collect::<Allocated>()
    };
    pods.iter().flat_map(of_pod).collect()
}

/// The annotation of a Pod, from the runtime.
#[derive(Debug, Clone)]
struct Annotation {
    key: &'static str,
    text: String,
}

/// The annotation that applies, unless it requests nothing. It is parsed on a thread of its own: its text comes from users.
fn annotation(pod: &PodSandbox) -> Option<Annotation> {
    let selected = annotation::select(|key| pod.annotations.get(key).map(String::as_str))?;
    if !selected.others.is_empty() {
        info!(
            pod = format!("{}/{}", pod.namespace, pod.name),
            "annotation {} is used, these are ignored: {}",
            selected.key,
            selected.others.join(", ")
        );
    }
    let asks = !matches!(selected.value.trim(), "" | "[]" | "null" | "~");
    asks.then(|| Annotation { key: selected.key, text: selected.value.to_owned() })
}

/// The refusal as users see it.
fn prefixed(refusal: &Refusal) -> Refusal {
    Refusal::new(format_args!("netdevice: {refusal}"))
}
