//! The work on one sandbox: its devices are attached, all or none, and returned. Blocking, on a thread of its own.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use link::{
    AttachAllError, AttachClaims, AttachClaimsError, AttachRequest, Attached, AttachedClaim, ChooseError,
    ChooseRequest, Chooser, Detached, Diagnosis, Ended, OpenSandbox, OpenSandboxError, RouteSocket, attach_all,
    attach_claims, choose_and_reserve, detach_all, reserved_by_claims,
};
use netdevice::{
    DeviceId, DeviceRequest, InterfaceName, Owner, Pod, Reservation, Sandbox, View,
    annotation::{self, AnnotationError},
    choice::Allocated,
    owner::Request,
};
use nri::Refusal;
use store::{Namespace, Records};
use tracing::{debug, info, warn};

use super::{Annotation, Reason, prefixed, work::Work};
use crate::view::Views;

/// One annotation is parsed at a time: the memory for one is limited, and so is the memory for all.
static READING: Mutex<()> = Mutex::new(());

/// Why a sandbox does not get its devices.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProvideError {
    #[error("annotation {key}: {error}")]
    Annotation { key: &'static str, error: AnnotationError },
    #[error(transparent)]
    Choose(#[from] ChooseError<Refusal>),
    #[error(transparent)]
    Attach(#[from] AttachAllError),
    #[error(transparent)]
    Claim(#[from] AttachClaimsError),
    #[error(transparent)]
    Sandbox(#[from] OpenSandboxError),
    #[error("the runtime did not pass the id of the sandbox")]
    NoId,
    #[error("another program of this node did not finish in time: try again in a moment")]
    Busy,
    #[error("cannot read the records of this node: {0}")]
    Records(io::Error),
}

impl From<io::Error> for ProvideError {
    fn from(error: io::Error) -> Self {
        Self::Records(error)
    }
}

/// A sandbox and the annotation of its Pod, if that has one.
pub(super) struct ProvideRequest {
    pub(super) sandbox: Sandbox,
    pub(super) annotation: Option<Annotation>,
    pub(super) reason: Reason,
    /// Whether a sandbox without a network namespace is one on the node's own network, for this runtime.
    pub(super) none_is_host_network: bool,
    /// When the work is given up.
    pub(super) limit: Instant,
    pub(super) work: Arc<Work>,
    /// The devices that the kubelet allocated. Blocks.
    pub(super) allocated: Box<dyn Fn() -> Result<Allocated, Refusal> + Send + Sync>,
}

impl ProvideRequest {
    /// Whether no further device is to be attached.
    fn is_over(&self) -> bool {
        self.work.is_stopped() || Instant::now() >= self.limit
    }
}

/// What the injector chooses from.
struct Injection<'a> {
    order: &'a ProvideRequest,
    views: &'a Views,
}

impl Chooser for Injection<'_> {
    type Error = Refusal;

    fn view(&self) -> Result<Arc<View>, Refusal> {
        Ok(self.views.borrow().clone())
    }

    fn allocated(&self) -> Result<Allocated, Refusal> {
        (self.order.allocated)()
    }

    fn is_stopped(&self) -> bool {
        self.order.work.is_stopped()
    }

    fn set_obstacle(&self, obstacle: Option<String>) {
        self.order.work.set_obstacle(obstacle);
    }
}

/// The devices that a sandbox has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Provided {
    /// None: its Pod requests none, or it has ended.
    Nothing,
    /// All that its Pod requests; this is what is new.
    All(New),
}

/// Devices that a sandbox has just got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct New {
    /// By annotation.
    pub(super) by_annotation: usize,
    /// By claims.
    pub(super) by_claims: Vec<(DeviceId, Owner)>,
}

/// Attaches and returns devices.
#[derive(Clone)]
pub(super) struct Provider {
    pub(super) records: Records,
    pub(super) views: Views,
}

