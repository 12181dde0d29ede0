//! The rig proves itself: a node, its runtimes, CDI, a kubelet, a cluster, and that nothing stays.

use std::path::Path;
use std::process::Command;

use e2e::{Action, ContainerSpec, Kind, Network, Node, PodSpec, SharedNode, Signal, wait_for};

static NODE: SharedNode = SharedNode::new("rig", Kind::Containerd);

const CDI: &str = r#"{"cdiVersion": "0.5.0", "kind": "rig.test/probe", "devices": [
    {"name": "p0", "containerEdits": {"env": ["PROBE=seen"]}}]}"#;

const KUBELET_SETTINGS: &str = "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
";

#[test]
fn a_container_gets_the_edits_of_its_cdi_device() {
    let node = NODE.lock();
    node.write("/etc/cdi/rig.test-probe.json", CDI);
    for handler in ["runc", "crun"] {
        let pod = node.run_pod(PodSpec::new("cdi").handler(handler)).unwrap();
        let container = pod.start(&ContainerSpec::new("c").cdi_device("rig.test/probe=p0")).unwrap();
        assert_eq!(container.exec(&["sh", "-c", "echo $PROBE"]).text(), "seen", "{handler}");
        let refused = container.exec(&["sh", "-c", "echo no >&2; exit 7"]);
        assert_eq!((refused.code, refused.stderr.as_str()), (Some(7), "no\n"), "{refused}");
        let links = pod.ip(&["link"]);
        assert!(links.as_array().unwrap().iter().any(|link| link["ifname"] == "eth0"), "{links}");
        container.stop().unwrap();
        assert_eq!(container.state(), "CONTAINER_EXITED");
        pod.stop().unwrap();
        pod.remove().unwrap();
    }
}

#[test]
fn an_unknown_cdi_device_is_refused_in_the_runtimes_words() {
    let node = NODE.lock();
    let pod = node.run_pod(PodSpec::new("unknown")).unwrap();
    let failure = pod.create(&ContainerSpec::new("c").cdi_device("rig.test/probe=ghost")).unwrap_err();
    assert!(failure.message.contains("unresolvable CDI devices rig.test/probe=ghost"), "{failure}");
    node.remove_all_pods();
}

#[test]
fn a_host_network_pod_has_the_nodes_network() {
    let node = NODE.lock();
    let pod = node.run_pod(PodSpec::new("host").network(Network::Host)).unwrap();
    let container = pod.start(&ContainerSpec::new("c")).unwrap();
    assert!(container.exec(&["ip", "address", "show", "eth0"]).text().contains("10.212.0.2/24"));
    node.remove_all_pods();
}

#[test]
fn pods_go_on_running_while_containerd_is_down() {
    let node = NODE.lock();
    let pod = node.run_pod(PodSpec::new("stays")).unwrap();
    let container = pod.start(&ContainerSpec::new("c")).unwrap();
    node.containerd(Action::Restart);
    assert_eq!(container.state(), "CONTAINER_RUNNING");
    node.remove_all_pods();
}

#[test]
fn a_spawned_program_gets_signals_and_its_output_is_kept() {
    let node = NODE.lock();
    let mut program = node.spawn(["sh", "-c", "trap 'echo bye; exit 3' TERM; echo hello; while :; do sleep 0.1; done"]);
    program.wait_for_output("hello");
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(3));
    assert_eq!(program.output(), "hello\nbye\n");
}

#[test]
fn a_dropped_program_is_gone() {
    let node = NODE.lock();
    let program = node.spawn(["sleep", "1000000"]);
    let pid = program.pid();
    drop(program);
    wait_for("the program is gone", || Path::new(&format!("/proc/{pid}")).exists(), |there| !there);
}

#[test]
fn two_nodes_do_not_meet_and_leave_nothing() {
    let node = Node::start("rig-a");
    let other = Node::start("rig-b");
    node.run(["ip", "link", "add", "only-a", "type", "ifb"]).text();
    let names = |node: &Node| {
        let links = node.ip(&["link"]);
        links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(names(&node).contains(&"only-a".to_owned()));
    assert!(!names(&other).contains(&"only-a".to_owned()));
    assert!(!Path::new("/sys/class/net/only-a").exists());
    let pod = node.run_pod(PodSpec::new("left")).unwrap();
    pod.start(&ContainerSpec::new("c")).unwrap();
    let (name, files) = (node.name().to_owned(), node.path("/"));
    node.down();
    assert_eq!(traces(&name), "");
    assert!(!files.parent().unwrap().exists());
    // the other one never noticed
    other.run_pod(PodSpec::new("alive")).unwrap();
}

#[test]
fn a_standalone_kubelet_runs_a_static_pod() {
    let node = Node::start_as("rig-static", Kind::Standalone);
    node.static_pod("s", &pod_manifest("s"));
    let name = format!("s-{}", node.name());
    let phase = || node.kubelet_pod(&name).map(|pod| pod["status"]["phase"].clone());
    wait_for("the static Pod runs", phase, |phase| phase.as_ref().is_some_and(|phase| phase == "Running"));
    node.remove_static_pod("s");
    wait_for("the static Pod goes", || node.kubelet_pod(&name), Option::is_none);
}

#[test]
fn a_cluster_runs_a_pod_that_survives_its_kubelet_and_api_server() {
    let node = Node::start_as("rig-cluster", Kind::Cluster);
    node.apply(&pod_manifest("plain"));
    let container = |pod: &serde_json::Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    let before = container(&node.wait_until_ready("plain"));
    assert_eq!(node.kubectl(&["exec", "plain", "--", "echo", "hello"]).text(), "hello");
    node.kubelet(Action::Restart);
    node.apiserver(Action::Stop);
    assert!(!node.kubectl(&["get", "--raw", "/readyz"]).success());
    node.apiserver(Action::Start);
    assert_eq!(container(&node.wait_until_ready("plain")), before);
    // settings of a test's own
    node.write("/etc/kubernetes/kubelet.d/10-crash.conf", KUBELET_SETTINGS);
    node.kubelet(Action::Restart);
    assert_eq!(container(&node.wait_until_ready("plain")), before);
    node.delete(&["pod/plain"]);
    assert!(node.get(&["pod", "plain"]).is_null());
    let name = node.name().to_owned();
    node.down();
    assert_eq!(traces(&name), "");
}

fn pod_manifest(name: &str) -> String {
    let image = e2e::BUSYBOX_IMAGE;
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, image: '{image}', command: [sleep, '1000000']}}]
"
    )
}

/// Processes, mounts and cgroups that name a node.
fn traces(node: &str) -> String {
    let script = "
        grep -als \"[n]odes/$0\" /proc/[0-9]*/cmdline
        grep -F \"nodes/$0\" /proc/self/mountinfo
        find /sys/fs/cgroup -name \"$0.*\"
        exit 0";
    let found = Command::new("sh").args(["-c", script, node]).output().expect("sh is there");
    String::from_utf8_lossy(&found.stdout).into_owned()
}
