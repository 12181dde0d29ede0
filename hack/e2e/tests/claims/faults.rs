//! Bad input, and what cannot be given: one clear line, nothing lost, nothing given twice.

use e2e::{ClaimPod, ClaimSpec, DRIVER, Level, device_configuration};
use serde_json::{Value, json};

use crate::{inside, side_by_side};

/// What is wrong with the values: the admission policy passes it, and Prepare refuses it with these words.
#[test]
fn every_wrong_value_is_refused_by_prepare_with_the_field_and_the_rule() {
    let node = side_by_side();
    let device = node.add_device_at("clwrong0", "198.51.100.50/24");
    node.wait_until_sliced("clwrong0");
    let cases = [
        ("name16", json!({"name": "sixteen-bytes-xx"}), "name"),
        ("mtu", json!({"mtu": 67}), "mtu"),
        ("mtuv6", json!({"mtu": 1279, "addresses": ["2001:db8:50::1/64"]}), "mtu"),
        ("mac", json!({"mac": "01:00:5e:00:00:01"}), "mac"),
        ("twice", json!({"addresses": ["10.74.0.1/24", "10.74.0.1/24"]}), "addresses[1]"),
        ("prefix", json!({"addresses": ["10.74.0.1/33"]}), "addresses[0]"),
        ("route", json!({"routes": [{"to": "10.74.0.0/24"}, {"to": "x"}]}), "routes[1]"),
        ("eth0", json!({"name": "eth0"}), "eth0"),
        ("type", json!({"mtu": "1500"}), "mtu"),
    ];
    for (name, fields, words) in &cases {
        let object = format!("clwrong-{name}");
        node.apply(&ClaimSpec::device("clwrong0").configure(fields.clone()).claim(&object));
        node.apply(&ClaimPod::new(&object, &object, Level::Container).manifest());
        let line = node.wait_for_pod_event(&object, words);
        assert!(line.len() < 1024, "{line}");
        assert!(device.is_on_node(), "{name}");
        node.delete(&[&format!("pod/{object}"), &format!("resourceclaim/{object}")]);
    }
    device.wait_until_free();
}

/// What the policy would refuse, where there is no policy: an unknown field with the nearest known one, 10 KiB, bytes that are
/// not UTF-8 and keys in any order are the parser's own tests.
#[test]
fn a_configuration_for_another_driver_and_an_empty_one_are_skipped() {
    let node = side_by_side();
    let device = node.add_device_at("clother0", "198.51.100.51/24");
    node.wait_until_sliced("clother0");
    let spec = ClaimSpec::device("clother0").configure(json!({"name": "net1"}));
    let mut claim: Value = serde_json::from_str(spec.claim("clother0").trim_end_matches("---\n")).expect("it is JSON");
    let other = json!({"opaque": {"driver": "other.example.com", "parameters": {"name": 1}}});
    if let Some(config) = claim["spec"]["devices"]["config"].as_array_mut() {
        config.push(other);
        // for a request that is not ours it is refused by the API server; 30 more that are empty
        (0..30).for_each(|_| {
            config.push(json!({"opaque": {"driver": DRIVER, "parameters": device_configuration(json!({}))}}))
        });
    }
    node.apply(&claim.to_string());
    node.apply(&ClaimPod::new("clother0", "clother0", Level::Pod).manifest());
    node.wait_long_until_ready("clother0");
    assert!(inside(&node, "clother0", "net1").contains("net1"));
    node.delete(&["pod/clother0", "resourceclaim/clother0"]);
    device.wait_until_free();
}

