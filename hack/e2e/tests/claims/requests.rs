//! Requests of every kind, and the ResourceSlices that they are chosen from.

use std::collections::BTreeSet;

use e2e::{
    ClaimPod, ClaimSpec, DEVICE_TAINTS, DRIVER, EXTENDED_RESOURCE, Level, RESOURCE_HEALTH, by_name, wait_for_object,
};
use serde_json::{Value, json};

use crate::{inside, side_by_side};

const SLEEP: &str = "trap exit TERM; sleep 1000000 & wait";

/// DRAPrioritizedList: the request of the result is `nic/second`.
#[test]
fn first_available_takes_the_alternative_that_is_there() {
    let node = side_by_side();
    let device = node.add_device_at("clfirst0", "198.51.100.40/24");
    node.wait_until_sliced("clfirst0");
    let alternative = |name: &str, interface: &str| json!({"name": name, "deviceClassName": DRIVER, "selectors": [{"cel": {"expression": by_name(interface)}}]});
    let request = json!({"name": "nic", "firstAvailable": [alternative("first", "clabsent0"), alternative("second", "clfirst0")]});
    let spec = ClaimSpec::default()
        .raw_request(request)
        .configure_request("nic/first", json!({"name": "wrong"}))
        .configure_request("nic/second", json!({"name": "right"}));
    node.apply(&spec.claim("clfirst0"));
    for level in [Level::Container, Level::Pod] {
        node.apply(&ClaimPod::new("clfirst0", "clfirst0", level).manifest());
        node.wait_long_until_ready("clfirst0");
        assert!(inside(&node, "clfirst0", "right").contains("right"));
        node.delete(&["pod/clfirst0"]);
        device.wait_until_free();
    }
    // and a container that names the request alone
    let named = json!([{"name": "nic", "request": "nic"}]);
    let mut pod: Value = serde_json::from_str(
        ClaimPod::new("clfirst0", "clfirst0", Level::Container).manifest().trim_end_matches("---\n"),
    )
    .expect("it is JSON");
    pod["spec"]["containers"][0]["resources"]["claims"] = named;
    node.apply(&pod.to_string());
    node.wait_long_until_ready("clfirst0");
    node.delete(&["pod/clfirst0", "resourceclaim/clfirst0"]);
    device.wait_until_free();
}

/// DRAAdminAccess: the device stays where it is, also when another Pod has it.
#[test]
fn admin_access_never_moves_the_device() {
    let node = side_by_side();
    let device = node.add_device_at("cladmin0", "198.51.100.41/24");
    node.wait_until_sliced("cladmin0");
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "cladmin",
        "labels": {"resource.kubernetes.io/admin-access": "true"}}});
    node.apply(&namespace.to_string());
    let account = || node.get(&["serviceaccount", "default", "--namespace=cladmin"]);
    wait_for_object("the namespace has its service account", account, |it| !it.is_null());
    let exactly = json!({"deviceClassName": DRIVER, "adminAccess": true, "selectors": [{"cel": {"expression": by_name("cladmin0")}}]});
    let spec = ClaimSpec::default().raw_request(json!({"name": "nic", "exactly": exactly}));
    let inside_admin = |manifest: &str| node.kubectl_with(&["apply", "--namespace=cladmin", "--filename=-"], manifest);
    inside_admin(&spec.claim("watcher")).text();
    inside_admin(&ClaimPod::new("watcher", "watcher", Level::Container).manifest()).text();
    let ready = ["wait", "--namespace=cladmin", "--for=condition=Ready", "--timeout=90s", "pod/watcher"];
    let said = node.kubectl(&ready);
    assert!(said.success(), "{said}\n{}", node.kubectl(&["describe", "--namespace=cladmin", "pods"]));
    assert!(device.is_on_node());
    // it hinders nobody
    node.apply(&ClaimSpec::device("cladmin0").configure(json!({"name": "net1"})).claim("cladmin0"));
    node.apply(&ClaimPod::new("cladmin0", "cladmin0", Level::Container).manifest());
    node.wait_long_until_ready("cladmin0");
    assert!(inside(&node, "cladmin0", "net1").contains("net1"));
    node.delete(&["--namespace=cladmin", "pod/watcher", "resourceclaim/watcher"]);
    assert!(inside(&node, "cladmin0", "net1").contains("net1"));
    node.delete(&["pod/cladmin0", "resourceclaim/cladmin0", "namespace/cladmin"]);
    device.wait_until_free();
}

