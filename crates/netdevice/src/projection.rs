//! The projection *snapshot + ledger + pools → devices*: which devices can be allocated, and why others cannot.
//!
//! [`Projector`] keeps its results and updates only what changed. The result, [`View`], is a value.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use imbl::{OrdMap, ordmap::DiffItem};

use crate::{
    exclusion::{Exclusion, Exclusions, below_attached},
    id::DeviceId,
    link::{Hardware, Link},
    owner::Owner,
    pool::{Offer, Pool, Pools},
    record::{Attachment, Ledger, Phase},
    resource::ResourceName,
    selector::Condition,
    snapshot::Snapshot,
};

/// A device that is offered or attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Its pool.
    pub resource: ResourceName,
    /// How the pool is offered.
    pub offer: Offer,
    /// Where it is.
    pub state: DeviceState,
    /// Its NUMA node.
    pub numa_node: Option<u32>,
    /// What it was on the host, while it is not there; none if it was created.
    pub home: Option<Arc<Link>>,
}

/// Where a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceState {
    /// On the host, and free.
    Offered {
        /// Index of its link on the host.
        link: u32,
        /// Whether it is healthy by the rule of its pool.
        healthy: bool,
    },
    /// In a sandbox, or being attached or detached.
    Held(Owner, Phase),
}

impl Device {
    /// Whether it is healthy for the kubelet. A device that the kubelet allocated is healthy: otherwise a kubelet that
    /// restarts rejects its Pod. A device that a Pod requested in an annotation is not: the kubelet must not allocate it.
    pub fn is_healthy(&self) -> bool {
        match &self.state {
            DeviceState::Offered { healthy, .. } => *healthy,
            DeviceState::Held(owner, _) => owner.is_of_kubelet(),
        }
    }

    /// Whether the device plugin lists it: the kubelet allocates it, or a Pod has it from the kubelet although its pool is
    /// offered by claims now. What was created for an annotation or a claim is no device that the kubelet can allocate.
    pub fn is_offered_as_resource(&self) -> bool {
        match self.owner() {
            None => self.offer == Offer::Resource,
            Some(owner) => owner.is_of_kubelet() || (self.offer == Offer::Resource && self.id.child().is_none()),
        }
    }

    /// Its owner, if it has one.
    pub fn owner(&self) -> Option<&Owner> {
        match &self.state {
            DeviceState::Offered { .. } => None,
            DeviceState::Held(owner, _) => Some(owner),
        }
    }
}

/// Why a device cannot be allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No interface of that name is on the host.
    NotThere,
    /// It must not be offered.
    Excluded(Exclusion),
    /// The pool does not select it.
    NotSelected(ResourceName),
    /// It belongs to an earlier pool.
    OtherPool(ResourceName),
    /// Its pool is offered by claims.
    ByClaims(ResourceName),
    /// It has an owner.
    Held(Box<Owner>),
    /// Its record cannot be used, so its right state is unknown.
    Unknown,
    /// No pool has that resource.
    NoPool(ResourceName),
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotThere => write!(out, "the node has no such interface: choose another device"),
            Self::Excluded(exclusion) => {
                write!(out, "it is never handed out because {exclusion}: choose another device")
            }
            Self::NotSelected(resource) => write!(out, "the pool {resource} does not select it: choose another device"),
            Self::OtherPool(resource) => write!(out, "it belongs to the pool {resource}: request that resource"),
            Self::ByClaims(resource) => {
                write!(out, "its pool {resource} is offered by claims: request it with a ResourceClaim")
            }
            Self::Held(owner) => write!(out, "it is held by {owner}: delete that pod or choose another device"),
            Self::Unknown => write!(
                out,
                "its record on the node cannot be used: see `netdevctl explain` on the node, or choose another device"
            ),
            Self::NoPool(resource) => write!(out, "no pool {resource} is configured on the node"),
        }
    }
}

/// All devices at one moment, and the data that they were derived from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The inventory.
    pub snapshot: Snapshot,
    /// The attachments.
    pub ledger: Arc<Ledger>,
    /// Devices whose record cannot be used. They are not offered: one on the host may be only partly restored.
    pub unknown: Arc<BTreeSet<DeviceId>>,
    /// The pools.
    pub pools: Arc<Pools>,
    exclusions: Arc<Exclusions>,
    devices: OrdMap<DeviceId, Arc<Device>>,
}

