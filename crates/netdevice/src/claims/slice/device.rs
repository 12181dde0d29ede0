//! A device as it is published in a ResourceSlice: its attributes, and why it must not be allocated now.

use serde::{Serialize, Serializer};

use super::{
    attribute::{Attributes, attributes},
    name::{DeviceName, device_name},
};
use crate::{
    id::DeviceId,
    link::Link,
    owner::{Owner, Request},
    pool::{Offer, Pool},
    projection::{Device, DeviceState, Form, View},
    resource::ResourceName,
};

/// A device of a slice, in the form of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SliceDevice {
    /// Its name.
    pub name: DeviceName,
    /// Whether it is allocated several times: devices are created on it.
    #[serde(rename = "allowMultipleAllocations", skip_serializing_if = "std::ops::Not::not")]
    pub is_shared: bool,
    /// How many of the devices that are created on it claims can have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// What a claim selects it by.
    pub attributes: Attributes,
    /// Why it must not be allocated now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
}

/// `DeviceCapacity` by name. Each allocation takes one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capacity {
    /// Devices that are created on it.
    pub children: ChildCapacity,
}

/// How many there are, and what an allocation takes of them: one, whatever it requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildCapacity(u16);

impl Serialize for ChildCapacity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let policy = serde_json::json!({"default": "1", "validValues": ["1"]});
        serde_json::json!({"value": self.0.to_string(), "requestPolicy": policy}).serialize(serializer)
    }
}

/// A taint: the scheduler does not allocate the device to a claim that does not tolerate it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Taint {
    /// `netdevice.networking.k8s.io/<reason>`.
    pub key: &'static str,
    /// Details: of [`HELD`], the way in.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub value: &'static str,
    /// `NoSchedule`: a Pod that has the device keeps it.
    pub effect: &'static str,
}

/// The interface is down.
pub const LINK_DOWN: &str = "netdevice.networking.k8s.io/link-down";
/// The interface is up and has no carrier, and its pool has the health rule `carrier`.
pub const NO_CARRIER: &str = "netdevice.networking.k8s.io/no-carrier";
/// The record of the device cannot be used.
pub const QUARANTINED: &str = "netdevice.networking.k8s.io/quarantined";
/// It is held, and not by a claim.
pub const HELD: &str = "netdevice.networking.k8s.io/held";

/// Why a device must not be allocated now, if so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Obstacle<'a> {
    LinkDown,
    NoCarrier,
    Quarantined,
    Held(&'a Owner),
}

impl Obstacle<'_> {
    fn taint(&self) -> Taint {
        let (key, value) = match self {
            Self::LinkDown => (LINK_DOWN, ""),
            Self::NoCarrier => (NO_CARRIER, ""),
            Self::Quarantined => (QUARANTINED, ""),
            Self::Held(owner) => (HELD, way(owner)),
        };
        Taint { key, value, effect: "NoSchedule" }
    }
}

/// The way in by which an owner has a device.
fn way(owner: &Owner) -> &'static str {
    match owner {
        Owner::Container { .. } | Owner::Kubelet => "resource",
        Owner::Sandbox { by: Request::Annotation, .. } => "annotation",
        Owner::Sandbox { by: Request::Networks { .. }, .. } => "networks",
        Owner::Sandbox { by: Request::Command, .. } => "command",
        Owner::Claim { .. } => "claim",
    }
}

/// A device that is offered by claims, in the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offered<'a> {
    /// As it is on the host, or was.
    pub(crate) link: &'a Link,
    pub(crate) pool: &'a ResourceName,
    pub(crate) obstacle: Option<Obstacle<'a>>,
    /// The claim's owner, if a claim has it.
    pub(crate) claim: Option<&'a Owner>,
    /// How many devices that are created on it claims can have; none if it is the device itself.
    pub(crate) children: Option<u16>,
}

