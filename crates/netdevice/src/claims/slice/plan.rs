//! How devices are spread over slices, and what has to be written so that the API server has that.
//!
//! The plan depends only on what is wanted and on what is there, so that two instances make the same one. A device stays in the
//! slice that it is in: a change of one device is one write. All slices of a pool have one generation and their number in them;
//! if the number changes, a new generation is written to all of them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use serde_json::Value;

use super::name::DeviceName;

/// Devices in a slice. The API takes 128, but only 64 if one of them has a taint: a taint must not move the others.
pub const DEVICES_PER_SLICE: usize = 64;

/// A value that differs if what is published of a device differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// That of a device in the form of the API. When a taint was added is not part of it: the API server sets that.
    pub fn of(device: &Value) -> Self {
        let mut hasher = DefaultHasher::new();
        hash(device, &mut hasher);
        Self(hasher.finish())
    }
}

fn hash(value: &Value, hasher: &mut DefaultHasher) {
    std::mem::discriminant(value).hash(hasher);
    match value {
        Value::Null => {}
        Value::Bool(value) => value.hash(hasher),
        Value::Number(number) => number.hash(hasher),
        Value::String(text) => text.hash(hasher),
        Value::Array(values) => {
            values.len().hash(hasher);
            values.iter().for_each(|value| hash(value, hasher));
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().filter(|(key, _)| *key != "timeAdded").collect();
            members.sort_unstable_by_key(|(key, _)| *key);
            members.len().hash(hasher);
            for (key, value) in members {
                key.hash(hasher);
                hash(value, hasher);
            }
        }
    }
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
pub fn changes(wanted: Option<&Wanted>, slices: &Slices, last_generation: i64) -> Vec<Change> {
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
}

impl<'a> Layout<'a> {
    /// Each device stays in the first slice that has it; a slice of a newer generation is before others.
    fn of(wanted: &'a Wanted, slices: &'a Slices) -> Self {
        let (foreign, mut pool): (Vec<_>, Vec<_>) = slices
            .iter()
            .map(|(name, slice)| (name.as_str(), slice))
            .partition(|(_, slice)| slice.form == Form::Foreign);
        pool.sort_by_key(|(name, slice)| (Reverse(slice.generation), *name));
        let mut layout = Self { places: Vec::new(), rest: Vec::new(), obsolete: foreign, needed: 0 };
        let mut placed = BTreeSet::new();
        for (name, slice) in pool {
            let mut devices = BTreeSet::new();
            let mut has_others = false;
            for device in slice.devices.iter().filter_map(|(device, _)| wanted.get_key_value(device.as_ref()?)) {
                let device = device.0;
                if placed.contains(device) {
                    has_others = true;
                } else if devices.len() < DEVICES_PER_SLICE {
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
        layout.needed = wanted.len().div_ceil(DEVICES_PER_SLICE).max(1);
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
        let room = |place: &Place<'_>| DEVICES_PER_SLICE.saturating_sub(place.devices.len());
        let all_room: usize = self.places.iter().map(room).sum();
        let at_least = usize::from(self.places.is_empty());
        let new = self.rest.len().saturating_sub(all_room).div_ceil(DEVICES_PER_SLICE).max(at_least);
        // a new slice is written anyway, so it takes as many as it can
        let for_new = self.rest.len().min(new * DEVICES_PER_SLICE);
        let mut rest = std::mem::take(&mut self.rest).into_iter();
        let mut places = (0..new).map(|_| Place { object: None, devices: BTreeSet::new() }).collect::<Vec<_>>();
        for (at, device) in rest.by_ref().take(for_new).enumerate() {
            places[at / DEVICES_PER_SLICE].devices.insert(device);
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
                Some((name, slice)) => changes.push(Change::Update {
                    name: name.into(),
                    uid: slice.uid.clone(),
                    version: slice.version.clone(),
                    content: content(),
                }),
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
    fn is_as_wanted(&self, wanted: &Wanted, generation: i64, count: i64, devices: &BTreeSet<&DeviceName>) -> bool {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An API server: it does what it is asked, or not.
    #[derive(Debug, Default)]
    struct Server {
        slices: Slices,
        created: u64,
        writes: usize,
        last_generation: i64,
    }

    impl Server {
        fn apply(&mut self, change: &Change, wanted: &Wanted) {
            self.writes += 1;
            self.created += 1;
            match change {
                Change::Delete { name, .. } => drop(self.slices.remove(name)),
                Change::Update { name, content, .. } => {
                    self.slices.insert(name.clone(), present(content, wanted));
                }
                Change::Create { position, content } => {
                    self.slices.insert(format!("{position:05x}-{:05}", self.created), present(content, wanted));
                }
            }
            let highest = self.slices.values().map(|slice| slice.generation).max();
            self.last_generation = self.last_generation.max(highest.unwrap_or(0));
        }

        fn changes(&self, wanted: &Wanted) -> Vec<Change> {
            changes(Some(wanted), &self.slices, self.last_generation)
        }

        fn apply_all(&mut self, wanted: &Wanted) -> usize {
            let changes = self.changes(wanted);
            changes.iter().for_each(|change| self.apply(change, wanted));
            changes.len()
        }

        /// What the scheduler has to see.
        fn check(&self, wanted: &Wanted) {
            let mut seen = BTreeMap::new();
            for slice in self.slices.values() {
                assert_eq!(slice.count, i64::try_from(self.slices.len()).unwrap());
                assert!(slice.devices.len() <= DEVICES_PER_SLICE);
                for (name, fingerprint) in &slice.devices {
                    assert_eq!(seen.insert(name.clone().unwrap(), *fingerprint), None, "{name:?} is there twice");
                }
            }
            assert_eq!(seen, *wanted);
            let generations: BTreeSet<i64> = self.slices.values().map(|slice| slice.generation).collect();
            assert_eq!(generations.len(), 1);
        }
    }

    fn present(content: &Content, wanted: &Wanted) -> Present {
        Present {
            uid: String::new(),
            version: String::new(),
            form: Form::Own,
            generation: content.generation,
            count: content.count,
            devices: content.devices.iter().map(|name| (Some(name.clone()), wanted[name])).collect(),
            written: None,
        }
    }

    fn name(number: u32) -> DeviceName {
        format!("eth{number}").parse().unwrap()
    }

    fn wanted(numbers: impl IntoIterator<Item = u32>) -> Wanted {
        numbers.into_iter().map(|number| (name(number), Fingerprint(number.into()))).collect()
    }

    #[test]
    fn three_hundred_devices_are_five_slices_and_one_change_is_one_write() {
        let mut server = Server::default();
        let mut devices = wanted(0..300);
        assert_eq!(server.apply_all(&devices), 5);
        server.check(&devices);
        assert_eq!(server.changes(&devices), []);
        devices.insert(name(7), Fingerprint(1_000_000));
        assert_eq!(server.apply_all(&devices), 1);
        devices.insert(name(1000), Fingerprint(1));
        assert_eq!(server.apply_all(&devices), 1, "there is room for it");
        devices.remove(&name(150));
        assert_eq!(server.apply_all(&devices), 1);
        server.check(&devices);
        assert!(server.slices.values().all(|slice| slice.generation == 1), "all of that in one generation");
        devices.extend(wanted(2000..2040));
        assert_eq!(server.apply_all(&devices), 6, "the number of slices is in each of them");
        server.check(&devices);
        assert!(server.slices.values().all(|slice| slice.generation == 2));
    }

    #[test]
    fn a_slice_that_was_deleted_is_made_anew_and_the_others_stay() {
        let mut server = Server::default();
        let devices = wanted(0..200);
        server.apply_all(&devices);
        let first = server.slices.keys().next().unwrap().clone();
        server.slices.remove(&first);
        let changes = server.changes(&devices);
        assert!(
            matches!(&changes[..], [Change::Create { content, .. }] if content.generation == 1 && content.count == 4)
        );
        server.slices.clear();
        let changes = server.changes(&devices);
        assert_eq!(changes.len(), 4);
        let is_newer = |change: &Change| matches!(change, Change::Create { content, .. } if content.generation == 2);
        assert!(changes.iter().all(is_newer), "{changes:?}");
    }

    #[test]
    fn what_two_instances_made_at_once_becomes_one_pool() {
        let devices = wanted(0..100);
        let mut one = Server::default();
        one.apply_all(&devices);
        let twice = one.slices.iter().map(|(name, slice)| (format!("{name}-other"), slice.clone()));
        one.slices.extend(twice.collect::<Vec<_>>());
        let changes = one.changes(&devices);
        assert_eq!(changes.len(), 2);
        assert!(changes.iter().all(|change| matches!(change, Change::Delete { name, .. } if name.ends_with("-other"))));
        one.apply_all(&devices);
        one.check(&devices);
    }

    #[test]
    fn no_device_is_one_empty_slice_and_no_pool_is_none() {
        let mut server = Server::default();
        assert_eq!(server.apply_all(&wanted([])), 1);
        server.check(&wanted([]));
        assert_eq!(server.changes(&wanted([])), []);
        assert!(matches!(&changes(None, &server.slices, 1)[..], [Change::Delete { .. }]));
        assert_eq!(changes(None, &Slices::new(), 1), []);
    }

    #[test]
    fn slices_of_other_pools_and_without_their_owner_are_put_right() {
        let mut server = Server::default();
        let devices = wanted(0..3);
        server.apply_all(&devices);
        let slice = server.slices.values().next().unwrap().clone();
        server.slices.insert("another-pool".into(), Present { form: Form::Foreign, generation: 99, ..slice.clone() });
        server.slices.values_mut().filter(|slice| slice.form == Form::Own).for_each(|slice| slice.form = Form::Changed);
        let changes = server.changes(&devices);
        assert!(
            matches!(&changes[..], [Change::Delete { name, .. }, Change::Update { content, .. }] if name == "another-pool" && content.generation == 1),
            "{changes:?}"
        );
    }

    #[test]
    fn what_the_api_server_dropped_is_accepted_until_something_else_is_wanted() {
        let mut server = Server::default();
        let mut devices = wanted(0..3);
        server.apply_all(&devices);
        for slice in server.slices.values_mut() {
            slice.written = Some(devices.iter().map(|(name, fingerprint)| (name.clone(), *fingerprint)).collect());
            slice.devices.iter_mut().for_each(|(_, fingerprint)| *fingerprint = Fingerprint(77));
        }
        assert_eq!(server.changes(&devices), []);
        devices.insert(name(1), Fingerprint(5));
        assert_eq!(server.changes(&devices).len(), 1);
    }

    #[test]
    fn when_a_taint_was_added_makes_no_difference() {
        let device = |time: &str| serde_json::json!({"name": "a", "taints": [{"key": "k", "timeAdded": time}]});
        assert_eq!(Fingerprint::of(&device("1")), Fingerprint::of(&device("2")));
        assert_ne!(Fingerprint::of(&device("1")), Fingerprint::of(&serde_json::json!({"name": "a", "taints": []})));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add(u32, u32),
        Remove(u32, u32),
        Alter(u32),
        /// Some requests are done, the others are lost.
        Write(u8),
        DeleteForeign(u8),
        EditForeign(u8),
        Copy(u8),
        Wipe,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let range = || (0..600u32, 0..150u32);
        prop_oneof![
            range().prop_map(|(from, count)| Step::Add(from, count)),
            range().prop_map(|(from, count)| Step::Remove(from, count)),
            (0..600u32).prop_map(Step::Alter),
            any::<u8>().prop_map(Step::Write),
            any::<u8>().prop_map(Step::DeleteForeign),
            any::<u8>().prop_map(Step::EditForeign),
            any::<u8>().prop_map(Step::Copy),
            Just(Step::Wipe),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_happens_the_slices_become_right_and_stay_so(steps in prop::collection::vec(any_step(), 0..20)) {
            let mut server = Server::default();
            let mut devices = Wanted::new();
            for step in steps {
                let nth = |server: &Server, at: u8| server.slices.keys().nth(usize::from(at) % server.slices.len().max(1)).cloned();
                match step {
                    Step::Add(from, count) => devices.extend(wanted(from..from + count)),
                    Step::Remove(from, count) => (from..from + count).for_each(|number| _ = devices.remove(&name(number))),
                    Step::Alter(number) => {
                        devices.entry(name(number)).and_modify(|fingerprint| fingerprint.0 += 1000);
                    }
                    Step::Write(mask) => {
                        for (at, change) in server.changes(&devices).iter().enumerate() {
                            if mask & (1 << (at % 8)) != 0 {
                                server.apply(change, &devices);
                            }
                        }
                    }
                    Step::DeleteForeign(at) => drop(nth(&server, at).and_then(|name| server.slices.remove(&name))),
                    Step::EditForeign(at) => {
                        if let Some(slice) = nth(&server, at).and_then(|name| server.slices.get_mut(&name)) {
                            slice.generation += i64::from(at % 3);
                            slice.devices.truncate(usize::from(at % 50));
                            slice.devices.push((None, Fingerprint(1)));
                        }
                    }
                    Step::Copy(at) => {
                        if let Some((name, slice)) = nth(&server, at).and_then(|name| server.slices.get_key_value(&name)) {
                            let (name, slice) = (format!("{name}x"), slice.clone());
                            server.slices.insert(name, slice);
                        }
                    }
                    Step::Wipe => server.slices.clear(),
                }
            }
            server.apply_all(&devices);
            // what the first round finds obsolete may leave a number that is wrong
            server.apply_all(&devices);
            server.check(&devices);
            prop_assert_eq!(server.changes(&devices), vec![]);
            prop_assert!(server.slices.len() <= 2 * devices.len().div_ceil(DEVICES_PER_SLICE).max(1));
        }
    }
}
