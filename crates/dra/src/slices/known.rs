//! The slices that are on the API server, from the watch and from the answers to our own requests.
//!
//! The watch is behind the answers: what it says of a slice before it shows our own last write is older than what is known. Or it
//! shows a write before the answer comes: what it says of a slice with an open request is taken after the answer.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};

use kube::runtime::watcher::Event;
use netdevice::claims::slice::{DeviceName, Fingerprint, Form, Pool, Present, Wanted};
use tokio::time::Instant;

use super::object::{Slice, TaintTime};

/// How long the watch may take to show a write. Then what it says counts, and the slice is read.
const UNSEEN: Duration = Duration::from_secs(60);

/// What an event of the watch means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing that was not known.
    Expected,
    /// All slices are known now.
    Listed,
    /// A slice is not as it was known.
    Foreign,
    /// A slice was deleted, and not by us.
    Deleted,
}

/// What is there.
#[derive(Debug)]
pub(super) struct Known {
    node: String,
    pub(super) pool: Pool,
    /// Whether all slices were listed once.
    pub(super) is_complete: bool,
    /// Speeds that an earlier instance published.
    pub(super) speeds: Vec<(DeviceName, u32)>,
    taints: BTreeMap<String, Vec<TaintTime>>,
    /// When a list began, and what it has so far.
    listing: Option<(Instant, Vec<Slice>)>,
    /// Slices that we wrote, and the version that the watch has not shown yet.
    unseen: BTreeMap<String, (String, Instant)>,
    /// Slices that we deleted.
    deleted: BTreeMap<String, Instant>,
    /// Slices with an open request, and what the watch said last of each since it was sent.
    open: BTreeMap<String, Option<Event<Slice>>>,
}

impl Known {
    pub(super) fn new(node: String) -> Self {
        Self {
            node,
            pool: Pool::default(),
            is_complete: false,
            speeds: Vec::new(),
            taints: BTreeMap::new(),
            listing: None,
            unseen: BTreeMap::new(),
            deleted: BTreeMap::new(),
            open: BTreeMap::new(),
        }
    }

    /// Whether something has to be written.
    pub(super) fn needs(&mut self, wanted: Option<&Wanted>) -> bool {
        !self.pool.changes(wanted).is_empty()
    }

    /// Since when the device has the taint.
    pub(super) fn added(&self, slice: &str, device: &DeviceName, taint: (&str, &str)) -> Option<&TaintTime> {
        let is_it = |time: &&TaintTime| {
            time.device == *device && (time.taint.0.as_str(), time.taint.1.as_str()) == taint && !time.added.is_null()
        };
        self.taints.get(slice)?.iter().find(is_it)
    }

    /// When a slice has to be read because the watch did not show what was written.
    pub(super) fn next_doubt(&self) -> Option<Instant> {
        self.unseen.values().map(|(_, since)| *since + UNSEEN).min()
    }

    /// A slice that has to be read.
    pub(super) fn doubtful(&self, now: Instant) -> Option<String> {
        let mut unseen = self.unseen.iter();
        unseen.find(|(_, (_, since))| now >= *since + UNSEEN).map(|(name, _)| name.clone())
    }

    /// It could not be read.
    pub(super) fn doubt_later(&mut self, name: &str, now: Instant) {
        self.unseen.get_mut(name).into_iter().for_each(|(_, since)| *since = now);
    }

    /// A request for this slice is sent.
    pub(super) fn sent(&mut self, name: String) {
        self.open.insert(name, None);
    }

    /// The request was answered, and the answer was taken.
    pub(super) fn answered(&mut self, name: &str, now: Instant) -> Seen {
        match self.open.remove(name).flatten() {
            Some(event) => self.event(event, now),
            None => Seen::Expected,
        }
    }

