//! What a projector finds step by step is what it finds from scratch, in whatever order things happen.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)] // all of it is a test

mod states;

use std::{collections::BTreeSet, num::NonZeroU16, sync::Arc};

use netdevice::{
    Attachment, DeviceId, Ledger, Link, Snapshot,
    acquisition::Created,
    fixture,
    pool::Pools,
    projection::{Device, Projector},
    snapshot::{DefaultRoute, Family},
};
use proptest::{collection::vec, option, prelude::*};
use states::any_record;

#[derive(Debug, Clone)]
enum Change {
    Link {
        index: u32,
        name: u32,
        kind: Option<usize>,
        flags: u32,
        master: Option<u32>,
        parent: Option<u32>,
    },
    NoLink(u32),
    Route(DefaultRoute),
    NoRoute(DefaultRoute),
    Tables(Vec<u32>),
    Pools(usize),
    Held(u32, Box<Attachment>),
    /// The first device that is created on an interface.
    Child(u32),
    Home(u32),
    /// Its record can no longer be followed, or somebody put that right.
    Unknown(u32),
    NodeLinks(Vec<u32>),
    RedirectTargets(Vec<u32>),
    BuiltOnElsewhere(Vec<u32>),
}

const KINDS: [&str; 3] = ["bridge", "vlan", "dummy"];

const POOLS: [&str; 5] = [
    "pools:\n- {resource: a.b/all, select: {names: ['']}}",
    "pools:\n- {resource: a.b/one, select: {names: ['1']}}\n- {resource: a.b/rest, select: {kinds: [dummy]}, health: present}",
    "pools:\n- {resource: a.b/none, select: {names: ['x']}}",
    "pools:\n- {resource: a.b/created, select: {names: ['[12]']}, children: {kind: macvlan, count: 2}}\n\
     - {resource: a.b/vlans, select: {names: ['']}, allowUplinkParent: true, children: {kind: vlan, id: 5, count: 1}}",
    "pools:\n- {resource: a.b/shared, select: {names: ['']}, offer: claims, children: {kind: ipvlan, count: 2}}",
];

fn any_route() -> impl Strategy<Value = DefaultRoute> {
    (any::<bool>(), 253..256u32, 0..2u32, 1..7u32).prop_map(|(v4, table, metric, link)| DefaultRoute {
        family: if v4 { Family::V4 } else { Family::V6 },
        table,
        metric,
        link,
    })
}

fn any_change() -> impl Strategy<Value = Change> {
    let index = || 1..7u32;
    let link = (index(), 0..5u32, option::of(0..3usize), 0..2u32, option::of(index()), option::of(index()));
    prop_oneof![
        4 => link.prop_map(|(index, name, kind, flags, master, parent)| Change::Link { index, name, kind, flags, master, parent }),
        2 => index().prop_map(Change::NoLink),
        2 => any_route().prop_map(Change::Route),
        2 => any_route().prop_map(Change::NoRoute),
        1 => vec(253..256u32, 0..3).prop_map(Change::Tables),
        1 => (0..POOLS.len()).prop_map(Change::Pools),
        1 => (0..5u32, any_record()).prop_map(|(name, record)| Change::Held(name, Box::new(record))),
        1 => (0..5u32).prop_map(Change::Child),
        1 => (0..5u32).prop_map(Change::Home),
        1 => (0..5u32).prop_map(Change::Unknown),
        1 => vec(index(), 0..3).prop_map(Change::NodeLinks),
        1 => vec(index(), 0..3).prop_map(Change::RedirectTargets),
        1 => vec(index(), 0..3).prop_map(Change::BuiltOnElsewhere),
    ]
}

fn id(name: u32) -> DeviceId {
    format!("eth{name}").parse().unwrap()
}

/// The world that a projector looks at.
#[derive(Default)]
struct World {
    snapshot: Snapshot,
    ledger: Arc<Ledger>,
    unknown: BTreeSet<DeviceId>,
    pools: Arc<Pools>,
}

