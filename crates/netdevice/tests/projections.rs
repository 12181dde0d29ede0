//! What a projector finds step by step is what it finds from scratch, in whatever order things happen.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)] // all of it is a test

mod states;

use std::{collections::BTreeSet, sync::Arc};

use netdevice::{
    Attachment, DeviceId, Ledger, Link, Snapshot,
    pool::Pools,
    projection::Projector,
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
    Home(u32),
    /// Its record can no longer be followed, or somebody put that right.
    Unknown(u32),
    NodeLinks(Vec<u32>),
    RedirectTargets(Vec<u32>),
    BuiltOnElsewhere(Vec<u32>),
}

const KINDS: [&str; 3] = ["bridge", "vlan", "dummy"];

const POOLS: [&str; 3] = [
    "pools:\n- {resource: a.b/all, select: {names: ['']}}",
    "pools:\n- {resource: a.b/one, select: {names: ['1']}}\n- {resource: a.b/rest, select: {kinds: [dummy]}, health: present}",
    "pools:\n- {resource: a.b/none, select: {names: ['x']}}",
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
        1 => (0..3usize).prop_map(Change::Pools),
        1 => (0..5u32, any_record()).prop_map(|(name, record)| Change::Held(name, Box::new(record))),
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
            Change::Unknown(name) => {
                if !self.unknown.remove(&id(name)) {
                    self.unknown.insert(id(name));
                }
                return projector.set_unknown(self.unknown.clone());
            }
            Change::Home(name) => {
                Arc::make_mut(&mut self.ledger).remove(&id(name));
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
