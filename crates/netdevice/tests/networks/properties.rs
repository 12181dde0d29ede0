//! What holds for any annotation, plan and status.

use std::collections::{BTreeMap, BTreeSet};

use netdevice::{
    InterfaceName,
    networks::{
        NetworkSelection, Plan, Present, configuration_text, entries_of_result, merge_status, parse, plan, read_status,
        write_status,
    },
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::{interface, parsed};

/// Few names, so that they often meet.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![(1..6).prop_map(|number| format!("net{number}")), (0..3).prop_map(|number| format!("x{number}"))]
}

fn elements() -> impl Strategy<Value = Vec<NetworkSelection>> {
    vec(("[ab]", proptest::option::of(name()), proptest::option::of(0..3u8)), 0..7).prop_map(|elements| {
        let mut names = BTreeSet::new();
        let element = |(network, name, ip): (String, Option<String>, Option<u8>)| {
            let mut element = json!({"name": network});
            if let Some(name) = name.filter(|name| names.insert(name.clone())) {
                element["interface"] = name.into();
            }
            if let Some(ip) = ip {
                element["ips"] = json!([format!("10.1.0.{ip}")]);
            }
            element
        };
        let elements: Vec<Value> = elements.into_iter().map(element).collect();
        parsed(&Value::from(elements).to_string())
    })
}

/// The interfaces of a Pod: some are from Multus, and each name is there once.
fn interfaces() -> impl Strategy<Value = Vec<Present>> {
    (elements(), vec((name(), any::<bool>()), 7)).prop_map(|(elements, names)| {
        let mut present = BTreeMap::new();
        for (element, (name, is_known)) in elements.iter().zip(names) {
            let request = is_known.then(|| element.to_request());
            let interface = interface(&name);
            present.insert(name, Present { network: element.network(), interface, request });
        }
        present.into_values().collect()
    })
}

/// The interfaces after the plan was carried out.
fn apply(plan: &Plan, wanted: &[NetworkSelection], present: &[Present]) -> Vec<Present> {
    let kept = (0..present.len()).filter(|index| !plan.remove.contains(index)).map(|index| present[index].clone());
    let added = plan.add.iter().map(|(index, interface)| Present {
        network: wanted[*index].network(),
        interface: interface.clone(),
        request: Some(wanted[*index].to_request()),
    });
    kept.chain(added).collect()
}

fn status() -> impl Strategy<Value = Vec<Value>> {
    let entry = ("[abc]", name(), any::<bool>(), any::<u8>());
    vec(entry, 0..6).prop_map(|entries| {
        let entry = |(network, interface, is_default, ip): (String, String, bool, u8)| match is_default {
            true => json!({"name": network, "interface": interface, "default": true, "ips": [ip]}),
            false => json!({"name": network, "interface": interface, "ips": [ip]}),
        };
        entries.into_iter().map(entry).collect()
    })
}