impl World {
    fn change(&mut self, change: Change, projector: &mut Projector) {
        match change {
            Change::Link { index, name, kind, flags, master, parent } => self.snapshot.insert_link(Arc::new(Link {
                index,
                name: id(name).to_name(),
                altnames: Box::default(),
                alias: None,
                kind: kind.map(|kind| KINDS[kind].into()),
                mac: None,
                flags,
                mtu: 1500,
                master: master.filter(|master| *master != index),
                parent: parent.filter(|parent| *parent != index),
                link_netnsid: None,
                netns_immutable: None,
                hardware: None,
            })),
            Change::NoLink(index) => drop(self.snapshot.remove_link(index)),
            Change::Route(route) => drop(self.snapshot.insert_default_route(route)),
            Change::NoRoute(route) => drop(self.snapshot.remove_default_route(&route)),
            Change::Tables(tables) => {
                self.snapshot.set_reached_tables(tables.into_iter().map(|table| (Family::V4, table)));
            }
            Change::NodeLinks(links) => {
                self.snapshot.set_node_links(links.into_iter().map(|link| (link, [10, 0, 0, 5].into())));
            }
            Change::RedirectTargets(links) => self.snapshot.set_redirect_targets(links),
            Change::BuiltOnElsewhere(links) => {
                self.snapshot.set_built_on_elsewhere(links.into_iter().map(|link| (link, "macvlan".into())));
            }
            Change::Pools(at) => {
                self.pools = Arc::new(Pools::from_yaml(POOLS[at]).unwrap());
                return projector.set_pools(self.pools.clone());
            }
            Change::Held(name, record) => {
                let mut record =
                    Attachment { device: id(name), resource: Some("a.b/held".parse().unwrap()), ..*record };
                if let Some(host) = record.host_mut() {
                    host.parent = Some(1 + name);
                }
                Arc::make_mut(&mut self.ledger).insert(id(name), Arc::new(record));
                return projector.set_ledger(self.ledger.clone());
            }
            Change::Child(name) => {
                let device = DeviceId::child_of(&id(name).to_name(), NonZeroU16::MIN);
                let kind = "macvlan/bridge".parse().unwrap();
                let created = Created { parent: id(name).to_name(), parent_index: 1 + name, kind };
                let record = fixture::record("eth0");
                let resource = Some("a.b/created".parse().unwrap());
                let record = Attachment { device: device.clone(), resource, acquired: created.into(), ..record };
                Arc::make_mut(&mut self.ledger).insert(device, Arc::new(record));
                return projector.set_ledger(self.ledger.clone());
            }
            Change::Unknown(name) => {
                if !self.unknown.remove(&id(name)) {
                    self.unknown.insert(id(name));
                }
                return projector.set_unknown(self.unknown.clone());
            }
            Change::Home(name) => {
                Arc::make_mut(&mut self.ledger).retain(|device, _| device.to_name() != id(name).to_name());
                return projector.set_ledger(self.ledger.clone());
            }
        }
        projector.set_snapshot(self.snapshot.clone());
    }

    fn look_afresh(&self) -> Projector {
        let mut projector = Projector::new();
        projector.set_pools(self.pools.clone());
        projector.set_ledger(self.ledger.clone());
        projector.set_unknown(self.unknown.clone());
        projector.set_snapshot(self.snapshot.clone());
        projector
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn step_by_step_and_from_scratch_are_the_same(changes in vec(any_change(), 1..25)) {
        let (mut world, mut projector) = (World::default(), Projector::new());
        for change in changes {
            world.change(change, &mut projector);
            let fresh = world.look_afresh();
            prop_assert_eq!(projector.view().devices(), fresh.view().devices());
            prop_assert_eq!(projector.view(), fresh.view());
        }
    }
}

#[test]
fn a_pool_of_children_offers_them_in_place_of_the_links() {
    let mut world = World::default();
    let mut projector = Projector::new();
    let link = |index, name, flags| Change::Link { index, name, kind: None, flags, master: None, parent: None };
    let listed = |projector: &Projector| {
        let devices = projector.view().devices().values().filter(|device| device.is_offered_as_resource());
        let text = |device: &Device| format!("{}{}", device.id, if device.is_healthy() { "" } else { "!" });
        devices.map(|device| text(device)).collect::<Vec<_>>().join(" ")
    };
    world.change(Change::Pools(3), &mut projector);
    for (index, name, flags) in [(1, 1, 1), (2, 2, 0), (3, 3, 1)] {
        world.change(link(index, name, flags), &mut projector);
    }
    // nothing is created on a link that is down
    assert_eq!(listed(&projector), "eth1:1 eth1:2 eth2:1! eth2:2! eth3:1");
    // a macvlan of the node on it is no obstacle, and the uplink is a parent where the pool says so
    world.change(Change::BuiltOnElsewhere(vec![1]), &mut projector);
    world.change(Change::NodeLinks(vec![3]), &mut projector);
    assert_eq!(listed(&projector), "eth1:1 eth1:2 eth2:1! eth2:2! eth3:1");
    world.change(Change::NodeLinks(vec![1]), &mut projector);
    assert_eq!(listed(&projector), "eth2:1! eth2:2! eth3:1");
    world.change(Change::NodeLinks(vec![]), &mut projector);
    // one that an annotation took stays listed, and the kubelet must not allocate it
    world.change(Change::Child(1), &mut projector);
    let mut record = Attachment::clone(&world.ledger[&"eth1:1".parse().unwrap()]);
    record.owner = fixture::owner("sandbox");
    Arc::make_mut(&mut world.ledger).insert(record.device.clone(), Arc::new(record));
    projector.set_ledger(world.ledger.clone());
    assert_eq!(listed(&projector), "eth1:1! eth1:2 eth2:1! eth2:2! eth3:1");
    // a device with the parent's name is in a Pod, or its record cannot be used
    world.change(Change::Unknown(3), &mut projector);
    assert_eq!(listed(&projector), "eth1:1! eth1:2 eth2:1! eth2:2!");
    let refusal = |id: &str| {
        let resource = "a.b/vlans".parse().unwrap();
        projector.view().allocate(&resource, &id.parse().unwrap()).unwrap_err().to_string()
    };
    assert!(refusal("eth3:1").contains("its record on the node cannot be used"), "{}", refusal("eth3:1"));
    assert!(refusal("eth3:2").contains("does not select it"), "{}", refusal("eth3:2"));
    world.change(Change::Home(1), &mut projector);
    world.change(Change::Pools(4), &mut projector);
    assert_eq!(listed(&projector), "");
    let ids: Vec<&str> = projector.view().devices().keys().map(DeviceId::as_str).collect();
    assert_eq!(ids, ["eth1", "eth2"]);
}
