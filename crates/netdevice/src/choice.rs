//! Chooses the devices that a Pod requests in an annotation, or that a command requests for it: which pools it may use, and why
//! other devices are refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU16,
};

use crate::{
    acquisition::{Acquisition, ChildKind},
    annotation::{DeviceRequest, PoolNameError, Wanted},
    configuration::FieldError,
    exclusion::{Exclusion, UplinkParents},
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
    /// Of a device that is created: whether its pool allows the node's own links as parents.
    pub uplink_parents: UplinkParents,
}

impl Choice {
    /// An interface of the host that moves.
    fn moved(device: DeviceId, resource: ResourceName) -> Self {
        Self { device, resource, acquisition: Acquisition::Move, uplink_parents: UplinkParents::Refused }
    }
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
    /// The pool creates something else.
    #[error(
        "pool {pool} offers {offered} devices, and {requested} is requested: remove `create` or choose another pool"
    )]
    OtherChildren {
        /// The pool.
        pool: ResourceName,
        /// What is created first of each interface.
        offered: ChildKind,
        /// What is requested.
        requested: ChildKind,
    },
    /// A setting that the created device cannot have.
    #[error("device {0}: {1}")]
    Setting(DeviceId, FieldError),
    /// All numbers are taken.
    #[error("device {0}: all devices that can be created on it are in use: choose another device")]
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
            (wanted, Acquisition::Create(kind)) => demand.child(view, wanted, Some(kind), request, &taken)?,
            (wanted, Acquisition::Move) if has_children(view, wanted)? => {
                demand.child(view, wanted, None, request, &taken)?
            }
            (Wanted::Name(name), Acquisition::Move) => demand.named(view, name)?,
            (Wanted::Pool(pool), Acquisition::Move) => demand.any_of(view, pool.find(&view.pools)?, request, &taken)?,
        };
        demand.check_driver(view, &choice, request)?;
        taken.insert(choice.device.clone());
        chosen.insert(at, choice);
    }
    Ok(chosen.into_values().collect())
}

