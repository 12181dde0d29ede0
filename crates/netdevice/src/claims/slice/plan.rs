//! How devices are spread over slices, and what has to be written so that the API server has that.
//!
//! The plan depends only on what is wanted and on what is there, so that two instances make the same one. A device stays in the
//! slice that it is in: a change of one device is one write. All slices of a pool have one generation and their number in them;
//! if the number changes, a new generation is written to all of them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{fingerprint::Fingerprint, name::DeviceName};

/// Most devices of a slice. The API takes 128, but only 64 if one of them has a taint: a taint must not move the others.
pub const MOST_DEVICES: usize = 64;

/// So many devices are in small slices.
const MANY_DEVICES: usize = 256;
const SMALL_SLICE: usize = 16;

/// How many devices a slice takes, of so many: a slice that has more keeps them, up to [`MOST_DEVICES`].
///
/// A change of one device writes its slice, and what that takes grows with the slice: 64 devices 69 ms of the API server,
/// 16 devices 24 ms (Kubernetes 1.36, 2 cores, with the admission policy). On the other hand, all slices are written when their
/// number changes.
pub fn devices_per_slice(devices: usize) -> usize {
    if devices <= MANY_DEVICES { SMALL_SLICE } else { MOST_DEVICES }
}

/// What should be there: all devices.
pub type Wanted = BTreeMap<DeviceName, Fingerprint>;

/// A slice that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// UID of the object.
    pub uid: String,
    /// Its resourceVersion.
    pub version: String,
    /// Whether it belongs to the pool of this node, with the Node as its owner, and has nothing that is not ours.
    pub form: Form,
    /// Generation of the pool.
    pub generation: i64,
    /// The number of slices of the pool in that generation.
    pub count: i64,
    /// Its devices, in their order. A name that no device of ours can have is none.
    pub devices: Vec<(Option<DeviceName>, Fingerprint)>,
    /// If the API server dropped fields of what was written: what was written.
    pub written: Option<Vec<(DeviceName, Fingerprint)>>,
}

/// What kind of slice it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As this program writes it.
    Own,
    /// One of the pool that has to be written anew: its owner is missing, or something was added.
    Changed,
    /// Of another pool of this node, or of no node: an earlier program's. It is deleted.
    Foreign,
}

/// Slices that are there, by name.
pub type Slices = BTreeMap<String, Present>;

/// The devices of a slice to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Generation of the pool.
    pub generation: i64,
    /// The number of slices.
    pub count: i64,
    /// Names of the devices.
    pub devices: Vec<DeviceName>,
}

/// A request to the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Delete the slice with this UID and resourceVersion.
    Delete {
        /// Name of the object.
        name: String,
        /// Its UID.
        uid: String,
        /// Its resourceVersion.
        version: String,
    },
    /// Replace its content.
    Update {
        /// Name of the object.
        name: String,
        /// Its UID.
        uid: String,
        /// Its resourceVersion.
        version: String,
        /// What to write.
        content: Content,
    },
    /// Create a slice; the number is its position in the pool.
    Create {
        /// Position, for the name: the scheduler takes slices by name.
        position: usize,
        /// What to write.
        content: Content,
    },
}

impl Change {
    /// The slice that is there; none if one is created.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Delete { name, .. } | Self::Update { name, .. } => Some(name),
            Self::Create { .. } => None,
        }
    }
}

/// What has to be written, in order: deletions, updates, new slices. Nothing if all is as wanted.
///
/// `wanted` is none if no pool is offered by claims: then no slice is wanted. Otherwise there is at least one, empty if there is
/// no device. `last_generation` is the highest one that is remembered.
pub(super) fn changes(wanted: Option<&Wanted>, slices: &Slices, last_generation: i64) -> Vec<Change> {
    let Some(wanted) = wanted else {
        return slices.iter().map(|(name, slice)| delete(name, slice)).collect();
    };
    let mut layout = Layout::of(wanted, slices);
    layout.fill();
    layout.into_changes(wanted, last_generation)
}

fn delete(name: &str, slice: &Present) -> Change {
    Change::Delete { name: name.into(), uid: slice.uid.clone(), version: slice.version.clone() }
}

/// A slice of the pool, with the devices that it is to have.
struct Place<'a> {
    /// The object; none for a new one.
    object: Option<(&'a str, &'a Present)>,
    devices: BTreeSet<&'a DeviceName>,
}

struct Layout<'a> {
    places: Vec<Place<'a>>,
    /// Devices that no slice has.
    rest: Vec<&'a DeviceName>,
    obsolete: Vec<(&'a str, &'a Present)>,
    /// Slices that are needed at least.
    needed: usize,
    /// How many devices a slice takes.
    per_slice: usize,
}

