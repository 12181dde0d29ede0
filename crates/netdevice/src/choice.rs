//! Chooses the devices that a Pod requests in an annotation, or that a command requests for it: which pools it may use, and why
//! other devices are refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU16,
};

use crate::{
    acquisition::{Acquisition, ChildKind},
    annotation::{DeviceRequest, PoolNameError, Wanted},
    exclusion::Exclusion,
    id::DeviceId,
    link::Link,
    name::InterfaceName,
    owner::{Owner, Pod, Request},
    pool::{Annotations, NotAllowed, Pool},
    projection::{Device, DeviceState, Refusal, View},
    record::{Attachment, Ledger},
    resource::ResourceName,
};

/// Devices that the kubelet has allocated to a Pod as a resource, with that Pod.
pub type Allocated = BTreeMap<DeviceId, String>;

/// The requests of a sandbox.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// The future owner of the devices.
    pub owner: &'a Owner,
    /// The Pod of that sandbox.
    pub pod: &'a Pod,
    /// The devices of its annotation, or of a command.
    pub requests: &'a [DeviceRequest],
    /// Devices that the kubelet has allocated.
    pub allocated: &'a Allocated,
    /// Devices that others have reserved.
    pub reserved: &'a BTreeMap<DeviceId, Owner>,
    /// Devices that are being attached or detached: they are not chosen for a request for any device of a pool.
    pub busy: &'a BTreeSet<DeviceId>,
    /// The records at this moment: a view may be slightly older.
    pub ledger: &'a Ledger,
}

/// The device for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The device.
    pub device: DeviceId,
    /// Its pool.
    pub resource: ResourceName,
    /// How it comes into the sandbox.
    pub acquisition: Acquisition,
}

/// Why a Pod does not get the devices that are requested for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// The device cannot be allocated.
    #[error("device {0}: {1}")]
    Refused(DeviceId, Box<Refusal>),
    /// No pool selects it.
    #[error("device {0}: no pool of this node selects it: choose another device")]
    NotSelected(DeviceId),
    /// The pool is not available to annotations.
    #[error("device {0}: pool {1} is not available to annotations: request the resource or choose another device")]
    NotForAnnotations(DeviceId, ResourceName),
    /// The pool is available to annotations of other namespaces.
    #[error("device {0}: pool {1} is not available to annotations in namespace {2}: choose another device")]
    OtherNamespace(DeviceId, ResourceName, String),
    /// The kubelet allocated it to a Pod that requested the resource.
    #[error("device {0}: the kubelet gave it to pod {1}: delete that pod or choose another device")]
    Allocated(DeviceId, String),
    /// It is reserved, and not attached yet.
    #[error("device {0}: it is reserved for {1}: delete that pod or choose another device")]
    Reserved(DeviceId, Box<Owner>),
    /// No pool of that name.
    #[error("pool: {0}")]
    Pool(#[from] PoolNameError),
    /// As [`NotForAnnotations`](Self::NotForAnnotations), for any device of the pool.
    #[error("pool {0} is not available to annotations: request the resource or choose another pool")]
    PoolNotForAnnotations(ResourceName),
    /// As [`OtherNamespace`](Self::OtherNamespace), for any device of the pool.
    #[error("pool {0} is not available to annotations in namespace {1}: choose another pool")]
    PoolOtherNamespace(ResourceName, String),
    /// Another link of the host has its name since it was attached.
    #[error("device {0}: another interface of the node has its name: rename or remove that interface")]
    NameTaken(DeviceId),
    /// All devices of the pool are in use, or none is healthy.
    #[error("no device of pool {0} is free: delete a pod that has one or choose another pool")]
    NoneFree(ResourceName),
    /// No interface of the pool can have devices created on it now.
    #[error("no interface of pool {0} is up and on the node, to create a device on: choose another pool")]
    NoParent(ResourceName),
    /// The pool does not allow devices on the node's own links.
    #[error(
        "device {0}: no device is created on it because {1}: choose another device, or set allowUplinkParent in its pool"
    )]
    NotParent(DeviceId, Exclusion),
    /// A setting of the driver that the pool does not allow.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    /// All numbers are taken.
    #[error("device {0}: it has 65535 devices already: choose another device")]
    NoNumber(DeviceId),
}

