//! The objects of install-dra.yaml, by a real API server: access rights, admission policies, and the fields that they know.

use e2e::{ClaimSpec, DRIVER, Node, Output, device_configuration, repository_text, wait_for};
use serde_json::{Value, json};

use crate::{cluster, cluster_alone};

/// The DeviceClass, the claim or the template is refused at once, with these words.
#[track_caller]
fn refused(node: &Node, manifest: &str, words: &str) -> Output {
    let said = node.kubectl_with(&["create", "--dry-run=server", "--filename=-"], manifest);
    assert!(!said.success() && said.stderr.contains(words), "it does not say {words:?}\n{said}\n{manifest}");
    said
}

#[track_caller]
fn accepted(node: &Node, manifest: &str) {
    let said = node.kubectl_with(&["create", "--dry-run=server", "--filename=-"], manifest);
    assert!(said.success(), "{said}\n{manifest}");
}

fn slice(name: &str, node: &str, driver: &str) -> String {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name},
        "spec": {"driver": driver, "nodeName": node, "devices": [{"name": "eth9"}],
            "pool": {"name": format!("pool-of-{name}"), "generation": 1, "resourceSliceCount": 1}}})
    .to_string()
}

fn class(parameters: &Value) -> String {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "checked.example.com"},
        "spec": {"config": [{"opaque": {"driver": DRIVER, "parameters": parameters}}]}})
    .to_string()
}

#[test]
fn the_policies_compile_without_a_warning_and_the_daemonset_is_accepted() {
    let node = cluster();
    let policies = || node.get(&["validatingadmissionpolicies", "--selector=app.kubernetes.io/name=netdevice-agent"]);
    let checked = |list: &Value| {
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.len() == 2 && items.iter().all(|policy| policy["status"]["typeChecking"].is_object())
    };
    let list = wait_for("both are checked", policies, checked);
    for policy in list["items"].as_array().into_iter().flatten() {
        assert!(policy["status"]["typeChecking"]["expressionWarnings"].is_null(), "{policy:#}");
    }
    let install = repository_text("install-dra.yaml");
    let said = node.kubectl_with(&["apply", "--dry-run=server", "--filename=-"], &install);
    assert!(said.text().contains("daemonset.apps/netdevice-agent created"), "{said}");
}

#[test]
fn a_wrong_field_is_refused_when_the_claim_the_template_or_the_class_is_written() {
    let node = cluster();
    let of = |fields: Value| ClaimSpec::device("eth1").configure(fields);
    let nested = json!({"routes": [{"to": "10.0.0.0/8"}, {"too": "10.1.0.0/16"}]});
    for (fields, words) in [
        (json!({"nmae": "net1"}), "unknown field \"nmae\" in the parameters for driver netdevice.networking.k8s.io"),
        (nested, "unknown field \"routes.too\" in the parameters for driver netdevice.networking.k8s.io"),
        (
            json!({"kind": "Config"}),
            "must have apiVersion: netdevice.networking.k8s.io/v1alpha1 and kind: DeviceConfiguration",
        ),
        (
            json!({"apiVersion": 1}),
            "must have apiVersion: netdevice.networking.k8s.io/v1alpha1 and kind: DeviceConfiguration",
        ),
    ] {
        refused(&node, &of(fields.clone()).claim("wrong"), words);
        refused(&node, &of(fields.clone()).template("wrong"), words);
        let said = refused(&node, &class(&device_configuration(fields)), words);
        assert!(said.stderr.trim_end().lines().count() == 1 && said.stderr.len() < 1500, "{said}");
    }
    refused(&node, &ClaimSpec::device("eth1").parameters(&[], json!({})).claim("wrong"), "must have apiVersion");
    let good = json!({"name": "net1", "routes": [{"to": "10.0.0.0/8"}], "mtu": 0});
    accepted(&node, &of(good.clone()).claim("good"));
    accepted(&node, &of(good.clone()).template("good"));
    accepted(&node, &class(&device_configuration(good)));
    // what is of another type than the field's is the agent's to refuse
    accepted(&node, &of(json!({"routes": [1, "a", null], "addresses": {}, "mtu": "x"})).claim("types"));
}

#[test]
fn parameters_of_other_drivers_are_not_looked_at_and_ten_kibibytes_are_checked() {
    let node = cluster();
    let mut others = ClaimSpec::device("eth1");
    for number in 0..31 {
        others = others.parameters(&[], device_configuration(json!({"name": format!("net{number}")})));
    }
    let text = others.claim("others").replacen(&format!("\"driver\":\"{DRIVER}\""), "\"driver\":\"a.example.com\"", 1);
    let text = text.replacen("\"kind\":\"DeviceConfiguration\"", "\"other\":true", 1);
    accepted(&node, &text);
    let routes: Vec<Value> = (0..400).map(|_| json!({"to": "10.0.0.0/8"})).collect();
    accepted(&node, &ClaimSpec::device("eth1").configure(json!({"routes": routes})).claim("long"));
    let mut many = json!({});
    for number in 0..900 {
        many[format!("f{number:04}")] = json!(1);
    }
    refused(&node, &ClaimSpec::device("eth1").configure(many).claim("many"), "unknown field \"f0");
}