/// Several claims, one of which fails: all or none, and the good one is not lost.
#[test]
fn a_pod_with_one_bad_claim_does_not_start_and_the_good_one_stays_reserved() {
    let node = side_by_side();
    let devices = [(53, "clgood0"), (54, "clbad0")]
        .map(|(number, name)| node.add_device_at(name, &format!("198.51.100.{number}/24")));
    ["clgood0", "clbad0"].iter().for_each(|name| drop(node.wait_until_sliced(name)));
    node.apply(&ClaimSpec::device("clgood0").configure(json!({"name": "net1"})).claim("clgood0"));
    node.apply(&ClaimSpec::device("clbad0").configure(json!({"name": "net2", "mtu": 1})).claim("clbad0"));
    let sleep = "trap exit TERM; sleep 1000000 & wait";
    let pod = ClaimPod::empty("clgood0").claim("good", "clgood0").claim("bad", "clbad0");
    node.apply(&pod.container("c", sleep, &["good", "bad"]).manifest());
    node.wait_for_pod_event("clgood0", "mtu");
    assert!(devices.iter().all(e2e::Device::is_on_node));
    node.delete(&["pod/clgood0"]);
    // and each of them is free
    node.apply(&ClaimPod::new("clgood0", "clgood0", Level::Container).manifest());
    node.wait_long_until_ready("clgood0");
    node.delete(&["pod/clgood0", "resourceclaim/clgood0", "resourceclaim/clbad0"]);
    devices.iter().for_each(e2e::Device::wait_until_free);
}

/// Two devices of one Pod with one name; and a name that the Pod's own network has.
#[test]
fn two_devices_that_want_one_name_are_refused() {
    let node = side_by_side();
    let devices = [(55, "clsamen0"), (56, "clsamen1")]
        .map(|(number, name)| node.add_device_at(name, &format!("198.51.100.{number}/24")));
    ["clsamen0", "clsamen1"].iter().for_each(|name| drop(node.wait_until_sliced(name)));
    let spec = ClaimSpec::default().request("a", &e2e::by_name("clsamen0")).request("b", &e2e::by_name("clsamen1"));
    node.apply(&spec.configure(json!({"name": "net1"})).claim("clsamen"));
    node.apply(&ClaimPod::new("clsamen", "clsamen", Level::Container).manifest());
    node.wait_for_pod_event("clsamen", "net1");
    assert!(devices.iter().all(e2e::Device::is_on_node));
    node.delete(&["pod/clsamen", "resourceclaim/clsamen"]);
    devices.iter().for_each(e2e::Device::wait_until_free);
}

/// A device that vanishes between the allocation and Prepare is told, and a Pod gets it when it is there again.
#[test]
fn a_device_that_is_gone_is_named_and_given_when_it_is_back() {
    let node = side_by_side();
    let device = node.add_device_at("clgone0", "198.51.100.57/24");
    node.wait_until_sliced("clgone0");
    node.apply(&ClaimSpec::device("clgone0").configure(json!({"name": "net1"})).claim("clgone0"));
    // allocated by a first Pod that cannot run here
    let pod = ClaimPod::new("clgone0", "clgone0", Level::Container);
    node.apply(&pod.clone().with("hostNetwork", json!(true)).manifest());
    node.wait_for_pod_event("clgone0", "hostNetwork");
    drop(device);
    node.wait_until_not_sliced("clgone0");
    node.apply(&pod.manifest().replace("\"name\":\"clgone0\"},\"spec\"", "\"name\":\"clgone0-2\"},\"spec\""));
    node.wait_for_pod_event("clgone0-2", "clgone0");
    let device = node.add_device_at("clgone0", "198.51.100.57/24");
    node.delete(&["pod/clgone0"]);
    node.wait_long_until_ready("clgone0-2");
    assert!(inside(&node, "clgone0-2", "net1").contains("198.51.100.57").eq(&false));
    node.delete(&["pod/clgone0-2", "resourceclaim/clgone0"]);
    device.wait_until_home();
}

/// What is not selected is in no slice, and so no claim can have it.
#[test]
fn a_claim_for_the_uplink_is_never_allocated() {
    let node = side_by_side();
    node.apply(&ClaimSpec::device("eth0").claim("cluplink"));
    node.apply(&ClaimPod::new("cluplink", "cluplink", Level::Container).manifest());
    node.wait_for_pod_event("cluplink", "cannot allocate all claims");
    assert!(node.has_link("eth0"));
    node.delete(&["pod/cluplink", "resourceclaim/cluplink"]);
}