impl Provider {
    /// Attaches the devices that a Pod requests, and those of its claims, to its sandbox. Devices that it has already stay.
    pub(super) fn provide(&self, order: &ProvideRequest) -> Result<Provided, ProvideError> {
        let opened = match open(order) {
            Err(error) if order.reason == Reason::List && error.is_gone() => {
                debug!(sandbox = order.sandbox.id(), "skipped, it has ended: {error}");
                return Ok(Provided::Nothing);
            }
            opened => opened,
        };
        let requests = order.annotation.as_ref().map(read).transpose()?.unwrap_or_default();
        if requests.is_empty() && self.reserved(order)?.is_empty() {
            return Ok(Provided::Nothing);
        }
        let sandbox = opened?;
        let (owner, pod) = owner(&order.sandbox).ok_or(ProvideError::NoId)?;
        order.work.set_obstacle(Some(ProvideError::Busy.to_string()));
        let _lock = self.records.lock_sandbox(owner.id(), order.limit)?.ok_or(ProvideError::Busy)?;
        order.work.set_obstacle(None);
        // a claim that ended meanwhile has nothing any longer
        let by_claims = self.attach_claims(order, &self.reserved(order)?, &sandbox)?;
        let by_annotation = match requests.is_empty() {
            true => 0,
            false => self.attach_requested(order, &requests, &owner, pod, &sandbox)?,
        };
        Ok(Provided::All(New { by_annotation, by_claims }))
    }

    /// What the claims of the Pod have reserved. A sandbox of a list may be an older one: it does not take what a newer one has.
    fn reserved(&self, order: &ProvideRequest) -> io::Result<Vec<Reservation>> {
        let Some(pod) = order.sandbox.pod() else { return Ok(Vec::new()) };
        let mut reserved = reserved_by_claims(&self.records, pod)?;
        if order.reason == Reason::List {
            reserved.retain(|reservation| !self.is_elsewhere(&reservation.device, order.sandbox.id()));
        }
        Ok(reserved)
    }

    /// Whether a device is in a living sandbox other than that one.
    fn is_elsewhere(&self, device: &DeviceId, sandbox: Option<&str>) -> bool {
        let Ok(Some(record)) = self.records.read(device) else { return false };
        let is_healthy = || {
            let diagnosis = RouteSocket::open().map(|mut node| link::diagnose(&record, &mut node));
            matches!(diagnosis, Ok(Diagnosis::Healthy))
        };
        record.owner.sandbox() != sandbox && is_healthy()
    }

    /// Attaches the devices of claims. Returns those that are new.
    fn attach_claims(
        &self,
        order: &ProvideRequest,
        reserved: &[Reservation],
        sandbox: &OpenSandbox,
    ) -> Result<Vec<(DeviceId, Owner)>, ProvideError> {
        let resource = |device: &DeviceId| {
            let view = self.views.borrow();
            let parent = device.parent();
            view.devices().get(parent.as_ref().unwrap_or(device)).map(|device| device.resource.clone())
        };
        let failed = |claim: &Owner, device: &DeviceId, error: &link::Error| {
            order.work.fail(prefixed(&Refusal::new(format_args!("{claim}: device {device}: {error}"))));
        };
        let request = AttachClaims {
            sandbox: &order.sandbox,
            opened: sandbox,
            resource: &resource,
            limit: order.limit,
            is_stopped: &|| order.is_over(),
            failed: &failed,
        };
        let attached = attach_claims(&self.records, reserved, &request);
        let attached = attached.inspect_err(|error| log_stranded(&error.error))?;
        let new = attached.into_iter().filter(|device| !device.attached.was_there);
        Ok(new
            .map(|AttachedClaim { device, owner, attached }| {
                log_attached(&device, &owner, &attached);
                (device, owner)
            })
            .collect())
    }

