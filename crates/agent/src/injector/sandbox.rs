//! What is done to one sandbox: its devices go in, all or none, and come home. Blocking, on a thread of its own.

use std::{
    collections::BTreeSet,
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use link::{
    AttachAllError, AttachRequest, Detached, Homecoming, ReserveError, Reserved, RouteSocket, attach_all, detach_all,
};
use netdevice::{
    DeviceId, DeviceRequest, InterfaceName, Owner, Pod,
    annotation::{self, AnnotationError},
    choice::{Allocated, Choice, ChoiceError, Demand, choose},
    owner::Request,
};
use nri::{PodSandbox, Refusal};
use store::{Namespace, Records};
use tracing::{debug, info, warn};

use super::{Annotation, Reason, told, work::Work};
use crate::view::Views;

/// How long news of the kernel may take to come to us.
const NEWS: Duration = Duration::from_millis(500);
/// How often somebody who waits looks again.
const LOOK: Duration = Duration::from_millis(2);

/// The file system of namespaces (`include/uapi/linux/magic.h`).
const NSFS_MAGIC: u64 = 0x6e73_6673;

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
    #[error("{}", link::Error::HostNetwork)]
    HostNetwork,
    #[error("the runtime names no network namespace of the pod")]
    NoNamespace,
    #[error("cannot open the network namespace {path}: {source}")]
    Namespace { path: String, source: io::Error },
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
    pub(super) sandbox: PodSandbox,
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
        let namespace = match open(order) {
            Err(error) if order.reason == Reason::List && error.is_gone() => {
                debug!(sandbox = order.sandbox.id, "skipped, it has ended: {error}");
                return Ok(Provided::Nothing);
            }
            opened => opened,
        };
        let requests = read(&order.annotation)?;
        if requests.is_empty() {
            return Ok(Provided::Nothing);
        }
        let namespace = namespace?;
        order.work.waits_for(Some(ProvideError::Busy.to_string()));
        let _lock = self.records.lock_sandbox(&order.sandbox.id, order.limit)?.ok_or(ProvideError::Busy)?;
        let (owner, pod) = owner(&order.sandbox);
        let (choices, reserved) = self.reserve(order, &requests, &owner, &pod)?;
        let pid = order.sandbox.pid.and_then(|pid| first_process(pid, &namespace));
        let parts: Vec<_> = choices.iter().zip(&requests).collect();
        let requests: Vec<AttachRequest<'_>> = parts
            .iter()
            .map(|(choice, request)| AttachRequest {
                device: &choice.device,
                resource: Some(&choice.resource),
                sandbox: &namespace,
                paths: pid.map(|pid| format!("/proc/{pid}/ns/net")).into_iter().collect(),
                owner: &owner,
                pid,
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
        match fs::read_dir(self.records.folder()) {
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

impl ProvideError {
    /// Whether it says that the sandbox has no namespace any more.
    fn is_gone(&self) -> bool {
        match self {
            Self::NoNamespace => true,
            Self::Namespace { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
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
            Ok(Detached::Done(Homecoming::Home { renamed, .. })) => Self::Home(renamed),
            Ok(Detached::NotAttached | Detached::TakenOver) => Self::Nothing,
            Ok(Detached::Done(Homecoming::Lost)) => Self::Lost,
            Ok(Detached::Done(Homecoming::Away)) => Self::Failed("not on the node yet".into()),
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

/// The Pod of a sandbox.
pub(super) fn pod(sandbox: &PodSandbox) -> Pod {
    Pod { namespace: sandbox.namespace.clone(), name: sandbox.name.clone(), uid: sandbox.uid.clone() }
}

/// Whose devices become: the sandbox's own, from before its first container to after its last one.
fn owner(sandbox: &PodSandbox) -> (Owner, Pod) {
    let (pod, id) = (pod(sandbox), sandbox.id.clone());
    (Owner::Sandbox { id, pod: Some(pod.clone()), by: Request::Annotation }, pod)
}

/// The first process of a sandbox, if that is what its pid means here: in a container without the node's processes it is
/// nobody, or somebody else. A sandbox without a process here is known by the mounts of its namespace.
fn first_process(pid: u32, namespace: &Namespace) -> Option<i32> {
    let its_own = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino();
    (its_own == namespace.inode()).then(|| i32::try_from(pid).ok()).flatten()
}

/// The inode of the namespace that this process, and so the node, is in. Two that are open at a time differ in it.
fn own_inode() -> Option<u64> {
    Some(fs::metadata("/proc/self/ns/net").ok()?.ino())
}

/// The network namespace of a sandbox, opened once: by its path, which may be another one in our mount namespace, or by the
/// sandbox's first process. What it is on CRI-O for a Pod on the node's network, too, is told by the namespace itself.
fn open(order: &Order) -> Result<Arc<Namespace>, ProvideError> {
    if let Some(kept) = order.work.namespace() {
        return Ok(kept);
    }
    let sandbox = &order.sandbox;
    let of_process = sandbox.pid.map(|pid| format!("/proc/{pid}/ns/net"));
    let Some(path) = sandbox.network_namespace.as_ref() else {
        let inode = of_process.and_then(|path| Some(fs::metadata(path).ok()?.ino()));
        let is_assumed = order.none_is_host_network && order.reason == Reason::Request;
        let is_host = inode.map_or(is_assumed, |inode| Some(inode) == own_inode());
        return Err(if is_host { ProvideError::HostNetwork } else { ProvideError::NoNamespace });
    };
    let below_run = path.strip_prefix("/var/run/").map(|rest| format!("/run/{rest}"));
    let mut tries = [Some(path.clone()), below_run, of_process].into_iter().flatten().map(PathBuf::from);
    let first = tries.next().map_or_else(|| Err(io::ErrorKind::NotFound.into()), open_mounted);
    let opened = first.or_else(|error| tries.find_map(|path| open_mounted(path).ok()).ok_or(error));
    let namespace = opened.map_err(|source| ProvideError::Namespace { path: path.clone(), source })?;
    if Some(namespace.inode()) == own_inode() {
        return Err(ProvideError::HostNetwork);
    }
    Ok(order.work.keep(namespace))
}

/// Opens a namespace. The file under a mount that was taken away is none.
fn open_mounted(path: PathBuf) -> io::Result<Namespace> {
    let namespace = Namespace::open(path)?;
    let file_system = rustix::fs::fstatfs(namespace.as_fd())?.f_type;
    let is_namespace = u64::try_from(file_system) == Ok(NSFS_MAGIC);
    is_namespace.then_some(namespace).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "not a network namespace"))
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

    fn order(path: Option<&str>, pid: Option<u32>, none_is_host_network: bool, reason: Reason) -> Order {
        let network_namespace = path.map(str::to_owned);
        Order {
            sandbox: PodSandbox { id: "s".into(), network_namespace, pid, ..PodSandbox::default() },
            annotation: Annotation { key: annotation::KEYS[0], text: "[{name: dev0}]".into() },
            reason,
            none_is_host_network,
            limit: Instant::now(),
            work: Arc::default(),
            allocated: Box::new(|| Ok(Allocated::new())),
        }
    }

    #[test]
    fn a_pod_on_the_nodes_network_is_told_by_its_namespace_and_not_by_a_missing_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (own, unmounted) = (Some("/proc/self/ns/net"), file.path().to_str());
        let (me, nobody) = (Some(std::process::id()), Some(u32::MAX));
        let is_host = |order: &Order| matches!(open(order), Err(ProvideError::HostNetwork));
        let is_gone = |order: &Order| open(order).is_err_and(|error| error.is_gone());
        // as CRI-O names it, and a process of a sandbox that none is named of
        assert!(is_host(&order(own, None, false, Reason::Request)));
        assert!(is_host(&order(None, me, false, Reason::Request)));
        assert!(is_host(&order(None, None, true, Reason::Request)), "containerd names none");
        assert!(!is_host(&order(None, None, false, Reason::Request)), "CRI-O would");
        for path in [Some("/run/netns/none"), unmounted, None] {
            assert!(is_gone(&order(path, nobody, true, Reason::List)), "{path:?}");
        }
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
        assert!(matches!(site.provide(&ended), Err(ProvideError::Namespace { .. })));
    }
}
