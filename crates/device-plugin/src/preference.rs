//! Chooses devices that are near each other: on one NUMA node, otherwise on as few nodes as possible.
//!
//! Devices without a known node are a group of their own.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

/// A device to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: String,
    /// Its NUMA node.
    pub numa_node: Option<u32>,
    /// Who has it; the kubelet may not know.
    pub in_use: Use,
    /// Of devices on one NUMA node, those with a lower turn are chosen first.
    pub turn: u32,
}

/// Who has a device. A kubelet that has lost its checkpoint takes all devices for free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Nobody.
    #[default]
    None,
    /// It is allocated to a container that has not started yet.
    Reserved,
    /// A Pod has it, or it cannot be allocated for another reason.
    Held,
}

/// Why no choice is possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreferenceError {
    /// A size below zero.
    #[error("cannot choose {0} devices: the number must not be negative")]
    Negative(i32),
    /// More must be included than may be chosen.
    #[error("cannot choose {size} devices of which {must} must be included: request at least {must}")]
    TooSmall {
        /// Devices to choose.
        size: usize,
        /// Devices that must be among them.
        must: usize,
    },
    /// Too few are available.
    #[error("cannot choose {size} devices of {available} that are available: request fewer")]
    TooLarge {
        /// Devices to choose.
        size: usize,
        /// Devices to choose from.
        available: usize,
    },
    /// A device that must be included is not available.
    #[error("device {0} must be included and is not available: choose another device")]
    NotAvailable(String),
}

/// A NUMA node; devices without a node sort after all nodes.
type Group = (bool, u32);

fn group(numa_node: Option<u32>) -> Group {
    (numa_node.is_none(), numa_node.unwrap_or(0))
}

/// Chooses `size` of the available devices, including those that must be included. The choice does not depend on their
/// order. Devices that are in use are chosen only when no others are left.
///
/// # Errors
///
/// When no choice of that size is possible.
pub fn prefer(available: &[Candidate], must: &BTreeSet<String>, size: i32) -> Result<Vec<String>, PreferenceError> {
    let enough = usize::try_from(size).unwrap_or(0);
    let mut must = Cow::Borrowed(must);
    for in_use in [Use::None, Use::Reserved] {
        let is_free = |candidate: &&Candidate| candidate.in_use <= in_use || must.contains(&candidate.id);
        if available.iter().all(|candidate| is_free(&candidate)) {
            break;
        }
        let free: Vec<Candidate> = available.iter().filter(is_free).cloned().collect();
        if free.len() >= enough {
            return pack(&free, &must, size);
        }
        // too few: all of them, and some that are in use
        must = Cow::Owned(must.iter().cloned().chain(free.into_iter().map(|candidate| candidate.id)).collect());
    }
    pack(available, &must, size)
}

/// The choice, without regard to use.
fn pack(available: &[Candidate], must: &BTreeSet<String>, size: i32) -> Result<Vec<String>, PreferenceError> {
    let size = usize::try_from(size).map_err(|_| PreferenceError::Negative(size))?;
    let place = |candidate: &Candidate| (group(candidate.numa_node), candidate.turn);
    let nodes: BTreeMap<&str, (Group, u32)> =
        available.iter().map(|candidate| (candidate.id.as_str(), place(candidate))).collect();
    if let Some(missing) = must.iter().find(|id| !nodes.contains_key(id.as_str())) {
        return Err(PreferenceError::NotAvailable(missing.clone()));
    }
    if must.len() > size {
        return Err(PreferenceError::TooSmall { size, must: must.len() });
    }
    if size > nodes.len() {
        return Err(PreferenceError::TooLarge { size, available: nodes.len() });
    }
    let entered: BTreeSet<Group> = must.iter().map(|id| nodes[id.as_str()].0).collect();
    let mut groups: BTreeMap<Group, Vec<&str>> = BTreeMap::new();
    for (id, (group, _)) in nodes.iter().filter(|(id, _)| !must.contains(**id)) {
        groups.entry(*group).or_default().push(id);
    }
    groups.values_mut().for_each(|members| members.sort_by_key(|id| nodes[id].1));
    let mut chosen: Vec<String> = must.iter().cloned().collect();
    let mut take = |members: Vec<&str>| {
        let rest = size - chosen.len();
        chosen.extend(members.into_iter().take(rest).map(str::to_owned));
        size - chosen.len()
    };
    let mut rest = take(Vec::new());
    // first the nodes that are used in any case
    for group in entered {
        rest = take(groups.remove(&group).unwrap_or_default());
    }
    while rest > 0 {
        let Some(group) = next_group(&groups, rest) else { break };
        rest = take(groups.remove(&group).unwrap_or_default());
    }
    chosen.sort();
    Ok(chosen)
}

