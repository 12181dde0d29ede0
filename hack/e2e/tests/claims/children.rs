//! Pools of devices that are created: as an extended resource, by claims that share the parent, and by annotation.

use e2e::{CONSUMABLE_CAPACITY, ClaimPod, ClaimSpec, Level, Node, wait_for, wait_for_object};
use serde_json::{Value, json};

use crate::{inside, side_by_side};

/// Whether a link can be allocated several times here.
fn can_share(node: &Node) -> bool {
    node.can_test("several allocations of a link", &[CONSUMABLE_CAPACITY])
}

/// A claim for one device on a parent.
fn of_parent(parent: &str) -> ClaimSpec {
    ClaimSpec::device(parent)
}

/// The names of the interfaces in the status of a claim, with the kind of its shares.
fn names(claim: &Value) -> Vec<String> {
    let entries = claim["status"]["devices"].as_array().cloned().unwrap_or_default();
    let name = |entry: &Value| {
        assert!(entry["shareID"].is_string(), "{entry}");
        entry["networkData"]["interfaceName"].as_str().unwrap_or_default().to_owned()
    };
    entries.iter().map(name).collect()
}

#[test]
fn a_parent_is_allocated_until_its_devices_are_used_up_and_stays_on_the_node() {
    let node = side_by_side();
    if !can_share(&node) {
        return;
    }
    let parent = node.add_device_at("clparent0", "198.51.100.91/24");
    let sliced = node.wait_until_sliced("clparent0");
    assert_eq!(sliced["allowMultipleAllocations"], true, "{sliced}");
    assert_eq!(sliced["capacity"]["children"]["value"], "2", "{sliced}");
    node.apply(&of_parent("clparent0").configure(json!({"addresses": ["198.51.100.92/24"]})).template("clparent"));
    for (pod, level) in [("clparent-a", Level::Container), ("clparent-b", Level::Pod)] {
        node.apply(&ClaimPod::of_template(pod, "clparent", level).manifest());
        node.wait_long_until_ready(pod);
    }
    assert!(node.has_link("clparent0"));
    assert!(inside(&node, "clparent-a", "clparent0-1").contains("198.51.100.92/24"));
    assert!(inside(&node, "clparent-b", "clparent0-2").contains("198.51.100.92/24"));
    let claim = node.claim_of("clparent-a", "nic");
    let status = || node.get(&["resourceclaim", &claim]);
    wait_for_object("the status names the interface", status, |claim| names(claim) == ["clparent0-1"]);

    // the third one waits until one of them has ended
    node.apply(&ClaimPod::of_template("clparent-c", "clparent", Level::Container).manifest());
    node.wait_for_pod_event("clparent-c", "cannot allocate all claims");
    node.delete(&["pod/clparent-a"]);
    node.wait_long_until_ready("clparent-c");
    assert!(inside(&node, "clparent-c", "clparent0-1").contains("198.51.100.92/24"));
    assert!(node.has_link("clparent0"));
    node.delete(&["pod/clparent-b", "pod/clparent-c", "resourceclaimtemplate/clparent"]);
    let records = || node.sh("ls /run/netdevice /run/netdevice/reservations").stdout;
    wait_for("nothing is left of the devices", records, |files| !files.contains("clparent0"));
    parent.wait_until_free();
}

/// The scheduler takes a device once for a claim, whatever its capacity is.
#[test]
fn two_claims_of_a_pod_have_devices_of_one_parent_under_their_own_names() {
    let node = side_by_side();
    if !can_share(&node) {
        return;
    }
    let parent = node.add_device_at("clparent1", "198.51.100.93/24");
    node.wait_until_sliced("clparent1");
    for claim in ["clparent1-a", "clparent1-b"] {
        node.apply(&of_parent("clparent1").claim(claim));
    }
    let pod = ClaimPod::empty("clparent1").claim("a", "clparent1-a").claim("b", "clparent1-b");
    node.apply(&pod.container("c", "trap exit TERM; sleep 1000000 & wait", &["a", "b"]).manifest());
    node.wait_long_until_ready("clparent1");
    for name in ["clparent1-1", "clparent1-2"] {
        assert!(inside(&node, "clparent1", name).contains(name));
    }
    let status = |claim: &str| names(&node.get(&["resourceclaim", claim]));
    let both = || [status("clparent1-a"), status("clparent1-b")].concat();
    wait_for("each claim has its interface", both, |names| {
        names.len() == 2 && ["clparent1-1", "clparent1-2"].iter().all(|name| names.iter().any(|it| it == name))
    });
    node.delete(&["pod/clparent1", "resourceclaim/clparent1-a", "resourceclaim/clparent1-b"]);
    parent.wait_until_free();
}