#[test]
fn an_object_that_is_older_than_the_policy_can_still_change_and_be_deleted() {
    let node = cluster_alone();
    let binding = "validatingadmissionpolicybinding/configuration.netdevice.networking.k8s.io";
    let without = node.claims_objects();
    let policy = without.split("\n---\n").find(|text| {
        text.contains("kind: ValidatingAdmissionPolicyBinding") && text.contains("name: configuration.netdevice")
    });
    node.delete(&[binding]);
    let manifest = ClaimSpec::device("eth1").configure(json!({"oldField": 1})).claim("older");
    let create = || node.kubectl_with(&["create", "--filename=-"], &manifest).success();
    wait_for("the policy is not applied", create, |created| *created);
    node.apply(policy.expect("the binding is in the file"));
    let other = ClaimSpec::device("eth1").configure(json!({"oldField": 1})).claim("newer");
    let dry = || node.kubectl_with(&["create", "--dry-run=server", "--filename=-"], &other).success();
    wait_for("the policy is applied", dry, |created| !*created);
    node.kubectl(&["label", "resourceclaim", "older", "a=b"]).text();
    node.delete(&["resourceclaim/older"]);
}

#[test]
fn the_agents_account_writes_slices_of_its_own_node_and_driver_only() {
    let node = cluster();
    let name = node.name();
    let token = node.agent_token(name);
    let create = ["create", "--filename=-"];
    let own = format!("own-{name}");
    let text = slice(&own, name, DRIVER);
    let denied =
        || node.kubectl_as_agent(&token, &["create", "--dry-run=server", "--filename=-"], &slice("o", "other", DRIVER));
    let said = wait_for("the policy is applied", denied, |said| !said.success());
    let words = format!("netdevice-agent on node {name} may write only ResourceSlices with spec.nodeName {name}");
    assert!(said.stderr.contains(&words), "{said}");
    let said = node.kubectl_as_agent(&token, &create, &slice("o", name, "other.example.com"));
    assert!(said.stderr.contains("may write only ResourceSlices of the driver"), "{said}");
    // not even to delete one
    node.apply(&slice("of-other", "other", DRIVER));
    let said = node.kubectl_as_agent(&token, &["delete", "resourceslice", "of-other"], "");
    assert!(said.stderr.contains(&words), "{said}");
    node.delete(&["resourceslice/of-other"]);
    // a token that names no node
    let args = ["create", "token", "--namespace=kube-system", "netdevice-agent"];
    let unbound = node.kubectl(&args).text().to_owned();
    let said = node.kubectl_as_agent(&unbound, &create, &text);
    assert!(said.stderr.contains("the token of netdevice-agent does not name a node"), "{said}");
    // its own, by a token as a Pod has it
    let said = node.kubectl_as_agent(&token, &["create", "--dry-run=server", "--filename=-"], &text);
    assert!(said.success(), "{said}");
}

#[test]
fn the_agents_account_has_no_other_rights() {
    let node = cluster();
    let user = format!("--as={}", node.agent_user());
    let can = |args: &[&str]| {
        node.kubectl(&[&["auth", "can-i", &user, "--all-namespaces"], args].concat()).stdout.trim() == "yes"
    };
    for (verb, resource) in [
        ("get", "nodes"),
        ("list", "resourceslices.resource.k8s.io"),
        ("watch", "resourceslices.resource.k8s.io"),
        ("get", "resourceclaims.resource.k8s.io"),
        ("get", "pods"),
        ("create", "events.events.k8s.io"),
    ] {
        assert!(can(&[verb, resource]), "{verb} {resource}");
    }
    assert!(can(&["patch", "resourceclaims.resource.k8s.io", "--subresource=status"]));
    for (verb, resource) in [
        ("list", "nodes"),
        ("list", "pods"),
        ("list", "resourceclaims.resource.k8s.io"),
        ("watch", "resourceclaims.resource.k8s.io"),
        ("update", "resourceclaims.resource.k8s.io"),
        ("deletecollection", "resourceslices.resource.k8s.io"),
        ("get", "deviceclasses.resource.k8s.io"),
        ("get", "secrets"),
    ] {
        assert!(!can(&[verb, resource]), "{verb} {resource}");
    }
}

#[test]
fn the_sample_is_accepted() {
    let node = cluster();
    let sample = repository_text("hack/samples/claimed-pod.yaml");
    let said = node.kubectl_with(&["create", "--dry-run=server", "--filename=-"], &sample);
    assert!(said.success(), "{said}");
}
