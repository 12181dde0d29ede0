//! The difference of what is wanted and what is there.

use std::collections::BTreeSet;

use netdevice::networks::{Plan, Present, plan};
use serde_json::Value;

use super::{interface, parsed};

/// An interface that was made for one element of an annotation, or by Multus.
fn ours(element: &str, name: &str) -> Present {
    let element = &parsed(element)[0];
    Present { network: element.network(), interface: interface(name), request: Some(element.to_request()) }
}

fn of_multus(network: &str, name: &str) -> Present {
    Present { network: format!("default/{network}"), interface: interface(name), request: None }
}

/// `keep 0=net1; remove 1; add 1=net2`, with the indices of elements and interfaces.
fn show(plan: &Plan) -> String {
    let pairs = |verb: &str, pairs: &[(usize, netdevice::InterfaceName)]| {
        pairs.iter().map(|(index, name)| format!("{verb} {index}={name}")).collect::<Vec<_>>()
    };
    let removals = plan.remove.iter().map(|index| format!("remove {index}"));
    let keep = pairs("keep", &plan.keep);
    keep.into_iter().chain(removals).chain(pairs("add", &plan.add)).collect::<Vec<_>>().join("; ")
}

fn planned(wanted: &str, present: &[Present], taken: &[&str]) -> String {
    let taken: BTreeSet<_> = taken.iter().map(|name| interface(name)).collect();
    show(&plan(&parsed(wanted), present, &taken))
}

const A1: &str = r#"[{"name":"a","ips":["10.1.0.1/24"]}]"#;
const A2: &str = r#"[{"name":"a","ips":["10.1.0.2/24"]}]"#;

#[test]
fn elements_with_a_name_are_matched_by_network_and_name() {
    let present = [ours("a", "x0"), ours("b", "x1")];
    assert_eq!(planned("a@x0,b@x1", &present, &["eth0"]), "keep 0=x0; keep 1=x1");
    assert_eq!(planned("b@x1,a@x0", &present, &["eth0"]), "keep 0=x1; keep 1=x0");
    assert_eq!(planned("a@x0", &present, &["eth0"]), "keep 0=x0; remove 1");
    assert_eq!(planned("", &present, &["eth0"]), "remove 0; remove 1");
    assert_eq!(planned("a@x2,b@x1", &present, &["eth0"]), "keep 1=x1; remove 0; add 0=x2");
}

#[test]
fn the_same_network_twice_is_two_interfaces() {
    assert_eq!(planned("a@x0,a@x1", &[ours("a", "x0")], &[]), "keep 0=x0; add 1=x1");
    assert_eq!(planned("a,a", &[], &["eth0"]), "add 0=net1; add 1=net2");
    assert_eq!(planned("a,a", &[ours("a", "net1")], &["eth0"]), "keep 0=net1; add 1=net2");
    assert_eq!(planned("a", &[ours("a", "net1"), ours("a", "net2")], &["eth0"]), "keep 0=net1; remove 1");
}

#[test]
fn an_element_without_a_name_gets_the_lowest_free_one() {
    assert_eq!(planned("a", &[], &["eth0"]), "add 0=net1");
    assert_eq!(planned("a", &[], &["net1", "net3"]), "add 0=net2");
    assert_eq!(planned("a,b@net1,c", &[], &[]), "add 0=net2; add 1=net1; add 2=net3");
    assert_eq!(planned("a,b", &[ours("b", "net2")], &[]), "keep 1=net2; add 0=net1");
    // A name that becomes free is used again.
    assert_eq!(planned("b", &[ours("a", "net1")], &[]), "remove 0; add 0=net1");
}

#[test]
fn an_element_without_a_name_keeps_its_name() {
    let present = [ours("a", "net1"), ours("b", "net2"), ours("c", "net3")];
    assert_eq!(planned("c,b", &present, &[]), "keep 0=net3; keep 1=net2; remove 0");
    assert_eq!(planned("d,c,b,a", &present, &[]), "keep 1=net3; keep 2=net2; keep 3=net1; add 0=net4");
    // Its interface got its name from an element that had one.
    assert_eq!(planned("a", &[ours("a", "x0")], &[]), "keep 0=x0");
    // Its interface is named by the user afterwards.
    assert_eq!(planned("a@net1", &[ours("a", "net1")], &[]), "keep 0=net1");
}

#[test]
fn among_equal_networks_the_same_request_is_preferred_and_then_the_lowest_name() {
    let two = format!("[{},{}]", A2.trim_matches(['[', ']']), r#"{"name":"a","ips":["10.1.0.3/24"]}"#);
    let present = [ours(A1, "net1"), ours(A2, "net2")];
    assert_eq!(planned(A2, &present, &[]), "keep 0=net2; remove 0");
    // The second one changed: it is plugged anew under its name.
    assert_eq!(planned(&two, &present, &[]), "keep 0=net2; remove 0; add 1=net1");
    let by_number = [ours("a", "net10"), ours("a", "net9"), ours("a", "x0")];
    assert_eq!(planned("a", &by_number, &[]), "keep 0=net9; remove 0; remove 2");
    // Rather one that is kept, whatever it was made for, than one that is plugged anew.
    assert_eq!(planned(A1, &[ours(A2, "net1"), of_multus("a", "net2")], &[]), "keep 0=net2; remove 0");
}

#[test]
fn a_changed_request_is_plugged_anew_with_the_same_name() {
    assert_eq!(planned(A2, &[ours(A1, "net1")], &[]), "remove 0; add 0=net1");
    let named = r#"[{"name":"a","interface":"x0","mac":"02:00:00:00:00:01"}]"#;
    assert_eq!(planned(named, &[ours("a", "x0")], &[]), "remove 0; add 0=x0");
    assert_eq!(planned(named, &[ours(named, "x0")], &[]), "keep 0=x0");
}

#[test]
fn an_interface_of_multus_is_never_plugged_anew_because_of_a_difference() {
    assert_eq!(planned(A2, &[of_multus("a", "net1")], &[]), "keep 0=net1");
    assert_eq!(planned("b", &[of_multus("a", "net1")], &[]), "remove 0; add 0=net1");
}

#[test]
fn an_interface_that_moves_to_another_network_is_removed_and_added() {
    assert_eq!(planned("b@x0", &[ours("a", "x0")], &[]), "remove 0; add 0=x0");
    // Another element requests the name of an element without one, which then gets another name.
    assert_eq!(planned("a,b@net1", &[ours("a", "net1")], &[]), "remove 0; add 0=net2; add 1=net1");
}

#[test]
fn a_requested_name_that_is_taken_is_added_for_the_caller_to_refuse() {
    assert_eq!(planned("a@x0", &[], &["x0"]), "add 0=x0");
}

#[test]
fn the_same_name_in_another_namespace_is_another_network() {
    let other = Present { network: "other/a".into(), interface: interface("net1"), request: Some(Value::Null) };
    assert_eq!(planned("a", &[other], &[]), "remove 0; add 0=net1");
}
