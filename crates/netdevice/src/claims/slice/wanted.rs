//! What the slices should contain, followed from view to view. The cost of a view grows with what differs from the one before;
//! of a device only a fingerprint is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::ordmap::DiffItem;

use super::{
    Offered, SliceDevice,
    fingerprint::Fingerprint,
    name::{DeviceName, device_name},
    plan::Wanted,
    pool::Pool,
};
use crate::{id::DeviceId, projection::View};

/// What the slices should contain.
#[derive(Debug, Default)]
pub struct Tracker {
    view: Arc<View>,
    wanted: Wanted,
    /// The last known speed of devices that have one. A link without a carrier has none, and that shall not be a change.
    speeds: BTreeMap<DeviceName, u32>,
}

impl Tracker {
    /// What should be there; none if no pool is offered by claims.
    pub fn wanted(&self) -> Option<&Wanted> {
        (self.view.pools.has_claims() || !self.wanted.is_empty()).then_some(&self.wanted)
    }

    /// A device as it is to be published.
    pub fn device(&self, name: &DeviceName) -> Option<SliceDevice> {
        let speed = self.speeds.get(name).copied();
        Some(Offered::find(&self.view, &name.device())?.publish(&self.view, name.clone(), speed))
    }

    /// The speed of a device that an earlier instance published. It counts until the link has one.
    pub fn remember_speed(&mut self, name: &DeviceName, speed: u32, pool: &mut Pool) {
        if self.speeds.contains_key(name) {
            return;
        }
        let has_hardware = |offered: Offered<'_>| offered.link.hardware.is_some();
        if Offered::find(&self.view, &name.device()).is_some_and(has_hardware) {
            self.speeds.insert(name.clone(), speed);
            self.update(&name.device(), pool);
        }
    }

    /// Takes a new view, and tells the pool what differs. Returns whether something that is published does.
    pub fn set_view(&mut self, view: Arc<View>, pool: &mut Pool) -> bool {
        let had = self.wanted().is_some();
        let before = std::mem::replace(&mut self.view, view);
        let mut differs = false;
        for id in changed(&before, &self.view) {
            differs |= self.update(&id, pool);
        }
        differs |= had != self.wanted().is_some();
        differs
    }

    /// Returns whether what is published of the device differs.
    fn update(&mut self, id: &DeviceId, pool: &mut Pool) -> bool {
        let name = device_name(id);
        let Some(offered) = Offered::find(&self.view, id) else {
            self.speeds.remove(&name);
            let was_wanted = self.wanted.remove(&name).is_some();
            if was_wanted {
                pool.update(&name, false);
            }
            return was_wanted;
        };
        if let Some(speed) = offered.link.hardware.as_ref().and_then(|hardware| hardware.speed) {
            self.speeds.insert(name.clone(), speed);
        }
        let device = offered.publish(&self.view, name.clone(), self.speeds.get(&name).copied());
        let fingerprint = Fingerprint::of_published(&device);
        let differs = self.wanted.get(&name) != Some(&fingerprint);
        if differs {
            pool.update(&name, true);
            self.wanted.insert(name, fingerprint);
        }
        differs
    }
}

