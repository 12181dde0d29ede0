//! A device of the node in a Pod that runs, by `if-inject -device`, on a real containerd: with an agent that is an NRI plugin, with
//! one that is not, and without any.

use e2e::{ANNOTATION, Container, ContainerSpec, Kind, Node, Output, Pod, PodSpec, SharedNode, wait_for};
use serde_json::Value;

static NODE: SharedNode = SharedNode::new("device-by-command", Kind::Containerd);

/// Runs `if-inject` in the node.
fn if_inject(node: &Node, arguments: &str) -> Output {
    let program = e2e::program("netdevctl");
    let words = [program.to_str().unwrap_or_default(), "inject"].into_iter().chain(arguments.split(' '));
    node.run(words.map(|word| word.replace('_', " ")))
}

#[track_caller]
fn succeeds(node: &Node, arguments: &str) -> Output {
    let done = if_inject(node, arguments);
    assert!(done.success(), "{arguments}: {done}");
    done
}

#[track_caller]
fn fails(node: &Node, arguments: &str, reason: &str) {
    let done = if_inject(node, arguments);
    assert!(!done.success() && done.stderr.contains(reason), "{arguments}: {reason:?} is not in\n{done}");
}

#[track_caller]
fn running<'n>(node: &'n Node, name: &str) -> (Pod<'n>, Container<'n>) {
    let pod = node.run_pod(PodSpec::new(name)).expect("the pod runs");
    let container = pod.start(&ContainerSpec::new("c")).expect("its container runs");
    (pod, container)
}

/// The devices that `if-inject list` shows: each with the name in the Pod and how it was requested.
fn listed(node: &Node, pod: &str) -> Vec<[String; 3]> {
    let list: Value = succeeds(node, &format!("list -pod {pod}")).json();
    let text = |device: &Value, key: &str| device[key].as_str().unwrap_or_default().to_owned();
    let devices = list["devices"].as_array().into_iter().flatten();
    devices.map(|device| ["device", "name", "by"].map(|key| text(device, key))).collect()
}

#[test]
fn a_device_is_in_a_pod_that_runs_until_the_command_takes_it_back() {
    let node = NODE.lock();
    let device = node.add_rich_device("hot0");
    let (_pod, container) = running(&node, "web");
    let add = "add -pod web -device hot0 -interfaces ^hot -name net1 -ips 10.77.0.2/24,2001:db8:77::2/64 -mtu 1300 \
               -routes 10.78.0.0/16_via_10.77.0.1_metric_5";
    let added: Value = succeeds(&node, add).json();
    assert_eq!((added["device"].as_str(), added["name"].as_str()), (Some("hot0"), Some("net1")), "{added:#}");
    assert_eq!(added["addresses"], serde_json::json!(["10.77.0.2/24", "2001:db8:77::2/64"]));
    let inside = container.exec(&["ip", "address", "show", "net1"]);
    assert!(inside.text().contains("10.77.0.2/24") && inside.text().contains("mtu 1300"), "{inside}");
    let routes = container.exec(&["ip", "route"]);
    assert!(routes.text().contains("10.78.0.0/16 via 10.77.0.1 dev net1  metric 5"), "{routes}");
    assert!(!device.is_on_node());
    assert_eq!(listed(&node, "web"), [["hot0", "net1", "command"]]);
    let again: Value = succeeds(&node, add).json();
    assert_eq!(again["wasThere"], true);

    let (_other, _container) = running(&node, "other");
    fails(&node, "add -pod other -device hot0 -interfaces ^hot", "device hot0: it is held by pod default/web");
    fails(&node, "add -pod web -device eth0 -interfaces .", "device eth0: it is never handed out because");
    fails(&node, "add -pod none -device hot0 -interfaces ^hot", "pod default/none");
    succeeds(&node, "del -pod web -device hot0");
    device.wait_until_free();
    succeeds(&node, "del -pod web -device hot0");
    assert!(listed(&node, "web").is_empty());
    node.remove_all_pods();
}

#[test]
fn without_an_agent_a_device_of_a_pod_that_ended_is_collected() {
    let node = NODE.lock();
    let (first, second) = (node.add_rich_device("hot0"), node.add_device("hot1"));
    let (pod, _container) = running(&node, "web");
    let (_runs, _its_container) = running(&node, "runs");
    succeeds(&node, "add -pod web -device hot0 -interfaces ^hot -inherit");
    succeeds(&node, "add -pod runs -device hot1 -interfaces ^hot");
    pod.stop().unwrap();
    assert!(!first.is_on_node(), "nobody has returned it");
    let collected: Value = succeeds(&node, "gc").json();
    let outcome = &collected["devices"][0];
    assert_eq!((outcome["device"].as_str(), outcome["outcome"].as_str()), (Some("hot0"), Some("returned")));
    assert_eq!(collected["devices"].as_array().map(Vec::len), Some(1), "{collected:#}");
    first.wait_until_free();
    assert!(!second.is_on_node());
    succeeds(&node, "del -pod runs -device hot1");
    second.wait_until_free();
    node.remove_all_pods();
}

#[test]
fn the_agent_returns_it_when_the_pod_ends_with_nri_and_without() {
    let node = NODE.lock();
    for nri in [false, true] {
        let device = node.add_rich_device("hot0");
        let flags: &[&str] = if nri { &["-interfaces", "^hot", "-nri"] } else { &["-interfaces", "^hot"] };
        let agent = node.agent(flags);
        agent.wait_until_offered(&["hot0"]);
        let (pod, container) = running(&node, "web");
        // with the agent's pools
        succeeds(&node, "add -pod web -device hot0 -name net1");
        // it stays while a container ends and another one starts, and while the agent does
        container.stop().unwrap();
        pod.start(&ContainerSpec::new("next")).unwrap();
        assert!(agent.stop().success());
        let agent = node.agent(flags);
        if nri {
            agent.wait_until_connected();
            // the Pod of an annotation that comes now is dealt with after the runtime's list
            let front = node.add_device("hot1");
            let spec = PodSpec::new("annotated").annotation(ANNOTATION, "[{name: hot1}]");
            let annotated = node.run_pod(spec).unwrap();
            assert_eq!(listed(&node, "annotated"), [["hot1", "hot1", "annotation"]]);
            fails(&node, "del -pod annotated -device hot1", "has it by annotation, not by command");
            annotated.stop().unwrap();
            front.wait_until_free();
        }
        assert_eq!(listed(&node, "web"), [["hot0", "net1", "command"]]);
        pod.stop().unwrap();
        device.wait_until_free();
        let released = || agent.metric(r#"netdevice_releases_total{result="ok"}"#);
        wait_for("it is counted", released, |count| *count == Some(if nri { 2 } else { 1 }));
        node.remove_all_pods();
    }
}
