//! All devices at one moment, and the questions about them.

use std::{collections::BTreeSet, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};

use super::{Device, DeviceState, Refusal};
use crate::{
    children::Children,
    exclusion::{Exclusion, Exclusions, below_attached},
    id::DeviceId,
    link::Link,
    owner::Owner,
    pool::{Offer, Pool, Pools},
    record::Ledger,
    resource::ResourceName,
    selector::Condition,
    snapshot::Snapshot,
};

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
    pub(super) exclusions: Arc<Exclusions>,
    pub(super) devices: OrdMap<DeviceId, Arc<Device>>,
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
        let pool = self.pools.named(resource).ok_or_else(|| Refusal::NoPool(resource.clone()))?;
        if let Some(parent) = id.parent().filter(|_| pool.children.is_some_and(|it| it.kind_of(id).is_some())) {
            if let Some(record) = self.ledger.get(&parent) {
                return Err(Refusal::Held(record.owner.clone().into()));
            }
            if self.unknown.contains(&parent) {
                return Err(Refusal::Unknown);
            }
        }
        Err(match self.exclusion_from(pool, link) {
            Some(exclusion) => Refusal::Excluded(exclusion),
            None => Refusal::NotSelected(pool.resource.clone()),
        })
    }

    /// The link and the pool of a device whose record cannot be used, if it would be offered with a valid record.
    pub fn quarantined(&self, id: &DeviceId) -> Option<(&Arc<Link>, &Pool)> {
        let link =
            self.snapshot.link_named(&id.to_name()).filter(|_| id.child().is_none() && self.unknown.contains(id))?;
        let pool = self.pools.of(link).filter(|pool| self.exclusion_from(pool, link).is_none())?;
        Some((link, pool))
    }

    /// Why a link of the host must not be offered, if so.
    fn exclusion(&self, link: &Link) -> Option<Exclusion> {
        self.exclusions.of(link, &self.snapshot).or_else(|| {
            let mut below = self.ledger.values().filter_map(|record| below_attached(record));
            below.find(|(parent, _)| *parent == link.index).map(|(_, exclusion)| exclusion)
        })
    }

    /// Why a pool must not offer a link of the host, or what is created on it, if so.
    pub(super) fn exclusion_from(&self, pool: &Pool, link: &Link) -> Option<Exclusion> {
        match pool.children {
            Some(_) => self.parent_exclusion(link, pool),
            None => self.exclusion(link),
        }
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
            exclusion: match pool {
                Some(pool) => self.exclusion_from(pool, link),
                None => self.exclusion(link),
            },
            children: pool.and_then(|pool| pool.children),
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
    /// What that pool offers in place of the link, if so.
    pub children: Option<Children>,
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
