//! Explanations for the node of the fixture.

use super::*;
use crate::fixture;

fn explained(name: &str, pools: Option<&str>) -> String {
    match text(name, &fixture::node(pools), |_| true) {
        Ok(text) => text,
        Err(error) => format!("error: {error:#}\n"),
    }
}

#[test]
fn each_rule_is_named_with_its_finding() {
    let names = ["eth1", "eth2", "eth0", "eth-port", "other0", "x:eth:c3:a9", "eth\u{e9}", "fast-one"];
    let texts: Vec<String> =
        names.iter().map(|name| format!("$ {name}\n{}", explained(name, Some(fixture::POOLS)))).collect();
    insta::assert_snapshot!("rules", texts.join("\n"));
}

#[test]
fn attached_unreadable_and_missing_devices_are_named() {
    let names = ["ens1f0v3", "eth9", "nothing", "no/name"];
    let texts: Vec<String> =
        names.iter().map(|name| format!("$ {name}\n{}", explained(name, Some(fixture::POOLS)))).collect();
    insta::assert_snapshot!("records", texts.join("\n"));
}

#[test]
fn without_pools_it_says_where_they_were_looked_for() {
    let text = explained("eth1", None);
    assert!(
        text.contains("no   a pool selects it: no pools are known, /run/netdevice/config.yaml does not exist"),
        "{text}"
    );
}

#[test]
fn a_device_that_waits_for_its_name_is_explained_by_both_names() {
    let mut node = fixture::node(Some(fixture::POOLS));
    node.waiting.insert("other0".parse().unwrap(), "eth7".parse().unwrap());
    for name in ["other0", "eth7"] {
        let text = text(name, &node, |_| false).unwrap();
        assert!(text.starts_with("eth7 is on the host as other0: its own name was taken"), "{text}");
    }
}

#[test]
fn who_has_reserved_a_device_is_named() {
    let mut node = fixture::node(Some(fixture::POOLS));
    node.reservations = fixture::reservations(&["eth1", "ens1f0v3"]);
    let text = |name| text(name, &node, |_| false).unwrap();
    let reserved = "eth1 is reserved for a pod that the kubelet has not started yet, and not attached yet\n";
    assert!(text("eth1").starts_with(reserved), "{}", text("eth1"));
    assert!(!text("ens1f0v3").contains("reserved"), "it is attached");
}

#[test]
fn a_device_in_a_resource_slice_is_explained_with_its_taint() {
    let pools = "pools:\n- {resource: example.com/fast, select: {names: [eth]}, offer: claims}\n";
    let text = |name: &str| explained(name, Some(pools));
    assert!(text("eth1").starts_with("eth1 is in the ResourceSlices of the node as eth1\n"), "{}", text("eth1"));
    let down = "eth2 is in the ResourceSlices of the node as eth2, with a taint: the interface is down: set it up";
    assert!(text("eth2").starts_with(down), "{}", text("eth2"));
    let escaped = "x:eth:c3:a9 is in the ResourceSlices of the node as x-eth-c3-a9\n";
    assert!(text("eth\u{e9}").starts_with(escaped), "{}", text("eth\u{e9}"));
    assert!(!text("eth0").contains("ResourceSlices"), "{}", text("eth0"));
    assert!(!explained("eth1", Some(fixture::POOLS)).contains("ResourceSlices"));
}