impl View {
    /// All devices, by id.
    pub fn devices(&self) -> &OrdMap<DeviceId, Arc<Device>> {
        &self.devices
    }

    /// Devices that are new or changed since an earlier view. The cost grows with the number of changes.
    pub fn changed_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a Arc<Device>> {
        before.devices.diff(&self.devices).filter_map(|item| match item {
            DiffItem::Add(_, device) | DiffItem::Update { new: (_, device), .. } => Some(device),
            DiffItem::Remove(..) => None,
        })
    }

    /// The devices of one pool, by id.
    pub fn devices_of<'a>(&'a self, resource: &'a ResourceName) -> impl Iterator<Item = &'a Arc<Device>> {
        self.devices.values().filter(move |device| device.resource == *resource)
    }

    /// The device, if the kubelet can allocate it as `resource` now.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub fn allocate(&self, resource: &ResourceName, id: &DeviceId) -> Result<&Arc<Device>, Refusal> {
        if let Some(device) = self.devices.get(id) {
            return match &device.state {
                DeviceState::Held(owner, _) => Err(Refusal::Held(owner.clone().into())),
                DeviceState::Offered { .. } if device.offer == Offer::Claims => {
                    Err(Refusal::ByClaims(device.resource.clone()))
                }
                DeviceState::Offered { .. } if device.resource == *resource => Ok(device),
                DeviceState::Offered { .. } => Err(Refusal::OtherPool(device.resource.clone())),
            };
        }
        if self.unknown.contains(id) {
            return Err(Refusal::Unknown);
        }
        let link = self.snapshot.link_named(&id.to_name()).ok_or(Refusal::NotThere)?;
        match (self.exclusion(link), self.pools.named(resource)) {
            (_, None) => Err(Refusal::NoPool(resource.clone())),
            (Some(exclusion), _) => Err(Refusal::Excluded(exclusion)),
            (None, Some(pool)) => Err(Refusal::NotSelected(pool.resource.clone())),
        }
    }

    /// The link and the pool of a device whose record cannot be used, if it would be offered with a valid record.
    pub fn quarantined(&self, id: &DeviceId) -> Option<(&Arc<Link>, &Pool)> {
        let link =
            self.snapshot.link_named(&id.to_name()).filter(|_| id.child().is_none() && self.unknown.contains(id))?;
        let pool = self.pools.of(link).filter(|_| self.exclusion(link).is_none())?;
        Some((link, pool))
    }

    /// Why a link of the host must not be offered, if so.
    fn exclusion(&self, link: &Link) -> Option<Exclusion> {
        self.exclusions.of(link, &self.snapshot).or_else(|| {
            let mut below = self.ledger.values().filter_map(|record| below_attached(record));
            below.find(|(parent, _)| *parent == link.index).map(|(_, exclusion)| exclusion)
        })
    }

    /// Why no device of a pool is created on a link of the host, if so.
    pub fn parent_exclusion(&self, link: &Link, pool: &Pool) -> Option<Exclusion> {
        self.exclusions.of_parent(link, &self.snapshot, pool.uplink_parents())
    }

    /// Rule by rule, why a link of the host is or is not offered.
    pub fn explain(&self, link: &Link) -> Explanation {
        let id = DeviceId::from(&link.name);
        let pools = self.pools.iter().map(|pool| PoolExplanation {
            resource: pool.resource.clone(),
            select: pool.select.conditions(link).collect(),
            except: pool.except.conditions(link).collect(),
            takes: pool.takes(link),
        });
        let pool = self.pools.of(link);
        Explanation {
            exclusion: self.exclusion(link),
            pools: pools.collect(),
            owner: self.ledger.get(&id).map(|record| record.owner.clone()),
            is_unknown: self.unknown.contains(&id),
            healthy: pool.map(|pool| pool.health.is_healthy(link)),
            pool: pool.map(|pool| pool.resource.clone()),
        }
    }
}

