//! What is written, with a server that does it. Each plan is compared with the one that is made anew.

use proptest::prelude::*;

use super::*;
use crate::claims::slice::Fingerprint;

/// An API server: it does what it is asked, or not.
#[derive(Debug, Default)]
struct Server {
    pool: Pool,
    wanted: Wanted,
    created: u64,
}

impl Server {
    fn apply(&mut self, change: &Change, wanted: &Wanted) {
        self.created += 1;
        match change {
            Change::Delete { name, .. } => self.pool.remove(name),
            Change::Update { name, content, .. } => self.pool.insert(name.clone(), present(content, wanted)),
            Change::Create { position, content } => {
                self.pool.insert(format!("{position:05x}-{:05}", self.created), present(content, wanted));
            }
        }
    }

    fn changes(&mut self, wanted: &Wanted) -> Vec<Change> {
        let names: BTreeSet<&DeviceName> = wanted.keys().chain(self.wanted.keys()).collect();
        for name in names.into_iter().filter(|name| wanted.get(*name) != self.wanted.get(*name)) {
            self.pool.update(name, wanted.contains_key(name));
        }
        self.wanted.clone_from(wanted);
        let planned = self.pool.changes(Some(wanted));
        assert_eq!(planned, changes(Some(wanted), &self.pool.slices, self.pool.last_generation));
        planned
    }

    fn apply_all(&mut self, wanted: &Wanted) -> usize {
        let changes = self.changes(wanted);
        changes.iter().for_each(|change| self.apply(change, wanted));
        changes.len()
    }

    fn names(&self) -> Vec<String> {
        self.pool.slices.keys().cloned().collect()
    }

    /// Somebody else changes a slice.
    fn edit(&mut self, name: &str, edit: impl FnOnce(&mut Present)) {
        let mut slice = self.pool.slices[name].clone();
        edit(&mut slice);
        self.pool.insert(name.into(), slice);
    }

