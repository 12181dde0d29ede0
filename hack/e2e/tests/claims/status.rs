//! The status of claims: where each device is, and why one is not attached.

use e2e::{ClaimPod, ClaimSpec, DRIVER, Level, wait_for_object};
use serde_json::{Value, json};

use crate::side_by_side;

/// DRANET's cases 1 and 12: all addresses of the device, with their prefixes, its name and its hardware address.
#[test]
fn the_status_has_name_addresses_and_hardware_address_of_each_device_and_is_ready() {
    let node = side_by_side();
    let devices = [(60, "clstat0"), (61, "clstat1")]
        .map(|(number, name)| node.add_device_at(name, &format!("198.51.100.{number}/24")));
    ["clstat0", "clstat1"].iter().for_each(|name| drop(node.wait_until_sliced(name)));
    let spec = ClaimSpec::default()
        .request("a", &e2e::by_name("clstat0"))
        .request("b", &e2e::by_name("clstat1"))
        .configure_request("a", json!({"name": "neta", "addresses": ["10.80.0.2/24", "2001:db8:80::2/64"]}))
        .configure_request("b", json!({"name": "netb", "addresses": ["169.254.169.13/32"]}));
    node.apply(&spec.claim("clstat"));
    for level in [Level::Container, Level::Pod] {
        node.apply(&ClaimPod::new("clstat", "clstat", level).manifest());
        node.wait_long_until_ready("clstat");
        let both = |devices: &Value| {
            let ready = |device: &Value| {
                device["conditions"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|it| it["type"] == "Ready" && it["status"] == "True")
            };
            devices.as_array().is_some_and(|devices| devices.len() == 2 && devices.iter().all(ready))
        };
        let look = || node.get(&["resourceclaim", "clstat"])["status"]["devices"].clone();
        let status = wait_for_object("both devices are Ready", look, both);
        for (name, wanted) in [("neta", &["10.80.0.2/24", "2001:db8:80::2/64"][..]), ("netb", &["169.254.169.13/32"])] {
            let entry = status.as_array().into_iter().flatten().find(|it| it["networkData"]["interfaceName"] == name);
            let network = entry.unwrap_or_else(|| panic!("{name}: {status:#}"))["networkData"].clone();
            let ips = network["ips"].as_array().cloned().unwrap_or_default();
            assert!(wanted.iter().all(|ip| ips.contains(&json!(ip))), "{network:#}");
            let link = node.pod_network("clstat").interface(name).expect("it is there");
            assert_eq!(network["hardwareAddress"], link["address"], "{network:#}");
        }
        node.delete(&["pod/clstat"]);
        devices.iter().for_each(e2e::Device::wait_until_free);
        let unused = |claim: &Value| claim["status"]["allocation"].is_null() && claim["status"]["devices"].is_null();
        wait_for_object("the claim is free", || node.get(&["resourceclaim", "clstat"]), unused);
    }
    node.delete(&["resourceclaim/clstat"]);
}

#[test]
fn a_claim_that_cannot_be_prepared_is_not_ready_and_says_why() {
    let node = side_by_side();
    let device = node.add_device_at("clnotready0", "198.51.100.62/24");
    node.wait_until_sliced("clnotready0");
    node.apply(&ClaimSpec::device("clnotready0").configure(json!({"mtu": 67})).claim("clnotready0"));
    node.apply(&ClaimPod::new("clnotready0", "clnotready0", Level::Container).manifest());
    node.wait_for_condition("clnotready0", "False", "mtu");
    node.delete(&["pod/clnotready0", "resourceclaim/clnotready0"]);
    device.wait_until_free();
}

#[test]
fn a_second_pod_that_is_refused_does_not_touch_the_holders_status() {
    let node = side_by_side();
    let device = node.add_device_at("clholder0", "198.51.100.63/24");
    node.wait_until_sliced("clholder0");
    node.apply(&ClaimSpec::device("clholder0").configure(json!({"name": "net1"})).claim("clholder0"));
    node.apply(&ClaimPod::new("clholder0", "clholder0", Level::Pod).manifest());
    node.wait_long_until_ready("clholder0");
    let status = node.wait_for_condition("clholder0", "True", "");
    node.apply(&ClaimPod::new("clholder0-2", "clholder0", Level::Pod).manifest());
    node.wait_for_pod_event("clholder0-2", "default/clholder0");
    assert_eq!(node.get(&["resourceclaim", "clholder0"])["status"]["devices"], status);
    node.delete(&["pod/clholder0-2", "pod/clholder0", "resourceclaim/clholder0"]);
    device.wait_until_free();
}

/// Keys in any order and with spaces: the status is written all the same, or reported.
#[test]
fn parameters_with_unsorted_keys_do_not_hinder_the_status() {
    let node = side_by_side();
    let device = node.add_device_at("clkeys0", "198.51.100.52/24");
    node.wait_until_sliced("clkeys0");
    let spec = ClaimSpec::device("clkeys0").configure(json!({"name": "net1"}));
    let text = spec.claim("clkeys0");
    let sorted = format!("{{\"apiVersion\":\"{DRIVER}/v1alpha1\",\"kind\":\"DeviceConfiguration\",\"name\":\"net1\"}}");
    assert!(text.contains(&sorted), "{text}");
    let unsorted =
        format!("{{\"name\":\"net1\",\"kind\":\"DeviceConfiguration\",\"apiVersion\":\"{DRIVER}/v1alpha1\"}}");
    let body = text.replace(&sorted, &unsorted).replace("\n---\n", "");
    node.kubectl_with(
        &["create", "--raw=/apis/resource.k8s.io/v1/namespaces/default/resourceclaims", "--filename=-"],
        &body,
    )
    .text();
    node.apply(&ClaimPod::new("clkeys0", "clkeys0", Level::Container).manifest());
    node.wait_long_until_ready("clkeys0");
    node.wait_for_condition("clkeys0", "True", "");
    node.delete(&["pod/clkeys0", "resourceclaim/clkeys0"]);
    device.wait_until_free();
}
