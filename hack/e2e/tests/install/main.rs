//! What a user does: `kubectl apply -f install.yaml` with the image that ships, and then Pods.

mod annotations;
mod claims;
mod if_inject;

use std::{fs, ops::Deref, path::PathBuf, process::Command, sync::Once};

use e2e::{BUSYBOX_IMAGE, DeviceState, Kind, Node, SharedNode, wait_for};
use serde_json::Value;

static NODE: SharedNode = SharedNode::new("install", Kind::Cluster);

const RESOURCE: &str = "networking.k8s.io/netdevice";

/// Makes the device.
const DEVICE: &str = "ip link add dummy0 type dummy 2>/dev/null || ip link add dummy0 type ifb
    ip link set dummy0 up
    for family in ipv4 ipv6; do echo 77 > /proc/sys/net/$family/neigh/dummy0/gc_stale_time; done
    echo 2 > /proc/sys/net/ipv4/conf/dummy0/rp_filter; echo 0 > /proc/sys/net/ipv6/conf/dummy0/accept_ra
    ip address add 192.0.2.10/24 dev dummy0; ip route add 198.51.100.0/24 via 192.0.2.1";

/// A cluster with the agent installed, and one device.
fn lock() -> impl Deref<Target = Node> {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| run(Command::new(repository("hack/image")).arg(image())));
    let node = NODE.lock();
    // a node that was up already has all this
    if node.get(&["daemonset", "netdevice-agent", "--namespace=kube-system"]).is_null() {
        run(Command::new(repository("hack/node/node")).args(["import", node.name()]).arg(image()));
        node.apply(&text("install.yaml"));
        rolled_out(&node);
        node.run(["sh", "-c", DEVICE]).text();
    }
    wait_for("the Node counts the device", || count(&node), |count| *count == ("1".into(), "1".into()));
    node
}

fn repository(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(file)
}

