//! Devices whose record has ended and that the snapshot does not have yet: they count as attached until it has.
//!
//! A record ends when its device is on the host, and the kernel's notification of that may arrive later. Without it the
//! device would be withdrawn for a moment, and the kubelet would reject a Pod that requests it in that moment, for good. So
//! such a device counts as held a while longer; no other device waits for it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use netdevice::{Attachment, DeviceId, Ledger, View, link::flags};
use tokio::time::Instant;

/// How long the kernel's notification is waited for. It takes milliseconds, or the device is gone.
const RETURN: Duration = Duration::from_millis(500);

/// A device whose record has ended, until the snapshot has it.
struct Returning {
    record: Arc<Attachment>,
    deadline: Instant,
}

impl Returning {
    /// Whether the snapshot has the device, healthy or as it was before it was attached.
    fn has_returned(&self, view: &View) -> bool {
        // one that was created is deleted
        let Some(host) = self.record.host() else { return true };
        let before = host.flags & (flags::UP | flags::LOWER_UP);
        let link = view.snapshot.link_named(&self.record.device.to_name());
        link.is_some_and(|link| {
            let is_healthy = view.pools.of(link).is_none_or(|pool| pool.health.is_healthy(link));
            is_healthy || link.flags & before == before
        })
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct ReturningDevices(BTreeMap<DeviceId, Returning>);

impl ReturningDevices {
    /// Until when at most the next of them is waited for.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.0.values().map(|returning| returning.deadline).min()
    }

    /// Adds the devices that are returning to `ledger`: those whose record is in the view and no longer in `ledger`.
    pub(super) fn add_to(&mut self, ledger: &mut Ledger, view: &View) {
        let now = Instant::now();
        for (device, record) in view.ledger.iter().filter(|(device, _)| !ledger.contains_key(*device)) {
            let returning = || Returning { record: record.clone(), deadline: now + RETURN };
            self.0.entry(device.clone()).or_insert_with(returning);
        }
        let has_ended = |device: &DeviceId| !ledger.contains_key(device);
        self.0
            .retain(|device, returning| has_ended(device) && now < returning.deadline && !returning.has_returned(view));
        ledger.extend(self.0.iter().map(|(device, returning)| (device.clone(), returning.record.clone())));
    }

    /// The view's records without the devices that its snapshot has again; none if that makes no difference.
    pub(super) fn without_returned(&mut self, view: &View) -> Option<Ledger> {
        if self.0.is_empty() {
            return None;
        }
        let mut ledger = (*view.ledger).clone();
        self.0.keys().for_each(|device| _ = ledger.remove(device));
        self.add_to(&mut ledger, view);
        (ledger != *view.ledger).then_some(ledger)
    }
}

#[cfg(test)]
mod tests {
    use netdevice::{Device, Link, Owner, Pools, Projector, ResourceName, Snapshot, fixture};

    use super::*;

    fn snapshot(flags: u32) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.insert_link(Arc::new(Link { flags, kind: None, ..fixture::link(7, "dummy0") }));
        snapshot
    }

    /// A device of a Pod, which had these flags on the host, and its record.
    struct Attached {
        ledger: Ledger,
        projector: Projector,
        returning: ReturningDevices,
    }

    impl Attached {
        fn new(pools: Pools, flags: u32) -> Self {
            let mut record = Attachment { resource: Some(ResourceName::default()), ..fixture::record("dummy0") };
            record.owner = Owner::Container { id: "c0ffee".into(), sandbox: None, pod: None };
            record.host_mut().unwrap().flags = flags;
            let ledger = Ledger::from_iter([(record.device.clone(), Arc::new(record))]);
            let mut projector = Projector::new();
            projector.set_pools(Arc::new(pools));
            projector.set_ledger(Arc::new(ledger.clone()));
            Self { ledger, projector, returning: ReturningDevices::default() }
        }

        /// The records are read: the device's is there, or has ended.
        fn read(&mut self, has_record: bool) {
            let mut ledger = if has_record { self.ledger.clone() } else { Ledger::new() };
            self.returning.add_to(&mut ledger, self.projector.view());
            self.projector.set_ledger(Arc::new(ledger));
        }

        fn see(&mut self, snapshot: Snapshot) {
            self.projector.set_snapshot(snapshot);
            if let Some(ledger) = self.returning.without_returned(self.projector.view()) {
                self.projector.set_ledger(Arc::new(ledger));
            }
        }

        fn device(&self) -> Option<&Arc<Device>> {
            self.projector.view().devices().get(&"dummy0".parse::<DeviceId>().unwrap())
        }

        fn is_held(&self) -> bool {
            self.device().is_some_and(|device| device.owner().is_some())
        }
    }

    fn by_name() -> Pools {
        Pools::by_name("dummy".parse().unwrap())
    }

    /// The kernel's notifications come late, and in parts: first a link that is not up yet.
    #[tokio::test(start_paused = true)]
    async fn a_device_that_returns_to_the_host_is_listed_and_healthy_all_the_while() {
        let mut attached = Attached::new(by_name(), flags::UP);
        attached.read(false);
        assert!(attached.is_held(), "the kernel's notification was not waited for");
        attached.see(snapshot(0));
        assert!(attached.is_held(), "the link is not up yet");
        attached.see(snapshot(flags::UP));
        assert!(attached.device().unwrap().is_healthy() && !attached.is_held());
        assert_eq!(attached.returning.next_deadline(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_is_gone_for_good_is_not_waited_for_long() {
        let mut attached = Attached::new(by_name(), flags::UP);
        attached.read(false);
        assert!(attached.is_held());
        tokio::time::sleep_until(attached.returning.next_deadline().unwrap()).await;
        attached.read(false);
        assert!(attached.projector.view().devices().is_empty());
        assert_eq!(attached.returning.next_deadline(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_was_down_or_without_a_carrier_on_the_host_is_not_waited_for_to_become_healthy() {
        let carrier = "pools: [{resource: networking.k8s.io/netdevice, select: {names: [dummy]}, health: carrier}]";
        for (pools, host) in [(by_name(), 0), (Pools::from_yaml(carrier).unwrap(), flags::UP)] {
            let mut attached = Attached::new(pools, host);
            attached.read(false);
            attached.see(snapshot(host));
            assert!(!attached.is_held() && !attached.device().unwrap().is_healthy());
            assert_eq!(attached.returning.next_deadline(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_is_attached_again_before_it_was_seen_on_the_host_stays_held() {
        let mut attached = Attached::new(by_name(), flags::UP);
        attached.read(false);
        attached.read(true);
        attached.see(snapshot(flags::UP));
        assert!(attached.is_held());
        assert_eq!(attached.returning.next_deadline(), None);
    }
}
