//! The annotation of a running Pod that lists devices of the node: what is to be attached, and what is to be returned.
//!
//! Its text has the form of the [annotation](super) that is read when a Pod starts.

use std::collections::BTreeSet;

use super::{DeviceRequest, Wanted};
use crate::{
    id::DeviceId,
    name::InterfaceName,
    owner::ATTACH_KEY,
    pool::Pools,
    record::{Attachment, Phase},
};

/// The key of the annotation.
pub const KEY: &str = ATTACH_KEY;

/// The beginning of the name of an entry in `k8s.v1.cni.cncf.io/network-status`. It has the form of a namespace, and no
/// namespace can have this name.
const STATUS_PREFIX: &str = "netdevice.networking.k8s.io/";

/// A device that a Pod has by the annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Its record.
    pub record: Attachment,
    /// Whether the Pod has a link with the name that the device was attached with.
    pub is_there: bool,
}

/// What is to be done for a Pod. Elements and devices are indices into the lists that were compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Elements that are served, with their devices.
    pub keep: Vec<(usize, usize)>,
    /// Elements whose devices are attached with another configuration, or not completely: returned and attached again.
    pub replace: Vec<(usize, usize)>,
    /// Elements without a device. Those that name one are first: a pool's element gets none that another one names.
    pub add: Vec<usize>,
    /// Devices that are no longer listed.
    pub remove: Vec<usize>,
}

impl Present {
    /// The name in the Pod.
    pub fn interface(&self) -> &InterfaceName {
        &self.record.sandbox.name
    }

    /// Whether it is complete, and what the element requests.
    fn serves(&self, element: &DeviceRequest) -> bool {
        let host = self.record.device.to_name();
        let has_configuration = self.record.configuration.as_ref().is_some_and(|configuration| {
            let requested = &element.configuration;
            // the device's own name may be written, or not
            configuration.name_inside(&host) == requested.name_inside(&host)
                && crate::SandboxConfiguration { name: None, ..configuration.clone() }
                    == crate::SandboxConfiguration { name: None, ..requested.clone() }
        });
        self.is_complete() && has_configuration
    }

    /// Whether it was attached completely, and is there.
    pub fn is_complete(&self) -> bool {
        self.record.phase == Phase::Attached && self.is_there
    }
}

/// Compares the elements of the annotation with the devices that the Pod has by it.
///
/// An element that moves a named device has that device. Others have a device of their parent or pool, acquired in the same way,
/// that no other element has: one with the same configuration, or else any; those that name a parent are first. So an element
/// keeps its device, whatever else changes.
pub fn plan(wanted: &[DeviceRequest], present: &[Present], pools: &Pools) -> Plan {
    let mut matches: Vec<Option<usize>> = vec![None; wanted.len()];
    let mut free: BTreeSet<usize> = (0..present.len()).collect();
    let passes: [fn(&DeviceRequest, &Present) -> bool; 4] = [
        |element, present| is_on_named(element, present) && present.serves(element),
        is_on_named,
        |element, present| is_of_pool(element, present) && present.serves(element),
        is_of_pool,
    ];
    for fits in passes {
        for (element, found) in wanted.iter().zip(&mut matches).filter(|(_, found)| found.is_none()) {
            *found = free
                .iter()
                .copied()
                .find(|at| fits(element, &present[*at]) && is_acquired(element, &present[*at], pools));
            if let Some(at) = found {
                free.remove(at);
            }
        }
    }
    let mut plan = Plan { remove: free.into_iter().collect(), ..Plan::default() };
    for (index, (element, found)) in wanted.iter().zip(&matches).enumerate() {
        match found {
            Some(at) if present[*at].serves(element) => plan.keep.push((index, *at)),
            Some(at) => plan.replace.push((index, *at)),
            None => plan.add.push(index),
        }
    }
    plan.add.sort_by_key(|index| matches!(wanted[*index].device, Wanted::Pool(_)));
    plan
}

/// Whether it is the device that the element names, or was created on the interface that it names.
fn is_on_named(element: &DeviceRequest, present: &Present) -> bool {
    matches!(&element.device, Wanted::Name(name) if *name == present.record.device.to_name())
}

fn is_of_pool(element: &DeviceRequest, present: &Present) -> bool {
    match (&element.device, &present.record.resource) {
        (Wanted::Pool(pool), Some(resource)) => pool.as_str() == resource.as_str() || pool.as_str() == resource.class(),
        _ => false,
    }
}

/// Whether it was moved or created, as the element or its pool requests.
fn is_acquired(element: &DeviceRequest, present: &Present, pools: &Pools) -> bool {
    let requested = element.acquisition.created();
    let created = present.record.created().map(|created| created.kind);
    requested == created || (requested.is_none() && pools.creates(&present.record))
}