fn text(file: &str) -> String {
    fs::read_to_string(repository(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn image() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    test.ancestors().nth(3).expect("it is in target/PROFILE/deps").join("netdevice.tar")
}

fn run(command: &mut Command) {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn rolled_out(node: &Node) {
    is_rolled_out(node, "daemonset/netdevice-agent");
}

fn is_rolled_out(node: &Node, daemon_set: &str) {
    let done = node.kubectl(&["rollout", "status", "--namespace=kube-system", daemon_set, "--timeout=60s"]);
    assert!(done.success(), "{done}\n{}", node.kubectl(&["describe", "pods", "--namespace=kube-system"]));
}

/// Capacity and allocatable devices of the Node.
fn count(node: &Node) -> (String, String) {
    let status = &node.get(&["node", node.name()])["status"];
    let text = |value: &Value| value[RESOURCE].as_str().unwrap_or_default().to_owned();
    (text(&status["capacity"]), text(&status["allocatable"]))
}

fn start_pod(node: &Node, name: &str) -> Value {
    node.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: '{BUSYBOX_IMAGE}'
    command: [sleep, '1000000']
    resources: {{limits: {{{RESOURCE}: 1}}}}
"
    ));
    node.wait_until_ready(name)
}

fn in_pod(node: &Node, pod: &str) -> String {
    in_pod_of(node, pod, "dummy0")
}

fn in_pod_of(node: &Node, pod: &str, link: &str) -> String {
    let script = format!("ip address show dev {link}; ip route");
    node.exec(pod, &["sh", "-c", &script]).text().to_owned()
}

/// The device as it is on the node, with its settings; none while a Pod has it.
fn on_node(node: &Node) -> Option<DeviceState> {
    node.device_state("dummy0")
}

#[test]
fn a_pod_gets_the_device_of_the_installed_agent_and_gives_it_back() {
    let node = lock();
    let before = on_node(&node);
    start_pod(&node, "one");
    let inside = in_pod(&node, "one");
    assert!(inside.contains("192.0.2.10/24") && inside.contains("198.51.100.0/24"), "{inside}");
    assert!(!node.run(["ip", "link", "show", "dummy0"]).success(), "it is still on the node");
    assert_eq!(count(&node), ("1".into(), "1".into()), "an attached device is counted");
    node.delete(&["pod/one"]);
    wait_for("the device comes home as it was", || on_node(&node), |now| *now == before);
}

#[test]
fn a_rolling_update_disturbs_neither_the_pod_nor_the_count() {
    let node = lock();
    let before = on_node(&node);
    let pod = start_pod(&node, "stays");
    let agents = || node.get(&["pods", "--namespace=kube-system", "--selector=app.kubernetes.io/name=netdevice-agent"]);
    let names = |list: &Value| -> Vec<String> {
        let pods = list["items"].as_array().unwrap();
        pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let old = names(&agents());
    node.kubectl(&["rollout", "restart", "--namespace=kube-system", "daemonset/netdevice-agent"]).text();
    rolled_out(&node);
    wait_for("the old agent is gone", || names(&agents()), |now| now.len() == 1 && *now != old);
    // the kubelet cuts the new instance off when the old one ends: it must register again by itself
    wait_for("the device is counted", || count(&node), |count| *count == ("1".into(), "1".into()));
    let now = node.get(&["pod", "stays"]);
    assert_eq!(now["status"]["containerStatuses"], pod["status"]["containerStatuses"], "the Pod did not notice");
    assert!(in_pod(&node, "stays").contains("192.0.2.10/24"));
    node.delete(&["pod/stays"]);
    wait_for("the device comes home as it was", || on_node(&node), |now| *now == before);
}

#[test]
fn a_device_whose_hook_fails_is_brought_home_by_the_agent_in_its_container() {
    let node = lock();
    let before = on_node(&node);
    let agents_log = ["logs", "--namespace=kube-system", "daemonset/netdevice-agent"];
    let homecomings = || node.kubectl(&agents_log).stdout.matches("to the host").count();
    let earlier = homecomings();
    start_pod(&node, "no-hook");
    // the runtime cannot start it; were it taken away, the agent would put it back, once a minute
    let folder = "/var/lib/netdevice";
    node.run(["sh", "-ec", "mount --bind $0 $0; mount -o remount,bind,noexec $0", folder]).text();
    node.delete(&["pod/no-hook"]);
    // this is what the agent has its capabilities for
    wait_for("the device is as it was", || on_node(&node), |now| *now == before);
    wait_for("the agent says that it was it", homecomings, |count| *count > earlier);
    node.run(["umount", folder]).text();
}

/// The Events of one reason, as `kubectl get events` has them: the kind of each one's object, its name, the message.
fn events(node: &Node, reason: &str) -> Vec<(String, String, String)> {
    let list = node.get(&["events", &format!("--field-selector=reason={reason}")]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let events = list["items"].as_array().cloned().unwrap_or_default().into_iter();
    let ours = events.filter(|event| event["reportingComponent"] == "netdevice");
    ours.map(|event| {
        let object = &event["involvedObject"];
        (text(&object["kind"]), text(&object["name"]), text(&event["message"]))
    })
    .collect()
}

#[test]
fn a_device_that_is_deleted_under_its_pod_is_told_of_in_events() {
    let node = lock();
    start_pod(&node, "loses-it");
    let record = fs::read_to_string(node.path("/run/netdevice/dummy0.json")).expect("the device is attached");
    let record: Value = serde_json::from_str(&record).expect("a record is JSON");
    let paths = record["sandbox"]["paths"].as_array().expect("it says where the sandbox is").iter();
    let tries = paths.map(|path| format!("nsenter --net={} ip link delete dummy0", path.as_str().unwrap_or_default()));
    node.run(["sh", "-c", &tries.collect::<Vec<_>>().join(" || ")]).text();
    node.delete(&["pod/loses-it"]);
    let told = |kind: &str, events: &[(String, String, String)]| {
        events
            .iter()
            .any(|(of, _, message)| of == kind && message.contains("device dummy0 of pod default/loses-it was lost"))
    };
    let lost = wait_for(
        "Pod and Node have the event",
        || events(&node, "DeviceLost"),
        |it| told("Pod", it) && told("Node", it),
    );
    assert!(lost.iter().all(|(_, name, _)| name == "loses-it" || name == node.name()), "{lost:?}");
    let described = node.kubectl(&["describe", "node", node.name()]);
    assert!(described.stdout.contains("DeviceLost"), "{described}");
    // for the other tests
    node.run(["sh", "-c", DEVICE]).text();
    wait_for("the Node counts the device", || count(&node), |count| *count == ("1".into(), "1".into()));
}

#[test]
fn pools_from_a_config_map_are_taken_up_without_a_restart() {
    let node = lock();
    node.apply(&fs::read_to_string(repository("docs/configmap.yaml")).unwrap());
    let patch = fs::read_to_string(repository("docs/use-configmap.yaml")).unwrap();
    let daemon_set = ["daemonset", "netdevice-agent", "--namespace=kube-system"];
    node.kubectl(&[&["patch"], &daemon_set[..], &["--type=strategic", "--patch", &patch]].concat()).text();
    rolled_out(&node);
    wait_for("the device is counted", || count(&node), |count| *count == ("1".into(), "1".into()));
    // as shipped again, for the other tests
    node.delete(&[&daemon_set[..], &["--wait"]].concat());
    node.delete(&["configmap/netdevice-pools", "--namespace=kube-system"]);
    node.apply(&text("install.yaml"));
    rolled_out(&node);
}
