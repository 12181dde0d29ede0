//! What is done to one sandbox: its devices go in, all or none, and come home. Blocking, on a thread of its own.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use link::{
    AttachAllError, AttachRequest, Detached, Homecoming, Namespace, Records, RouteSocket, attach_all, detach_all,
};
use netdevice::{
    DeviceId, DeviceRequest, Holder, InterfaceName, View,
    choice::{Allocated, Choice, ChoiceError, Claim, choose},
    record::Pod,
};
use nri::PodSandbox;
use tokio::sync::watch;
use tracing::{info, warn};

use super::gate::Gate;

/// How long a move home takes at most on a quiet node: the kernel waits for a grace period or two.
const MOVE: Duration = Duration::from_millis(30);

/// How long news of the kernel may take to come to us, and how often they are looked for.
const NEWS: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(2);

/// Why a sandbox does not get its devices.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProvideError {
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    #[error(transparent)]
    Attach(#[from] AttachAllError),
    #[error("{}", link::Error::HostNetwork)]
    HostNetwork,
    #[error("cannot open the network namespace {path}: {source}")]
    Namespace { path: String, source: io::Error },
    #[error("the node's interfaces are not read yet: try again in a moment")]
    NotReady,
    #[error("another injector of this node did not finish in time: try again in a moment")]
    Busy,
    #[error("cannot read the records of this node: {0}")]
    Records(#[from] io::Error),
}

/// A sandbox and what its annotation asks for.
pub(super) struct Order {
    pub(super) sandbox: PodSandbox,
    pub(super) requests: Vec<DeviceRequest>,
    pub(super) allocated: Allocated,
    pub(super) deadline: Instant,
}

/// Where devices are found and kept.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) records: Records,
    pub(super) views: watch::Receiver<Option<Arc<View>>>,
}

impl Site {
    /// Gives a sandbox what it asks for; what it has already it keeps. How many devices are new to it.
    pub(super) fn provide(&self, order: &Order) -> Result<usize, ProvideError> {
        let namespace = open(&order.sandbox)?;
        let _gate = Gate::pass(self.records.folder(), order.deadline)?.ok_or(ProvideError::Busy)?;
        let (holder, pod) = holder(&order.sandbox);
        let choices = self.choose(order, &holder, &pod)?;
        let pid = order.sandbox.pid.and_then(|pid| first_process(pid, &namespace));
        let request =
            |(choice, request): (&'_ Choice, &'_ DeviceRequest)| (choice.clone(), request.configuration.clone());
        let parts: Vec<_> = choices.iter().zip(&order.requests).map(request).collect();
        let requests: Vec<AttachRequest<'_>> = parts
            .iter()
            .map(|(choice, configuration)| AttachRequest {
                device: &choice.device,
                resource: Some(&choice.resource),
                sandbox: &namespace,
                paths: pid.map(|pid| format!("/proc/{pid}/ns/net")).into_iter().collect(),
                holder: &holder,
                pid,
                configuration: Some(configuration),
            })
            .collect();
        // what is in when time is up must be home before the runtime gives up on us
        let reserve = MOVE * u32::try_from(requests.len()).unwrap_or(u32::MAX);
        let latest = order.deadline.checked_sub(reserve).unwrap_or(order.deadline);
        let attached = attach_all(&self.records, &requests, Some(latest)).inspect_err(tell_stranded)?;
        for (request, attached) in requests.iter().zip(&attached).filter(|(_, attached)| !attached.was_there) {
            let left_out: Vec<String> = attached.skipped.iter().map(ToString::to_string).collect();
            if left_out.is_empty() {
                info!(device = %request.device, %holder, "injected");
            } else {
                info!(device = %request.device, %holder, "injected; left out: {}", left_out.join("; "));
            }
        }
        Ok(attached.iter().filter(|attached| !attached.was_there).count())
    }

    /// Chooses by what is known. A link that the kernel has and that is not known yet is on its way to us: it has just been
    /// made or came home.
    fn choose(&self, order: &Order, holder: &Holder, pod: &Pod) -> Result<Vec<Choice>, ProvideError> {
        let latest = order.deadline.min(Instant::now() + NEWS);
        loop {
            let view = self.views.borrow().clone().ok_or(ProvideError::NotReady)?;
            let (ledger, _) = self.records.list()?;
            let (requests, allocated) = (&order.requests, &order.allocated);
            match choose(&view, &Claim { holder, pod, requests, allocated, ledger: &ledger }) {
                Err(error) if error.missing().is_some_and(is_on_node) && Instant::now() < latest => sleep(LOOK),
                chosen => return Ok(chosen?),
            }
        }
    }