impl<'a> Offered<'a> {
    /// That of this id, if it is offered by claims. A device that was created is not: its parent is.
    pub(crate) fn find(view: &'a View, id: &DeviceId) -> Option<Self> {
        match view.devices().get(id) {
            Some(device) => Self::of(view, device),
            None => {
                let (link, pool) = view.quarantined(id).filter(|(_, pool)| pool.offer == Offer::Claims)?;
                let children = pool.children.map(|children| children.count().get());
                Some(Self { link, pool: &pool.resource, obstacle: Some(Obstacle::Quarantined), claim: None, children })
            }
        }
    }

    fn of(view: &'a View, device: &'a Device) -> Option<Self> {
        if device.offer != Offer::Claims {
            return None;
        }
        if let (Form::Parent(children), DeviceState::Offered { link, .. }) = (device.form, &device.state) {
            let (link, pool) = (view.snapshot.link(*link)?, view.pools.named(&device.resource)?);
            let (others, first) = children_of_others(view, &device.id);
            let left = children.count().get().saturating_sub(others);
            let full = first.filter(|_| left == 0).map(Obstacle::Held);
            // no claim can have one, but a capacity below what an allocation takes is invalid
            let children = Some(left.max(1));
            let down = (!link.is_up()).then_some(Obstacle::LinkDown);
            let obstacle = full.or_else(|| unhealthy(pool, link)).or(down);
            return Some(Self { link, pool: &device.resource, obstacle, claim: None, children });
        }
        let (link, obstacle, claim) = match &device.state {
            DeviceState::Offered { link, .. } => {
                let link = view.snapshot.link(*link)?;
                let pool = view.pools.named(&device.resource)?;
                (link, held_below(view, &device.id).or_else(|| unhealthy(pool, link)), None)
            }
            DeviceState::Held(owner @ Owner::Claim { .. }, _) => (device.home.as_ref()?, None, Some(owner)),
            DeviceState::Held(owner, _) => (device.home.as_ref()?, Some(Obstacle::Held(owner)), None),
        };
        Some(Self { link, pool: &device.resource, obstacle, claim, children: None })
    }

    pub(crate) fn publish(&self, view: &View, name: DeviceName, speed: Option<u32>) -> SliceDevice {
        SliceDevice {
            name,
            is_shared: self.children.is_some(),
            capacity: self.children.map(|children| Capacity { children: ChildCapacity(children) }),
            attributes: attributes(self.link, self.pool, &view.snapshot, speed),
            taints: self.obstacle.iter().map(Obstacle::taint).collect(),
        }
    }
}

/// Whether devices are created on the interface, and not by claims: it is allocated to none then.
fn held_below<'a>(view: &'a View, id: &DeviceId) -> Option<Obstacle<'a>> {
    children_of_others(view, id).1.map(Obstacle::Held)
}

/// How many devices that are created on the interface are not a claim's, and the owner of one of them.
fn children_of_others<'a>(view: &'a View, id: &DeviceId) -> (u16, Option<&'a Owner>) {
    let on_it = view.ledger.values().filter(|record| record.device.parent().as_ref() == Some(id));
    let others = on_it.map(|record| &record.owner).filter(|owner| !matches!(owner, Owner::Claim { .. }));
    others.fold((0, None), |(count, first), owner| (count.saturating_add(1), first.or(Some(owner))))
}

/// Why the pool's rule takes the link as unhealthy, if so.
fn unhealthy<'a>(pool: &Pool, link: &Link) -> Option<Obstacle<'a>> {
    let is_healthy = pool.health.is_healthy(link);
    (!is_healthy).then_some(if link.is_up() { Obstacle::NoCarrier } else { Obstacle::LinkDown })
}

/// Devices that may be offered by claims: those of the view, and those whose record cannot be used.
pub(crate) fn candidates(view: &View) -> impl Iterator<Item = &DeviceId> {
    view.devices().keys().chain(view.unknown.iter().filter(|id| !view.devices().contains_key(*id)))
}

/// All devices that are offered by claims, as they are published. Nothing is known of earlier speeds.
pub fn devices(view: &View) -> impl Iterator<Item = SliceDevice> {
    candidates(view).filter_map(|id| Some(Offered::find(view, id)?.publish(view, device_name(id), None)))
}

#[cfg(test)]
mod tests;
