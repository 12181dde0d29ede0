//! Devices that a Pod may have although they have no record: allocated and not attached yet, or between two containers.
//!
//! Their CDI names must resolve even when the link no longer exists, so that users see the hook's error and not the
//! runtime's. A device is added by Allocate, by the CDI file of an earlier instance and by PodResources; it is removed only
//! after two answers of PodResources without it.

use std::collections::{BTreeMap, BTreeSet};

use netdevice::DeviceId;

/// A device is removed after this many answers in a row without it.
const ANSWERS_TO_REMOVE: u8 = 2;

/// Devices that a Pod may have, each with the number of answers in a row that did not name it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AllocatedDevices(BTreeMap<DeviceId, u8>);

impl AllocatedDevices {
    pub(crate) fn add(&mut self, ids: impl IntoIterator<Item = DeviceId>) {
        self.0.extend(ids.into_iter().map(|id| (id, 0)));
    }

    pub(crate) fn has(&self, id: &DeviceId) -> bool {
        self.0.contains_key(id)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &DeviceId> {
        self.0.keys()
    }

    /// Takes a complete answer of the kubelet: devices that are missing in two in a row are removed.
    pub(crate) fn update(&mut self, named: BTreeSet<DeviceId>) {
        self.0.retain(|id, misses| {
            *misses = if named.contains(id) { 0 } else { *misses + 1 };
            *misses < ANSWERS_TO_REMOVE
        });
        self.add(named);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> BTreeSet<DeviceId> {
        text.split_whitespace().map(|id| id.parse().unwrap()).collect()
    }

    #[test]
    fn a_device_is_removed_after_two_answers_without_it() {
        let mut allocated = AllocatedDevices::default();
        allocated.add(ids("a b"));
        allocated.update(ids("b"));
        assert!(allocated.has(&"a".parse().unwrap()));
        allocated.update(ids("b c"));
        assert_eq!(allocated.ids().cloned().collect::<BTreeSet<_>>(), ids("b c"));
    }

    #[test]
    fn a_device_that_is_named_or_allocated_between_is_kept() {
        let mut allocated = AllocatedDevices::default();
        allocated.add(ids("a b"));
        allocated.update(ids(""));
        allocated.add(ids("a"));
        allocated.add(ids("b"));
        allocated.update(ids(""));
        assert_eq!(allocated.ids().cloned().collect::<BTreeSet<_>>(), ids("a b"));
    }
}