/// Why a link is or is not offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Why it must not be offered, if so.
    pub exclusion: Option<Exclusion>,
    /// Each pool, with its conditions.
    pub pools: Vec<PoolExplanation>,
    /// The owner of a device with this id. While there is one, this link is not offered.
    pub owner: Option<Owner>,
    /// Whether the record of this id cannot be used.
    pub is_unknown: bool,
    /// The first pool that selects it.
    pub pool: Option<ResourceName>,
    /// Whether it is healthy by the rule of that pool.
    pub healthy: Option<bool>,
}

impl Explanation {
    /// Whether the link is offered.
    pub fn is_offered(&self) -> bool {
        self.exclusion.is_none() && self.owner.is_none() && !self.is_unknown && self.pool.is_some()
    }
}

/// The conditions of one pool for a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolExplanation {
    /// The pool.
    pub resource: ResourceName,
    /// Conditions of `select`.
    pub select: Vec<Condition>,
    /// Conditions of `except`.
    pub except: Vec<Condition>,
    /// Whether the pool selects the link.
    pub takes: bool,
}

/// Derives the devices, and updates them when something changes.
#[derive(Debug, Default)]
pub struct Projector {
    view: View,
    /// Links that are offered if no device with that id has an owner.
    candidates: BTreeMap<u32, Device>,
    by_id: BTreeMap<DeviceId, BTreeSet<u32>>,
    /// Hardware of the devices that were seen on the host: a record has only a part of it.
    hardware: BTreeMap<DeviceId, Arc<Hardware>>,
}

/// Devices whose hardware is kept. If there are more, those that are not in the view are forgotten.
const KEPT_HARDWARE: usize = 16_384;

impl Projector {
    /// No pools and no links.
    pub fn new() -> Self {
        Self::default()
    }

    /// The latest view.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Sets the snapshot. The cost grows with the number of changes.
    pub fn set_snapshot(&mut self, snapshot: Snapshot) {
        let before = std::mem::replace(&mut self.view.snapshot, snapshot);
        let now = self.view.snapshot.clone();
        let mut changed: BTreeSet<u32> = BTreeSet::new();
        let mut uplink_changed = false;
        for item in before.links().diff(now.links()) {
            let (DiffItem::Add(index, _) | DiffItem::Remove(index, _) | DiffItem::Update { new: (index, _), .. }) =
                item;
            changed.insert(*index);
            // a link's route may be known before the link; and exclusions contain the name of the uplink
            let name = |snapshot: &Snapshot| snapshot.link(*index).map(|link| link.name.clone());
            uplink_changed |= now.may_be_uplink(*index) && name(&before) != name(&now);
            // whether a port may be offered depends on its master's kind, and a parent on what is stacked on it
            changed.extend(before.lowers(*index).chain(now.lowers(*index)));
        }
        changed.extend(now.differently_used(&before));
        if uplink_changed || !before.has_same_uplinks(&now) || !before.has_same_stacking(&now) {
            let exclusions = Exclusions::find(&now);
            changed.extend(exclusions.differences(&self.view.exclusions));
            self.view.exclusions = Arc::new(exclusions);
        }
        self.project(changed);
    }

    /// Sets the pools, and derives all devices again.
    pub fn set_pools(&mut self, pools: Arc<Pools>) {
        self.view.pools = pools;
        let all = self.view.snapshot.links().keys().copied().collect();
        self.project(all);
        let ledger = self.view.ledger.clone();
        ledger.keys().for_each(|id| self.publish(id));
    }

    /// Sets the records.
    pub fn set_ledger(&mut self, ledger: Arc<Ledger>) {
        let before = std::mem::replace(&mut self.view.ledger, ledger);
        let now = self.view.ledger.clone();
        let differs = |id: &&DeviceId| before.get(*id) != now.get(*id);
        let ids: BTreeSet<DeviceId> = before.keys().chain(now.keys()).filter(differs).cloned().collect();
        ids.iter().for_each(|id| self.publish(id));
        // the links that they are built on
        let records = ids.iter().flat_map(|id| [before.get(id), now.get(id)]).flatten();
        let parents: BTreeSet<u32> =
            records.filter_map(|record| below_attached(record)).map(|(parent, _)| parent).collect();
        self.project(parents);
    }