/// DRAExtendedResource: the class has the name, and nobody offers it as a resource.
#[test]
fn a_plain_limit_is_served_by_a_class_with_an_extended_resource_name() {
    let node = side_by_side();
    if !node.can_test("extended resources by a class", &[EXTENDED_RESOURCE]) {
        return;
    }
    let device = node.add_device_at("clext0", "198.51.100.42/24");
    node.wait_until_sliced("clext0");
    let parameters = e2e::device_configuration(json!({"name": "net1", "addresses": ["10.73.0.1/24"]}));
    let class = json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "clext.example.com"},
        "spec": {"selectors": [{"cel": {"expression": format!("device.driver == \"{DRIVER}\"")}}, {"cel": {"expression": by_name("clext0")}}],
            "extendedResourceName": "example.com/clext",
            "config": [{"opaque": {"driver": DRIVER, "parameters": parameters}}]}});
    node.apply(&class.to_string());
    // both names of the class
    for resource in ["example.com/clext", "deviceclass.resource.kubernetes.io/clext.example.com"] {
        node.apply(&ClaimPod::empty("clext0").limited_container("c", resource, 1).manifest());
        let pod = node.wait_long_until_ready("clext0");
        assert!(inside(&node, "clext0", "net1").contains("10.73.0.1/24"));
        assert!(pod["status"]["extendedResourceClaimStatus"]["resourceClaimName"].is_string(), "{pod:#}");
        node.delete(&["pod/clext0"]);
        device.wait_until_free();
    }
    node.delete(&["deviceclass/clext.example.com"]);
}

/// DRADeviceTaints and ResourceHealthStatus: a link that is down is not given, and says so.
#[test]
fn a_device_whose_link_is_down_is_tainted_and_its_pod_shows_it() {
    let node = side_by_side();
    if !node.can_test("taints and health of devices", &[DEVICE_TAINTS, RESOURCE_HEALTH]) {
        return;
    }
    let device = node.add_device_at("cltaint0", "198.51.100.43/24");
    node.wait_until_sliced("cltaint0");
    node.sh("ip link set cltaint0 down");
    let tainted = |it: &Value| {
        it["taints"].as_array().is_some_and(|taints| taints.iter().any(|taint| taint["effect"] == "NoSchedule"))
    };
    node.wait_for_sliced("cltaint0", "is tainted", tainted);
    node.apply(&ClaimSpec::device("cltaint0").configure(json!({"name": "net1"})).claim("cltaint0"));
    node.apply(&ClaimPod::new("cltaint0", "cltaint0", Level::Container).manifest());
    node.wait_for_pod_event("cltaint0", "cannot allocate all claims");
    node.sh("ip link set cltaint0 up; ip address show dev cltaint0 | grep -q 198.51.100.43 || ip address add 198.51.100.43/24 dev cltaint0");
    node.wait_until_sliced("cltaint0");
    node.wait_long_until_ready("cltaint0");
    let health = || {
        let status =
            node.get(&["pod", "cltaint0"])["status"]["containerStatuses"][0]["allocatedResourcesStatus"].clone();
        status[0]["resources"][0].clone()
    };
    let seen = wait_for_object("it is healthy", health, |it| it["health"] == "Healthy");
    assert!(seen["message"].as_str().is_some_and(|message| message.contains("default/cltaint0")), "{seen}");
    node.delete(&["pod/cltaint0", "resourceclaim/cltaint0"]);
    device.wait_until_free();
}

