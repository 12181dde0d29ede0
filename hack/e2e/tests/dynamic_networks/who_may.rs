//! Which definitions a Pod may use.

use e2e::wait_for;
use serde_json::{Value, json};

use crate::{agent, layer2, lock};

const TEAM: &str = "dn-team";
const SHARED: &str = "dn-shared";

fn element(namespace: &str, interface: &str) -> Value {
    json!({"name": "isolated", "namespace": namespace, "interface": interface})
}

#[test]
fn with_namespace_isolation_a_pod_uses_definitions_of_its_own_namespace_and_of_the_global_ones() {
    let node = lock();
    for namespace in ["default", TEAM, SHARED] {
        node.define_network_in(namespace, "isolated", &layer2());
    }
    let global = format!("-global-namespaces=dn-no-such,{SHARED}");
    let isolated = ["-namespace-isolation", &global];
    let first = agent(&node, &isolated);
    let pod = node.networked_pod("isolated", "");
    pod.request(&json!([element("default", "x0"), element(TEAM, "x1"), element(SHARED, "x2")]));
    pod.wait_for_status(&[("default/isolated", "x0"), ("dn-shared/isolated", "x2")]);
    let refused = "pods of namespace default may not use network dn-team/isolated: namespace isolation is on";
    pod.wait_for_event("FailedAddingInterface", refused);
    assert_eq!(pod.interfaces(), ["x0", "x2"], "{}", first.output());

    // isolation is off by default, and what is there stays when it is switched on, until it is no longer requested
    first.kill();
    let second = agent(&node, &[]);
    let all = [("default/isolated", "x0"), ("dn-shared/isolated", "x2"), ("dn-team/isolated", "x1")];
    pod.wait_for_status(&all);
    let mac = pod.status_of("x1")["mac"].clone();
    second.kill();
    let third = agent(&node, &isolated);
    pod.request(&json!([element("default", "x0"), element(TEAM, "x1")]));
    pod.wait_for_status(&[all[0], all[2]]);
    assert_eq!(pod.status_of("x1")["mac"], mac, "{}", third.output());
    pod.request(&json!([element("default", "x0")]));
    pod.wait_for_status(&all[..1]);
    pod.wait_for_interfaces(&["x0"]);
    // and it cannot be requested again
    pod.request(&json!([element("default", "x0"), element(TEAM, "x3")]));
    pod.wait_for_event("FailedAddingInterface", "x3 to network: isolated: pods of namespace default may not use");
    assert_eq!(pod.interfaces(), ["x0"], "{}", third.output());
    pod.delete();
    drop(third);
}

#[test]
fn without_global_namespaces_only_default_is_global() {
    let node = lock();
    for namespace in ["default", TEAM] {
        node.define_network_in(namespace, "isolated", &layer2());
    }
    let agent = agent(&node, &["-namespace-isolation"]);
    let manifest = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "of-team", "namespace": TEAM,
        "annotations": {e2e::NETWORKS: json!([element("default", "x0"), element(TEAM, "x1"), element(SHARED, "x2")]).to_string()}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "c", "image": e2e::BUSYBOX_IMAGE, "command": ["sleep", "1000000"]}]}});
    let of_team = format!("--namespace={TEAM}");
    wait_for(
        "the namespace has its service account",
        || node.get(&["serviceaccount", "default", &of_team]),
        |it| !it.is_null(),
    );
    node.apply(&manifest.to_string());
    let entries = || {
        let pod = node.get(&["pod", "of-team", &of_team]);
        let status = pod["metadata"]["annotations"][e2e::NETWORK_STATUS].as_str().unwrap_or("[]").to_owned();
        let status: Vec<Value> = serde_json::from_str(&status).unwrap_or_default();
        status.iter().map(|entry| format!("{} {}", entry["name"], entry["interface"]).replace('"', "")).collect()
    };
    let wanted = ["default/isolated x0", "dn-team/isolated x1"];
    wait_for("the status has two", || (entries(), agent.output()), |(seen, _): &(Vec<String>, _)| *seen == wanted);
    let refusal = || node.get(&["events", &of_team, "--field-selector=reason=FailedAddingInterface"]).to_string();
    wait_for("the third is refused", refusal, |text| text.contains("may not use network dn-shared/isolated"));
    node.delete(&["pod/of-team", &of_team]);
    drop(agent);
}
