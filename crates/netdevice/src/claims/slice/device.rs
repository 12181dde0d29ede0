//! A device as it is published in a ResourceSlice: its attributes, and why it must not be allocated now.

use serde::Serialize;

use super::{
    attribute::{Attributes, attributes},
    name::{DeviceName, device_name},
};
use crate::{
    id::DeviceId,
    link::Link,
    owner::{Owner, Request},
    pool::{Offer, Pool},
    projection::{Device, DeviceState, View},
    resource::ResourceName,
};

/// A device of a slice, in the form of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SliceDevice {
    /// Its name.
    pub name: DeviceName,
    /// What a claim selects it by.
    pub attributes: Attributes,
    /// Why it must not be allocated now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
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
}

impl<'a> Offered<'a> {
    /// That of this id, if it is offered by claims. A device that was created is not: its parent is.
    pub(crate) fn find(view: &'a View, id: &DeviceId) -> Option<Self> {
        match view.devices().get(id) {
            Some(device) => Self::of(view, device),
            None => {
                let (link, pool) = view.quarantined(id).filter(|(_, pool)| pool.offer == Offer::Claims)?;
                Some(Self { link, pool: &pool.resource, obstacle: Some(Obstacle::Quarantined), claim: None })
            }
        }
    }

    fn of(view: &'a View, device: &'a Device) -> Option<Self> {
        if device.offer != Offer::Claims {
            return None;
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
        Some(Self { link, pool: &device.resource, obstacle, claim })
    }

    pub(crate) fn publish(&self, view: &View, name: DeviceName, speed: Option<u32>) -> SliceDevice {
        SliceDevice {
            name,
            attributes: attributes(self.link, self.pool, &view.snapshot, speed),
            taints: self.obstacle.iter().map(Obstacle::taint).collect(),
        }
    }
}

/// Whether devices are created on the interface, and not by claims: it is allocated to none then.
fn held_below<'a>(view: &'a View, id: &DeviceId) -> Option<Obstacle<'a>> {
    let on_it = view.ledger.values().filter(|record| record.device.parent().as_ref() == Some(id));
    let mut owners = on_it.map(|record| &record.owner);
    owners.find(|owner| !matches!(owner, Owner::Claim { .. })).map(Obstacle::Held)
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
mod tests {
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
            let text = |taint: &Taint| {
                format!("{}={}:{}", taint.key.split('/').next_back().unwrap(), taint.value, taint.effect)
            };
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
        node.projector.set_unknown(
            ["up0", "up1", "plugin0", "up9"].iter().map(|id| id.parse().unwrap()).collect::<BTreeSet<_>>(),
        );
        let quarantined = "quarantined=:NoSchedule";
        assert_eq!(node.taints(), expected(&[("up0", quarantined), ("up1", quarantined)]));
        node.snapshot.insert_default_route(DefaultRoute { family: Family::V4, table: 254, metric: 0, link: 3 });
        node.projector.set_snapshot(node.snapshot.clone());
        assert_eq!(node.taints(), expected(&[("up0", quarantined)]));
    }
}