    /// Takes an event of the watch.
    pub(super) fn event(&mut self, event: Event<Slice>, now: Instant) -> Seen {
        self.deleted.retain(|_, since| now < *since + UNSEEN);
        if let Event::Apply(slice) | Event::Delete(slice) = &event
            && let Some(held) = slice.metadata.name.as_ref().and_then(|name| self.open.get_mut(name))
        {
            *held = Some(event);
            return Seen::Expected;
        }
        match event {
            Event::Init => {
                self.listing = Some((now, Vec::new()));
                Seen::Expected
            }
            Event::InitApply(slice) => {
                self.listing.get_or_insert_with(|| (now, Vec::new())).1.push(slice);
                Seen::Expected
            }
            Event::InitDone => self.listed(now),
            Event::Apply(slice) => self.apply(slice, now),
            Event::Delete(slice) => {
                let name = slice.metadata.name.unwrap_or_default();
                let was_known = self.pool.slices().contains_key(&name);
                self.remove(&name);
                if was_known { Seen::Deleted } else { Seen::Expected }
            }
        }
    }

    fn listed(&mut self, now: Instant) -> Seen {
        let (began, listed) = self.listing.take().unwrap_or_else(|| (now, Vec::new()));
        let names: Vec<&String> = listed.iter().filter_map(|slice| slice.metadata.name.as_ref()).collect();
        // what was written since may be missing in the list
        let is_newer = |name: &String| self.unseen.get(name).is_some_and(|(_, since)| *since >= began);
        let is_gone = |name: &&String| !names.contains(name) && !is_newer(name);
        let gone: Vec<String> = self.pool.slices().keys().filter(is_gone).cloned().collect();
        gone.iter().for_each(|name| self.remove(name));
        if !self.is_complete {
            self.speeds = listed.iter().flat_map(|slice| slice.speeds.iter().cloned()).collect();
        }
        for slice in listed {
            self.apply(slice, now);
        }
        self.is_complete = true;
        Seen::Listed
    }

    fn apply(&mut self, slice: Slice, now: Instant) -> Seen {
        let (Some(name), Some(version)) = (slice.metadata.name.clone(), slice.metadata.resource_version.clone()) else {
            return Seen::Expected;
        };
        if self.deleted.contains_key(&name) {
            return Seen::Expected;
        }
        if let Entry::Occupied(written) = self.unseen.entry(name.clone()) {
            if written.get().0 == version {
                written.remove();
                return Seen::Expected;
            }
            if is_older(&version, &written.get().0) && now < written.get().1 + UNSEEN {
                return Seen::Expected;
            }
            written.remove();
        }
        if self.pool.slices().get(&name).is_some_and(|known| known.version == version) {
            return Seen::Expected;
        }
        self.insert(name, slice, None);
        Seen::Foreign
    }

    /// A request wrote the slice. Returns whether the API server dropped something.
    pub(super) fn written(&mut self, slice: Slice, sent: Vec<(DeviceName, Fingerprint)>, now: Instant) -> bool {
        let (Some(name), Some(version)) = (slice.metadata.name.clone(), slice.metadata.resource_version.clone()) else {
            return false;
        };
        let is_same =
            |((name, fingerprint), (sent, was)): (&(Option<DeviceName>, Fingerprint), &(DeviceName, Fingerprint))| {
                name.as_ref() == Some(sent) && fingerprint == was
            };
        let is_complete = slice.devices.len() == sent.len() && slice.devices.iter().zip(&sent).all(is_same);
        // a write that changed nothing makes no event
        if self.pool.slices().get(&name).is_none_or(|known| known.version != version) {
            self.unseen.insert(name.clone(), (version, now));
        }
        self.insert(name, slice, (!is_complete).then_some(sent));
        !is_complete
    }

    /// A request read the slice.
    pub(super) fn read(&mut self, slice: Slice) {
        if let Some(name) = slice.metadata.name.clone() {
            self.unseen.remove(&name);
            self.insert(name, slice, None);
        }
    }

    /// A request deleted the slice, or found that it is gone.
    pub(super) fn gone(&mut self, name: &str, now: Instant) {
        self.remove(name);
        self.deleted.insert(name.into(), now);
    }

    fn remove(&mut self, name: &str) {
        self.pool.remove(name);
        self.taints.remove(name);
        self.unseen.remove(name);
    }