impl ChoiceError {
    /// The device, if it is not on the node according to the view.
    pub fn missing(&self) -> Option<&DeviceId> {
        match self {
            Self::Refused(device, refusal) if **refusal == Refusal::NotThere => Some(device),
            _ => None,
        }
    }
}

/// Chooses a device for each request, in the order of the requests. A Pod keeps the devices that it has.
///
/// # Errors
///
/// The first request that cannot be met. Requests for named devices are met before those for any device of a pool.
pub fn choose(view: &View, demand: &Demand<'_>) -> Result<Vec<Choice>, ChoiceError> {
    let mut chosen = BTreeMap::new();
    let mut taken = BTreeSet::new();
    let by_name = |request: &DeviceRequest| matches!(request.device, Wanted::Name(_));
    let (named, of_pools): (Vec<_>, Vec<_>) =
        demand.requests.iter().enumerate().partition(|(_, request)| by_name(request));
    for (at, request) in named.into_iter().chain(of_pools) {
        let choice = match (&request.device, request.acquisition) {
            (wanted, Acquisition::Create(kind)) => demand.child(view, wanted, kind, request, &taken)?,
            (Wanted::Name(name), Acquisition::Move) => demand.named(view, name)?,
            (Wanted::Pool(pool), Acquisition::Move) => demand.any_of(view, pool.find(&view.pools)?, request, &taken)?,
        };
        demand.check_driver(view, &choice, request)?;
        taken.insert(choice.device.clone());
        chosen.insert(at, choice);
    }
    Ok(chosen.into_values().collect())
}

/// Checks whether a Pod of that namespace could have a device again that it has: if it is returned, to be attached with another
/// configuration.
///
/// # Errors
///
/// Why it could not.
pub fn check_again(view: &View, namespace: &str, record: &Attachment) -> Result<(), ChoiceError> {
    let id = record.device.clone();
    let resource = record.resource.clone().unwrap_or_default();
    match view.pools.named(&resource).map(|pool| &pool.annotations) {
        None => Err(ChoiceError::NotSelected(id)),
        Some(Annotations::Refused) => Err(ChoiceError::NotForAnnotations(id, resource)),
        Some(annotations) if !annotations.allow(namespace) => {
            Err(ChoiceError::OtherNamespace(id, resource, namespace.to_owned()))
        }
        // the parent of a device that was created is on the host
        Some(_) if record.created().is_none() && view.snapshot.link_named(&id.to_name()).is_some() => {
            Err(ChoiceError::NameTaken(id))
        }
        Some(_) => Ok(()),
    }
}