/// The smallest group that has all of `rest`, so that large ones stay whole; else the largest one, so that as few as
/// possible are needed. Of equal ones the first.
fn next_group(groups: &BTreeMap<Group, Vec<&str>>, rest: usize) -> Option<Group> {
    let enough = groups.iter().filter(|(_, members)| members.len() >= rest).min_by_key(|(_, members)| members.len());
    let largest = || groups.iter().rev().max_by_key(|(_, members)| members.len());
    enough.or_else(largest).map(|(group, _)| *group)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates(text: &str) -> Vec<Candidate> {
        let one = |part: &str| {
            let (id, node) = part.split_once('@').unwrap();
            let in_use = match node.trim_start_matches(|node: char| node.is_ascii_digit() || node == '-') {
                "" => Use::None,
                "r" => Use::Reserved,
                _ => Use::Held,
            };
            let numa_node = node.trim_end_matches(char::is_alphabetic).parse().ok();
            Candidate { id: id.into(), numa_node, in_use, turn: 0 }
        };
        text.split_whitespace().map(one).collect()
    }

    fn ids(text: &str) -> BTreeSet<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn devices_are_packed_on_as_few_numa_nodes_as_possible() {
        let table = [
            ("a@0 b@1 c@1", "", 2, "b c"),
            ("a@0 b@1 c@1", "a", 2, "a b"),
            ("a@0 b@0 c@1 d@1 e@1", "", 2, "a b"),
            ("a@0 b@0 c@1 d@1 e@1", "", 3, "c d e"),
            ("a@0 b@0 c@1 d@1 e@1", "", 4, "a c d e"),
            ("a@0 b@0 c@1 d@1 e@1", "d", 2, "c d"),
            ("a@0 b@0 c@1 d@1 e@1", "a d", 4, "a b c d"),
            ("a@0 b@1 c@2 d@2", "", 3, "a c d"),
            ("a@0 v@- w@-", "", 2, "v w"),
            ("a@0 b@0 v@- w@-", "", 2, "a b"),
            ("v@- w@-", "w", 1, "w"),
            ("a@0", "", 0, ""),
            ("", "", 0, ""),
        ];
        for (available, must, size, expected) in table {
            let chosen = prefer(&candidates(available), &ids(must), size).unwrap();
            assert_eq!(chosen.join(" "), expected, "{size} of {available:?} with {must:?}");
        }
    }

    #[test]
    fn of_devices_on_one_numa_node_those_whose_turn_it_is_are_chosen_first() {
        let mut available = candidates("a@0 b@0 c@0 d@1");
        for (candidate, turn) in available.iter_mut().zip([2, 0, 1, 0]) {
            candidate.turn = turn;
        }
        assert_eq!(prefer(&available, &BTreeSet::new(), 2).unwrap(), ["b", "c"]);
        assert_eq!(prefer(&available, &ids("a"), 2).unwrap(), ["a", "b"]);
    }

    #[test]
    fn what_somebody_has_is_chosen_last_and_what_is_reserved_before_it() {
        let table = [
            ("a@0h b@0 c@1", "", 1, "b"),
            ("a@0r b@0h c@1", "", 1, "c"),
            ("a@0r b@0h c@1", "", 2, "a c"),
            ("a@0r b@0h c@1", "", 3, "a b c"),
            ("a@0h b@0 c@1 d@1", "", 2, "c d"),
            ("a@0h b@0r c@1 d@1r", "", 2, "c d"),
            ("a@0h b@0 c@1 d@1", "a", 2, "a b"),
            ("a@0h b@1 c@1 d@0h", "", 3, "a b c"),
            ("a@0h", "", 1, "a"),
        ];
        for (available, must, size, expected) in table {
            let chosen = prefer(&candidates(available), &ids(must), size).unwrap();
            assert_eq!(chosen.join(" "), expected, "{size} of {available:?} with {must:?}");
        }
        let errors = [("a@0h b@0", "c", 1), ("a@0h b@0r", "", 3), ("a@0h b@0", "a b", 1), ("a@0h", "", -1)];
        for (available, must, size) in errors {
            let free: Vec<Candidate> = candidates(available)
                .into_iter()
                .map(|candidate| Candidate { in_use: Use::None, ..candidate })
                .collect();
            let error = prefer(&candidates(available), &ids(must), size).unwrap_err();
            assert_eq!(error, prefer(&free, &ids(must), size).unwrap_err());
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_refused_with_the_reason() {
        let table = [
            ("a@0", "", -1, "cannot choose -1 devices: the number must not be negative"),
            ("a@0 b@0", "a b", 1, "cannot choose 1 devices of which 2 must be included: request at least 2"),
            ("a@0 b@0", "", 3, "cannot choose 3 devices of 2 that are available: request fewer"),
            ("a@0", "b", 1, "device b must be included and is not available: choose another device"),
        ];
        for (available, must, size, expected) in table {
            assert_eq!(prefer(&candidates(available), &ids(must), size).unwrap_err().to_string(), expected);
        }
    }

    fn nodes_of(available: &[Candidate], chosen: impl IntoIterator<Item = impl AsRef<str>>) -> usize {
        let node = |id: &str| available.iter().find(|candidate| candidate.id == id).unwrap().numa_node;
        chosen.into_iter().map(|id| node(id.as_ref())).collect::<BTreeSet<_>>().len()
    }

    proptest! {
        #[test]
        fn no_choice_would_need_fewer_nodes(
            nodes in prop::collection::vec(prop::option::of(0u32..4), 0..9),
            must in any::<u16>(),
            size in 0i32..10,
        ) {
            let available: Vec<Candidate> =
                (0..).zip(&nodes).map(|(at, node)| Candidate { id: format!("d{at}"), numa_node: *node, in_use: Use::None, turn: 0 }).collect();
            let has = |set: u16, at: usize| set & (1 << at) != 0;
            let subset = |set: u16| (0..nodes.len()).filter(|at| has(set, *at)).map(|at| format!("d{at}")).collect();
            let must: BTreeSet<String> = subset(must & must >> 3);
            let choice = prefer(&available, &must, size);
            let possible = (0..1u16 << nodes.len()).map(subset).filter(|set: &BTreeSet<String>| {
                set.len() == size as usize && must.is_subset(set)
            });
            match (choice, possible.map(|set| nodes_of(&available, set)).min()) {
                (Err(_), None) => {}
                (Ok(chosen), Some(fewest)) => {
                    prop_assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), size as usize);
                    prop_assert!(must.iter().all(|id| chosen.contains(id)));
                    prop_assert_eq!(nodes_of(&available, &chosen), fewest);
                    let mut reversed = available.clone();
                    reversed.reverse();
                    prop_assert_eq!(prefer(&reversed, &must, size).unwrap(), chosen);
                }
                (choice, fewest) => prop_assert!(false, "{:?} but {:?}", choice, fewest),
            }
        }
    }
}