impl Plan {
    /// Elements to add that get the name in the Pod of a device that is to be removed: it is removed only if they can be had.
    pub fn successors(&self, wanted: &[DeviceRequest], present: &[Present]) -> Vec<usize> {
        let leaving: BTreeSet<&InterfaceName> = self.remove.iter().map(|at| present[*at].interface()).collect();
        let takes = |index: &&usize| wanted[**index].interface().is_some_and(|name| leaving.contains(name));
        self.add.iter().filter(takes).copied().collect()
    }

    /// The plan without elements that cannot be had. What they would take the place of stays as it is.
    #[must_use]
    pub fn without(mut self, refused: &BTreeSet<usize>, wanted: &[DeviceRequest], present: &[Present]) -> Self {
        let names: BTreeSet<&InterfaceName> = refused.iter().filter_map(|index| wanted[*index].interface()).collect();
        self.add.retain(|index| !refused.contains(index));
        self.replace.retain(|(index, _)| !refused.contains(index));
        self.remove.retain(|at| !names.contains(present[*at].interface()));
        self
    }
}

/// The name of a device's entry in `k8s.v1.cni.cncf.io/network-status`.
pub fn status_name(device: &DeviceId) -> String {
    format!("{STATUS_PREFIX}{device}")
}

/// Whether an entry of that name is one of this annotation.
pub fn is_status_name(name: &str) -> bool {
    name.starts_with(STATUS_PREFIX)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        acquisition::{Acquisition, Created},
        annotation::parse,
        fixture,
    };

    /// A device that was attached for one element.
    fn present(device: &str, pool: &str, element: &str) -> Present {
        let request = parse(&format!("[{element}]")).unwrap().remove(0);
        let mut record = Attachment {
            resource: Some(format!("example.com/{pool}").parse().unwrap()),
            configuration: Some(request.configuration),
            ..fixture::record(device)
        };
        let name = record.configuration.as_ref().unwrap().name_inside(&record.device.to_name()).clone();
        record.sandbox.name = name;
        Present { record, is_there: true }
    }

    fn fast(device: &str, element: &str) -> Present {
        present(device, "fast", element)
    }

    fn text(plan: &Plan) -> String {
        let mut text = String::new();
        let mut pairs = |verb: &str, list: &[(usize, usize)]| {
            list.iter().for_each(|(element, at)| write!(text, "{verb} {element}={at}; ").unwrap());
        };
        pairs("keep", &plan.keep);
        pairs("replace", &plan.replace);
        plan.remove.iter().for_each(|at| write!(text, "remove {at}; ").unwrap());
        plan.add.iter().for_each(|element| write!(text, "add {element}; ").unwrap());
        text.trim_end_matches("; ").to_owned()
    }

    fn planned(annotation: &str, present: &[Present]) -> String {
        text(&plan(&parse(annotation).unwrap(), present, &Pools::default()))
    }

    #[test]
    fn what_is_listed_and_not_there_is_added_and_the_other_way_round() {
        assert_eq!(planned("[{name: a}, {name: b}]", &[]), "add 0; add 1");
        let both = [fast("a", "{name: a}"), fast("b", "{name: b}")];
        assert_eq!(planned("[{name: b}]", &both), "keep 0=1; remove 0");
        assert_eq!(planned("", &both), "remove 0; remove 1");
        assert_eq!(planned("[{name: c}]", &both[..1]), "remove 0; add 0");
    }

    #[test]
    fn another_configuration_or_an_incomplete_device_is_attached_anew() {
        let one = fast("a", "{name: a, mtu: 1400}");
        assert_eq!(planned("[{name: a, mtu: 1400}]", std::slice::from_ref(&one)), "keep 0=0");
        for element in ["{name: a}", "{name: a, mtu: 1300}", "{name: a, mtu: 1400, new_name: b}"] {
            assert_eq!(planned(&format!("[{element}]"), std::slice::from_ref(&one)), "replace 0=0");
        }
        // its own name may be written
        assert_eq!(planned("[{name: a, mtu: 1400, new_name: a}]", std::slice::from_ref(&one)), "keep 0=0");
        let mut cut_off = one.clone();
        cut_off.record.phase = Phase::Attaching;
        let deleted = Present { is_there: false, ..one };
        assert_eq!(planned("[{name: a, mtu: 1400}]", &[cut_off]), "replace 0=0");
        assert_eq!(planned("[{name: a, mtu: 1400}]", &[deleted]), "replace 0=0");
    }

    #[test]
    fn an_element_of_a_pool_keeps_its_device() {
        let both = [fast("a", "{pool: fast}"), fast("b", "{pool: fast, mtu: 1400}")];
        assert_eq!(planned("[{pool: fast, mtu: 1400}]", &both), "keep 0=1; remove 0");
        assert_eq!(planned("[{pool: example.com/fast, mtu: 1300}]", &both[1..]), "replace 0=0");
        assert_eq!(planned("[{pool: slow}]", &both[..1]), "remove 0; add 0");
        // a device that an element names is that element's, also if it came from a pool
        assert_eq!(planned("[{pool: fast}, {name: a}]", &both[..1]), "keep 1=0; add 0");
        assert_eq!(planned("[{pool: fast}, {pool: fast}]", &both[..1]), "keep 0=0; add 1");
    }

    #[test]
    fn a_device_that_was_created_is_kept_while_its_kind_and_configuration_are_requested() {
        let create =
            |kind: &str, mtu: u32| format!("{{name: a, create: {{kind: {kind}}}, new_name: x{mtu}, mtu: {mtu}}}");
        let created = |number: u32, element: &str| {
            let Acquisition::Create(kind) = parse(&format!("[{element}]")).unwrap()[0].acquisition else {
                panic!("{element} moves a device")
            };
            let mut present = fast("a", element);
            present.record.device = format!("a:{number}").parse().unwrap();
            present.record.acquired = Created { parent: "a".parse().unwrap(), parent_index: 2, kind }.into();
            present
        };
        let both = [created(1, &create("macvlan", 1400)), created(2, &create("macvlan", 1500))];
        let planned = |elements: &[String]| planned(&format!("[{}]", elements.join(", ")), &both);
        assert_eq!(planned(&[create("macvlan", 1500)]), "keep 0=1; remove 0");
        assert_eq!(planned(&[create("macvlan", 1300), create("macvlan", 1400)]), "keep 1=0; replace 0=1");
        assert_eq!(planned(&[create("ipvlan", 1400)]), "remove 0; remove 1; add 0");
        assert_eq!(planned(&["{name: a}".to_owned()]), "remove 0; remove 1; add 0");
    }

    #[test]
    fn elements_that_name_a_device_are_added_first() {
        assert_eq!(planned("[{pool: fast}, {name: a}]", &[]), "add 1; add 0");
    }

    #[test]
    fn what_an_element_takes_the_place_of_stays_if_the_element_cannot_be_had() {
        let old = [fast("a", "{name: a, new_name: x}"), fast("b", "{name: b}"), fast("c", "{name: c}")];
        let wanted = parse("[{name: d, new_name: x}, {name: b, mtu: 1400}, {name: e, new_name: z}]").unwrap();
        let all = plan(&wanted, &old, &Pools::default());
        assert_eq!(text(&all), "replace 1=1; remove 0; remove 2; add 0; add 2");
        assert_eq!(all.successors(&wanted, &old), [0]);
        let refused = BTreeSet::from([0, 1]);
        assert_eq!(text(&all.without(&refused, &wanted, &old)), "remove 2; add 2");
    }

    #[test]
    fn the_entries_of_the_status_are_told_apart() {
        let name = status_name(&"eth1".parse().unwrap());
        assert_eq!(name, "netdevice.networking.k8s.io/eth1");
        assert!(is_status_name(&name) && !is_status_name("default/eth1"));
    }

    fn element() -> impl Strategy<Value = String> {
        let device = prop_oneof!["name: [a-d]", "pool: (fast|slow)"];
        (device, proptest::option::of("x[0-3]"), 1400..1402u32).prop_map(|(device, new_name, mtu)| {
            let new_name = new_name.map(|name| format!(", new_name: {name}")).unwrap_or_default();
            format!("{{{device}{new_name}, mtu: {mtu}}}")
        })
    }

    proptest! {
        #[test]
        fn each_element_and_each_device_is_decided_once(
            elements in prop::collection::vec(element(), 0..5),
            devices in prop::collection::btree_map("[a-d]", (prop_oneof!["fast", "slow"], element()), 0..5),
        ) {
            let Ok(wanted) = parse(&format!("[{}]", elements.join(", "))) else { return Ok(()) };
            let present: Vec<Present> = devices.iter().map(|(device, (pool, element))| present(device, pool, element)).collect();
            let plan = plan(&wanted, &present, &Pools::default());
            let pairs = || plan.keep.iter().chain(&plan.replace);
            let mut of_elements: Vec<usize> = pairs().map(|(element, _)| *element).chain(plan.add.clone()).collect();
            of_elements.sort_unstable();
            prop_assert_eq!(of_elements, (0..wanted.len()).collect::<Vec<_>>());
            let mut of_devices: Vec<usize> = pairs().map(|(_, at)| *at).chain(plan.remove.clone()).collect();
            of_devices.sort_unstable();
            prop_assert_eq!(of_devices, (0..present.len()).collect::<Vec<_>>());
            for (element, at) in &plan.keep {
                prop_assert!(present[*at].serves(&wanted[*element]));
            }
        }
    }
}