/// Devices of which something may differ.
fn changed(before: &View, now: &View) -> BTreeSet<DeviceId> {
    let mut ids = BTreeSet::new();
    for item in before.devices().diff(now.devices()) {
        let (DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. }) = item;
        ids.insert(id.clone());
    }
    // a device that is created is on one that may be offered
    if !Arc::ptr_eq(&before.ledger, &now.ledger) {
        let created = before.ledger.iter().chain(now.ledger.iter()).filter(|(id, record)| {
            let owner = |view: &View| view.ledger.get(*id).map(|record| record.owner.clone());
            record.device.child().is_some() && owner(before) != owner(now)
        });
        ids.extend(created.filter_map(|(id, _)| id.parent()));
    }
    for item in before.snapshot.links().diff(now.snapshot.links()) {
        let (index, links) = match item {
            DiffItem::Add(index, link) | DiffItem::Remove(index, link) => (*index, [Some(link), None]),
            DiffItem::Update { old: (_, old), new: (index, new) } => (*index, [Some(old), Some(new)]),
        };
        // a link names the one below it
        let uppers = [before, now].into_iter().flat_map(|view| view.snapshot.uppers(index));
        let uppers = uppers.filter_map(|upper| now.snapshot.link(upper));
        ids.extend(links.into_iter().flatten().chain(uppers).map(|link| DeviceId::from(&link.name)));
    }
    // whether one in quarantine is offered depends on more than its own link; there are few
    ids.extend(before.unknown.iter().chain(now.unknown.iter()).cloned());
    if !Arc::ptr_eq(&before.pools, &now.pools) {
        ids.extend(before.devices().keys().chain(now.devices().keys()).cloned());
    }
    ids
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Attachment, Ledger, Link, Pools, Projector, Snapshot, claims::slice::devices, fixture, link::Hardware,
    };

    const POOLS: [&str; 3] = [
        "pools: [{resource: a.b/cc, select: {names: [dev]}, offer: claims}]",
        "pools: [{resource: a.b/dd, select: {names: [dev]}, offer: claims, health: carrier}, {resource: a.b/ee, select: {names: [x]}}]",
        "pools: [{resource: a.b/cc, select: {names: [dev]}}]",
    ];

    #[derive(Debug, Clone)]
    enum Change {
        Link { index: u32, name: u32, flags: u32, mtu: u32, parent: Option<u32> },
        NoLink(u32),
        Pools(usize),
        Held(u32, bool),
        Created(u32, bool),
        Deleted(u32),
        Home(u32),
        Unknown(u32),
    }

    fn any_change() -> impl Strategy<Value = Change> {
        let index = || 1..6u32;
        let flags = prop::sample::select(vec![0, 1, 0x10001]);
        prop_oneof![
            (index(), index(), flags, 0..2u32, prop::option::of(index()))
                .prop_map(|(index, name, flags, mtu, parent)| Change::Link { index, name, flags, mtu, parent }),
            index().prop_map(Change::NoLink),
            (0..3usize).prop_map(Change::Pools),
            (index(), any::<bool>()).prop_map(|(name, by_claim)| Change::Held(name, by_claim)),
            (index(), any::<bool>()).prop_map(|(name, by_claim)| Change::Created(name, by_claim)),
            index().prop_map(Change::Deleted),
            index().prop_map(Change::Home),
            index().prop_map(Change::Unknown),
        ]
    }

    fn fingerprint(device: &SliceDevice) -> Fingerprint {
        Fingerprint::of(&serde_json::to_value(device).unwrap())
    }

    proptest! {
        #[test]
        fn what_is_followed_is_what_the_view_has(changes in prop::collection::vec(any_change(), 0..40)) {
            let mut projector = Projector::new();
            projector.set_pools(Arc::new(Pools::from_yaml(POOLS[0]).unwrap()));
            let (mut snapshot, mut ledger, mut unknown) = (Snapshot::default(), Ledger::new(), BTreeSet::new());
            let (mut tracker, mut pool) = (Tracker::default(), Pool::default());
            for change in changes {
                let name = |number: u32| format!("dev{number}");
                let child = |number: u32| DeviceId::child_of(&name(number).parse().unwrap(), std::num::NonZeroU16::MIN);
                let owner = |by_claim: bool| {
                    let claim = crate::Owner::Claim {
                        uid: "u".into(), namespace: "n".into(), name: "c".into(), request: "r".into(), sandbox: None, pod: None,
                    };
                    if by_claim { claim } else { fixture::owner("sandbox") }
                };
                match change {
                    Change::Link { index, name: number, flags, mtu, parent } => {
                        let parent = parent.filter(|parent| *parent != index);
                        snapshot.insert_link(Arc::new(Link { flags, mtu, parent, ..fixture::link(index, &name(number)) }));
                    }
                    Change::NoLink(index) => drop(snapshot.remove_link(index)),
                    Change::Pools(at) => projector.set_pools(Arc::new(Pools::from_yaml(POOLS[at]).unwrap())),
                    Change::Held(number, by_claim) => {
                        let record = Attachment { owner: owner(by_claim), ..fixture::record(&name(number)) };
                        ledger.insert(record.device.clone(), Arc::new(record));
                    }
                    Change::Created(number, by_claim) => {
                        let record = Attachment { device: child(number), owner: owner(by_claim), ..fixture::record("other") };
                        ledger.insert(record.device.clone(), Arc::new(record));
                    }
                    Change::Deleted(number) => drop(ledger.remove(&child(number))),
                    Change::Home(number) => drop(ledger.remove(&name(number).parse().unwrap())),
                    Change::Unknown(number) => {
                        let id: DeviceId = name(number).parse().unwrap();
                        if !unknown.remove(&id) {
                            unknown.insert(id);
                        }
                    }
                }
                projector.set_snapshot(snapshot.clone());
                projector.set_ledger(Arc::new(ledger.clone()));
                projector.set_unknown(unknown.clone());
                let before = tracker.wanted().cloned();
                let differs = tracker.set_view(Arc::new(projector.view().clone()), &mut pool);
                prop_assert_eq!(differs, before.as_ref() != tracker.wanted());
                let scratch: Wanted = devices(projector.view()).map(|device| (device.name.clone(), fingerprint(&device))).collect();
                prop_assert_eq!(&tracker.wanted, &scratch);
                for name in scratch.keys() {
                    prop_assert_eq!(fingerprint(&tracker.device(name).unwrap()), scratch[name]);
                }
            }
        }
    }

    #[test]
    fn a_lost_carrier_does_not_change_the_speed() {
        let mut projector = Projector::new();
        projector.set_pools(Arc::new(Pools::from_yaml(POOLS[0]).unwrap()));
        let (mut tracker, mut pool) = (Tracker::default(), Pool::default());
        let mut view = |speed: Option<u32>, flags: u32| {
            let hardware = Some(Arc::new(Hardware { speed, ..Hardware::default() }));
            let mut snapshot = Snapshot::default();
            snapshot.insert_link(Arc::new(Link { hardware, flags, ..fixture::link(2, "dev0") }));
            projector.set_snapshot(snapshot);
            Arc::new(projector.view().clone())
        };
        assert!(tracker.set_view(view(Some(25_000), 0x10001), &mut pool));
        assert!(!tracker.set_view(view(None, 1), &mut pool), "the rule of the pool is `up`");
        assert!(tracker.set_view(view(Some(10_000), 0x10001), &mut pool));
        let name: DeviceName = "dev0".parse().unwrap();
        tracker.remember_speed(&name, 40_000, &mut pool);
        let speed =
            |tracker: &Tracker| serde_json::to_value(&tracker.device(&name).unwrap().attributes["speed"]).unwrap();
        assert_eq!(speed(&tracker), serde_json::json!({"int": 10_000}));
        let mut restarted = Tracker::default();
        restarted.set_view(view(None, 1), &mut pool);
        restarted.remember_speed(&name, 40_000, &mut pool);
        assert_eq!(speed(&restarted), serde_json::json!({"int": 40_000}));
    }
}