    /// Sets the hardware of a device that was not on the host when this projector began.
    pub fn set_hardware(&mut self, id: DeviceId, hardware: Hardware) {
        self.hardware.entry(id.clone()).or_insert_with(|| Arc::new(hardware));
        self.publish(&id);
    }

    /// Sets the devices whose record cannot be used.
    pub fn set_unknown(&mut self, unknown: BTreeSet<DeviceId>) {
        let before = std::mem::replace(&mut self.view.unknown, Arc::new(unknown));
        let now = self.view.unknown.clone();
        before.symmetric_difference(&now).for_each(|id| self.publish(id));
    }

    fn project(&mut self, links: BTreeSet<u32>) {
        let mut ids = BTreeSet::new();
        for index in links {
            if let Some(device) = self.candidates.remove(&index) {
                self.by_id.entry(device.id.clone()).or_default().remove(&index);
                ids.insert(device.id);
            }
            if let Some(device) = self.view.snapshot.link(index).and_then(|link| self.candidate(link)) {
                self.by_id.entry(device.id.clone()).or_default().insert(index);
                ids.insert(device.id.clone());
                self.keep_hardware(index, &device.id);
                self.candidates.insert(index, device);
            }
        }
        ids.iter().for_each(|id| self.publish(id));
    }

    fn keep_hardware(&mut self, index: u32, id: &DeviceId) {
        let hardware = self.view.snapshot.link(index).and_then(|link| link.hardware.clone());
        let Some(hardware) = hardware else { return };
        if self.hardware.len() >= KEPT_HARDWARE {
            self.hardware.retain(|id, _| self.view.devices.contains_key(id));
        }
        self.hardware.insert(id.clone(), hardware);
    }

    fn candidate(&self, link: &Link) -> Option<Device> {
        let pool: &Pool = self.view.pools.of(link)?;
        if self.view.exclusion(link).is_some() {
            return None;
        }
        Some(Device {
            id: DeviceId::from(&link.name),
            resource: pool.resource.clone(),
            offer: pool.offer,
            state: DeviceState::Offered { link: link.index, healthy: pool.health.is_healthy(link) },
            numa_node: link.hardware.as_ref().and_then(|hardware| hardware.numa_node),
            home: None,
        })
    }

    /// Updates the device of one id. A record, also one that cannot be used, has priority over a link on the host.
    fn publish(&mut self, id: &DeviceId) {
        let links = self.by_id.get(id);
        if links.is_some_and(BTreeSet::is_empty) {
            self.by_id.remove(id);
        }
        let may_be_offered = !self.view.unknown.contains(id);
        let offered = || self.candidates.get(self.by_id.get(id)?.last()?).cloned();
        let device = match self.view.ledger.get(id) {
            Some(record) => self.held(record),
            None => may_be_offered.then(offered).flatten(),
        };
        match device {
            None => drop(self.view.devices.remove(id)),
            Some(device) if self.view.devices.get(id).is_some_and(|known| **known == device) => {}
            Some(device) => drop(self.view.devices.insert(id.clone(), Arc::new(device))),
        }
    }

    /// A device with a record; none if the kubelet did not allocate it and it is not in a pool of this agent.
    fn held(&self, record: &Attachment) -> Option<Device> {
        let hardware = || {
            // other hardware may have got the name
            let known = self.hardware.get(&record.device)?;
            let place = Hardware::at(record.host()?.hardware.as_ref()?);
            (place.pci_address == known.pci_address).then(|| known.clone())
        };
        let home = record.host().map(|host| Link::recorded(host, hardware()));
        let by_home = || self.view.pools.of(home.as_ref()?).map(|pool| pool.resource.clone());
        let known = || self.view.devices.get(&record.device).map(|device| device.resource.clone());
        let resource = record.resource.clone().or_else(by_home).or_else(known).unwrap_or_default();
        let pool = self.view.pools.named(&resource);
        if !record.owner.is_of_kubelet() && pool.is_none() {
            return None;
        }
        Some(Device {
            id: record.device.clone(),
            offer: pool.map(|pool| pool.offer).unwrap_or_default(),
            resource,
            state: DeviceState::Held(record.owner.clone(), record.phase),
            numa_node: record.host().and_then(|host| host.hardware.as_ref()).and_then(|hardware| hardware.numa_node),
            home: home.map(Arc::new),
        })
    }
}