impl<'a> Layout<'a> {
    /// Each device stays in the first slice that has it; a slice of a newer generation is before others.
    fn of(wanted: &'a Wanted, slices: &'a Slices) -> Self {
        let (foreign, mut pool): (Vec<_>, Vec<_>) = slices
            .iter()
            .map(|(name, slice)| (name.as_str(), slice))
            .partition(|(_, slice)| slice.form == Form::Foreign);
        pool.sort_by_key(|(name, slice)| (Reverse(slice.generation), *name));
        let per_slice = devices_per_slice(wanted.len());
        let needed = wanted.len().div_ceil(per_slice).max(1);
        let mut layout = Self { places: Vec::new(), rest: Vec::new(), obsolete: foreign, needed, per_slice };
        let mut placed = BTreeSet::new();
        for (name, slice) in pool {
            let mut devices = BTreeSet::new();
            let mut has_others = false;
            for device in slice.devices.iter().filter_map(|(device, _)| wanted.get_key_value(device.as_ref()?)) {
                let device = device.0;
                if placed.contains(device) {
                    has_others = true;
                } else if devices.len() < MOST_DEVICES {
                    placed.insert(device);
                    devices.insert(device);
                }
            }
            if devices.is_empty() && has_others {
                layout.obsolete.push((name, slice));
            } else {
                layout.places.push(Place { object: Some((name, slice)), devices });
            }
        }
        layout.places.sort_by_key(|place| place.object.map(|(name, _)| name));
        layout.rest = wanted.keys().filter(|device| !placed.contains(*device)).collect();
        layout
    }

    /// Gives the remaining devices a place. Of more than twice as many slices as are needed, those with the fewest devices go.
    fn fill(&mut self) {
        if self.places.len() > 2 * self.needed {
            self.places.sort_by_key(|place| (Reverse(place.devices.len()), place.object.map(|(name, _)| name)));
            for place in self.places.split_off(self.needed) {
                self.rest.extend(place.devices);
                self.obsolete.extend(place.object);
            }
            self.places.sort_by_key(|place| place.object.map(|(name, _)| name));
        }
        let per_slice = self.per_slice;
        let room = |place: &Place<'_>| per_slice.saturating_sub(place.devices.len());
        let all_room: usize = self.places.iter().map(room).sum();
        let at_least = usize::from(self.places.is_empty());
        let new = self.rest.len().saturating_sub(all_room).div_ceil(per_slice).max(at_least);
        // a new slice is written anyway, so it takes as many as it can
        let for_new = self.rest.len().min(new * per_slice);
        let mut rest = std::mem::take(&mut self.rest).into_iter();
        let mut places = (0..new).map(|_| Place { object: None, devices: BTreeSet::new() }).collect::<Vec<_>>();
        for (at, device) in rest.by_ref().take(for_new).enumerate() {
            places[at / per_slice].devices.insert(device);
        }
        for place in &mut self.places {
            let room = room(place);
            place.devices.extend(rest.by_ref().take(room));
        }
        self.places.extend(places);
    }

    fn into_changes(self, wanted: &Wanted, last_generation: i64) -> Vec<Change> {
        let count = i64::try_from(self.places.len()).unwrap_or(i64::MAX);
        let generation = self.generation(count, last_generation);
        let mut changes: Vec<Change> = self.obsolete.iter().map(|(name, slice)| delete(name, slice)).collect();
        let mut new = Vec::new();
        for (position, place) in self.places.iter().enumerate() {
            let content = || {
                let devices = place.devices.iter().map(|device| (*device).clone()).collect();
                Content { generation, count, devices }
            };
            match place.object {
                None => new.push(Change::Create { position, content: content() }),
                Some((_, slice)) if slice.is_as_wanted(wanted, generation, count, &place.devices) => {}
                Some((name, slice)) => changes.push(slice.update(name, content())),
            }
        }
        changes.extend(new);
        changes
    }

    /// The generation that is there, if its slices have the right number in them. Otherwise a new one: then the API server's
    /// readers take the pool as incomplete until all is written.
    fn generation(&self, count: i64, last_generation: i64) -> i64 {
        let kept = || self.places.iter().filter_map(|place| place.object.map(|(_, slice)| slice));
        let all = kept().chain(self.obsolete.iter().map(|(_, slice)| *slice));
        let of_pool = all.filter(|slice| slice.form != Form::Foreign);
        let Some(highest) = of_pool.map(|slice| slice.generation).max() else { return last_generation + 1 };
        let mut current = kept().filter(|slice| slice.generation == highest).peekable();
        let is_right = current.peek().is_some() && current.all(|slice| slice.count == count);
        if is_right { highest } else { highest.max(last_generation) + 1 }
    }
}

impl Present {
    /// The request that writes this content.
    pub(super) fn update(&self, name: &str, content: Content) -> Change {
        Change::Update { name: name.into(), uid: self.uid.clone(), version: self.version.clone(), content }
    }

    pub(super) fn is_as_wanted(
        &self,
        wanted: &Wanted,
        generation: i64,
        count: i64,
        devices: &BTreeSet<&DeviceName>,
    ) -> bool {
        if (self.form, self.generation, self.count) != (Form::Own, generation, count) {
            return false;
        }
        let is = |name: &DeviceName, fingerprint: Fingerprint| wanted.get(name) == Some(&fingerprint);
        match &self.written {
            Some(written) => {
                written.len() == devices.len()
                    && devices.iter().zip(written).all(|(device, (name, was))| *device == name && is(name, *was))
            }
            None => {
                self.devices.len() == devices.len()
                    && devices.iter().zip(&self.devices).all(|(device, (name, was))| {
                        name.as_ref().is_some_and(|name| *device == name && is(name, *was))
                    })
            }
        }
    }
}
