//! The slices of the node that are there, with an index that is kept while they and what is wanted change: which slice has a
//! device, and which slices may differ. So what has to be written is found at the cost of what changed.
//!
//! The index exists while the slices are regular: written by this program, of one generation, with their number in them and no
//! device twice. Otherwise, and if slices have to be added or removed, all of it is planned anew ([`changes`]). Both make the same
//! plan.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use super::{
    name::DeviceName,
    plan::{Change, Content, Form, MOST_DEVICES, Present, Slices, Wanted, changes, devices_per_slice},
};

/// The slices of the node.
#[derive(Debug, Default)]
pub struct Pool {
    slices: Slices,
    last_generation: i64,
    index: Option<Index>,
}

/// What is known of regular slices. What is wanted is as [`Pool::update`] was told.
#[derive(Debug)]
struct Index {
    generation: i64,
    count: i64,
    homes: BTreeMap<DeviceName, Home>,
    /// How many devices of each slice are wanted.
    used: BTreeMap<Arc<str>, usize>,
    /// Those that may have room for more.
    roomy: BTreeSet<Arc<str>>,
    /// Wanted devices that no slice has.
    homeless: BTreeSet<DeviceName>,
    /// Slices that may not be as wanted.
    doubtful: BTreeSet<Arc<str>>,
}

/// The slice of a device.
#[derive(Debug)]
struct Home {
    slice: Arc<str>,
    is_wanted: bool,
}

impl Pool {
    /// The slices by name.
    pub fn slices(&self) -> &Slices {
        &self.slices
    }

    /// What is published of a device differs, or whether it is.
    pub fn update(&mut self, device: &DeviceName, is_wanted: bool) {
        if let Some(index) = &mut self.index {
            index.update(device, is_wanted);
        }
    }

    /// Takes a slice as it is now.
    pub fn insert(&mut self, name: String, slice: Present) {
        if slice.form != Form::Foreign {
            self.last_generation = self.last_generation.max(slice.generation);
        }
        let index = self.index.take().filter(|_| self.slices.contains_key(&name));
        self.index = index.and_then(|index| index.replace(&name, &self.slices[&name], &slice));
        self.slices.insert(name, slice);
    }

    /// A slice is gone.
    pub fn remove(&mut self, name: &str) {
        if self.slices.remove(name).is_some() {
            self.index = None;
        }
    }

    /// What has to be written, in order: deletions, updates, new slices. Nothing if all is as wanted.
    ///
    /// `wanted` is none if no pool is offered by claims: then no slice is wanted. Otherwise there is at least one, empty if there is
    /// no device.
    pub fn changes(&mut self, wanted: Option<&Wanted>) -> Vec<Change> {
        let Some(wanted) = wanted else {
            self.index = None;
            return changes(None, &self.slices, self.last_generation);
        };
        if self.index.is_none() {
            self.index = Index::of(wanted, &self.slices);
        }
        match &mut self.index {
            Some(index) if !index.needs_other_slices(wanted.len()) => index.changes(wanted, &self.slices),
            _ => changes(Some(wanted), &self.slices, self.last_generation),
        }
    }
}

impl Index {
    /// None if the slices are not regular.
    fn of(wanted: &Wanted, slices: &Slices) -> Option<Self> {
        let generation = slices.values().next()?.generation;
        let count = i64::try_from(slices.len()).ok()?;
        let mut index = Self {
            generation,
            count,
            homes: BTreeMap::new(),
            used: BTreeMap::new(),
            roomy: BTreeSet::new(),
            homeless: wanted.keys().cloned().collect(),
            doubtful: BTreeSet::new(),
        };
        for (name, slice) in slices {
            index = index.insert(name.as_str().into(), slice)?;
        }
        Some(index)
    }

    /// Another content of a slice. None if the slices are not regular then.
    fn replace(mut self, name: &str, before: &Present, now: &Present) -> Option<Self> {
        let (name, _) = self.used.remove_entry(name)?;
        for device in before.devices.iter().filter_map(|(device, _)| device.as_ref()) {
            let (device, home) = self.homes.remove_entry(device)?;
            if home.is_wanted {
                self.homeless.insert(device);
            }
        }
        self.insert(name, now)
    }