#[test]
fn a_claim_may_say_what_the_pool_creates_and_nothing_else() {
    let node = side_by_side();
    let parent = node.add_device_at("clparent2", "198.51.100.94/24");
    node.wait_until_sliced("clparent2");
    let create = |kind: Value| of_parent("clparent2").configure(json!({"name": "net1", "create": kind}));
    node.apply(&create(json!({"kind": "macvlan", "mode": "private"})).claim("clparent2-other"));
    node.apply(&ClaimPod::new("clparent2-other", "clparent2-other", Level::Container).manifest());
    node.wait_for_pod_event("clparent2-other", "offers macvlan/bridge devices, and macvlan/private is requested");
    node.delete(&["pod/clparent2-other", "resourceclaim/clparent2-other"]);
    node.apply(&create(json!({"kind": "macvlan"})).claim("clparent2"));
    node.apply(&ClaimPod::new("clparent2", "clparent2", Level::Container).manifest());
    node.wait_long_until_ready("clparent2");
    assert!(inside(&node, "clparent2", "net1").contains("net1"));
    node.delete(&["pod/clparent2", "resourceclaim/clparent2"]);
    parent.wait_until_free();
}

/// The device plugin offers them: no claim has a part in it.
#[test]
fn devices_that_are_created_are_an_extended_resource_and_end_with_their_container() {
    let node = side_by_side();
    let parents = ["clkids0", "clkids1"].map(|name| node.add_device_at(name, "198.51.100.95/24"));
    let capacity = || node.get(&["node", node.name()])["status"]["allocatable"]["example.com/kids"].clone();
    wait_for("the node has two devices of each link", capacity, |count| *count == "4");
    node.apply(&ClaimPod::empty("clkids").limited_container("c", "example.com/kids", 2).manifest());
    node.wait_long_until_ready("clkids");
    // of different links
    let variables = node.exec("clkids", &["env"]).text().to_owned();
    let of_both =
        |line: &&str| line.starts_with("EXAMPLE_COM_KIDS=") && line.contains("clkids0-") && line.contains("clkids1-");
    let line = variables.lines().find(of_both).unwrap_or_else(|| panic!("{variables}")).to_owned();
    for name in line.trim_start_matches("EXAMPLE_COM_KIDS=").split(' ') {
        let link = node.exec("clkids", &["ip", "link", "show", "dev", name]).text().to_owned();
        assert!(link.contains("UP"), "{link}");
    }
    assert!(node.has_link("clkids0") && node.has_link("clkids1"));
    // two are left, and an annotation may have one of them, which the kubelet then does not give away
    let annotation = json!({"netdevices.nri.containerd.io": "[{pool: kids, new_name: net1}]"});
    let mut pod: Value = serde_json::from_str(
        ClaimPod::empty("clkids-b").container("c", "sleep 1000000", &[]).manifest().trim_end_matches("---\n"),
    )
    .unwrap();
    pod["metadata"]["annotations"] = annotation;
    node.apply(&pod.to_string());
    node.wait_long_until_ready("clkids-b");
    wait_for("one less can be allocated", capacity, |count| *count == "3");
    node.delete(&["pod/clkids", "pod/clkids-b"]);
    wait_for("all can be allocated again", capacity, |count| *count == "4");
    parents.iter().for_each(e2e::Device::wait_until_free);
}
