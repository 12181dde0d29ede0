//! Facts about the life of claims: sandboxes and containers that end and start again, Pods that share a claim, two claims for
//! one device, and Pods that are deleted in every way.

use e2e::{ClaimPod, ClaimSpec, Level, wait_for_object};
use serde_json::{Value, json};

use crate::{inside, side_by_side};

const SLEEP: &str = "trap exit TERM; sleep 1000000 & wait";

fn container_id(pod: &Value) -> Value {
    pod["status"]["containerStatuses"][0]["containerID"].clone()
}

/// A new sandbox in the same kubelet life: no Prepare comes.
fn a_new_sandbox(name: &str, level: Level) {
    let node = side_by_side();
    let device = node.add_device_at(name, "198.51.100.30/24");
    node.wait_until_sliced(name);
    node.apply(&ClaimSpec::device(name).configure(json!({"name": "net1", "addresses": ["10.72.0.1/24"]})).claim(name));
    node.apply(&ClaimPod::new(name, name, level).manifest());
    let before = node.wait_long_until_ready(name);
    let first = node.sandbox_of(name);
    node.kill_sandbox(&first);
    let runs_again = |now: &Value| {
        container_id(now) != container_id(&before) && now["status"]["containerStatuses"][0]["ready"] == true
    };
    let now = wait_for_object("it runs again", || node.get(&["pod", name]), runs_again);
    assert_eq!(now["metadata"]["uid"], before["metadata"]["uid"]);
    assert_ne!(node.sandbox_of(name), first);
    assert!(inside(&node, name, "net1").contains("10.72.0.1/24"));
    node.delete(&[&format!("pod/{name}"), &format!("resourceclaim/{name}")]);
    device.wait_until_free();
}

#[test]
fn a_new_sandbox_of_the_pod_has_the_device_again_when_a_container_names_the_claim() {
    a_new_sandbox("clanew0", Level::Container);
}

#[test]
fn a_new_sandbox_of_the_pod_has_the_device_again_when_only_the_pod_names_the_claim() {
    a_new_sandbox("clanew1", Level::Pod);
}

/// Missing everywhere: a container that restarts, and a second container.
#[test]
fn a_container_that_restarts_and_a_second_container_find_the_device_in_its_place() {
    let node = side_by_side();
    let device = node.add_device_at("clagain0", "198.51.100.31/24");
    node.wait_until_sliced("clagain0");
    node.apply(&ClaimSpec::device("clagain0").configure(json!({"name": "net1"})).claim("clagain0"));
    let crash = "ip link show dev net1 && [ -e /tmp/second ] || { touch /tmp/second; exit 3; }";
    let pod = ClaimPod::empty("clagain0").claim("nic", "clagain0");
    // its own file system is new at each start: the other one's network tells how often
    let crash = format!(
        "ip link show dev net1 || exit 9; ip link show dev mark && exec sleep 1000000; ip link add mark type bridge; exit 3; # {crash}"
    );
    let pod =
        pod.container("crashes", &crash, &["nic"]).container("stays", SLEEP, &["nic"]).container("unnamed", SLEEP, &[]);
    let privileged = pod.manifest().replacen(
        "\"name\":\"crashes\"",
        "\"name\":\"crashes\",\"securityContext\":{\"privileged\":true}",
        1,
    );
    node.apply(&privileged);
    let of = |pod: &Value, name: &str| {
        let all = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|it| it["name"] == name).unwrap_or_default()
    };
    let look = || node.get(&["pod", "clagain0"]);
    let seen = wait_for_object("it restarts and stays", look, |pod| {
        of(pod, "crashes")["restartCount"].as_u64() >= Some(1) && of(pod, "crashes")["ready"] == true
    });
    assert_eq!(of(&seen, "crashes")["lastState"]["terminated"]["exitCode"], 3, "{seen:#}");
    assert_eq!(of(&seen, "stays")["restartCount"], 0);
    assert!(node.kubectl(&["exec", "clagain0", "-c", "unnamed", "--", "ip", "link", "show", "dev", "net1"]).success());
    node.delete(&["pod/clagain0", "resourceclaim/clagain0"]);
    device.wait_until_free();
}

/// A second Pod gets no Prepare: it must not run without the device.
fn a_shared_claim(name: &str, level: Level) {
    let node = side_by_side();
    let device = node.add_device_at(name, "198.51.100.32/24");
    node.wait_until_sliced(name);
    node.apply(&ClaimSpec::device(name).configure(json!({"name": "net1"})).claim(name));
    node.apply(&ClaimPod::new(name, name, level).manifest());
    let before = node.wait_long_until_ready(name);
    let second = format!("{name}-2");
    node.apply(&ClaimPod::new(&second, name, level).manifest());
    node.wait_for_pod_event(&second, &format!("default/{name}"));
    let now = node.get(&["pod", &second]);
    assert_ne!(now["status"]["containerStatuses"][0]["ready"], true, "it runs without the device: {now:#}");
    assert_eq!(container_id(&node.get(&["pod", name])), container_id(&before));
    // and it gets the device when the first one ends
    node.delete(&[&format!("pod/{name}")]);
    node.wait_long_until_ready(&second);
    assert!(inside(&node, &second, "net1").contains("net1"));
    node.delete(&[&format!("pod/{second}"), &format!("resourceclaim/{name}")]);
    device.wait_until_free();
}

