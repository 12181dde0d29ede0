//! Taints, attributes and capacity of devices, wherever they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::*;
use crate::{
    Attachment, Pools, Projector, Snapshot, fixture,
    link::flags,
    snapshot::{DefaultRoute, Family},
};

const POOLS: &str = "pools:
- {resource: example.com/up, select: {names: [^up]}, offer: claims}
- {resource: example.com/carrier, select: {names: [^carrier]}, offer: claims, health: carrier}
- {resource: example.com/present, select: {names: [^present]}, offer: claims, health: present}
- {resource: example.com/plugin, select: {names: [^plugin]}}
- {resource: example.com/shared, select: {names: [^parent]}, offer: claims, children: {kind: macvlan, count: 2}}
";

struct Node {
    projector: Projector,
    snapshot: Snapshot,
    ledger: BTreeMap<DeviceId, Arc<Attachment>>,
}

impl Node {
    fn new(links: &[(u32, &str, u32)]) -> Self {
        let mut projector = Projector::new();
        projector.set_pools(Arc::new(Pools::from_yaml(POOLS).unwrap()));
        let mut node = Self { projector, snapshot: Snapshot::default(), ledger: BTreeMap::new() };
        for (index, name, flags) in links {
            node.snapshot.insert_link(Arc::new(Link { flags: *flags, ..fixture::link(*index, name) }));
        }
        node.projector.set_snapshot(node.snapshot.clone());
        node
    }

    /// The device is in the sandbox of this owner.
    fn attach(&mut self, index: u32, owner: Owner) {
        let link = self.snapshot.remove_link(index).unwrap();
        let name = link.name.to_string();
        let mut record = Attachment { owner, ..fixture::record(&name) };
        record.host_mut().unwrap().mtu = 9000;
        self.ledger.insert(record.device.clone(), Arc::new(record));
        self.projector.set_ledger(Arc::new(self.ledger.clone()));
        self.projector.set_snapshot(self.snapshot.clone());
    }

    fn taints(&self) -> BTreeMap<String, String> {
        let text =
            |taint: &Taint| format!("{}={}:{}", taint.key.split('/').next_back().unwrap(), taint.value, taint.effect);
        let devices = devices(self.projector.view());
        devices
            .map(|device| {
                let taints: Vec<String> = device.taints.iter().map(text).collect();
                (device.name.to_string(), taints.join(","))
            })
            .collect()
    }
}

fn claim() -> Owner {
    Owner::Claim {
        uid: "u".into(),
        namespace: "default".into(),
        name: "fast".into(),
        request: "nic".into(),
        sandbox: Some("s".into()),
        pod: None,
    }
}

fn expected(devices: &[(&str, &str)]) -> BTreeMap<String, String> {
    devices.iter().map(|(name, taint)| ((*name).to_owned(), (*taint).to_owned())).collect()
}

#[test]
fn what_is_unhealthy_by_the_rule_of_its_pool_has_a_taint() {
    let carrier = flags::UP | flags::LOWER_UP;
    let node = Node::new(&[
        (2, "up0", flags::UP),
        (3, "up1", 0),
        (4, "carrier0", carrier),
        (5, "carrier1", flags::UP),
        (6, "carrier2", flags::LOWER_UP),
        (7, "present0", 0),
        (8, "plugin0", flags::UP),
        (9, "other0", flags::UP),
    ]);
    let taints = [
        ("up0", ""),
        ("up1", "link-down=:NoSchedule"),
        ("carrier0", ""),
        ("carrier1", "no-carrier=:NoSchedule"),
        ("carrier2", "link-down=:NoSchedule"),
        ("present0", ""),
    ];
    assert_eq!(node.taints(), expected(&taints));
}

#[test]
fn an_attached_device_stays_with_the_attributes_that_it_had_on_the_host() {
    let mut node = Node::new(&[(2, "up0", flags::UP), (3, "up1", flags::UP), (4, "plugin0", flags::UP)]);
    node.attach(2, claim());
    node.attach(3, fixture::owner("sandbox"));
    node.attach(4, fixture::owner("container"));
    assert_eq!(node.taints(), expected(&[("up0", ""), ("up1", "held=annotation:NoSchedule")]));
    let up0 = devices(node.projector.view()).next().unwrap();
    let value = |name: &str| serde_json::to_value(&up0.attributes[name]).unwrap();
    assert_eq!(value("mtu"), serde_json::json!({"int": 9000}));
    assert_eq!(value("pool"), serde_json::json!({"string": "example.com/up"}));
    // a new agent, which never saw the link
    let mut restarted = Node::new(&[]);
    restarted.projector.set_ledger(Arc::new(node.ledger.clone()));
    assert_eq!(restarted.taints(), node.taints());
}

