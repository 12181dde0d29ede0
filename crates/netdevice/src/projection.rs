//! The projection *snapshot + ledger + pools → devices*: which devices can be allocated, and why others cannot.
//!
//! [`Projector`] keeps its results and updates only what changed. The result, [`View`], is a value.

mod projector;
mod view;

use std::{fmt, sync::Arc};

pub use self::{
    projector::Projector,
    view::{Explanation, PoolExplanation, View},
};
use crate::{
    acquisition::{Acquisition, ChildKind},
    children::Children,
    exclusion::Exclusion,
    id::DeviceId,
    link::Link,
    owner::Owner,
    pool::Offer,
    record::Phase,
    resource::ResourceName,
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
    /// What a Pod gets of it.
    pub form: Form,
    /// Whether the pool offers it when it is free. What an annotation or a claim had created on an interface of another pool is
    /// not offered.
    pub is_of_pool: bool,
    /// Where it is.
    pub state: DeviceState,
    /// Its NUMA node.
    pub numa_node: Option<u32>,
    /// What it was on the host, while it is not there; none if it was created.
    pub home: Option<Arc<Link>>,
}

/// What a Pod gets of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The link of the host, which moves.
    Link,
    /// A link that is created on the one of the host.
    Child(ChildKind),
    /// One of the links that are created on this one, which is offered by claims and allocated several times.
    Parent(Children),
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

    /// Whether the device plugin lists it: the kubelet allocates it, or a Pod has it from the kubelet although its pool does not
    /// offer it any longer, or not in this way.
    pub fn is_offered_as_resource(&self) -> bool {
        let is_of_kubelet = self.owner().is_some_and(Owner::is_of_kubelet);
        is_of_kubelet || (self.offer == Offer::Resource && self.is_of_pool)
    }

    /// How it comes into a container to which the kubelet allocated it.
    pub fn acquisition(&self) -> Acquisition {
        match self.form {
            Form::Child(kind) => Acquisition::Create(kind),
            Form::Link | Form::Parent(_) => Acquisition::Move,
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