    fn insert(mut self, name: Arc<str>, slice: &Present) -> Option<Self> {
        let is_regular = (slice.form, slice.generation, slice.count) == (Form::Own, self.generation, self.count);
        if !is_regular || slice.devices.len() > MOST_DEVICES {
            return None;
        }
        let mut used = 0;
        for (device, _) in &slice.devices {
            let device = device.as_ref()?;
            let is_wanted = self.homeless.remove(device);
            used += usize::from(is_wanted);
            let Entry::Vacant(home) = self.homes.entry(device.clone()) else { return None };
            home.insert(Home { slice: name.clone(), is_wanted });
        }
        self.doubtful.insert(name.clone());
        self.set_used(name, used);
        Some(self)
    }

    fn set_used(&mut self, slice: Arc<str>, used: usize) {
        if used < MOST_DEVICES {
            self.roomy.insert(slice.clone());
        } else {
            self.roomy.remove(&slice);
        }
        self.used.insert(slice, used);
    }

    fn update(&mut self, device: &DeviceName, is_wanted: bool) {
        match self.homes.get_mut(device) {
            Some(home) => {
                let slice = home.slice.clone();
                let was_wanted = std::mem::replace(&mut home.is_wanted, is_wanted);
                self.doubtful.insert(slice.clone());
                let used = self.used.get(&slice).copied().unwrap_or_default();
                self.set_used(slice, used + usize::from(is_wanted) - usize::from(was_wanted));
            }
            None if is_wanted => _ = self.homeless.insert(device.clone()),
            None => _ = self.homeless.remove(device),
        }
    }

    /// Whether there are too few slices for what is wanted, or too many.
    fn needs_other_slices(&self, wanted: usize) -> bool {
        let per_slice = devices_per_slice(wanted);
        let room = || self.roomy.iter().map(|slice| self.room(slice, per_slice)).sum::<usize>();
        self.used.len() > 2 * wanted.div_ceil(per_slice).max(1)
            || (!self.homeless.is_empty() && self.homeless.len() > room())
    }

    /// How many more devices the slice takes.
    fn room(&self, slice: &str, per_slice: usize) -> usize {
        per_slice.saturating_sub(self.used.get(slice).copied().unwrap_or_default())
    }

    fn changes(&mut self, wanted: &Wanted, slices: &Slices) -> Vec<Change> {
        let mut added = self.homes_for_rest(devices_per_slice(wanted.len()));
        let mut changes = Vec::new();
        let candidates: BTreeSet<Arc<str>> = self.doubtful.iter().chain(added.keys()).cloned().collect();
        for name in candidates {
            let Some(slice) = slices.get(&*name) else { continue };
            let present = slice.devices.iter().filter_map(|(device, _)| device.as_ref());
            let mut devices: BTreeSet<&DeviceName> = present.filter(|device| wanted.contains_key(*device)).collect();
            let added = added.remove(&name).unwrap_or_default();
            devices.extend(&added);
            if slice.is_as_wanted(wanted, self.generation, self.count, &devices) {
                self.doubtful.remove(&name);
                continue;
            }
            let devices = devices.into_iter().cloned().collect();
            let content = Content { generation: self.generation, count: self.count, devices };
            changes.push(slice.update(&name, content));
        }
        changes
    }

    /// Which slices get the devices that none has.
    fn homes_for_rest(&self, per_slice: usize) -> BTreeMap<Arc<str>, Vec<DeviceName>> {
        let mut rest = self.homeless.iter().cloned();
        let mut added = BTreeMap::new();
        for slice in &self.roomy {
            let devices: Vec<DeviceName> = rest.by_ref().take(self.room(slice, per_slice)).collect();
            if !devices.is_empty() {
                added.insert(slice.clone(), devices);
            }
            if rest.len() == 0 {
                break;
            }
        }
        added
    }
}

#[cfg(test)]
mod tests;
