//! What is done to one sandbox: its devices go in, all or none, and come home. Blocking, on a thread of its own.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use link::{
    AttachAllError, AttachRequest, Detached, Ended, OpenSandbox, OpenSandboxError, ReserveError, Reserved, RouteSocket,
    attach_all, detach_all,
};
use netdevice::{
    Acquisition, DeviceId, DeviceRequest, InterfaceName, Owner, Pod, Sandbox,
    annotation::{self, AnnotationError},
    choice::{Allocated, Choice, ChoiceError, Demand, choose},
    owner::Request,
};
use nri::Refusal;
use store::{Namespace, Records};
use tracing::{debug, info, warn};

use super::{Annotation, Reason, told, work::Work};
use crate::view::Views;

/// How long news of the kernel may take to come to us.
const NEWS: Duration = Duration::from_millis(500);
/// How often somebody who waits looks again.
const LOOK: Duration = Duration::from_millis(2);

/// One annotation is read at a time: what one takes is bounded, and so is what all together take.
static READING: Mutex<()> = Mutex::new(());

/// Why a sandbox does not get its devices.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProvideError {
    #[error("annotation {key}: {error}")]
    Annotation { key: &'static str, error: AnnotationError },
    #[error("{0}")]
    Kubelet(Refusal),
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    #[error(transparent)]
    Attach(#[from] AttachAllError),
    #[error(transparent)]
    Sandbox(#[from] OpenSandboxError),
    #[error("the runtime names no id of the sandbox")]
    NoId,
    #[error("another injector of this node did not finish in time: try again in a moment")]
    Busy,
    #[error("the pod is being stopped")]
    Stopped,
    #[error(transparent)]
    Reserve(#[from] ReserveError),
    #[error("cannot read the records of this node: {0}")]
    Records(#[from] io::Error),
}

/// A sandbox and what its annotation asks for.
pub(super) struct Order {
    pub(super) sandbox: Sandbox,
    pub(super) annotation: Annotation,
    pub(super) reason: Reason,
    /// Whether a sandbox without a network namespace is one on the node's own network, for this runtime.
    pub(super) none_is_host_network: bool,
    /// When it is given up.
    pub(super) limit: Instant,
    pub(super) work: Arc<Work>,
    /// Which devices the kubelet gave to Pods. Blocks.
    pub(super) allocated: Box<dyn Fn() -> Result<Allocated, Refusal> + Send + Sync>,
}

impl Order {
    /// Whether no further device shall be begun.
    fn is_over(&self) -> bool {
        self.work.is_stopped() || Instant::now() >= self.limit
    }
}

/// What a sandbox has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provided {
    /// It asks for nothing, or it has ended.
    Nothing,
    /// All that it asks for; how many devices are new to it.
    All(usize),
}

/// Where devices are found and kept.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) records: Records,
    pub(super) views: Views,
}

impl Site {
    /// Gives a sandbox what it asks for; what it has already it keeps.
    pub(super) fn provide(&self, order: &Order) -> Result<Provided, ProvideError> {
        let opened = match open(order) {
            Err(error) if order.reason == Reason::List && error.is_gone() => {
                debug!(sandbox = order.sandbox.id(), "skipped, it has ended: {error}");
                return Ok(Provided::Nothing);
            }
            opened => opened,
        };
        let requests = read(&order.annotation)?;
        if requests.is_empty() {
            return Ok(Provided::Nothing);
        }
        let sandbox = opened?;
        let (owner, pod) = owner(&order.sandbox).ok_or(ProvideError::NoId)?;
        order.work.waits_for(Some(ProvideError::Busy.to_string()));
        let _lock = self.records.lock_sandbox(owner.id(), order.limit)?.ok_or(ProvideError::Busy)?;
        let (choices, reserved) = self.reserve(order, &requests, &owner, pod)?;
        let parts: Vec<_> = choices.iter().zip(&requests).collect();
        let requests: Vec<AttachRequest<'_>> = parts
            .iter()
            .map(|(choice, request)| AttachRequest {
                device: &choice.device,
                resource: Some(&choice.resource),
                sandbox: &sandbox,
                owner: &owner,
                acquisition: Acquisition::Move,
                configuration: Some(&request.configuration),
            })
            .collect();
        let failed = |device: &DeviceId, error: &link::Error| {
            order.work.fail(told(&Refusal::new(format_args!("device {device}: {error}"))));
        };
        let attached = attach_all(&self.records, &requests, reserved, &|| order.is_over(), &failed);
        let attached = attached.inspect_err(tell_stranded)?;
        for (request, attached) in requests.iter().zip(&attached).filter(|(_, attached)| !attached.was_there) {
            let left_out: Vec<String> = attached.skipped.iter().map(ToString::to_string).collect();
            if left_out.is_empty() {
                info!(device = %request.device, %owner, "injected");
            } else {
                info!(device = %request.device, %owner, "injected; left out: {}", left_out.join("; "));
            }
        }
        Ok(Provided::All(attached.iter().filter(|attached| !attached.was_there).count()))
    }

    /// Chooses by what is known, one injector at a time, and reserves what is chosen, so that devices can move while others
    /// choose. A link that the kernel has and that is not known yet is on its way to us: it has just been made or came home.
    fn reserve(
        &self,
        order: &Order,
        requests: &[DeviceRequest],
        owner: &Owner,
        pod: &Pod,
    ) -> Result<(Vec<Choice>, Reserved), ProvideError> {
        let began = Instant::now();
        let (mut allocated, mut busy) = (None, BTreeSet::new());
        let none = Allocated::new();
        loop {
            if order.work.is_stopped() {
                return Err(ProvideError::Stopped);
            }
            if order.work.obstacle().is_none() {
                order.work.waits_for(Some(ProvideError::Busy.to_string()));
            }
            let gate = self.records.lock_choice(order.limit)?.ok_or(ProvideError::Busy)?;
            let view = self.views.borrow().clone();
            let (ledger, _) = self.records.list()?;
            let reserved = self.records.reserved_from(owner)?;
            let demand = Demand {
                owner,
                pod,
                requests,
                allocated: allocated.as_ref().unwrap_or(&none),
                reserved: &reserved,
                busy: &busy,
                ledger: &ledger,
            };
            let choices = match choose(&view, &demand) {
                Ok(choices) => choices,
                Err(error) if error.missing().is_some_and(is_on_node) => {
                    drop(gate);
                    wait_or(order, error.into(), order.limit.min(began + NEWS))?;
                    continue;
                }
                Err(error @ ChoiceError::NoneFree(_)) if !busy.is_empty() => {
                    drop(gate);
                    busy.clear();
                    wait_or(order, error.into(), order.limit)?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            // what the sandbox has already is nobody else's
            let has_all = choices.iter().all(|choice| ledger.contains_key(&choice.device));
            if !has_all && allocated.is_none() {
                drop(gate);
                allocated = Some((order.allocated)().map_err(ProvideError::Kubelet)?);
                continue;
            }
            let devices = choices.iter().map(|choice| (&choice.device, Some(&choice.resource)));
            match Reserved::take(&self.records, owner, devices) {
                Ok(reserved) => {
                    order.work.waits_for(None);
                    return Ok((choices, reserved));
                }
                Err(ReserveError::Busy(device)) => {
                    drop(gate);
                    wait_or(order, ReserveError::Busy(device.clone()).into(), order.limit)?;
                    busy.insert(device);
                }
                Err(error) => return Err(error.into()),
            }
        }
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

    /// Returns to the node what a sandbox has. `kept` is its namespace, as it was opened when it got its devices.
    pub(super) fn release(&self, sandbox: &str, kept: Option<&Namespace>, limit: Instant) -> io::Result<Vec<Return>> {
        // whoever works on this sandbox is waited for; if he takes too long, each device still has its lock
        let _lock = self.records.lock_sandbox(sandbox, limit)?;
        let (ledger, _) = self.records.list()?;
        let with_pod = |(device, result)| {
            let pod = ledger.get(&device).and_then(|record| record.owner.pod().cloned());
            (device, pod, Released::from(result))
        };
        Ok(detach_all(&self.records, &ledger, sandbox, kept).map(with_pod).collect())
    }

    /// Sandboxes that have devices by an annotation.
    pub(super) fn owners(&self) -> io::Result<BTreeSet<String>> {
        let (ledger, _) = self.records.list()?;
        let of_sandboxes = ledger.into_values().filter(|record| record.owner.is_by_annotation());
        Ok(of_sandboxes.map(|record| record.owner.id().to_owned()).collect())
    }
}

/// Waits a moment, for the reason of the error, or returns the error when it is too late for that.
fn wait_or(order: &Order, error: ProvideError, latest: Instant) -> Result<(), ProvideError> {
    if Instant::now() >= latest {
        return Err(error);
    }
    order.work.waits_for(Some(error.to_string()));
    sleep(LOOK);
    Ok(())
}

fn read(Annotation { key, text }: &Annotation) -> Result<Vec<DeviceRequest>, ProvideError> {
    let _one_at_a_time = READING.lock().unwrap_or_else(PoisonError::into_inner);
    annotation::parse(text).map_err(|error| ProvideError::Annotation { key, error })
}

/// A device, the Pod that had it, and how it came home.
pub(super) type Return = (DeviceId, Option<Pod>, Released);

/// How a device came home.
#[derive(Debug)]
pub(super) enum Released {
    /// It did, under its name or under another one.
    Home(Option<InterfaceName>),
    /// Somebody else brought it home, or has it now.
    Nothing,
    /// It is gone.
    Lost,
    /// Not yet; the next actor tries again.
    Failed(String),
}

impl Released {
    /// As the metric calls it.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Home(_) => "ok",
            Self::Nothing => "nothing",
            Self::Lost => "lost",
            Self::Failed(_) => "failed",
        }
    }
}

impl From<Result<Detached, link::Error>> for Released {
    fn from(result: Result<Detached, link::Error>) -> Self {
        match result {
            Ok(Detached::Done(Ended::Returned { renamed, .. })) => Self::Home(renamed),
            Ok(Detached::NotAttached | Detached::TakenOver | Detached::Done(Ended::Deleted)) => Self::Nothing,
            Ok(Detached::Done(Ended::Lost)) => Self::Lost,
            Ok(Detached::Done(Ended::OutOfReach)) => Self::Failed("not on the node yet".into()),
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

fn tell_stranded(error: &AttachAllError) {
    for (device, why) in &error.stranded {
        let why = why.as_ref().map_or_else(|| "not on the node yet".to_owned(), ToString::to_string);
        warn!(%device, "not returned to the node after another device of the pod failed, this is tried again: {why}");
    }
}

/// Whether the kernel has a link of the device's name.
fn is_on_node(device: &DeviceId) -> bool {
    let found = RouteSocket::open().ok().map(|mut node| link::read_link(&mut node, &device.to_name()));
    matches!(found, Some(Ok(Some(_))))
}

/// Whose devices become: the sandbox's own, from before its first container to after its last one.
fn owner(sandbox: &Sandbox) -> Option<(Owner, &Pod)> {
    Some((sandbox.owner(Request::Annotation)?, sandbox.pod()?))
}

/// The sandbox, opened once: what it is found by may be gone when its devices are returned.
fn open(order: &Order) -> Result<Arc<OpenSandbox>, OpenSandboxError> {
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

    fn order(path: Option<&str>, pid: Option<u32>, none_is_host_network: bool, reason: Reason) -> Order {
        let network_namespace = path.map(str::to_owned);
        let pod = Pod { namespace: "default".into(), name: "web".into(), uid: "u".into() };
        Order {
            sandbox: Sandbox::from_nri("s", pod, network_namespace, pid),
            annotation: Annotation { key: annotation::KEYS[0], text: "[{name: dev0}]".into() },
            reason,
            none_is_host_network,
            limit: Instant::now(),
            work: Arc::default(),
            allocated: Box::new(|| Ok(Allocated::new())),
        }
    }

    #[test]
    fn a_new_sandbox_without_a_namespace_is_on_the_nodes_network_where_the_runtime_says_so_in_this_way() {
        let is_host = |order: &Order| matches!(open(order), Err(OpenSandboxError::HostNetwork));
        assert!(is_host(&order(None, None, true, Reason::Request)), "containerd names none");
        assert!(!is_host(&order(None, None, false, Reason::Request)), "CRI-O would");
        assert!(!is_host(&order(None, None, true, Reason::List)), "it has ended");
        let me = Some(std::process::id());
        assert!(is_host(&order(None, me, false, Reason::Request)), "its process says so");
    }

    #[test]
    fn a_listed_sandbox_that_has_ended_is_skipped_whatever_its_annotation_says() {
        let folder = tempfile::tempdir().unwrap();
        let (_sender, views) = tokio::sync::watch::channel(Arc::default());
        let site = Site { records: Records::new(folder.path()), views };
        let mut ended = order(Some("/run/netns/none"), None, false, Reason::List);
        ended.annotation.text = "nonsense".into();
        assert_eq!(site.provide(&ended).unwrap(), Provided::Nothing);
        ended.reason = Reason::Request;
        assert!(matches!(site.provide(&ended), Err(ProvideError::Annotation { .. })));
        ended.annotation.text = "[{name: dev0}]".into();
        assert!(matches!(site.provide(&ended), Err(ProvideError::Sandbox(OpenSandboxError::Namespace { .. }))));
    }
}
