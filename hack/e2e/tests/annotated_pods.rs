//! Devices by annotation in a real Kubernetes: Pods by kubectl, beside Pods that ask for the resource.

use std::fs;
use std::path::Path;

use e2e::{ANNOTATION, Action, Agent, BUSYBOX_IMAGE, Device, Kind, Node, SharedNode, wait_for};
use serde_json::Value;

static NODE: SharedNode = SharedNode::new("annotated", Kind::Cluster);

const SLEEP: &str = "trap exit TERM; sleep 1000000 & wait";
const RESOURCE: &str = "resources: {limits: {networking.k8s.io/netdevice: 1}}";

/// An agent that offers this device both ways, to a kubelet and a runtime that know of it.
#[track_caller]
fn offering<'n>(node: &'n Node, device: &str) -> Agent<'n> {
    let agent = node.agent(&["-nri", "-interfaces", &format!("^{device}$")]);
    agent.wait_until_connected();
    wait_for("the Node counts it", || (capacity(node), agent.output()), |(seen, _)| *seen == ("1".into(), "1".into()));
    agent
}

/// Capacity and allocatable of the resource, as the Node object says.
fn capacity(node: &Node) -> (String, String) {
    let status = node.get(&["node", node.name()])["status"].clone();
    let of = |what: &str| status[what]["networking.k8s.io/netdevice"].as_str().unwrap_or("none").to_owned();
    (of("capacity"), of("allocatable"))
}

/// A Pod with an annotation.
fn annotated(name: &str, annotation: &str, script: &str) -> String {
    pod(name, &format!("annotations: {{{ANNOTATION}: '{annotation}'}}"), script, "")
}

/// A Pod that asks for the resource.
fn by_resource(name: &str, script: &str) -> String {
    pod(name, "annotations: {}", script, RESOURCE)
}

fn pod(name: &str, annotations: &str, script: &str, resources: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  {annotations}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: {BUSYBOX_IMAGE}
    command: [sh, -c, '{script}']
    {resources}
---
"
    )
}

/// What a Pod's container says of a link of its own.
#[track_caller]
fn link(node: &Node, pod: &str, name: &str) -> String {
    node.exec(pod, &["ip", "address", "show", "dev", name]).text().to_owned()
}

fn container(pod: &Value) -> Value {
    pod["status"]["containerStatuses"][0]["containerID"].clone()
}

/// The events of a Pod, as `kubectl describe` tells them.
fn events(node: &Node, pod: &str) -> String {
    let said = node.kubectl(&["describe", "pod", pod]).stdout;
    said.rsplit_once("\nEvents:").map_or_else(String::new, |(_, events)| events.to_owned())
}

/// Waits for the one line of a Pod's description that tells why it does not run.
#[track_caller]
fn wait_for_reason(node: &Node, pod: &str, reason: &str) -> String {
    // the runtime's words are quoted on their way
    let look = || events(node, pod).replace("\\\"", "\"");
    let said = wait_for(&format!("pod {pod} says {reason:?}"), look, |said| said.contains(reason));
    said.lines().find(|line| line.contains(reason)).expect("waited for it").to_owned()
}

fn gone(node: &Node, pod: &str, device: &Device<'_>) {
    node.delete(&[&format!("pod/{pod}")]);
    device.wait_until_free();
}

#[test]
fn a_pod_has_its_device_before_its_first_instruction_and_a_pod_that_asks_for_the_resource_waits_until_it_is_back() {
    let node = NODE.lock();
    let device = node.add_rich_device("first0");
    let agent = offering(&node, "first0");
    let annotation = r#"[{"name": "first0", "new_name": "eth1", "address": "192.168.2.2", "prefix": 24}]"#;
    node.apply(&annotated("first", annotation, &format!("ip address show dev eth1; {SLEEP}")));
    node.wait_until_ready("first");
    node.wait_for_logs(&["first"], &["inet 192.168.2.2/24"]);
    assert!(!device.is_on_node());
    wait_for("it is no longer allocatable", || capacity(&node), |seen| *seen == ("1".into(), "0".into()));
    node.apply(&by_resource("waiting", SLEEP));
    let why =
        || node.get(&["pod", "waiting"])["status"]["conditions"][0]["message"].as_str().unwrap_or_default().to_owned();
    wait_for("the scheduler says why", why, |why| why.contains("Insufficient networking.k8s.io/netdevice"));
    node.delete(&["pod/first"]);
    node.wait_until_ready("waiting");
    assert!(link(&node, "waiting", "first0").contains("192.0.2.5/24"));
    gone(&node, "waiting", &device);
    wait_for("it is allocatable", || capacity(&node), |seen| *seen == ("1".into(), "1".into()));
    drop(agent);
}

#[test]
fn a_device_that_the_kubelet_gave_to_a_pod_is_refused_with_that_pods_name() {
    let node = NODE.lock();
    let device = node.add_device("given0");
    let agent = offering(&node, "given0");
    node.apply(&by_resource("owner", SLEEP));
    node.wait_until_ready("owner");
    node.apply(&annotated("thief", "[{name: given0}]", SLEEP));
    wait_for_reason(&node, "thief", "device given0: it is held by pod default/owner");
    assert!(link(&node, "owner", "given0").contains("given0"));
    node.delete(&["pod/thief"]);
    gone(&node, "owner", &device);
    // and while its container is not there, so that the device is on the node
    node.apply(&by_resource("crashing", "exit 1"));
    let status = || node.get(&["pod", "crashing"])["status"].clone();
    // the API server may be told of the end only, and not that the kubelet waits now
    let has_crashed = |status: &Value| {
        let state = &status["containerStatuses"][0]["state"];
        state["waiting"]["reason"] == "CrashLoopBackOff" || state["terminated"]["exitCode"] == 1
    };
    wait_for("its container has ended", status, has_crashed);
    device.wait_until_free();
    node.apply(&annotated("thief", "[{pool: netdevice}]", SLEEP));
    wait_for_reason(&node, "thief", "no device of pool networking.k8s.io/netdevice is free");
    node.delete(&["pod/thief"]);
    node.apply(&annotated("thief", "[{name: given0}]", SLEEP));
    wait_for_reason(&node, "thief", "device given0: ");
    let either = events(&node, "thief");
    let named = ["the kubelet gave it to pod default/crashing", "it is held by pod default/crashing"];
    assert!(named.iter().any(|words| either.contains(words)), "{either}");
    node.delete(&["pod/thief"]);
    gone(&node, "crashing", &device);
    drop(agent);
}

