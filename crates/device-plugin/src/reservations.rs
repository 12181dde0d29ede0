//! Devices that a container was promised by Allocate, and that no record shows yet: the container is not started.
//!
//! A kubelet that has lost its checkpoint takes them for free. And where the container runs although no hook was run for
//! it, the runtime does not do what the CDI file says: whoever looks for that begins here.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use netdevice::{DeviceId, View};

/// Promised devices, each with the time of its Allocate.
#[derive(Debug, Default)]
pub struct Reservations(Mutex<BTreeMap<DeviceId, SystemTime>>);

impl Reservations {
    /// All that are promised and not attached yet.
    pub fn all(&self) -> BTreeMap<DeviceId, SystemTime> {
        self.lock().clone()
    }

    /// A hook was run for the device.
    pub fn end(&self, device: &DeviceId) {
        self.lock().remove(device);
    }

    /// Ends the reservations of devices that have a record.
    pub fn end_attached(&self, view: &View) {
        self.lock().retain(|device, _| !view.ledger.contains_key(device));
    }

    /// The devices were handed out now.
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