/// Whether the pool of what is wanted offers devices that are created.
fn has_children(view: &View, wanted: &Wanted) -> Result<bool, PoolNameError> {
    let pool = match wanted {
        Wanted::Pool(pool) => Some(pool.find(&view.pools)?),
        Wanted::Name(name) => view.snapshot.link_named(name).and_then(|link| view.pools.of(link)),
    };
    Ok(pool.is_some_and(|pool| pool.children.is_some()))
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
            return Ok(Choice::moved(id, resource));
        }
        let Some(device) = view.devices().get(&id) else { return Err(not_offered(view, name, id)) };
        let Some(pool) = view.pools.named(&device.resource) else { return Err(ChoiceError::NotSelected(id)) };
        self.check_named(&id, pool)?;
        self.check_free(&id)?;
        Ok(Choice::moved(id, pool.resource.clone()))
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
    /// has the fewest. Of a pool of children it is one that the pool offers; no kind is what the pool creates.
    fn child(
        &self,
        view: &View,
        wanted: &Wanted,
        kind: Option<ChildKind>,
        request: &DeviceRequest,
        taken: &BTreeSet<DeviceId>,
    ) -> Result<Choice, ChoiceError> {
        let pool = match wanted {
            Wanted::Name(_) => None,
            Wanted::Pool(pool) => Some(pool.find(&view.pools)?),
        };
        let had = self.ledger.values().find(|record| {
            let is_on = match wanted {
                Wanted::Name(name) => record.device.parent() == Some(DeviceId::from(name)),
                Wanted::Pool(_) => record.resource.as_ref() == pool.map(|pool| &pool.resource),
            };
            let is_kind = record.created().is_some_and(|created| match kind {
                Some(kind) => created.kind == kind,
                None => view.pools.creates(record),
            });
            let is_same = is_kind && record.configuration.as_ref() == Some(&request.configuration);
            is_on && is_same && self.has(record) && !taken.contains(&record.device)
        });
        if let Some((record, created)) = had.and_then(|record| Some((record, record.created()?))) {
            let (device, resource) = (record.device.clone(), record.resource.clone().unwrap_or_default());
            let uplink_parents = view.pools.named(&resource).map(Pool::uplink_parents).unwrap_or_default();
            return Ok(Choice { device, resource, acquisition: Acquisition::Create(created.kind), uplink_parents });
        }
        let is_taken = |device: &DeviceId| {
            let others = self.ledger.contains_key(device) || self.reserved.contains_key(device);
            others || self.allocated.contains_key(device) || self.busy.contains(device) || taken.contains(device)
        };
        let (parent, pool) = match (wanted, pool) {
            (Wanted::Name(name), _) => self.parent(view, name)?,
            (Wanted::Pool(_), Some(pool)) => (self.any_parent(view, pool, kind, taken, &is_taken)?, pool),
            (Wanted::Pool(pool), None) => return Err(PoolNameError::Unknown(pool.clone()).into()),
        };
        let id = DeviceId::from(&parent);
        check_kind(pool, kind)?;
        let free = free_child(&parent, pool, kind, is_taken);
        let (device, kind) = free.ok_or_else(|| ChoiceError::NoNumber(id.clone()))?;
        request.configuration.check_created(kind).map_err(|error| ChoiceError::Setting(id, error))?;
        let (resource, uplink_parents) = (pool.resource.clone(), pool.uplink_parents());
        Ok(Choice { device, resource, acquisition: Acquisition::Create(kind), uplink_parents })
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

    /// The interface of a pool that has the fewest devices created on it, and can have one more.
    fn any_parent(
        &self,
        view: &View,
        pool: &Pool,
        kind: Option<ChildKind>,
        taken: &BTreeSet<DeviceId>,
        is_taken: &dyn Fn(&DeviceId) -> bool,
    ) -> Result<InterfaceName, ChoiceError> {
        self.check_pool(pool)?;
        check_kind(pool, kind)?;
        let suits = |link: &&Link| {
            let id = DeviceId::from(&link.name);
            let is_of_pool = view.pools.of(link).is_some_and(|of| of.resource == pool.resource);
            is_of_pool
                && link.is_up()
                && view.parent_exclusion(link, pool).is_none()
                && !view.unknown.contains(&id)
                && !is_taken(&id)
                && self.check_free(&id).is_ok()
        };
        let links: Vec<&Link> = view.snapshot.links().values().map(|link| &**link).filter(suits).collect();
        if links.is_empty() {
            return Err(ChoiceError::NoParent(pool.resource.clone()));
        }
        let children = |link: &Link| {
            let id = DeviceId::from(&link.name);
            let all = self.ledger.keys().chain(self.reserved.keys()).chain(self.allocated.keys()).chain(taken);
            all.filter(|device| device.parent().as_ref() == Some(&id)).count()
        };
        let has_free = |link: &&&Link| free_child(&link.name, pool, kind, is_taken).is_some();
        let best = links.iter().filter(has_free).min_by_key(|link| (children(link), link.name.clone()));
        best.map(|link| link.name.clone()).ok_or_else(|| ChoiceError::NoneFree(pool.resource.clone()))
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
        Ok(Choice::moved(device.clone(), pool.resource.clone()))
    }

    fn is_free(&self, device: &DeviceId) -> bool {
        let is_taken = self.allocated.contains_key(device) || self.reserved.contains_key(device);
        !self.ledger.contains_key(device) && !is_taken && !self.busy.contains(device)
    }
}

/// Checks that a pool creates what is requested, if anything is.
///
/// # Errors
///
/// [`ChoiceError::OtherChildren`].
pub fn check_kind(pool: &Pool, kind: Option<ChildKind>) -> Result<(), ChoiceError> {
    match (pool.children, kind) {
        (Some(children), Some(requested)) if children.numbers(kind).next().is_none() => {
            let (pool, offered) = (pool.resource.clone(), children.first());
            Err(ChoiceError::OtherChildren { pool, offered, requested })
        }
        _ => Ok(()),
    }
}

/// The lowest id of a device on `parent` that is not taken, with what is created: of a pool of children one that it offers, of
/// another pool any number of what is requested.
pub fn free_child(
    parent: &InterfaceName,
    pool: &Pool,
    kind: Option<ChildKind>,
    is_taken: impl Fn(&DeviceId) -> bool,
) -> Option<(DeviceId, ChildKind)> {
    let free = |number: &NonZeroU16| !is_taken(&DeviceId::child_of(parent, *number));
    let (number, kind) = match pool.children {
        Some(children) => {
            let number = children.numbers(kind).find(free)?;
            (number, children.kind(number)?)
        }
        None => ((1..=u16::MAX).filter_map(NonZeroU16::new).find(free)?, kind?),
    };
    Some((DeviceId::child_of(parent, number), kind))
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
mod tests;