    /// Attaches the devices of the annotation. Returns how many are new.
    fn attach_requested(
        &self,
        order: &ProvideRequest,
        requests: &[DeviceRequest],
        owner: &Owner,
        pod: &Pod,
        sandbox: &OpenSandbox,
    ) -> Result<usize, ProvideError> {
        let request = ChooseRequest { owner, pod, devices: requests, limit: order.limit };
        let (choices, reserved) = choose_and_reserve(&self.records, &Injection { order, views: &self.views }, request)?;
        let parts: Vec<_> = choices.iter().zip(requests).collect();
        let requests: Vec<AttachRequest<'_>> = parts
            .iter()
            .map(|(choice, request)| AttachRequest {
                device: &choice.device,
                resource: Some(&choice.resource),
                sandbox,
                owner,
                acquisition: choice.acquisition,
                uplink_parents: choice.uplink_parents,
                configuration: Some(&request.configuration),
            })
            .collect();
        let failed = |device: &DeviceId, error: &link::Error| {
            order.work.fail(prefixed(&Refusal::new(format_args!("device {device}: {error}"))));
        };
        let attached = attach_all(&self.records, &requests, reserved, &|| order.is_over(), &failed);
        let attached = attached.inspect_err(log_stranded)?;
        let new = requests.iter().zip(&attached).filter(|(_, attached)| !attached.was_there);
        Ok(new.inspect(|(request, attached)| log_attached(request.device, owner, attached)).count())
    }

    /// Whether any device of the node is attached.
    pub(super) fn has_records(&self) -> bool {
        let is_record = |entry: io::Result<fs::DirEntry>| {
            entry.is_ok_and(|entry| Path::new(&entry.file_name()).extension().is_some_and(|end| end == "json"))
        };
        match fs::read_dir(self.records.directory()) {
            Ok(mut entries) => entries.any(is_record),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Returns the devices of a sandbox to the host. `kept` is its namespace, opened when the devices were attached.
    pub(super) fn release(
        &self,
        sandbox: &str,
        kept: Option<&Namespace>,
        limit: Instant,
    ) -> io::Result<Vec<ReleasedDevice>> {
        // waits for other work on this sandbox; if that takes too long, each device still has its lock
        let _lock = self.records.lock_sandbox(sandbox, limit)?;
        let (ledger, _) = self.records.list()?;
        let with_pod = |(device, result)| {
            let pod = ledger.get(&device).and_then(|record| record.owner.pod().cloned());
            (device, pod, Released::from(result))
        };
        Ok(detach_all(&self.records, &ledger, sandbox, kept).map(with_pod).collect())
    }

    /// Sandboxes that have devices themselves, by annotation, by a command or by a claim: the runtime reports their end.
    pub(super) fn owners(&self) -> io::Result<BTreeSet<String>> {
        let (ledger, _) = self.records.list()?;
        let of_sandboxes = ledger.into_values().filter(|record| record.owner.outlives_containers());
        Ok(of_sandboxes.filter_map(|record| record.owner.sandbox().map(str::to_owned)).collect())
    }
}

fn read(Annotation { key, text }: &Annotation) -> Result<Vec<DeviceRequest>, ProvideError> {
    let _one_at_a_time = READING.lock().unwrap_or_else(PoisonError::into_inner);
    annotation::parse(text).map_err(|error| ProvideError::Annotation { key, error })
}

/// A device, the Pod that had it, and how it was released.
pub(super) type ReleasedDevice = (DeviceId, Option<Pod>, Released);

/// How a device was released.
#[derive(Debug)]
pub(super) enum Released {
    /// Returned to the host, under its name or another one.
    Returned(Option<InterfaceName>),
    /// Returned before, deleted, or attached to another Pod now.
    Nothing,
    /// It no longer exists.
    Lost,
    /// Not returned yet; this is tried again.
    Failed(String),
}

impl Released {
    /// The label of the metric.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Returned(_) => "ok",
            Self::Nothing => "nothing",
            Self::Lost => "lost",
            Self::Failed(_) => "failed",
        }
    }
}

