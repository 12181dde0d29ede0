//! What a user does: a claim or a template, a Pod, and the device in it; and its end.

use e2e::{ClaimPod, ClaimSpec, Level, repository_text, wait_for_object};
use serde_json::{Value, json};

use crate::{inside, side_by_side};

/// The device has the name, the addresses and the MTU of the claim before the first instruction, the status says so, and after
/// the end the device is as it was.
fn a_template(name: &str, level: Level) {
    let node = side_by_side();
    let device = node.add_device_at(name, "198.51.100.1/24");
    let before = node.wait_until_sliced(name);
    let fields = json!({"name": "net1", "addresses": ["10.71.0.2/24", "2001:db8:71::2/64"], "mtu": 1400});
    node.apply(&ClaimSpec::device(name).configure(fields).template(name));
    node.apply(&ClaimPod::of_template(name, name, level).manifest());
    node.wait_long_until_ready(name);
    node.wait_for_logs(&[name], &["net1", "mtu 1400", "inet 10.71.0.2/24", "inet6 2001:db8:71::2/64"]);
    assert!(!device.is_on_node());

    let claim = node.claim_of(name, "nic");
    // it stays listed, and as it was at home
    let now = node.sliced_devices().into_iter().find(|device| device["name"] == name).unwrap_or_default();
    assert_eq!(now["attributes"], before["attributes"]);

    node.delete(&[&format!("pod/{name}"), &format!("resourceclaimtemplate/{name}")]);
    device.wait_until_free();
    assert!(node.claim_files().iter().all(|file| !file.contains(&claim)), "{:?}", node.claim_files());
    wait_for_object("the claim goes with its Pod", || node.get(&["resourceclaim", &claim]), Value::is_null);
}

#[test]
fn a_claim_of_a_template_that_a_container_names() {
    a_template("cltempl0", Level::Container);
}

#[test]
fn a_claim_of_a_template_that_only_the_pod_names() {
    a_template("cltempl1", Level::Pod);
}

/// DRANET's case 13: the next Pod gets the device as it is.
#[test]
fn a_claim_by_name_serves_one_pod_after_the_other() {
    let node = side_by_side();
    let device = node.add_device_at("clnamed0", "198.51.100.2/24");
    node.wait_until_sliced("clnamed0");
    let fields = json!({"name": "net1", "addresses": ["10.71.1.2/24"]});
    node.apply(&ClaimSpec::device("clnamed0").configure(fields).claim("clnamed0"));
    for level in [Level::Container, Level::Pod] {
        node.apply(&ClaimPod::new("clnamed0", "clnamed0", level).manifest());
        node.wait_long_until_ready("clnamed0");
        assert!(inside(&node, "clnamed0", "net1").contains("10.71.1.2/24"));
        node.delete(&["pod/clnamed0"]);
        device.wait_until_free();
        let unused = |claim: &Value| claim["status"]["allocation"].is_null() && claim["status"]["devices"].is_null();
        wait_for_object("the claim is free", || node.get(&["resourceclaim", "clnamed0"]), unused);
    }
    node.delete(&["resourceclaim/clnamed0"]);
}

/// Without a configuration the device is in the Pod as on the host: name, addresses, routes, neighbours.
#[test]
fn a_claim_without_configuration_gives_the_device_as_it_is() {
    let node = side_by_side();
    let device = node.add_device_at("clplain0", "198.51.101.3/24");
    node.sh("ip route add 198.51.102.0/24 via 198.51.101.1 dev clplain0");
    let device = device.as_it_is_now();
    node.wait_until_sliced("clplain0");
    node.apply(&ClaimSpec::device("clplain0").claim("clplain0"));
    node.apply(&ClaimPod::new("clplain0", "clplain0", Level::Pod).manifest());
    node.wait_long_until_ready("clplain0");
    assert!(inside(&node, "clplain0", "clplain0").contains("198.51.101.3/24"));
    let routes = node.exec("clplain0", &["ip", "route"]).stdout;
    assert!(routes.contains("198.51.102.0/24 via 198.51.101.1 dev clplain0"), "{routes}");
    node.delete(&["pod/clplain0", "resourceclaim/clplain0"]);
    device.wait_until_free();
}

/// DRANET's case 12, DDS' case of several VFs.
#[test]
fn two_devices_in_one_claim_and_two_claims_in_one_pod() {
    let node = side_by_side();
    let names = ["clmany0", "clmany1", "clmany2"];
    let devices: Vec<_> = (0..)
        .zip(names)
        .map(|(number, name)| node.add_device_at(name, &format!("198.51.100.{}/24", 10 + number)))
        .collect();
    names.iter().for_each(|name| drop(node.wait_until_sliced(name)));
    let two = ClaimSpec::default()
        .request("a", &e2e::by_name("clmany0"))
        .request("b", &e2e::by_name("clmany1"))
        .configure(json!({"mtu": 1300}))
        .configure_request("a", json!({"name": "neta", "addresses": ["10.71.2.1/24"]}))
        .configure_request("b", json!({"name": "netb", "addresses": ["10.71.3.1/24"]}));
    node.apply(&two.claim("clmany-two"));
    node.apply(&ClaimSpec::device("clmany2").configure(json!({"name": "netc"})).template("clmany-one"));
    let pod = ClaimPod::empty("clmany").claim("two", "clmany-two").template("one", "clmany-one");
    let sleep = "trap exit TERM; sleep 1000000 & wait";
    node.apply(&pod.container("c", sleep, &["two"]).container("d", sleep, &["one"]).manifest());
    node.wait_long_until_ready("clmany");
    let seen = node.exec("clmany", &["ip", "address"]).stdout;
    for text in ["neta", "netb", "netc", "10.71.2.1/24", "10.71.3.1/24"] {
        assert!(seen.contains(text), "{text}: {seen}");
    }
    assert_eq!(seen.matches("mtu 1300").count(), 2, "{seen}");
    node.delete(&["pod/clmany", "resourceclaim/clmany-two", "resourceclaimtemplate/clmany-one"]);
    devices.iter().for_each(e2e::Device::wait_until_free);
}