#[test]
fn an_interface_with_devices_created_on_it_is_held_unless_claims_have_them() {
    let mut node = Node::new(&[(2, "up0", flags::UP), (3, "up1", flags::UP)]);
    for (parent, owner) in [("up0", claim()), ("up1", fixture::owner("sandbox"))] {
        let device = DeviceId::child_of(&parent.parse().unwrap(), std::num::NonZeroU16::MIN);
        let record = Attachment { device: device.clone(), owner, ..fixture::record("other0") };
        node.ledger.insert(device, Arc::new(record));
    }
    node.projector.set_ledger(Arc::new(node.ledger.clone()));
    assert_eq!(node.taints(), expected(&[("up0", ""), ("up1", "held=annotation:NoSchedule")]));
}

#[test]
fn a_parent_is_allocated_as_often_as_claims_can_have_what_is_created_on_it() {
    let mut node = Node::new(&[(2, "parent0", flags::UP), (3, "parent1", 0)]);
    let capacity = |node: &Node| {
        let devices = devices(node.projector.view()).map(|device| serde_json::to_value(device).unwrap());
        let text = |device: serde_json::Value| {
            assert_eq!(device["allowMultipleAllocations"], true);
            let children = &device["capacity"]["children"];
            assert_eq!(children["requestPolicy"], serde_json::json!({"default": "1", "validValues": ["1"]}));
            format!("{}: {}", device["name"], children["value"]).replace('"', "")
        };
        devices.map(text).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(capacity(&node), "parent0: 2, parent1: 2");
    assert_eq!(node.taints(), expected(&[("parent0", ""), ("parent1", "link-down=:NoSchedule")]));
    // what claims have, the scheduler knows; what others have, it does not
    let others = fixture::owner("sandbox");
    for (number, owner, left, taint) in [
        (1, claim(), "parent0: 2, parent1: 2", ""),
        (2, others.clone(), "parent0: 1, parent1: 2", ""),
        (3, others, "parent0: 1, parent1: 2", "held=annotation:NoSchedule"),
    ] {
        let number = std::num::NonZeroU16::new(number).unwrap();
        let device = DeviceId::child_of(&"parent0".parse().unwrap(), number);
        let record = Attachment { device: device.clone(), owner, ..fixture::record("other0") };
        node.ledger.insert(device, Arc::new(record));
        node.projector.set_ledger(Arc::new(node.ledger.clone()));
        assert_eq!(capacity(&node), left);
        assert_eq!(node.taints()["parent0"], taint);
    }
}

#[test]
fn an_attached_device_keeps_the_hardware_that_its_record_does_not_have() {
    use crate::{link::Hardware, state::HardwarePlace};
    let mut node = Node::new(&[(2, "up0", flags::UP)]);
    let hardware = Hardware {
        driver: Some("ice".into()),
        pci_address: Some("0000:3b:00.0".into()),
        pci_id: Some((1, 2)),
        ..Hardware::default()
    };
    let link = Link { kind: None, hardware: Some(Arc::new(hardware.clone())), ..fixture::link(2, "up0") };
    node.snapshot.insert_link(Arc::new(link));
    node.projector.set_snapshot(node.snapshot.clone());
    // the link is gone before the record is read
    node.snapshot.remove_link(2);
    node.projector.set_snapshot(node.snapshot.clone());
    let mut record = Attachment { owner: claim(), ..fixture::record("up0") };
    let place = HardwarePlace { path: "/sys/devices/pci0000:3a/0000:3b:00.0".into(), numa_node: None };
    record.host_mut().unwrap().hardware = Some(place);
    let ledger: BTreeMap<_, _> = [(record.device.clone(), Arc::new(record))].into();
    let driver = |projector: &Projector| devices(projector.view()).next().unwrap().attributes["driver"].clone();
    node.projector.set_ledger(Arc::new(ledger.clone()));
    assert_eq!(serde_json::to_value(driver(&node.projector)).unwrap()["string"], "ice");
    let mut restarted = Node::new(&[]).projector;
    restarted.set_ledger(Arc::new(ledger));
    assert_eq!(serde_json::to_value(driver(&restarted)).unwrap()["string"], "");
    restarted.set_hardware("up0".parse().unwrap(), hardware);
    assert_eq!(serde_json::to_value(driver(&restarted)).unwrap()["string"], "ice");
}

#[test]
fn a_device_in_quarantine_stays_with_a_taint_and_the_uplink_never_is_there() {
    let mut node = Node::new(&[(2, "up0", flags::UP), (3, "up1", flags::UP), (4, "plugin0", flags::UP)]);
    node.projector
        .set_unknown(["up0", "up1", "plugin0", "up9"].iter().map(|id| id.parse().unwrap()).collect::<BTreeSet<_>>());
    let quarantined = "quarantined=:NoSchedule";
    assert_eq!(node.taints(), expected(&[("up0", quarantined), ("up1", quarantined)]));
    node.snapshot.insert_default_route(DefaultRoute { family: Family::V4, table: 254, metric: 0, link: 3 });
    node.projector.set_snapshot(node.snapshot.clone());
    assert_eq!(node.taints(), expected(&[("up0", quarantined)]));
}
