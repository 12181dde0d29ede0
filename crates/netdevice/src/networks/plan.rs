//! What is to be plugged and unplugged, and the names of interfaces.

use std::collections::BTreeSet;

use serde_json::Value;

use super::NetworkSelection;
use crate::name::InterfaceName;

/// An interface that a Pod has of one of its networks.
#[derive(Debug, Clone, PartialEq)]
pub struct Present {
    /// `namespace/name` of the NetworkAttachmentDefinition.
    pub network: String,
    /// Its name in the Pod.
    pub interface: InterfaceName,
    /// The [request](NetworkSelection::to_request) that it was made for. `None` if that is not known, because Multus made it:
    /// then it is never plugged anew because of a difference.
    pub request: Option<Value>,
}

/// What is to be done for a Pod. Removals that an addition needs (the name, an address) come before it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Elements that are there, with the names of their interfaces: indices into the elements, in their order.
    pub keep: Vec<(usize, InterfaceName)>,
    /// Interfaces that are not wanted any more, or wanted differently: indices into the interfaces, in their order.
    pub remove: Vec<usize>,
    /// Elements that are not there or not as wanted, with the names that their interfaces get: indices into the elements, in
    /// their order. A name that an element requests is here also if it is taken.
    pub add: Vec<(usize, InterfaceName)>,
}

/// Compares the elements of an annotation with the interfaces of these networks that the Pod has. `taken` are the other names
/// in the Pod's network namespace.
///
/// An element with a name is the interface of that network and that name. An element without one is an interface of its
/// network that no other element requests: one with the same request, then one with an unknown request, then any; the
/// lowest net<N> first. So it keeps its name, whatever else changes. If there is none, it gets the lowest net<N>, from
/// net1, that is neither taken, nor kept, nor requested.
pub fn plan(wanted: &[NetworkSelection], present: &[Present], taken: &BTreeSet<InterfaceName>) -> Plan {
    let matches = matches(wanted, present);
    let mut used: BTreeSet<InterfaceName> = taken.clone();
    used.extend(wanted.iter().filter_map(|element| element.interface.clone()));
    used.extend(matches.iter().flatten().map(|at| present[*at].interface.clone()));

    let mut plan = Plan::default();
    let mut kept = vec![false; present.len()];
    for (index, (element, found)) in wanted.iter().zip(&matches).enumerate() {
        match found {
            Some(at) if present[*at].serves(element) => {
                kept[*at] = true;
                plan.keep.push((index, present[*at].interface.clone()));
            }
            Some(at) => plan.add.push((index, present[*at].interface.clone())),
            None => {
                let name = element.interface.clone().or_else(|| free_name(&used));
                used.extend(name.clone());
                plan.add.extend(name.map(|name| (index, name)));
            }
        }
    }
    plan.remove = (0..present.len()).filter(|at| !kept[*at]).collect();
    plan
}

impl Present {
    /// Whether it is what the element requests, as far as known.
    fn serves(&self, element: &NetworkSelection) -> bool {
        self.request.as_ref().is_none_or(|request| *request == element.to_request())
    }
}

/// The interface of each element.
fn matches(wanted: &[NetworkSelection], present: &[Present]) -> Vec<Option<usize>> {
    let requested = |name: &InterfaceName| wanted.iter().any(|element| element.interface.as_ref() == Some(name));
    let mut matches: Vec<Option<usize>> = wanted.iter().map(|element| named(element, present)).collect();
    let mut free: Vec<usize> = (0..present.len()).filter(|at| !requested(&present[*at].interface)).collect();
    free.sort_by_key(|at| (number(&present[*at].interface).unwrap_or(u32::MAX), &present[*at].interface));

    let passes: [fn(&Present, &Value) -> bool; 3] = [
        |present, request| present.request.as_ref() == Some(request),
        |present, _| present.request.is_none(),
        |_, _| true,
    ];
    let nameless: Vec<(usize, String, Value)> = (0..wanted.len())
        .filter(|index| wanted[*index].interface.is_none())
        .map(|index| (index, wanted[index].network(), wanted[index].to_request()))
        .collect();
    for pass in passes {
        for (index, network, request) in &nameless {
            if matches[*index].is_some() {
                continue;
            }
            let fits = |at: &usize| present[*at].network == *network && pass(&present[*at], request);
            matches[*index] = free.iter().position(fits).map(|found| free.remove(found));
        }
    }
    matches
}

/// The interface of an element that has a name.
fn named(element: &NetworkSelection, present: &[Present]) -> Option<usize> {
    let name = element.interface.as_ref()?;
    let network = element.network();
    present.iter().position(|present| present.interface == *name && present.network == network)
}

/// N of the name net<N>.
fn number(name: &InterfaceName) -> Option<u32> {
    let digits = name.to_str()?.strip_prefix("net")?;
    let is_number = !digits.starts_with(['0', '+']);
    is_number.then(|| digits.parse().ok()).flatten()
}

/// The lowest net<N>, from net1, that is not used.
fn free_name(used: &BTreeSet<InterfaceName>) -> Option<InterfaceName> {
    let name = |number: u32| InterfaceName::try_from(format!("net{number}").as_str()).ok();
    (1..u32::MAX).filter_map(name).find(|name| !used.contains(name))
}