/// The class' configuration is a base, and the claim's wins field by field.
#[test]
fn the_configurations_of_class_and_claim_are_merged_by_field() {
    let node = side_by_side();
    let device = node.add_device_at("clmerge0", "198.51.100.20/24");
    node.wait_until_sliced("clmerge0");
    let base = e2e::device_configuration(
        json!({"name": "fromclass", "mtu": 1200, "addresses": ["10.71.4.1/24"], "inherit": true}),
    );
    let expression = format!("device.driver == \"{}\"", e2e::DRIVER);
    let class = json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "clmerge.example.com"},
        "spec": {"selectors": [{"cel": {"expression": expression}}],
            "config": [{"opaque": {"driver": e2e::DRIVER, "parameters": base}}]}});
    node.apply(&class.to_string());
    let selector = json!([{"cel": {"expression": e2e::by_name("clmerge0")}}]);
    let request = json!({"name": "nic", "exactly": {"deviceClassName": "clmerge.example.com", "selectors": selector}});
    let spec = ClaimSpec::default()
        .raw_request(request)
        .configure(json!({"mtu": 1500, "inherit": false, "addresses": ["10.71.4.2/24"]}));
    node.apply(&spec.claim("clmerge0"));
    node.apply(&ClaimPod::new("clmerge0", "clmerge0", Level::Container).manifest());
    node.wait_long_until_ready("clmerge0");
    let seen = inside(&node, "clmerge0", "fromclass");
    assert!(seen.contains("mtu 1500") && seen.contains("10.71.4.2/24"), "{seen}");
    assert!(!seen.contains("10.71.4.1") && !seen.contains("198.51.100.20"), "{seen}");
    node.delete(&["pod/clmerge0", "resourceclaim/clmerge0", "deviceclass/clmerge.example.com"]);
    device.wait_until_free();
}

#[test]
fn the_sample_runs() {
    let node = side_by_side();
    let device = node.add_device_at("clsample0", "198.51.100.21/24");
    let speed = node.wait_until_sliced("clsample0")["attributes"]["speed"]["int"].clone();
    assert_eq!(speed, 0, "a virtual device has none");
    let sample = repository_text("hack/samples/claimed-pod.yaml");
    let only = format!("speed >= 0 && {}", e2e::by_name("clsample0"));
    assert!(sample.contains("speed >= 10000"));
    node.apply(&sample.replace("speed >= 10000", &only));
    node.wait_long_until_ready("claimed");
    node.wait_for_logs(&["claimed"], &["net1", "mtu 1400", "inet 10.0.0.2/24"]);
    node.delete(&["pod/claimed", "resourceclaimtemplate/fast"]);
    device.wait_until_free();
}

/// A Deployment: the new Pod waits for the device of the old one.
#[test]
fn a_deployment_that_is_rolled_over_hands_the_device_on() {
    let node = side_by_side();
    let device = node.add_device_at("cldeploy0", "198.51.100.22/24");
    node.wait_until_sliced("cldeploy0");
    node.apply(&ClaimSpec::device("cldeploy0").configure(json!({"name": "net1"})).template("cldeploy0"));
    let pod: Value = serde_json::from_str(
        ClaimPod::of_template("x", "cldeploy0", Level::Container).manifest().trim_end_matches("---\n"),
    )
    .expect("it is JSON");
    let labels = json!({"app": "cldeploy"});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "cldeploy"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "strategy": {"type": "Recreate"},
            "template": {"metadata": {"labels": labels}, "spec": pod["spec"]}}});
    // a Deployment's Pods end by their own time
    node.apply(
        &deployment.to_string().replace("\"terminationGracePeriodSeconds\":1,", "\"terminationGracePeriodSeconds\":0,"),
    );
    let rolled = || node.kubectl(&["rollout", "status", "deployment/cldeploy", "--timeout=60s"]);
    assert!(rolled().success(), "{}", node.kubectl(&["describe", "pods", "--selector=app=cldeploy"]));
    node.kubectl(&["rollout", "restart", "deployment/cldeploy"]).text();
    assert!(rolled().success(), "{}", node.kubectl(&["describe", "pods", "--selector=app=cldeploy"]));
    assert!(!device.is_on_node());
    node.delete(&["deployment/cldeploy", "resourceclaimtemplate/cldeploy0"]);
    node.kubectl(&["wait", "--for=delete", "pod", "--selector=app=cldeploy", "--timeout=60s"]).text();
    device.wait_until_free();
}
