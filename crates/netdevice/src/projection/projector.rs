//! Keeps a view up to date.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::ordmap::DiffItem;

use super::{Device, DeviceState, Form, View};
use crate::{
    children::Children,
    exclusion::{Exclusions, below_attached},
    id::DeviceId,
    link::{Hardware, Link},
    pool::{Offer, Pool, Pools},
    record::{Attachment, Ledger},
    snapshot::Snapshot,
};

/// Derives the devices, and updates them when something changes.
#[derive(Debug, Default)]
pub struct Projector {
    view: View,
    /// Links that are offered, or on which devices are, if no device with that id has an owner.
    candidates: BTreeMap<u32, Candidate>,
    by_id: BTreeMap<DeviceId, BTreeSet<u32>>,
    /// Hardware of the devices that were seen on the host: a record has only a part of it.
    hardware: BTreeMap<DeviceId, Arc<Hardware>>,
}

/// A link that a pool may offer.
#[derive(Debug)]
struct Candidate {
    /// The device; of a pool of children what they have in common, with the id of their parent.
    device: Device,
    /// The devices that are offered in its place.
    children: Option<Children>,
}

impl Candidate {
    /// The devices that it offers.
    fn ids(&self) -> Vec<DeviceId> {
        match self.children {
            None => vec![self.device.id.clone()],
            Some(children) => children.devices(&self.device.id.to_name()).collect(),
        }
    }

    /// The device with that id, one of [`Self::ids`].
    fn device(&self, id: &DeviceId) -> Option<Device> {
        let form = match self.children {
            None => self.device.form,
            Some(children) => Form::Child(children.kind_of(id)?),
        };
        Some(Device { id: id.clone(), form, ..self.device.clone() })
    }
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
        ids.iter().for_each(|id| self.publish_with_children(id));
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
        before.symmetric_difference(&now).for_each(|id| self.publish_with_children(id));
    }

    fn project(&mut self, links: BTreeSet<u32>) {
        let mut ids = BTreeSet::new();
        for index in links {
            for id in self.candidates.remove(&index).iter().flat_map(Candidate::ids) {
                self.by_id.entry(id.clone()).or_default().remove(&index);
                ids.insert(id);
            }
            if let Some(candidate) = self.view.snapshot.link(index).and_then(|link| self.candidate(link)) {
                for id in candidate.ids() {
                    self.by_id.entry(id.clone()).or_default().insert(index);
                    ids.insert(id);
                }
                self.keep_hardware(index, &candidate.device.id);
                self.candidates.insert(index, candidate);
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

    fn candidate(&self, link: &Link) -> Option<Candidate> {
        let pool: &Pool = self.view.pools.of(link)?;
        if self.view.exclusion_from(pool, link).is_some() {
            return None;
        }
        let children = pool.children.filter(|_| pool.offer == Offer::Resource);
        // nothing is created on a link that is down
        let healthy = pool.health.is_healthy(link) && (pool.children.is_none() || link.is_up());
        let device = Device {
            id: DeviceId::from(&link.name),
            resource: pool.resource.clone(),
            offer: pool.offer,
            form: pool.children.map_or(Form::Link, Form::Parent),
            is_of_pool: true,
            state: DeviceState::Offered { link: link.index, healthy },
            numa_node: link.hardware.as_ref().and_then(|hardware| hardware.numa_node),
            home: None,
        };
        Some(Candidate { device, children })
    }

    /// Updates the device of one id, and those that are created on it: they depend on its record, too.
    fn publish_with_children(&mut self, id: &DeviceId) {
        self.publish(id);
        let of_link = |link: &u32| self.candidates.get(link).filter(|found| found.device.id == *id).map(Candidate::ids);
        let link = self.view.snapshot.link_named(&id.to_name()).filter(|_| id.child().is_none());
        for child in link.and_then(|link| of_link(&link.index)).unwrap_or_default() {
            self.publish(&child);
        }
    }

    /// Updates the device of one id. A record, also one that cannot be used, has priority over a link on the host.
    fn publish(&mut self, id: &DeviceId) {
        let links = self.by_id.get(id);
        if links.is_some_and(BTreeSet::is_empty) {
            self.by_id.remove(id);
        }
        let parent = id.parent();
        // nothing is created on a link whose name an attached device has, or one that may be restored in part only
        let is_taken = |parent: &DeviceId| self.view.ledger.contains_key(parent) || self.view.unknown.contains(parent);
        let may_be_offered = !self.view.unknown.contains(id) && !parent.as_ref().is_some_and(is_taken);
        let offered = || self.candidates.get(self.by_id.get(id)?.last()?)?.device(id);
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
        let created = record.created().map(|created| created.kind);
        let children = pool.and_then(|pool| pool.children);
        Some(Device {
            id: record.device.clone(),
            offer: pool.map(|pool| pool.offer).unwrap_or_default(),
            form: created.map_or(Form::Link, Form::Child),
            is_of_pool: match created {
                None => children.is_none(),
                Some(kind) => children.and_then(|children| children.kind_of(&record.device)) == Some(kind),
            },
            resource,
            state: DeviceState::Held(record.owner.clone(), record.phase),
            numa_node: record.host().and_then(|host| host.hardware.as_ref()).and_then(|hardware| hardware.numa_node),
            home: home.map(Arc::new),
        })
    }
}
