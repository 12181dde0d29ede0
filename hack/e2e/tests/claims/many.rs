//! More devices than a ResourceSlice takes, and more than a claim takes.

use std::collections::BTreeSet;

use e2e::{ClaimPod, ClaimSpec, DRIVER, Level, wait_for_object};
use serde_json::{Value, json};

use crate::{alone, inside};

/// Missing everywhere: more than 128 devices. And what only one of them is asked for.
#[test]
fn three_hundred_devices_are_in_several_slices_of_one_generation_and_the_last_one_is_given() {
    let node = alone();
    node.sh("for n in $(seq 0 149); do echo \"link add clbig$n type veth peer name clhuge$n\"; echo \"link set clbig$n up\"; echo \"link set clhuge$n up\"; done | ip -batch -");
    let ours = |device: &Value| {
        let name = device["attributes"]["ifName"]["string"].as_str().unwrap_or_default().to_owned();
        Some(name).filter(|name| name.starts_with("clbig") || name.starts_with("clhuge"))
    };
    let count = || node.sliced_devices().iter().filter_map(ours).collect::<BTreeSet<_>>().len();
    wait_for_object("all of them are in slices", count, |count| *count == 300);
    let consistent = |slices: &Value| {
        let slices = slices.as_array().cloned().unwrap_or_default();
        let pools: BTreeSet<String> = slices.iter().map(|slice| slice["spec"]["pool"].to_string()).collect();
        slices.len() >= 3 && pools.len() == 1 && slices[0]["spec"]["pool"]["resourceSliceCount"] == slices.len()
    };
    wait_for_object("one generation, with the right count", || json!(node.slices()), consistent);
    node.apply(&ClaimSpec::device("clhuge149").configure(json!({"name": "net1"})).claim("clbig"));
    node.apply(&ClaimPod::new("clbig", "clbig", Level::Container).manifest());
    node.wait_long_until_ready("clbig");
    assert!(inside(&node, "clbig", "net1").contains("net1"));
    node.delete(&["pod/clbig", "resourceclaim/clbig"]);
    node.sh("for n in $(seq 0 149); do echo \"link delete clbig$n\"; done | ip -batch -");
    wait_for_object("none of them is in a slice", count, |count| *count == 0);
}

/// As many devices as one claim takes.
#[test]
fn a_pod_gets_thirty_two_devices_by_one_claim_and_all_of_them_return() {
    let node = alone();
    node.sh("for n in $(seq 0 31); do echo \"link add clset$n type veth peer name clset$n-p\"; echo \"link set clset$n up\"; echo \"link set clset$n-p up\"; done | ip -batch -");
    let expression = format!("device.attributes[\"{DRIVER}\"].ifName.startsWith(\"clset\")");
    let selectors = json!([{"cel": {"expression": expression}}]);
    let exactly =
        json!({"deviceClassName": DRIVER, "allocationMode": "ExactCount", "count": 32, "selectors": selectors});
    node.apply(&ClaimSpec::default().raw_request(json!({"name": "nic", "exactly": exactly})).claim("clset"));
    node.apply(&ClaimPod::new("clset", "clset", Level::Container).manifest());
    node.wait_long_until_ready("clset");
    let links = node.exec("clset", &["ip", "-o", "link"]).stdout;
    assert_eq!(links.lines().filter(|line| line.contains("clset")).count(), 32, "{links}");
    node.delete(&["pod/clset", "resourceclaim/clset"]);
    for number in 0..32 {
        e2e::wait_for("it is on the node", || node.has_link(&format!("clset{number}")), |there| *there);
    }
    node.sh("for n in $(seq 0 31); do echo \"link delete clset$n\"; done | ip -batch -");
}
