//! The health of devices, as reported to the kubelet: DRAResourceHealth.

use super::slice::{DeviceName, Obstacle, Offered, candidates, device_name};
use crate::{id::DeviceId, owner::Owner, projection::View};

/// The health of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It can be allocated, or a claim has it.
    Healthy,
    /// It has a taint in its slice.
    Unhealthy,
}

/// The health of one device that is offered by claims. Its pool has the name of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceHealth {
    /// The device.
    pub device: DeviceName,
    /// Its health.
    pub health: Health,
    /// Why, in at most 1024 bytes.
    pub message: String,
}

/// The health of all devices that are offered by claims, by id: it is unhealthy exactly if it has a taint.
pub fn health(view: &View) -> Vec<DeviceHealth> {
    candidates(view).filter_map(|id| health_of(view, id)).collect()
}

/// The health of one device; none if it is not offered by claims.
pub fn health_of(view: &View, id: &DeviceId) -> Option<DeviceHealth> {
    let offered = Offered::find(view, id)?;
    let (health, message) = match (&offered.obstacle, offered.claim) {
        (Some(obstacle), _) => (Health::Unhealthy, text(obstacle)),
        (None, Some(Owner::Claim { namespace, name, pod, .. })) => {
            let pod = pod.as_ref().map(|pod| format!(", pod {pod}")).unwrap_or_default();
            (Health::Healthy, format!("attached for claim {namespace}/{name}{pod}"))
        }
        (None, _) => (Health::Healthy, "on the node, healthy".into()),
    };
    Some(DeviceHealth { device: device_name(id), health, message })
}

/// What is wrong, and what to do. A name and a namespace have at most 253 and 63 bytes.
fn text(obstacle: &Obstacle<'_>) -> String {
    match obstacle {
        Obstacle::LinkDown => "the interface is down: set it up (ip link set INTERFACE up)".into(),
        Obstacle::NoCarrier => "the interface has no carrier: check the cable and the switch port".into(),
        Obstacle::Quarantined => "the record of the device cannot be used: see `netdevctl explain` on the node".into(),
        Obstacle::Held(owner) => format!("held by {owner}, and not by a claim"),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use super::*;
    use crate::{
        Attachment, Link, Pod, Pools, Projector, Snapshot, claims::slice::devices, fixture, link::flags, owner::Request,
    };

    #[test]
    fn health_says_what_the_taints_say_with_a_reason() {
        let mut projector = Projector::new();
        let pools = "pools: [{resource: a.b/cc, select: {names: [dev]}, offer: claims, health: carrier}]";
        projector.set_pools(Arc::new(Pools::from_yaml(pools).unwrap()));
        let mut snapshot = Snapshot::default();
        let up = flags::UP | flags::LOWER_UP;
        for (index, flags) in [(1, up), (2, flags::UP), (3, 0), (6, up), (9, up)] {
            snapshot.insert_link(Arc::new(Link { flags, ..fixture::link(index, &format!("dev{index}")) }));
        }
        snapshot.insert_link(Arc::new(fixture::link(7, "other7")));
        let pod = Pod { namespace: "team".into(), name: "web".into(), uid: "1".into() };
        let claim = Owner::Claim {
            uid: "u".into(),
            namespace: "team".into(),
            name: "fast".into(),
            request: "nic".into(),
            sandbox: Some("s".into()),
            pod: Some(pod.clone()),
        };
        let other = Owner::Sandbox { id: "sandbox".into(), pod: Some(pod), by: Request::Annotation };
        let records = [("dev4", claim), ("dev5", other)];
        let records = records.map(|(name, owner)| Arc::new(Attachment { owner, ..fixture::record(name) }));
        projector.set_snapshot(snapshot);
        projector.set_ledger(Arc::new(records.into_iter().map(|record| (record.device.clone(), record)).collect()));
        projector.set_unknown(BTreeSet::from(["dev6".parse().unwrap()]));
        let all = health(projector.view());
        let lines: Vec<String> = all.iter().map(|it| format!("{} {:?} {}", it.device, it.health, it.message)).collect();
        assert_eq!(
            lines,
            [
                "dev1 Healthy on the node, healthy",
                "dev2 Unhealthy the interface has no carrier: check the cable and the switch port",
                "dev3 Unhealthy the interface is down: set it up (ip link set INTERFACE up)",
                "dev4 Healthy attached for claim team/fast, pod team/web",
                "dev5 Unhealthy held by pod team/web (sandbox sandbox), and not by a claim",
                "dev9 Healthy on the node, healthy",
                "dev6 Unhealthy the record of the device cannot be used: see `netdevctl explain` on the node",
            ]
        );
        let tainted: Vec<_> = devices(projector.view()).map(|device| (device.name, device.taints.is_empty())).collect();
        let healthy: Vec<_> = all.into_iter().map(|it| (it.device, it.health == Health::Healthy)).collect();
        assert_eq!(tainted, healthy);
    }
}