    /// Brings home what a sandbox has.
    pub(super) fn release(&self, sandbox: &str, deadline: Instant) -> io::Result<Vec<Return>> {
        let (ledger, _) = self.records.list()?;
        if !ledger.values().any(|record| record.holder.is_in_sandbox(sandbox)) {
            return Ok(Vec::new());
        }
        // one who works on this sandbox is waited for; if he takes too long, each device still has its lock
        let _gate = Gate::pass(self.records.folder(), deadline)?;
        let devices = detach_all(&self.records, sandbox, None).map_err(io::Error::other)?;
        let with_pod = |(device, result)| {
            let pod = ledger.get(&device).and_then(|record| record.holder.pod.clone());
            (device, pod, Released::from(result))
        };
        Ok(devices.map(with_pod).collect())
    }

    /// Sandboxes that have devices by an annotation.
    pub(super) fn holders(&self) -> io::Result<BTreeSet<String>> {
        let (ledger, _) = self.records.list()?;
        let of_sandboxes = ledger.into_values().filter(|record| record.holder.is_sandbox());
        Ok(of_sandboxes.map(|record| record.holder.container).collect())
    }
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
            Ok(Detached::Done(Homecoming::Home { renamed, .. })) => Self::Home(renamed),
            Ok(Detached::NotAttached | Detached::TakenOver) => Self::Nothing,
            Ok(Detached::Done(Homecoming::Lost)) => Self::Lost,
            Ok(Detached::Done(Homecoming::Away)) => Self::Failed("it is not on the node yet".into()),
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

fn tell_stranded(error: &AttachAllError) {
    for (device, why) in &error.stranded {
        let why = why.as_ref().map_or_else(|| "it is not on the node yet".to_owned(), ToString::to_string);
        warn!(%device, "did not come home after a failure of the pod's other devices, it is tried again: {why}");
    }
}

/// Whether the kernel has a link of the device's name.
fn is_on_node(device: &DeviceId) -> bool {
    let found = RouteSocket::open().ok().map(|mut node| link::read_link(&mut node, &device.to_name()));
    matches!(found, Some(Ok(Some(_))))
}

/// The Pod of a sandbox.
pub(super) fn pod(sandbox: &PodSandbox) -> Pod {
    Pod { namespace: sandbox.namespace.clone(), name: sandbox.name.clone(), uid: sandbox.uid.clone() }
}

/// Whose devices become: the sandbox's own, from before its first container to after its last one.
fn holder(sandbox: &PodSandbox) -> (Holder, Pod) {
    let (pod, id) = (pod(sandbox), sandbox.id.clone());
    (Holder { container: id.clone(), sandbox: Some(id), pod: Some(pod.clone()) }, pod)
}

/// The first process of a sandbox, if that is what its pid means here: in a container without the node's processes it is
/// nobody, or somebody else. A sandbox without a process here is known by the mounts of its namespace.
fn first_process(pid: u32, namespace: &Namespace) -> Option<i32> {
    let its_own = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino();
    (its_own == namespace.inode()).then(|| i32::try_from(pid).ok()).flatten()
}

/// Opens the network namespace of a sandbox: by its path, which may be another one in our mount namespace, or by the
/// sandbox's first process.
fn open(sandbox: &PodSandbox) -> Result<Namespace, ProvideError> {
    let path = sandbox.network_namespace.as_ref().ok_or(ProvideError::HostNetwork)?;
    let below_run = path.strip_prefix("/var/run/").map(|rest| format!("/run/{rest}"));
    let of_process = sandbox.pid.map(|pid| format!("/proc/{pid}/ns/net"));
    let mut tries = [Some(path.clone()), below_run, of_process].into_iter().flatten().map(PathBuf::from);
    let first = tries.next().map_or_else(|| Err(io::ErrorKind::NotFound.into()), Namespace::open);
    let opened = first.or_else(|error| tries.find_map(|path| Namespace::open(path).ok()).ok_or(error));
    opened.map_err(|source| ProvideError::Namespace { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_counts_only_if_that_process_is_in_the_sandbox() {
        let own = Namespace::open("/proc/self/ns/net").unwrap();
        let pid = std::process::id();
        assert_eq!(first_process(pid, &own), i32::try_from(pid).ok());
        assert_eq!(first_process(u32::MAX, &own), None);
        // any other namespace will do
        let other = Namespace::open("/proc/self/ns/uts");
        assert!(other.is_err() || first_process(pid, &other.unwrap()).is_none());
    }
}