#[test]
fn a_second_pod_with_the_same_claim_is_refused_with_the_holders_name_by_its_container() {
    a_shared_claim("clshare0", Level::Container);
}

#[test]
fn a_second_pod_with_the_same_claim_is_refused_with_the_holders_name_at_pod_level() {
    a_shared_claim("clshare1", Level::Pod);
}

/// The object goes at once; its device comes later, and the next claim's Prepare may be first.
#[test]
fn a_pod_that_is_force_deleted_hands_its_device_to_the_next_claim() {
    let node = side_by_side();
    let device = node.add_device_at("clforce0", "198.51.100.33/24");
    node.wait_until_sliced("clforce0");
    node.apply(&ClaimSpec::device("clforce0").configure(json!({"name": "net1"})).template("clforce0"));
    let mut last = String::new();
    for number in 0..3 {
        let name = format!("clforce0-{number}");
        let slow = "trap 'sleep 2; exit' TERM; sleep 1000000 & wait";
        let pod = ClaimPod::empty(&name).template("nic", "clforce0").container("c", slow, &["nic"]);
        node.apply(&pod.with("terminationGracePeriodSeconds", json!(5)).manifest());
        node.wait_long_until_ready(&name);
        assert!(inside(&node, &name, "net1").contains("net1"));
        node.kubectl(&["delete", "pod", &name, "--grace-period=0", "--force", "--wait=false"]).text();
        last = name;
    }
    wait_for_object("the last one goes", || node.get(&["pod", &last]), Value::is_null);
    device.wait_until_free();
    node.delete(&["resourceclaimtemplate/clforce0"]);
}

/// Same name of the claim, other UID.
#[test]
fn pods_and_claims_that_are_deleted_and_made_again_by_the_same_names_at_once() {
    let node = side_by_side();
    let device = node.add_device_at("clsame0", "198.51.100.34/24");
    node.wait_until_sliced("clsame0");
    let claim = ClaimSpec::device("clsame0").configure(json!({"name": "net1"})).claim("clsame0");
    let pod = ClaimPod::new("clsame0", "clsame0", Level::Container).manifest();
    for _ in 0..2 {
        node.apply(&claim);
        node.apply(&pod);
        node.wait_long_until_ready("clsame0");
        node.kubectl(&["delete", "pod", "clsame0", "--grace-period=0", "--force", "--wait=false"]).text();
        wait_for_object("the Pod goes", || node.get(&["pod", "clsame0"]), Value::is_null);
        node.delete(&["resourceclaim/clsame0"]);
    }
    device.wait_until_free();
}

/// The Pods of both claims are there; the one without a device is Pending, not refused.
#[test]
fn a_device_is_allocated_to_one_claim_at_a_time() {
    let node = side_by_side();
    let device = node.add_device_at("clone0", "198.51.100.35/24");
    node.wait_until_sliced("clone0");
    node.apply(&ClaimSpec::device("clone0").template("clone0"));
    node.apply(&ClaimPod::of_template("clone0", "clone0", Level::Container).manifest());
    node.wait_long_until_ready("clone0");
    node.apply(&ClaimPod::of_template("clone0-2", "clone0", Level::Container).manifest());
    node.wait_for_pod_event("clone0-2", "cannot allocate all claims");
    node.delete(&["pod/clone0"]);
    node.wait_long_until_ready("clone0-2");
    node.delete(&["pod/clone0-2", "resourceclaimtemplate/clone0"]);
    device.wait_until_free();
}

#[test]
fn a_pod_on_the_nodes_network_is_refused_with_a_reason() {
    let node = side_by_side();
    let device = node.add_device_at("clhost0", "198.51.100.36/24");
    node.wait_until_sliced("clhost0");
    node.apply(&ClaimSpec::device("clhost0").claim("clhost0"));
    for level in [Level::Pod, Level::Container] {
        node.apply(&ClaimPod::new("clhost0", "clhost0", level).with("hostNetwork", json!(true)).manifest());
        node.wait_for_pod_event("clhost0", "hostNetwork");
        assert!(device.is_on_node());
        assert_ne!(node.get(&["pod", "clhost0"])["status"]["phase"], "Running");
        node.delete(&["pod/clhost0"]);
    }
    node.delete(&["resourceclaim/clhost0"]);
    device.wait_until_free();
}