    /// What the scheduler has to see.
    fn check(&self, wanted: &Wanted) {
        let mut seen = BTreeMap::new();
        for slice in self.pool.slices.values() {
            assert_eq!(slice.count, i64::try_from(self.pool.slices.len()).unwrap());
            assert!(slice.devices.len() <= MOST_DEVICES);
            for (name, fingerprint) in &slice.devices {
                assert_eq!(seen.insert(name.clone().unwrap(), *fingerprint), None, "{name:?} is there twice");
            }
        }
        assert_eq!(seen, *wanted);
        let generations: BTreeSet<i64> = self.pool.slices.values().map(|slice| slice.generation).collect();
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
    assert!(server.pool.slices.values().all(|slice| slice.generation == 1), "all of that in one generation");
    devices.extend(wanted(2000..2040));
    assert_eq!(server.apply_all(&devices), 6, "the number of slices is in each of them");
    server.check(&devices);
    assert!(server.pool.slices.values().all(|slice| slice.generation == 2));
}

#[test]
fn few_devices_are_in_small_slices_and_those_that_are_there_stay_when_it_is_many() {
    let mut server = Server::default();
    let mut devices = wanted(0..100);
    assert_eq!(server.apply_all(&devices), 7);
    assert!(server.pool.slices.values().all(|slice| slice.devices.len() <= 16));
    devices.extend(wanted(100..112));
    assert_eq!(server.apply_all(&devices), 1, "there is room for them");
    devices.extend(wanted(200..500));
    server.apply_all(&devices);
    server.check(&devices);
    assert!(server.pool.slices.len() <= 14);
    let names = server.names();
    let devices = wanted(0..112);
    server.apply_all(&devices);
    server.check(&devices);
    assert_eq!(server.names(), names, "what is there is enough");
}

#[test]
fn slices_of_an_earlier_version_stay_as_full_as_they_are() {
    let mut server = Server::default();
    let devices = wanted(0..64);
    let content = Content { generation: 3, count: 1, devices: devices.keys().cloned().collect() };
    server.pool.insert("old".into(), present(&content, &devices));
    assert_eq!(server.changes(&devices), []);
    let more = wanted(0..65);
    assert_eq!(server.apply_all(&more), 2, "a slice more, and the number of slices in the other");
    server.check(&more);
}

#[test]
fn a_slice_that_was_deleted_is_made_anew_and_the_others_stay() {
    let mut server = Server::default();
    let devices = wanted(0..200);
    server.apply_all(&devices);
    let first = server.pool.slices.keys().next().unwrap().clone();
    server.pool.remove(&first);
    let changes = server.changes(&devices);
    assert!(matches!(&changes[..], [Change::Create { content, .. }] if content.generation == 1 && content.count == 13));
    server.names().iter().for_each(|name| server.pool.remove(name));
    let changes = server.changes(&devices);
    assert_eq!(changes.len(), 13);
    let is_newer = |change: &Change| matches!(change, Change::Create { content, .. } if content.generation == 2);
    assert!(changes.iter().all(is_newer), "{changes:?}");
}

#[test]
fn what_two_instances_made_at_once_becomes_one_pool() {
    let devices = wanted(0..100);
    let mut one = Server::default();
    one.apply_all(&devices);
    let twice = one.pool.slices.iter().map(|(name, slice)| (format!("{name}-other"), slice.clone()));
    twice.collect::<Vec<_>>().into_iter().for_each(|(name, slice)| one.pool.insert(name, slice));
    let changes = one.changes(&devices);
    assert_eq!(changes.len(), 7);
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
    assert!(matches!(&changes(None, &server.pool.slices, 1)[..], [Change::Delete { .. }]));
    assert_eq!(changes(None, &Slices::new(), 1), []);
}

#[test]
fn slices_of_other_pools_and_without_their_owner_are_put_right() {
    let mut server = Server::default();
    let devices = wanted(0..3);
    server.apply_all(&devices);
    let slice = server.pool.slices.values().next().unwrap().clone();
    server.names().iter().for_each(|name| server.edit(name, |slice| slice.form = Form::Changed));
    server.pool.insert("another-pool".into(), Present { form: Form::Foreign, generation: 99, ..slice });
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
    for name in server.names() {
        server.edit(&name, |slice| {
            slice.written = Some(devices.iter().map(|(name, fingerprint)| (name.clone(), *fingerprint)).collect());
            slice.devices.iter_mut().for_each(|(_, fingerprint)| *fingerprint = Fingerprint(77));
        });
    }
    assert_eq!(server.changes(&devices), []);
    devices.insert(name(1), Fingerprint(5));
    assert_eq!(server.changes(&devices).len(), 1);
}

#[derive(Debug, Clone)]
enum Step {
    Add(u32, u32),
    Remove(u32, u32),
    Alter(u32),
    /// Some requests are done, the others are lost.
    Write(u8),
    DeleteForeign(u8),
    EditForeign(u8, Edit),
    Copy(u8),
    Wipe,
}

#[derive(Debug, Clone)]
enum Edit {
    Truncate(usize),
    /// The first device becomes another one, which may be in another slice too.
    Device(u32),
    Generation(i64),
    /// A name that no device of ours has.
    Name,
}

impl Edit {
    fn make(&self, slice: &mut Present) {
        match self {
            Self::Truncate(to) => slice.devices.truncate(*to),
            Self::Device(number) => slice.devices.iter_mut().take(1).for_each(|device| device.0 = Some(name(*number))),
            Self::Generation(by) => slice.generation += by,
            Self::Name => slice.devices.push((None, Fingerprint(1))),
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let range = || (0..600u32, 0..150u32);
    let device = (0..600u32).prop_map(Edit::Device);
    let edit = prop_oneof![
        device,
        (0..50usize).prop_map(Edit::Truncate),
        (1..3i64).prop_map(Edit::Generation),
        Just(Edit::Name)
    ];
    prop_oneof![
        range().prop_map(|(from, count)| Step::Add(from, count)),
        range().prop_map(|(from, count)| Step::Remove(from, count)),
        (0..600u32).prop_map(Step::Alter),
        any::<u8>().prop_map(Step::Write),
        any::<u8>().prop_map(Step::DeleteForeign),
        (any::<u8>(), edit).prop_map(|(at, edit)| Step::EditForeign(at, edit)),
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
            let nth = |server: &Server, at: u8| {
                let names = server.names();
                names.get(usize::from(at) % names.len().max(1)).cloned()
            };
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
                Step::DeleteForeign(at) => nth(&server, at).into_iter().for_each(|name| server.pool.remove(&name)),
                Step::EditForeign(at, edit) => nth(&server, at).into_iter().for_each(|name| server.edit(&name, |slice| edit.make(slice))),
                Step::Copy(at) => {
                    if let Some(name) = nth(&server, at) {
                        let slice = server.pool.slices[&name].clone();
                        server.pool.insert(format!("{name}x"), slice);
                    }
                }
                Step::Wipe => server.names().iter().for_each(|name| server.pool.remove(name)),
            }
        }
        server.apply_all(&devices);
        // what the first round finds obsolete may leave a number that is wrong
        server.apply_all(&devices);
        server.check(&devices);
        prop_assert_eq!(server.changes(&devices), vec![]);
        prop_assert!(server.pool.slices.len() <= 2 * devices.len().div_ceil(devices_per_slice(devices.len())).max(1));
    }
}
