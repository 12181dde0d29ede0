//! Devices by annotation from a container: what the agent or the injector may do there is less than on the node, and
//! devices come home as complete as from a program of the node's own.

use e2e::{Action, Node, eventually, wait_for};
use serde_json::Value;
use std::time::Duration;

use crate::{in_pod_of, is_rolled_out, lock, on_node, rolled_out, text};

const AGENT: (&str, u16) = ("netdevice-agent", 9780);
const INJECTOR: (&str, u16) = ("network-device-injector", 9781);

/// Waits until a program of that name, and no older one, serves the runtime.
#[track_caller]
fn wait_until_connected(node: &Node, (name, port): (&str, u16)) {
    let selector = format!("--selector=app.kubernetes.io/name={name}");
    let pods = || node.get(&["pods", "--namespace=kube-system", &selector])["items"].as_array().map_or(0, Vec::len);
    wait_for("one of them is there", pods, |count| *count == 1);
    let metrics = || node.http(port, "/metrics").body;
    wait_for("the runtime takes the plugin", metrics, |text| text.contains("netdevice_nri_connected 1\n"));
}

/// The sample's Pod, with the device that it asks for.
#[track_caller]
fn start(node: &Node) -> Value {
    node.apply(&text("hack/samples/annotated-pod.yaml"));
    let pod = node.wait_until_ready("annotated");
    let inside = in_pod_of(node, "annotated", "eth1");
    assert!(inside.contains("192.168.2.2/24"), "{inside}");
    assert!(on_node(node).is_none(), "it is still on the node");
    pod
}

/// Deletes the sample's Pod, and the device is what it was.
#[track_caller]
fn end(node: &Node, before: &e2e::DeviceState, (name, _): (&str, u16)) {
    node.delete(&["pod/annotated"]);
    let home = eventually(Duration::from_secs(40), || (on_node(node).as_ref() == Some(before)).then_some(()));
    let log = || node.kubectl(&["logs", "--namespace=kube-system", &format!("daemonset/{name}")]);
    assert!(home.is_some(), "{}", differences(before, on_node(node)) + &log().to_string());
    wait_for("its record goes", || node.path("/run/netdevice/dummy0.json").exists(), |there| !there);
}

fn differences(before: &e2e::DeviceState, now: Option<e2e::DeviceState>) -> String {
    now.map_or_else(|| "it is not on the node\n".to_owned(), |now| format!("before {before:#?}\nnow {now:#?}\n"))
}

/// The Pod's sandbox that is ready, by its id.
fn sandbox(node: &Node) -> String {
    let pods = node.crictl(&["pods", "--name=^annotated$", "--state=ready", "--output=json"]).json();
    pods["items"][0]["id"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_installed_agent_gives_devices_by_annotation_and_they_come_home_complete_whatever_is_killed() {
    let node = lock();
    let before = on_node(&node).expect("it is on the node");
    let switched_on = text("install.yaml").replace("        # - -nri\n", "        - -nri\n");
    assert!(switched_on.contains("\n        - -nri\n"));
    node.apply(&switched_on);
    rolled_out(&node);
    wait_until_connected(&node, AGENT);

    start(&node);
    end(&node, &before, AGENT);

    // the sandbox's first process, which the runtime may end first, and its shim: the kubelet makes another sandbox, which
    // gets the device
    start(&node);
    let first = sandbox(&node);
    node.sh(&format!(
        "pause=$(crictl inspectp --output go-template --template '{{{{.info.pid}}}}' {first})
        pkill -KILL -f '[c]ontainerd-shim.*{first}'; kill -KILL $pause || [ ! -e /proc/$pause ]"
    ));
    wait_for("a new sandbox", || sandbox(&node), |now| !now.is_empty() && *now != first);
    let has = || node.kubectl(&["exec", "annotated", "--", "ip", "address", "show", "dev", "eth1"]);
    wait_for("the pod has its device again", has, |said| said.success() && said.stdout.contains("192.168.2.2/24"));
    end(&node, &before, AGENT);

    // the runtime: it tells nobody of the end of older Pods
    start(&node);
    node.sh("pkill -KILL -x containerd");
    node.containerd(Action::Restart);
    wait_until_connected(&node, AGENT);
    node.wait_until_ready("annotated");
    end(&node, &before, AGENT);

    // the agent, while the Pod is there and when it ends
    let pod = start(&node);
    node.kubectl(&["rollout", "restart", "--namespace=kube-system", "daemonset/netdevice-agent"]).text();
    rolled_out(&node);
    wait_until_connected(&node, AGENT);
    let now = node.get(&["pod", "annotated"]);
    assert_eq!(now["status"]["containerStatuses"], pod["status"]["containerStatuses"], "the Pod did not notice");
    end(&node, &before, AGENT);

    // as shipped again, for the other tests
    node.apply(&text("install.yaml"));
    rolled_out(&node);
}

#[test]
fn the_sample_of_the_injector_alone_gives_devices_and_brings_them_home_complete() {
    let node = lock();
    let before = on_node(&node).expect("it is on the node");
    node.apply(&text("hack/samples/injector.yaml"));
    is_rolled_out(&node, "daemonset/network-device-injector");
    wait_until_connected(&node, INJECTOR);
    start(&node);
    end(&node, &before, INJECTOR);
    // the agent that gives the same device to the kubelet's Pods is another process
    crate::start_pod(&node, "by-resource");
    node.apply(&text("hack/samples/annotated-pod.yaml"));
    let events = || node.kubectl(&["describe", "pod", "annotated"]).stdout;
    wait_for("it is refused", events, |said| said.contains("device dummy0: it is held by pod default/by-resource"));
    node.delete(&["pod/annotated", "pod/by-resource"]);
    wait_for("the device comes home as it was", || on_node(&node), |now| now.as_ref() == Some(&before));
    node.delete(&["daemonset/network-device-injector", "--namespace=kube-system", "--wait"]);
}