#[test]
fn a_typing_error_is_one_short_line_that_names_the_field_and_repeats_nothing() {
    let node = NODE.lock();
    let device = node.add_device("typo0");
    let agent = offering(&node, "typo0");
    node.apply(&annotated("typo", "[{name: typo0, adress: my-secret-words}]", SLEEP));
    let line = wait_for_reason(&node, "typo", "device 1 of the list: unknown field \"adress\"");
    assert!(line.len() < 1000, "{line}");
    assert!(line.contains(&format!("annotation {ANNOTATION}: ")), "{line}");
    assert!(!events(&node, "typo").contains("secret"), "{line}");
    device.wait_until_free();
    gone(&node, "typo", &device);
    // as its author writes it next
    node.apply(&annotated("typo", "[{name: typo0, address: 10.1.1.1}]", SLEEP));
    node.wait_until_ready("typo");
    assert!(link(&node, "typo", "typo0").contains("10.1.1.1/32"));
    gone(&node, "typo", &device);
    drop(agent);
}

#[test]
fn a_pod_that_is_restarted_in_place_has_its_device_again() {
    let node = NODE.lock();
    let device = node.add_rich_device("place0");
    let agent = offering(&node, "place0");
    node.apply(&annotated("place", "[{name: place0, new_name: net1, address: 10.1.1.1}]", SLEEP));
    let before = node.wait_until_ready("place");
    let sandbox = || {
        let pods = node.crictl(&["pods", "--name=^place$", "--state=ready", "--output=json"]).json();
        pods["items"][0]["id"].as_str().unwrap_or_default().to_owned()
    };
    let first = sandbox();
    node.sh(&format!("kill -KILL $(crictl inspectp --output go-template --template '{{{{.info.pid}}}}' {first})"));
    wait_for("a new sandbox", sandbox, |now| !now.is_empty() && *now != first);
    let runs = || node.get(&["pod", "place"]);
    let after = wait_for("the container runs again", runs, |now| {
        container(now) != container(&before) && now["status"]["containerStatuses"][0]["ready"] == true
    });
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert!(link(&node, "place", "net1").contains("10.1.1.1/32"));
    gone(&node, "place", &device);
    drop(agent);
}

#[test]
fn a_kubelet_and_an_agent_that_restart_leave_the_pod_and_its_device_alone() {
    let node = NODE.lock();
    let device = node.add_rich_device("kubelet0");
    let agent = offering(&node, "kubelet0");
    node.apply(&annotated("kubelet", "[{name: kubelet0}]", SLEEP));
    let before = node.wait_until_ready("kubelet");
    node.kubelet(Action::Restart);
    wait_for("it registers again", || agent.output(), |log| log.matches("registered with the kubelet").count() >= 2);
    wait_for("it is counted", || capacity(&node), |seen| *seen == ("1".into(), "0".into()));
    agent.kill();
    let agent = node.agent(&["-nri", "-interfaces", "^kubelet0$"]);
    agent.wait_until_connected();
    let now = node.wait_until_ready("kubelet");
    assert_eq!(container(&now), container(&before), "{now}");
    assert!(link(&node, "kubelet", "kubelet0").contains("kubelet0"));
    gone(&node, "kubelet", &device);
    drop(agent);
}

#[test]
fn a_pod_that_is_deleted_and_made_again_by_the_same_name_at_once_gets_the_device_again_and_again() {
    let node = NODE.lock();
    let device = node.add_rich_device("again0");
    let agent = offering(&node, "again0");
    let manifest = annotated("again", "[{name: again0, address: 10.1.1.1}]", SLEEP);
    node.apply(&manifest);
    for _ in 0..3 {
        node.wait_until_ready("again");
        // the object goes at once; its sandbox and its device come later
        node.kubectl(&["delete", "pod", "again", "--grace-period=0", "--force", "--wait=false"]).text();
        wait_for("the object goes", || node.get(&["pod", "again"]), Value::is_null);
        node.apply(&manifest);
    }
    // the kubelet waits between its attempts, longer than for a container
    let ready = node.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "pod/again"]);
    assert!(ready.success(), "{ready}\n{}\n{}", events(&node, "again"), agent.output());
    assert!(link(&node, "again", "again0").contains("10.1.1.1/32"));
    gone(&node, "again", &device);
}

#[test]
fn the_sample_is_true() {
    let node = NODE.lock();
    let device = node.add_rich_device("dummy0");
    let agent = offering(&node, "dummy0");
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/annotated-pod.yaml");
    node.apply(&fs::read_to_string(sample).unwrap());
    node.wait_until_ready("annotated");
    node.wait_for_logs(&["annotated"], &["inet 192.168.2.2/24", "mtu 1400"]);
    gone(&node, "annotated", &device);
    drop(agent);
}