impl From<Result<Detached, link::Error>> for Released {
    fn from(result: Result<Detached, link::Error>) -> Self {
        match result {
            Ok(Detached::Done(Ended::Returned { renamed, .. })) => Self::Returned(renamed),
            Ok(Detached::NotAttached | Detached::TakenOver | Detached::Done(Ended::Deleted)) => Self::Nothing,
            Ok(Detached::Done(Ended::Lost)) => Self::Lost,
            Ok(Detached::Done(Ended::OutOfReach)) => Self::Failed("not on the node yet".into()),
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

fn log_attached(device: &DeviceId, owner: &Owner, attached: &Attached) {
    let left_out: Vec<String> = attached.skipped.iter().map(ToString::to_string).collect();
    if left_out.is_empty() {
        info!(%device, %owner, "injected");
    } else {
        info!(%device, %owner, "injected; left out: {}", left_out.join("; "));
    }
}

fn log_stranded(error: &AttachAllError) {
    for (device, why) in &error.stranded {
        let why = why.as_ref().map_or_else(|| "not on the node yet".to_owned(), ToString::to_string);
        warn!(%device, "not returned to the node after another device of the pod failed, trying again: {why}");
    }
}

/// The owner of the devices: the sandbox, from before its first container until after its last one.
fn owner(sandbox: &Sandbox) -> Option<(Owner, &Pod)> {
    Some((sandbox.owner(Request::Annotation)?, sandbox.pod()?))
}

/// The sandbox, opened once: its path may no longer exist when the devices are returned.
fn open(order: &ProvideRequest) -> Result<Arc<OpenSandbox>, OpenSandboxError> {
    if let Some(kept) = order.work.sandbox() {
        return Ok(kept);
    }
    match OpenSandbox::open(&order.sandbox) {
        Ok(opened) => Ok(order.work.keep(opened)),
        Err(OpenSandboxError::Unnamed) if order.none_is_host_network && order.reason == Reason::Request => {
            Err(OpenSandboxError::HostNetwork)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(path: Option<&str>, pid: Option<u32>, none_is_host_network: bool, reason: Reason) -> ProvideRequest {
        let network_namespace = path.map(str::to_owned);
        let pod = Pod { namespace: "default".into(), name: "web".into(), uid: "u".into() };
        ProvideRequest {
            sandbox: Sandbox::from_nri("s", pod, network_namespace, pid),
            annotation: Some(Annotation { key: annotation::KEYS[0], text: "[{name: dev0}]".into() }),
            reason,
            none_is_host_network,
            limit: Instant::now(),
            work: Arc::default(),
            allocated: Box::new(|| Ok(Allocated::new())),
        }
    }

    #[test]
    fn a_new_sandbox_without_a_namespace_is_on_the_nodes_network_where_the_runtime_says_so_in_this_way() {
        let is_host = |order: &ProvideRequest| matches!(open(order), Err(OpenSandboxError::HostNetwork));
        assert!(is_host(&order(None, None, true, Reason::Request)), "containerd names none");
        assert!(!is_host(&order(None, None, false, Reason::Request)), "CRI-O would");
        assert!(!is_host(&order(None, None, true, Reason::List)), "it has ended");
        let me = Some(std::process::id());
        assert!(is_host(&order(None, me, false, Reason::Request)), "its process says so");
    }

    #[test]
    fn a_listed_sandbox_that_has_ended_is_skipped_whatever_its_annotation_says() {
        let directory = tempfile::tempdir().unwrap();
        let (_sender, views) = tokio::sync::watch::channel(Arc::default());
        let provider = Provider { records: Records::new(directory.path()), views };
        let mut ended = order(Some("/run/netns/none"), None, false, Reason::List);
        let text = |text: &str| Some(Annotation { key: annotation::KEYS[0], text: text.into() });
        ended.annotation = text("nonsense");
        assert_eq!(provider.provide(&ended).unwrap(), Provided::Nothing);
        ended.reason = Reason::Request;
        assert!(matches!(provider.provide(&ended), Err(ProvideError::Annotation { .. })));
        ended.annotation = text("[{name: dev0}]");
        assert!(matches!(provider.provide(&ended), Err(ProvideError::Sandbox(OpenSandboxError::Namespace { .. }))));
    }
}
