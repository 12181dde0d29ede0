//! Devices that were allocated to a container and have no record yet: the container has not started.
//!
//! A kubelet that has lost its checkpoint takes them for free. If the container runs although no hook was run for it, the
//! runtime ignores the CDI file: the agent checks these devices for that.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use netdevice::{DeviceId, View};

/// Allocated devices, each with the time of its Allocate call.
#[derive(Debug, Default)]
pub struct Reservations(Mutex<BTreeMap<DeviceId, SystemTime>>);

impl Reservations {
    /// All devices that are allocated and not attached yet.
    pub fn all(&self) -> BTreeMap<DeviceId, SystemTime> {
        self.lock().clone()
    }

    /// Ends the reservation of a device: a hook was run for it.
    pub fn end(&self, device: &DeviceId) {
        self.lock().remove(device);
    }

    /// Ends the reservations of devices that have a record.
    pub fn end_attached(&self, view: &View) {
        self.lock().retain(|device, _| !view.ledger.contains_key(device));
    }

    /// Begins reservations: the devices were allocated now.
    pub(crate) fn begin(&self, devices: impl IntoIterator<Item = DeviceId>) {
        let now = SystemTime::now();
        self.lock().extend(devices.into_iter().map(|device| (device, now)));
    }

    pub(crate) fn has(&self, device: &DeviceId) -> bool {
        self.lock().contains_key(device)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DeviceId, SystemTime>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