    fn insert(&mut self, name: String, slice: Slice, written: Option<Vec<(DeviceName, Fingerprint)>>) {
        let Slice { metadata, node, pool, generation, count, devices, taints, .. } = slice;
        let is_owner = |kind: &str, name: &str| kind == "Node" && name == self.node;
        let owners = metadata.owner_references.unwrap_or_default();
        let form = if node.as_ref() != Some(&self.node) || pool != self.node {
            Form::Foreign
        } else if owners.iter().any(|owner| is_owner(&owner.kind, &owner.name)) {
            Form::Own
        } else {
            Form::Changed
        };
        let present = Present {
            uid: metadata.uid.unwrap_or_default(),
            version: metadata.resource_version.unwrap_or_default(),
            form,
            generation,
            count,
            devices,
            written,
        };
        if taints.is_empty() {
            self.taints.remove(&name);
        } else {
            self.taints.insert(name.clone(), taints);
        }
        self.pool.insert(name, present);
    }
}

/// Whether a resourceVersion is older: they are numbers, and the API promises since 1.35 that they can be compared.
fn is_older(version: &str, other: &str) -> bool {
    match (version.parse::<u64>(), other.parse::<u64>()) {
        (Ok(version), Ok(other)) => version < other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(name: &str, version: u32) -> Slice {
        let pool = json!({"name": "node-1", "generation": 1, "resourceSliceCount": 1});
        let metadata = json!({"name": name, "uid": name, "resourceVersion": version.to_string()});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"nodeName": "node-1", "pool": pool}})).unwrap()
    }

    fn list(known: &mut Known, slices: &[Slice], began: Instant, now: Instant) {
        known.event(Event::Init, began);
        for slice in slices {
            known.event(Event::InitApply(slice.clone()), now);
        }
        known.event(Event::InitDone, now);
    }

    fn names(known: &Known) -> Vec<&str> {
        known.pool.slices().keys().map(String::as_str).collect()
    }

    #[test]
    fn a_slice_that_was_deleted_while_there_was_no_watch_is_gone_with_the_next_list() {
        let (mut known, start) = (Known::new("node-1".into()), Instant::now());
        let second = |count| start + Duration::from_secs(count);
        list(&mut known, &[], start, start);
        known.written(slice("a", 5), Vec::new(), second(1));
        // written while the list is read
        known.event(Event::Init, second(2));
        known.written(slice("b", 6), Vec::new(), second(2));
        known.event(Event::InitDone, second(3));
        assert_eq!(names(&known), ["b"]);
    }

    #[test]
    fn what_the_watch_says_before_the_answer_is_taken_after_it() {
        let (mut known, now) = (Known::new("node-1".into()), Instant::now());
        list(&mut known, &[], now, now);
        known.sent("a".into());
        assert_eq!(known.event(Event::Apply(slice("a", 5)), now), Seen::Expected);
        assert!(names(&known).is_empty());
        known.written(slice("a", 5), Vec::new(), now);
        assert_eq!((known.answered("a", now), known.next_doubt()), (Seen::Expected, None));
        // somebody else deletes what we change, and changes what we delete
        known.sent("a".into());
        known.event(Event::Apply(slice("a", 6)), now);
        known.event(Event::Delete(slice("a", 7)), now);
        known.written(slice("a", 6), Vec::new(), now);
        assert_eq!((known.answered("a", now), known.next_doubt()), (Seen::Deleted, None));
        known.event(Event::Apply(slice("b", 8)), now);
        known.sent("b".into());
        known.event(Event::Apply(slice("b", 9)), now);
        assert_eq!(known.answered("b", now), Seen::Foreign);
        known.sent("b".into());
        known.event(Event::Delete(slice("b", 10)), now);
        known.gone("b", now);
        assert_eq!(known.answered("b", now), Seen::Expected);
        assert!(names(&known).is_empty());
    }

    #[test]
    fn a_slice_that_the_watch_does_not_show_is_read_once() {
        let (mut known, start) = (Known::new("node-1".into()), Instant::now());
        list(&mut known, &[], start, start);
        known.written(slice("a", 5), Vec::new(), start);
        known.written(slice("b", 6), Vec::new(), start);
        known.event(Event::Apply(slice("b", 6)), start);
        assert_eq!((known.next_doubt(), known.doubtful(start)), (Some(start + UNSEEN), None));
        let later = start + UNSEEN;
        assert_eq!(known.doubtful(later).as_deref(), Some("a"));
        known.doubt_later("a", later);
        assert_eq!((known.next_doubt(), known.doubtful(later)), (Some(later + UNSEEN), None));
        known.gone("a", later + UNSEEN);
        assert_eq!((names(&known), known.next_doubt()), (vec!["b"], None));
    }
}
