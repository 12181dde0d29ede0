//! Which devices a Pod may have although no record says so: allocated and not attached yet, or between two containers.
//!
//! Their CDI names must resolve even when the link is gone, so that the user reads our hook's words. The memory is
//! filled by Allocate, by the CDI file that an earlier instance left and by PodResources; only PodResources empties
//! it, and never by one answer.

use std::collections::{BTreeMap, BTreeSet};

use netdevice::DeviceId;

/// Answers in a row that must not name a device before it is forgotten.
const ANSWERS_TO_FORGET: u8 = 2;

/// Devices that somebody may have, each with the number of answers in a row that did not name it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Memory(BTreeMap<DeviceId, u8>);

impl Memory {
    pub(crate) fn remember(&mut self, ids: impl IntoIterator<Item = DeviceId>) {
        self.0.extend(ids.into_iter().map(|id| (id, 0)));
    }

    pub(crate) fn has(&self, id: &DeviceId) -> bool {
        self.0.contains_key(id)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &DeviceId> {
        self.0.keys()
    }

    /// An answer that may not be complete: it adds only.
    pub(crate) fn hear_some(&mut self, named: BTreeSet<DeviceId>) {
        self.remember(named);
    }

    /// An answer that counts: what two in a row do not name is forgotten.
    pub(crate) fn hear_all(&mut self, named: BTreeSet<DeviceId>) {
        self.0.retain(|id, misses| {
            *misses = if named.contains(id) { 0 } else { *misses + 1 };
            *misses < ANSWERS_TO_FORGET
        });
        self.remember(named);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> BTreeSet<DeviceId> {
        text.split_whitespace().map(|id| id.parse().unwrap()).collect()
    }

    #[test]
    fn a_device_is_forgotten_after_two_answers_without_it() {
        let mut memory = Memory::default();
        memory.remember(ids("a b"));
        memory.hear_all(ids("b"));
        assert!(memory.has(&"a".parse().unwrap()));
        memory.hear_all(ids("b c"));
        assert_eq!(memory.ids().cloned().collect::<BTreeSet<_>>(), ids("b c"));
    }

    #[test]
    fn a_device_that_is_named_or_allocated_between_is_kept() {
        let mut memory = Memory::default();
        memory.remember(ids("a b"));
        memory.hear_all(ids(""));
        memory.hear_some(ids("a"));
        memory.remember(ids("b"));
        memory.hear_all(ids(""));
        assert_eq!(memory.ids().cloned().collect::<BTreeSet<_>>(), ids("a b"));
    }
}