impl Demand<'_> {
    /// Whether the Pod has the device by a request of this kind: in this sandbox, or in one that ended and has not returned it
    /// yet. What it has in another way is held.
    fn has(&self, record: &Attachment) -> bool {
        let is_same_kind = self.owner.request().is_some() && record.owner.request() == self.owner.request();
        is_same_kind && record.owner.is_same_pod(self.owner)
    }

    /// Whether a pool is for no annotation, and this is one. A command on the node is the administrator's own.
    fn is_refused(&self, annotations: &Annotations) -> bool {
        *annotations == Annotations::Refused && self.owner.request() != Some(&Request::Command)
    }

    /// Whether a pool is available in the Pod's namespace: a pool with a list of namespaces is so for commands, too.
    fn allows(&self, annotations: &Annotations) -> bool {
        *annotations == Annotations::Refused || annotations.allow(&self.pod.namespace)
    }

    fn named(&self, view: &View, name: &InterfaceName) -> Result<Choice, ChoiceError> {
        let id = DeviceId::from(name);
        if let Some(record) = self.ledger.get(&id).filter(|record| self.has(record)) {
            let resource = record.resource.clone().unwrap_or_default();
            return Ok(Choice { device: id, resource, acquisition: Acquisition::Move });
        }
        let Some(device) = view.devices().get(&id) else { return Err(not_offered(view, name, id)) };
        let Some(pool) = view.pools.named(&device.resource) else { return Err(ChoiceError::NotSelected(id)) };
        self.check_named(&id, pool)?;
        self.check_free(&id)?;
        Ok(Choice { device: id, resource: pool.resource.clone(), acquisition: Acquisition::Move })
    }

    /// Whether a device of that pool may be requested by its name.
    fn check_named(&self, id: &DeviceId, pool: &Pool) -> Result<(), ChoiceError> {
        let (id, resource) = (id.clone(), pool.resource.clone());
        match &pool.annotations {
            annotations if self.is_refused(annotations) => Err(ChoiceError::NotForAnnotations(id, resource)),
            annotations if !self.allows(annotations) => {
                Err(ChoiceError::OtherNamespace(id, resource, self.pod.namespace.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Whether any device of a pool may be requested.
    fn check_pool(&self, pool: &Pool) -> Result<(), ChoiceError> {
        match &pool.annotations {
            annotations if self.is_refused(annotations) => {
                Err(ChoiceError::PoolNotForAnnotations(pool.resource.clone()))
            }
            annotations if !self.allows(annotations) => {
                Err(ChoiceError::PoolOtherNamespace(pool.resource.clone(), self.pod.namespace.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Whether the pool allows what is requested of the driver. What the Pod has already stays, and a command is the
    /// administrator's own.
    fn check_driver(&self, view: &View, choice: &Choice, request: &DeviceRequest) -> Result<(), ChoiceError> {
        let is_same = |record: &Attachment| record.configuration.as_ref() == Some(&request.configuration);
        let has = self.ledger.get(&choice.device).is_some_and(|record| self.has(record) && is_same(record));
        if has || self.owner.request() == Some(&Request::Command) {
            return Ok(());
        }
        let pool = view.pools.named(&choice.resource);
        Ok(pool.map_or(Ok(()), |pool| pool.check_ethtool(&request.configuration))?)
    }

    /// Whether nobody has a device or a right to it.
    fn check_free(&self, id: &DeviceId) -> Result<(), ChoiceError> {
        let id = id.clone();
        if let Some(record) = self.ledger.get(&id) {
            return Err(ChoiceError::Refused(id, Refusal::Held(record.owner.clone().into()).into()));
        }
        match (self.allocated.get(&id), self.reserved.get(&id)) {
            (Some(pod), _) => Err(ChoiceError::Allocated(id, pod.clone())),
            (None, Some(owner)) => Err(ChoiceError::Reserved(id, owner.clone().into())),
            (None, None) => Ok(()),
        }
    }

    /// A device that is created: the one that the Pod has, or a new one on the named interface, or on the one of the pool that
    /// has the fewest.
    fn child(
        &self,
        view: &View,
        wanted: &Wanted,
        kind: ChildKind,
        request: &DeviceRequest,
        taken: &BTreeSet<DeviceId>,
    ) -> Result<Choice, ChoiceError> {
        let acquisition = Acquisition::Create(kind);
        let pool = match wanted {
            Wanted::Name(_) => None,
            Wanted::Pool(pool) => Some(pool.find(&view.pools)?),
        };
        let had = self.ledger.values().find(|record| {
            let is_on = match wanted {
                Wanted::Name(name) => record.device.parent() == Some(DeviceId::from(name)),
                Wanted::Pool(_) => record.resource.as_ref() == pool.map(|pool| &pool.resource),
            };
            let is_same = record.created().is_some_and(|created| created.kind == kind)
                && record.configuration.as_ref() == Some(&request.configuration);
            is_on && is_same && self.has(record) && !taken.contains(&record.device)
        });
        if let Some(record) = had {
            let resource = record.resource.clone().unwrap_or_default();
            return Ok(Choice { device: record.device.clone(), resource, acquisition });
        }
        let (parent, pool) = match (wanted, pool) {
            (Wanted::Name(name), _) => self.parent(view, name)?,
            (Wanted::Pool(_), Some(pool)) => (self.any_parent(view, pool, taken)?, pool),
            (Wanted::Pool(pool), None) => return Err(PoolNameError::Unknown(pool.clone()).into()),
        };
        let is_taken = |device: &DeviceId| {
            let others = self.ledger.contains_key(device) || self.reserved.contains_key(device);
            others || self.allocated.contains_key(device) || self.busy.contains(device) || taken.contains(device)
        };
        let device = free_child(&parent, is_taken).ok_or_else(|| ChoiceError::NoNumber(DeviceId::from(&parent)))?;
        Ok(Choice { device, resource: pool.resource.clone(), acquisition })
    }

    /// The interface of that name and its pool, if devices may be created on it.
    fn parent<'v>(&self, view: &'v View, name: &InterfaceName) -> Result<(InterfaceName, &'v Pool), ChoiceError> {
        let id = DeviceId::from(name);
        let Some(link) = view.snapshot.link_named(name) else {
            self.check_free(&id)?;
            return Err(not_offered(view, name, id));
        };
        let pool = view.pools.of(link).ok_or_else(|| ChoiceError::NotSelected(id.clone()))?;
        if view.unknown.contains(&id) {
            return Err(ChoiceError::Refused(id, Refusal::Unknown.into()));
        }
        if let Some(exclusion) = view.parent_exclusion(link, pool) {
            return Err(ChoiceError::NotParent(id, exclusion));
        }
        self.check_named(&id, pool)?;
        self.check_free(&id)?;
        Ok((name.clone(), pool))
    }

    /// The interface of a pool that has the fewest devices created on it.
    fn any_parent(&self, view: &View, pool: &Pool, taken: &BTreeSet<DeviceId>) -> Result<InterfaceName, ChoiceError> {
        self.check_pool(pool)?;
        let children = |id: &DeviceId| {
            self.ledger
                .keys()
                .chain(self.reserved.keys())
                .chain(taken)
                .filter(|device| device.parent().as_ref() == Some(id))
                .count()
        };
        let suits = |link: &&Link| {
            let id = DeviceId::from(&link.name);
            let is_of_pool = view.pools.of(link).is_some_and(|of| of.resource == pool.resource);
            is_of_pool
                && link.is_up()
                && view.parent_exclusion(link, pool).is_none()
                && !view.unknown.contains(&id)
                && !taken.contains(&id)
                && self.check_free(&id).is_ok()
        };
        let links = view.snapshot.links().values().map(|link| &**link).filter(suits);
        let best = links.min_by_key(|link| (children(&DeviceId::from(&link.name)), link.name.clone()));
        best.map(|link| link.name.clone()).ok_or_else(|| ChoiceError::NoParent(pool.resource.clone()))
    }

    fn any_of(
        &self,
        view: &View,
        pool: &Pool,
        request: &DeviceRequest,
        taken: &BTreeSet<DeviceId>,
    ) -> Result<Choice, ChoiceError> {
        self.check_pool(pool)?;
        let moved = self.ledger.values().filter(|record| record.created().is_none());
        let had = moved.filter(|record| record.resource.as_ref() == Some(&pool.resource));
        let had = had.filter(|record| self.has(record)).map(|record| {
            let is_same = record.configuration.as_ref() == Some(&request.configuration);
            (if is_same { Rank::Had } else { Rank::HadOtherwise }, &record.device)
        });
        let parents = self.ledger.keys().chain(self.reserved.keys());
        let parents: BTreeSet<DeviceId> = parents.filter_map(DeviceId::parent).collect();
        let is_free = |id: &DeviceId| id.child().is_none() && !parents.contains(id) && self.is_free(id);
        let free = view.devices_of(&pool.resource).filter(|device| is_free(&device.id));
        let free = free.filter_map(|device| Some((rank(view, device)?, &device.id)));
        let best = had.chain(free).filter(|(_, device)| !taken.contains(*device)).min();
        let (_, device) = best.ok_or_else(|| ChoiceError::NoneFree(pool.resource.clone()))?;
        Ok(Choice { device: device.clone(), resource: pool.resource.clone(), acquisition: Acquisition::Move })
    }

    fn is_free(&self, device: &DeviceId) -> bool {
        let is_taken = self.allocated.contains_key(device) || self.reserved.contains_key(device);
        !self.ledger.contains_key(device) && !is_taken && !self.busy.contains(device)
    }
}

/// The lowest id of a device on `parent` that is not taken.
pub fn free_child(parent: &InterfaceName, is_taken: impl Fn(&DeviceId) -> bool) -> Option<DeviceId> {
    let numbers = (1..=u16::MAX).filter_map(NonZeroU16::new);
    numbers.map(|number| DeviceId::child_of(parent, number)).find(|device| !is_taken(device))
}

/// The rank of a free device, the lowest is best; none if it is not suitable.
fn rank(view: &View, device: &Device) -> Option<Rank> {
    match &device.state {
        DeviceState::Offered { healthy: true, .. } => Some(Rank::Healthy),
        // a link that is down is set up in the sandbox
        DeviceState::Offered { link, .. } => view.snapshot.link(*link).filter(|link| !link.is_up()).map(|_| Rank::Down),
        // its record has just been removed
        DeviceState::Held(..) => Some(Rank::JustBack),
    }
}

/// The preference among devices for a request for any device of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// The Pod has it for this request.
    Had,
    Healthy,
    Down,
    /// It has just been returned.
    JustBack,
    /// The Pod has it for another request, in a sandbox that ended.
    HadOtherwise,
}

/// Why a device is not offered.
fn not_offered(view: &View, name: &InterfaceName, id: DeviceId) -> ChoiceError {
    if view.unknown.contains(&id) {
        return ChoiceError::Refused(id, Refusal::Unknown.into());
    }
    let Some(link) = view.snapshot.link_named(name) else { return ChoiceError::Refused(id, Refusal::NotThere.into()) };
    match view.explain(link).exclusion {
        Some(exclusion) => ChoiceError::Refused(id, Refusal::Excluded(exclusion).into()),
        None => ChoiceError::NotSelected(id),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        SandboxConfiguration, Snapshot,
        acquisition::{Created, MacvlanMode},
        annotation::parse,
        fixture,
        link::flags,
        pool::Pools,
        projection::Projector,
        record::Ledger,
        snapshot::{DefaultRoute, Family},
    };

    const POOLS: &str = "pools:
- {resource: example.com/fast, select: {names: [^fast]}, annotations: true}
- {resource: example.com/team, select: {names: [^team]}, annotations: {namespaces: [a]}}
- {resource: example.com/kubelet, select: {names: [^kubelet]}}
- {resource: example.com/node, select: {names: [^node]}, annotations: true, allowUplinkParent: true}
- {resource: example.com/carrier, select: {names: [^carrier]}, health: carrier, annotations: true}
";

    const MACVLAN: ChildKind = ChildKind::Macvlan { mode: MacvlanMode::Bridge };

    fn pod(namespace: &str, name: &str) -> Pod {
        Pod { namespace: namespace.into(), name: name.into(), uid: format!("uid-{name}") }
    }

    fn owner(pod: &Pod, sandbox: &str) -> Owner {
        Owner::Sandbox { id: sandbox.into(), pod: Some(pod.clone()), by: Request::Annotation }
    }

    fn record(name: &str, resource: &str, owner: Owner) -> (DeviceId, Arc<Attachment>) {
        let record = Attachment {
            resource: Some(resource.parse().unwrap()),
            configuration: owner.outlives_containers().then(SandboxConfiguration::default),
            owner,
            ..fixture::record(name)
        };
        (record.device.clone(), Arc::new(record))
    }

    /// Links that are up, or down where the name ends in `-down`; the pools; what Pods have.
    fn view(links: &[&str], records: Vec<(DeviceId, Arc<Attachment>)>) -> View {
        let mut snapshot = Snapshot::default();
        for (index, name) in (1..).zip(links) {
            let flags = if name.ends_with("-down") { 0 } else { flags::UP };
            snapshot.insert_link(Arc::new(Link { flags, ..fixture::link(index, name) }));
            if name.ends_with("-uplink") {
                snapshot.insert_default_route(DefaultRoute { family: Family::V4, table: 254, metric: 0, link: index });
            }
        }
        let mut projector = Projector::new();
        projector.set_pools(Arc::new(Pools::from_yaml(POOLS).unwrap()));
        projector.set_ledger(Arc::new(records.into_iter().collect::<Ledger>()));
        projector.set_snapshot(snapshot);
        projector.view().clone()
    }

    fn ask(view: &View, namespace: &str, annotation: &str) -> Result<Vec<String>, String> {
        ask_by(Request::Annotation, view, namespace, annotation)
    }

    fn ask_by(by: Request, view: &View, namespace: &str, annotation: &str) -> Result<Vec<String>, String> {
        let pod = pod(namespace, "me");
        let owner = Owner::Sandbox { id: "new".into(), pod: Some(pod.clone()), by };
        let allocated = Allocated::from([("fast-given".parse().unwrap(), "b/other".into())]);
        let requests = parse(annotation).unwrap();
        let demand = Demand {
            owner: &owner,
            pod: &pod,
            requests: &requests,
            allocated: &allocated,
            reserved: &["fast-reserved", "node2:1"].map(|id| (id.parse().unwrap(), Owner::Kubelet)).into(),
            busy: &BTreeSet::from(["fast-busy".parse().unwrap()]),
            ledger: &view.ledger,
        };
        let choices = choose(view, &demand).map_err(|error| error.to_string())?;
        Ok(choices.iter().map(|choice| choice.device.to_string()).collect())
    }

    #[test]
    fn a_private_flag_needs_the_pool_unless_an_administrator_requests_it() {
        let view = view(&["fast0"], vec![]);
        for device in ["name: fast0", "pool: fast", "name: fast0, create: {kind: macvlan}"] {
            let annotation = format!("[{{{device}, ethtool: {{private_flags: {{vf-true-promisc-support: true}}}}}}]");
            let error = ask(&view, "default", &annotation).unwrap_err();
            assert!(error.contains("example.com/fast does not allow pods to set the private flag"), "{error}");
            ask_by(Request::Command, &view, "default", &annotation).unwrap();
            let annotation = format!("[{{{device}, ethtool: {{features: {{loopback: true}}}}}}]");
            ask(&view, "default", &annotation).unwrap_err();
            ask(&view, "default", &annotation.replace("loopback", "tso")).unwrap();
        }
    }

    #[test]
    fn the_administrators_selection_decides() {
        let links =
            ["fast-uplink", "fast0", "fast-given", "fast-reserved", "team0", "kubelet0", "other0", "lo", "fast-down"];
        let view = view(&links, vec![record("fast1", "example.com/fast", owner(&pod("b", "you"), "abc"))]);
        let table = [
            ("default", "[{name: fast0}]", Ok(vec!["fast0"])),
            ("default", "[{name: fast-down}]", Ok(vec!["fast-down"])),
            ("a", "[{name: team0}, {name: fast0}]", Ok(vec!["team0", "fast0"])),
            (
                "default",
                "[{name: team0}]",
                Err("device team0: pool example.com/team is not available to annotations in namespace default: \
                     choose another device"),
            ),
            (
                "a",
                "[{name: kubelet0}]",
                Err("device kubelet0: pool example.com/kubelet is not available to annotations: request the resource \
                     or choose another device"),
            ),
            ("a", "[{name: other0}]", Err("device other0: no pool of this node selects it: choose another device")),
            (
                "a",
                "[{name: fast-given}]",
                Err("device fast-given: the kubelet gave it to pod b/other: delete that pod or \
                     choose another device"),
            ),
            (
                "a",
                "[{name: fast-reserved}]",
                Err(
                    "device fast-reserved: it is reserved for a pod that the kubelet has not started yet: delete that pod or \
                     choose another device",
                ),
            ),
            (
                "a",
                "[{name: fast1}]",
                Err("device fast1: it is held by pod b/you (sandbox abc): delete that pod or choose \
                     another device"),
            ),
            ("a", "[{name: none0}]", Err("device none0: the node has no such interface: choose another device")),
            ("a", "[{pool: slow}]", Err("pool: this node has no pool slow")),
            (
                "a",
                "[{pool: kubelet}]",
                Err(
                    "pool example.com/kubelet is not available to annotations: request the resource or choose another \
                     pool",
                ),
            ),
        ];
        for (namespace, annotation, expected) in table {
            let expected = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            assert_eq!(ask(&view, namespace, annotation), expected.map_err(str::to_owned), "{annotation}");
        }
        let refused = ask(&view, "a", "[{name: fast-uplink}]").unwrap_err();
        assert!(refused.contains("it is never handed out because"), "{refused}");
    }

    #[test]
    fn any_device_of_a_pool_is_a_healthy_one_that_nobody_has_and_no_request_names() {
        let view = view(&["fast-busy", "fast-down", "fast-given", "fast-reserved", "fast1", "fast2"], Vec::new());
        let ask = |annotation| ask(&view, "a", annotation);
        assert_eq!(ask("[{pool: fast}]").unwrap(), ["fast1"]);
        assert_eq!(ask("[{pool: example.com/fast}, {name: fast1}]").unwrap(), ["fast2", "fast1"]);
        assert_eq!(ask("[{pool: fast}, {pool: fast}, {pool: fast}]").unwrap(), ["fast1", "fast2", "fast-down"]);
        assert_eq!(
            ask("[{pool: fast}, {pool: fast}, {pool: fast}, {pool: fast}]").unwrap_err(),
            "no device of pool example.com/fast is free: delete a pod that has one or choose another pool"
        );
    }

    #[test]
    fn an_interface_on_which_a_device_is_reserved_is_not_any_device_of_a_pool() {
        let view = view(&["node2", "node3"], Vec::new());
        assert_eq!(ask(&view, "a", "[{pool: node}]").unwrap(), ["node3"]);
        assert!(ask(&view, "a", "[{pool: node}, {pool: node}]").unwrap_err().starts_with("no device of pool"));
    }

    #[test]
    fn a_link_without_carrier_is_not_any_device_of_a_pool_that_wants_one() {
        let view = view(&["carrier0"], Vec::new());
        assert!(ask(&view, "a", "[{pool: carrier}]").unwrap_err().starts_with("no device of pool"));
    }

    #[test]
    fn what_a_pod_has_already_it_keeps() {
        let mine = |name, sandbox| record(name, "example.com/fast", owner(&pod("a", "me"), sandbox));
        let view = view(&["fast1"], vec![mine("fast2", "new"), mine("fast3", "old")]);
        let ask = |annotation| ask(&view, "a", annotation);
        assert_eq!(ask("[{name: fast3}]").unwrap(), ["fast3"]);
        assert_eq!(ask("[{pool: fast}]").unwrap(), ["fast2"]);
        assert_eq!(ask("[{pool: fast}, {name: fast2}]").unwrap(), ["fast3", "fast2"]);
        assert_eq!(ask("[{pool: fast, mtu: 1400}]").unwrap(), ["fast1"]);
        assert!(!view.devices().values().any(|device| device.id.to_string() != "fast1" && device.is_healthy()));
    }

    #[test]
    fn a_device_that_is_created_gets_the_lowest_free_number_and_its_parent_stays() {
        let you = owner(&pod("b", "you"), "abc");
        let child = |name: &str, owner: &Owner| {
            let created = Created { parent: "fast1".parse().unwrap(), parent_index: 2, kind: MACVLAN };
            let (_, record) = record("fast0", "example.com/fast", owner.clone());
            let record = Attachment { device: name.parse().unwrap(), acquired: created.into(), ..(*record).clone() };
            (record.device.clone(), Arc::new(record))
        };
        let records = vec![
            child("fast1:1", &you),
            child("fast1:3", &owner(&pod("a", "me"), "new")),
            record("fast3", "example.com/fast", you.clone()),
        ];
        let view = view(&["fast-uplink", "fast1", "fast2", "fast-down", "kubelet0", "other0", "node-uplink"], records);
        let create = |wanted: &str| format!("{{{wanted}, create: {{kind: macvlan}}, new_name: net{}}}", wanted.len());
        let ask = |annotation: &str| ask(&view, "a", annotation);
        // it has fast1:3 by a request without a name
        assert_eq!(ask("[{name: fast1, create: {kind: macvlan}}]").unwrap(), ["fast1:3"]);
        assert_eq!(ask("[{name: fast1, create: {kind: macvlan, mode: vepa}}]").unwrap(), ["fast1:2"]);
        assert_eq!(
            ask(&format!("[{}, {}]", create("name: fast2"), create("pool: fast"))).unwrap(),
            ["fast2:1", "fast2:2"]
        );
        assert_eq!(ask(&format!("[{}]", create("pool: fast"))).unwrap(), ["fast2:1"], "it has the fewest");
        // a parent is not any device of the pool
        assert_eq!(ask("[{pool: fast}]").unwrap(), ["fast2"]);
        let refusals = [
            ("name: fast3", "device fast3: it is held by pod b/you"),
            ("name: none0", "device none0: the node has no such interface"),
            ("name: other0", "device other0: no pool of this node selects it"),
            ("name: kubelet0", "device kubelet0: pool example.com/kubelet is not available to annotations"),
            (
                "name: fast-uplink",
                "device fast-uplink: no device is created on it because the node's IPv4 default route",
            ),
            ("pool: kubelet", "pool example.com/kubelet is not available to annotations"),
        ];
        for (wanted, words) in refusals {
            let refused = ask(&format!("[{}]", create(wanted))).unwrap_err();
            assert!(refused.starts_with(words), "{refused}");
        }
        // the node's own link, where the pool says so
        assert_eq!(ask(&format!("[{}]", create("name: node-uplink"))).unwrap(), ["node-uplink:1"]);
        assert!(ask("[{name: node-uplink}]").unwrap_err().contains("it is never handed out because"));
    }

    #[test]
    fn what_a_pod_gives_back_to_have_it_otherwise_is_checked_first() {
        let owner = || Owner::Sandbox { id: "new".into(), pod: Some(pod("a", "me")), by: Request::attach() };
        let records = vec![
            record("fast0", "example.com/fast", owner()),
            record("fast1", "example.com/fast", owner()),
            record("team0", "example.com/team", owner()),
            record("kubelet0", "example.com/kubelet", owner()),
            record("gone0", "example.com/gone", owner()),
        ];
        let view = view(&["fast1"], records.clone());
        let check = |namespace: &str, at: usize| check_again(&view, namespace, &records[at].1);
        assert_eq!(check("b", 0), Ok(()));
        assert_eq!(check("a", 2), Ok(()));
        assert!(matches!(check("b", 2), Err(ChoiceError::OtherNamespace(..))));
        assert!(matches!(check("a", 1), Err(ChoiceError::NameTaken(_))));
        assert!(matches!(check("a", 3), Err(ChoiceError::NotForAnnotations(..))));
        assert!(matches!(check("a", 4), Err(ChoiceError::NotSelected(_))));
    }

    #[test]
    fn a_command_gets_what_no_annotation_may_have_but_not_what_the_pod_has_in_another_way() {
        let by_command = |name, sandbox: &str| {
            let owner = Owner::Sandbox { id: sandbox.into(), pod: Some(pod("b", "me")), by: Request::Command };
            record(name, "example.com/fast", owner)
        };
        let by_annotation = record("fast2", "example.com/fast", owner(&pod("b", "me"), "new"));
        let records = vec![by_command("fast0", "new"), by_command("fast1", "old"), by_annotation];
        let view = view(&["kubelet0", "team0", "fast-given"], records);
        let command = |name: &str| ask_by(Request::Command, &view, "b", &format!("[{{name: {name}}}]"));
        for name in ["kubelet0", "fast0", "fast1"] {
            assert_eq!(command(name).unwrap(), [name]);
        }
        let refused = "pool example.com/team is not available to annotations in namespace b";
        assert!(command("team0").unwrap_err().contains(refused));
        assert!(command("fast-given").unwrap_err().contains("the kubelet gave it to pod b/other"));
        let held = "it is held by pod b/me (sandbox new)";
        assert!(command("fast2").unwrap_err().contains(held));
        assert!(ask(&view, "b", "[{name: fast0}]").unwrap_err().contains(held));
        // nor is it one for the kubelet
        let is_healthy = |name: &str| view.devices()[&name.parse::<DeviceId>().unwrap()].is_healthy();
        assert!(!is_healthy("fast0") && !is_healthy("fast2"));
    }
}