/// DRANET's case 2, and names of all kinds.
#[test]
fn a_device_whose_name_is_no_dns_label_is_given_by_its_attribute() {
    let node = side_by_side();
    for (number, name) in [(44, "clUPPER_0"), (45, "cl.dot.0")] {
        let device = node.add_device_at(name, &format!("198.51.100.{number}/24"));
        let of_name = |it: &Value| it["attributes"]["ifName"]["string"] == name;
        let seen = wait_for_object(
            "it is in a slice",
            || json!(node.sliced_devices()),
            |all| all.as_array().into_iter().flatten().any(of_name),
        );
        let sliced = seen.as_array().into_iter().flatten().find(|it| of_name(it)).cloned().unwrap_or_default();
        let label = sliced["name"].as_str().unwrap_or_default();
        assert!(
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
            "{label}"
        );
        let object = format!("clname{number}");
        node.apply(&ClaimSpec::device(name).configure(json!({"name": "net1"})).claim(&object));
        node.apply(&ClaimPod::new(&object, &object, Level::Container).manifest());
        node.wait_long_until_ready(&object);
        assert!(inside(&node, &object, "net1").contains("net1"));
        node.delete(&[&format!("pod/{object}"), &format!("resourceclaim/{object}")]);
        device.wait_until_home();
    }
}

#[test]
fn the_slices_have_one_pool_of_this_node_and_never_the_uplink() {
    let node = side_by_side();
    let device = node.add_device_at("clslice0", "198.51.100.46/24");
    node.wait_until_sliced("clslice0");
    let slices = node.slices();
    let uid = node.get(&["node", node.name()])["metadata"]["uid"].clone();
    for slice in &slices {
        let (spec, owner) = (&slice["spec"], &slice["metadata"]["ownerReferences"][0]);
        assert_eq!(
            (&spec["driver"], &spec["nodeName"], &spec["pool"]["name"]),
            (&json!(DRIVER), &json!(node.name()), &json!(node.name()))
        );
        assert_eq!((&owner["kind"], &owner["uid"]), (&json!("Node"), &uid), "{slice:#}");
    }
    let devices = node.sliced_devices();
    let names: BTreeSet<&str> = devices.iter().filter_map(|it| it["attributes"]["ifName"]["string"].as_str()).collect();
    assert_eq!(names.len(), devices.len(), "each has its name, and each is there once");
    for never in ["lo", "eth0", "cni0", "clslice0-p"] {
        assert!(!names.contains(never), "{names:?}");
    }
    let keys = |device: &Value| device["attributes"].as_object().map(|it| it.keys().cloned().collect::<BTreeSet<_>>());
    for device in &devices {
        assert_eq!(
            keys(device),
            keys(&devices[0]),
            "an attribute that one device lacks aborts an allocation\n{device:#}"
        );
    }
    drop(device);
    node.wait_until_not_sliced("clslice0");
}

/// Several requests of one claim, with a constraint, and one of them for every device.
#[test]
fn two_requests_with_a_constraint_and_all_devices_of_a_kind() {
    let node = side_by_side();
    let names = ["clcons0", "clcons1"];
    let devices: Vec<_> =
        (47..).zip(names).map(|(number, name)| node.add_device_at(name, &format!("198.51.100.{number}/24"))).collect();
    names.iter().for_each(|name| drop(node.wait_until_sliced(name)));
    let expression = format!("device.attributes[\"{DRIVER}\"].ifName.startsWith(\"clcons\")");
    let exactly =
        json!({"deviceClassName": DRIVER, "allocationMode": "All", "selectors": [{"cel": {"expression": expression}}]});
    node.apply(&ClaimSpec::default().raw_request(json!({"name": "all", "exactly": exactly})).claim("clcons"));
    node.apply(&ClaimPod::empty("clcons").claim("all", "clcons").container("c", SLEEP, &["all"]).manifest());
    node.wait_long_until_ready("clcons");
    for name in names {
        assert!(inside(&node, "clcons", name).contains(name));
    }
    node.delete(&["pod/clcons", "resourceclaim/clcons"]);
    devices.iter().for_each(e2e::Device::wait_until_free);
}