fn key(entry: &Value) -> (String, String) {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    (text("name"), text("interface"))
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,200}", items in r#"[a-c0-9/@, \[\]{}":.-]{0,60}"#) {
        for text in [text, items] {
            if let Err(error) = parse(&text, "default") {
                prop_assert!(error.to_string().len() < 200);
            }
            let _ = configuration_text("nad", &text);
            let _ = write_status(&read_status(&text));
        }
    }

    #[test]
    fn a_request_is_read_again_as_itself(elements in elements()) {
        for element in elements {
            let text = format!("[{}]", element.to_request());
            prop_assert_eq!(parsed(&text)[0].to_request(), element.to_request());
        }
    }

    #[test]
    fn after_a_plan_there_is_nothing_to_do(wanted in elements(), present in interfaces()) {
        let taken = BTreeSet::from([interface("eth0"), interface("net3")]);
        let present: Vec<_> = present.into_iter().filter(|one| !taken.contains(&one.interface)).collect();
        let first = plan(&wanted, &present, &taken);
        let after = apply(&first, &wanted, &present);
        let second = plan(&wanted, &after, &taken);
        prop_assert!(second.remove.is_empty() && second.add.is_empty(), "{:?}\n{:?}", first, second);
    }

    #[test]
    fn each_element_has_one_interface_and_each_interface_one_name(wanted in elements(), present in interfaces()) {
        let taken = BTreeSet::from([interface("eth0"), interface("net9")]);
        let plan = plan(&wanted, &present, &taken);
        let all = || plan.keep.iter().chain(&plan.add);
        let elements: BTreeSet<usize> = all().map(|(index, _)| *index).collect();
        prop_assert_eq!((elements.len(), all().count()), (wanted.len(), wanted.len()));
        let names: BTreeSet<&InterfaceName> = all().map(|(_, name)| name).collect();
        prop_assert_eq!(names.len(), wanted.len());
        let after = apply(&plan, &wanted, &present);
        let names: BTreeSet<&InterfaceName> = after.iter().map(|one| &one.interface).collect();
        prop_assert_eq!((names.len(), after.len()), (wanted.len(), wanted.len()));
        for (index, name) in all() {
            prop_assert!(wanted[*index].interface.as_ref().is_none_or(|requested| requested == name));
        }
        for (index, name) in &plan.add {
            prop_assert!(wanted[*index].interface.is_some() || !taken.contains(name));
        }
        // Both lists are in order.
        prop_assert!(plan.keep.is_sorted() && plan.add.is_sorted() && plan.remove.is_sorted());
    }

    #[test]
    fn what_is_kept_is_there_and_serves_its_element(wanted in elements(), present in interfaces()) {
        let plan = plan(&wanted, &present, &BTreeSet::new());
        for (index, name) in &plan.keep {
            let at = present.iter().position(|one| one.interface == *name).unwrap();
            prop_assert!(!plan.remove.contains(&at));
            prop_assert_eq!(&present[at].network, &wanted[*index].network());
            let request = wanted[*index].to_request();
            prop_assert!(present[at].request.as_ref().is_none_or(|made_for| *made_for == request));
        }
    }

    #[test]
    fn a_further_element_changes_no_name_of_the_others(wanted in elements(), further in "[ab]", at in 0..7usize) {
        let taken = BTreeSet::new();
        let present = apply(&plan(&wanted, &[], &taken), &wanted, &[]);
        let mut more = wanted.clone();
        let at = at.min(more.len());
        let new = json!([{"name": further, "mac": "02:00:00:00:00:01"}]);
        more.insert(at, parsed(&new.to_string()).remove(0));
        let next = plan(&more, &present, &taken);
        prop_assert!(next.remove.is_empty());
        prop_assert_eq!(next.add.iter().map(|(index, _)| *index).collect::<Vec<_>>(), vec![at]);
    }

    #[test]
    fn entries_of_others_stay_as_they_are(now in status(), ours in status(), removed in status()) {
        let ours: Vec<Value> = ours.into_iter().filter(|entry| entry.get("default").is_none()).collect();
        let mut seen = BTreeSet::new();
        let ours: Vec<Value> = ours.into_iter().filter(|entry| seen.insert(key(entry))).collect();
        let removed: Vec<(String, String)> = removed.iter().map(key).collect();
        let present: Vec<Vec<Value>> = ours.iter().map(|entry| vec![entry.clone()]).collect();
        let merged = merge_status(&now, &removed, &present);

        let is_foreign = |entry: &&Value| {
            let key = key(entry);
            entry.get("default").is_some() || !(removed.contains(&key) || ours.iter().any(|one| self::key(one) == key))
        };
        let foreign = |entries: &[Value]| entries.iter().filter(is_foreign).map(Value::to_string).collect::<Vec<_>>();
        prop_assert_eq!(foreign(&merged), foreign(&now));
        for entry in &ours {
            prop_assert_eq!(merged.iter().filter(|one| one.get("default").is_none() && key(one) == key(entry)).count(), 1);
            prop_assert!(merged.contains(entry));
        }
        prop_assert_eq!(merge_status(&merged, &removed, &present), merged.clone());
        prop_assert_eq!(read_status(&write_status(&merged)), merged);
    }

    #[test]
    fn any_result_has_entries(indices in vec(proptest::option::of(0..5i64), 0..5), sandboxes: Vec<bool>) {
        let link = |(index, is_inside): (usize, &bool)| match is_inside {
            true => json!({"name": format!("net{index}"), "sandbox": "/run/netns/a"}),
            false => json!({"name": format!("veth{index}")}),
        };
        let interfaces: Vec<Value> = sandboxes.iter().enumerate().map(link).collect();
        let ips: Vec<Value> = indices.iter().map(|index| json!({"address": "10.1.0.2/24", "interface": index})).collect();
        let entries = entries_of_result("ns/a", "net1", &json!({"interfaces": interfaces, "ips": ips}));
        prop_assert!(!entries.is_empty());
        for entry in entries {
            prop_assert_eq!(&entry["name"], "ns/a");
            prop_assert!(entry["dns"].is_object());
        }
    }
}
