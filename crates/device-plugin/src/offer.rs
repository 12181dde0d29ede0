//! The devices of one pool, followed from view to view, and the list that the kubelet gets of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::{OrdMap, ordmap::DiffItem};
use netdevice::{Device, DeviceId, ResourceName, View, pool};
use prost::{Message, bytes::Bytes};
use proto::deviceplugin as wire;

/// The resources that need a plugin: those of the pools that are offered so, and those of devices that Pods have from a pool
/// that was.
pub fn resources(view: &View) -> BTreeSet<ResourceName> {
    let pools = view.pools.iter().filter(|pool| pool.offer == pool::Offer::Resource).map(|pool| &pool.resource);
    let held = view.ledger.keys().filter_map(|id| view.devices().get(id));
    let held = held.filter(|device| device.is_offered_as_resource()).map(|device| &device.resource);
    pools.chain(held).cloned().collect()
}

/// Whether a pool offers devices as this resource.
pub(crate) fn is_offered(view: &View, resource: &ResourceName) -> bool {
    view.pools.named(resource).is_some_and(|pool| pool.offer == pool::Offer::Resource)
}

/// The difference between two views, for one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// Nothing.
    Nothing,
    /// Health, holder or NUMA node of a device.
    States,
    /// The set of devices.
    Ids,
}

/// The devices of one pool.
#[derive(Debug)]
pub(crate) struct Offer {
    resource: ResourceName,
    seen: OrdMap<DeviceId, Arc<Device>>,
    devices: BTreeMap<DeviceId, Entry>,
}

/// A device as the kubelet gets it.
#[derive(Debug)]
struct Entry {
    is_held: bool,
    encoded: Bytes,
}

impl Offer {
    pub(crate) fn new(resource: ResourceName) -> Self {
        Self { resource, seen: OrdMap::new(), devices: BTreeMap::new() }
    }

    /// Takes a new view. The cost grows with what differs from the one before, of whichever pool.
    pub(crate) fn update(&mut self, view: &View) -> Change {
        let before = std::mem::replace(&mut self.seen, view.devices().clone());
        let mut change = Change::Nothing;
        for item in before.diff(view.devices()) {
            let (old, new) = match item {
                DiffItem::Add(_, new) => (None, Some(new)),
                DiffItem::Remove(_, old) => (Some(old), None),
                DiffItem::Update { old: (_, old), new: (_, new) } => (Some(old), Some(new)),
            };
            let ours = |device: &&Arc<Device>| device.resource == self.resource && device.is_offered_as_resource();
            change = change.max(match (old.filter(ours), new.filter(ours)) {
                (None, None) => Change::Nothing,
                (Some(old), None) => {
                    self.devices.remove(&old.id);
                    Change::Ids
                }
                (old, Some(new)) => {
                    self.devices.insert(new.id.clone(), Entry::of(new));
                    if old.is_some() { Change::States } else { Change::Ids }
                }
            });
        }
        change
    }

    /// Ids that must resolve: those of the pool, and those that a Pod may still have.
    pub(crate) fn resolvable<'a>(&self, allocated: impl Iterator<Item = &'a DeviceId>) -> BTreeSet<DeviceId> {
        self.devices.keys().cloned().chain(allocated.cloned()).collect()
    }

    /// The list for the kubelet: all devices.
    pub(crate) fn list(&self) -> List {
        List(self.devices.values().map(|entry| entry.encoded.clone()).collect())
    }

    /// The list for the kubelet while not every CDI name resolves: the devices that a container could be started with.
    /// Held and allocated devices are always in it: without them a kubelet that restarts would reject their Pods for good,
    /// while a container that cannot be started yet is tried again.
    pub(crate) fn list_of(&self, written: &BTreeSet<DeviceId>, is_allocated: impl Fn(&DeviceId) -> bool) -> List {
        let listed = |(id, entry): &(&DeviceId, &Entry)| written.contains(*id) || entry.is_held || is_allocated(id);
        List(self.devices.iter().filter(listed).map(|(_, entry)| entry.encoded.clone()).collect())
    }
}

/// A list for the kubelet: devices, encoded.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct List(pub(crate) Arc<[Bytes]>);

impl Entry {
    fn of(device: &Device) -> Self {
        let node = |node: u32| wire::TopologyInfo { nodes: vec![wire::NumaNode { id: node.into() }] };
        let message = wire::Device {
            id: device.id.to_string(),
            health: if device.is_healthy() { wire::HEALTHY } else { wire::UNHEALTHY }.into(),
            topology: device.numa_node.map(node),
        };
        Self { is_held: device.owner().is_some(), encoded: message.encode_to_vec().into() }
    }
}

#[cfg(test)]
mod tests {
    use netdevice::{Attachment, Ledger, Pools, Projector, Refusal, Snapshot, fixture};

    use super::*;

    #[test]
    fn a_pool_that_is_offered_by_claims_is_not_served_but_for_what_a_pod_has_of_it() {
        let resource = ResourceName::default();
        let pools = || Pools::by_name("dummy".parse().unwrap());
        let mut projector = Projector::new();
        let mut snapshot = Snapshot::default();
        snapshot.insert_link(Arc::new(fixture::link(2, "dummy1")));
        projector.set_snapshot(snapshot);
        projector.set_pools(Arc::new(pools()));
        let record = Attachment { resource: Some(resource.clone()), ..fixture::record("dummy0") };
        projector.set_ledger(Arc::new(Ledger::from([(record.device.clone(), Arc::new(record))])));
        let mut offer = Offer::new(resource.clone());
        assert_eq!(offer.update(projector.view()), Change::Ids);
        assert_eq!(offer.list().0.len(), 2);
        projector.set_pools(Arc::new(pools().offered_by_claims()));
        assert_eq!(offer.update(projector.view()), Change::Ids);
        assert_eq!(offer.list().0.len(), 1, "the Pod's device stays: a kubelet that restarts would reject the Pod");
        assert_eq!(resources(projector.view()), BTreeSet::from([resource.clone()]));
        let refusal = projector.view().allocate(&resource, &"dummy1".parse().unwrap()).unwrap_err();
        assert_eq!(refusal, Refusal::ByClaims(resource.clone()));
        projector.set_ledger(Arc::default());
        assert_eq!(offer.update(projector.view()), Change::Ids);
        assert_eq!(offer.list(), List::default());
        assert_eq!(resources(projector.view()), BTreeSet::new());
        assert!(!is_offered(projector.view(), &resource));
    }
}
