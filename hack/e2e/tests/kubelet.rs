//! The device as an extended resource: a real kubelet, scheduler and API server, and Pods that ask for one.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::{Action, Agent, Device, Kind, Node, NodeGuard, SharedNode, Signal, eventually, wait_for};
use serde_json::Value;

static NODE: SharedNode = SharedNode::new("kubelet", Kind::Cluster);

const SETTINGS: &str = "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
";

/// The node, with a kubelet that does not wait long before it starts a container again.
fn lock() -> NodeGuard<'static> {
    let node = NODE.lock();
    let settings = "/etc/kubernetes/kubelet.d/10-crash.conf";
    if !node.path(settings).exists() {
        node.write(settings, SETTINGS);
        node.kubelet(Action::Restart);
    }
    node
}

/// Capacity and allocatable of the resource, as the Node object says.
fn capacity(node: &Node) -> (String, String) {
    let status = node.get(&["node", node.name()])["status"].clone();
    let of = |what: &str| status[what]["networking.k8s.io/netdevice"].as_str().unwrap_or("none").to_owned();
    (of("capacity"), of("allocatable"))
}

#[track_caller]
fn wait_for_capacity(node: &Node, agent: &Agent<'_>, count: u32) {
    let wanted = (count.to_string(), count.to_string());
    let found = eventually(Duration::from_secs(30), || (capacity(node) == wanted).then_some(()));
    assert!(found.is_some(), "{:?} is not {count}\n{}", capacity(node), agent.output());
}

/// An agent that offers these devices, and a Node object that says so.
#[track_caller]
fn offering<'n>(node: &'n Node, names: &[&str]) -> Agent<'n> {
    let agent = node.agent(&selection(names));
    wait_for_capacity(node, &agent, u32::try_from(names.len()).expect("a few"));
    agent
}

fn selection(names: &[&str]) -> [&'static str; 2] {
    ["-interfaces", format!("^({})$", names.join("|")).leak()]
}

const SLEEP: &str = "trap exit TERM; sleep 1000000 & wait";

/// A Pod of one container with one device.
fn pod(name: &str, script: &str) -> String {
    pod_with(name, script, "")
}

fn pod_with(name: &str, script: &str, more: &str) -> String {
    let image = e2e::BUSYBOX_IMAGE;
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
{more}
  containers:
  - name: c
    image: {image}
    command: [sh, -c, '{script}']
    resources: {{limits: {{networking.k8s.io/netdevice: 1}}}}
---
"
    )
}

/// What a Pod's device is called, by its environment, and what `ip` says of it in there.
#[track_caller]
fn device_of(node: &Node, pod: &str) -> (String, String) {
    let script = "echo $NETWORKING_K8S_IO_NETDEVICE; ip address show dev $NETWORKING_K8S_IO_NETDEVICE";
    let said = node.exec(pod, &["sh", "-ec", script]);
    let (name, link) = said.text().split_once('\n').unwrap_or_default();
    (name.to_owned(), link.to_owned())
}

fn container(pod: &Value) -> Value {
    pod["status"]["containerStatuses"][0]["containerID"].clone()
}

/// The Pod goes on with the container that it had.
#[track_caller]
fn assert_untouched(node: &Node, name: &str, before: &Value) {
    let now = node.wait_until_ready(name);
    assert_eq!(container(&now), container(before), "{now}");
}

/// Kills the container's process, and waits until it runs again with its device.
#[track_caller]
fn crash(node: &Node, name: &str) {
    let before = node.get(&["pod", name])["status"]["containerStatuses"][0].clone();
    let id = before["containerID"].as_str().expect("it was started").trim_start_matches("containerd://").to_owned();
    node.sh(&format!("kill -KILL $(crictl inspect --output go-template --template '{{{{.info.pid}}}}' {id})"));
    let count = || node.get(&["pod", name])["status"]["containerStatuses"][0].clone();
    wait_for("the container runs again", count, |now| {
        now["restartCount"].as_u64() > before["restartCount"].as_u64() && now["ready"] == true
    });
    let (_, link) = device_of(node, name);
    assert!(link.contains("inet 192.0.2.5/24"), "{link}");
}

fn gone(node: &Node, pod: &str, device: &Device<'_>) {
    node.delete(&[&format!("pod/{pod}")]);
    device.wait_until_free();
}

/// Defect 14 of the original: a device vanishes from the list once it is handed out. Defect 18: nothing comes back.
#[test]
fn a_pod_gets_the_device_it_asked_for_and_the_node_counts_it_all_the_while() {
    let node = lock();
    let device = node.add_rich_device("main0");
    let agent = offering(&node, &["main0"]);
    node.apply(&pod("main", SLEEP));
    node.wait_until_ready("main");
    let (name, link) = device_of(&node, "main");
    assert_eq!(name, "main0");
    for part in ["192.0.2.5/24", "2001:db8:1::5/64", "mtu 1400", "UP"] {
        assert!(link.contains(part), "{part:?} is not in {link}");
    }
    assert!(!device.is_on_node());
    // longer than the kubelet takes to tell a change
    let attached = r#"netdevice_devices{resource="networking.k8s.io/netdevice",state="attached"}"#;
    wait_for("the agent counts it as attached", || agent.metric(attached), |count| *count == Some(1));
    assert_eq!(capacity(&node), ("1".into(), "1".into()));
    assert_eq!(
        agent.metric(r#"netdevice_allocations_total{resource="networking.k8s.io/netdevice",result="ok"}"#),
        Some(1)
    );
    gone(&node, "main", &device);
    wait_for("the agent counts it as home", || agent.metric(attached), |count| *count == Some(0));
    assert_eq!(capacity(&node), ("1".into(), "1".into()));
}

/// Defects 1 and 2 of the original: Allocate hands out another device than the one that the kubelet named.
#[test]
fn pods_that_start_at_once_get_exactly_the_devices_that_the_kubelet_named() {
    let node = lock();
    let devices = ["once0", "once1", "once2"].map(|name| node.add_device(name));
    let agent = offering(&node, &["once0", "once1", "once2"]);
    node.apply(&["a", "b", "c"].map(|name| pod(name, SLEEP)).concat());
    let mut names = BTreeSet::new();
    for name in ["a", "b", "c"] {
        node.wait_until_ready(name);
        let (device, link) = device_of(&node, name);
        assert!(link.contains(&device), "{name} has {device:?}: {link}");
        names.insert(device);
    }
    assert_eq!(names.len(), 3, "{names:?}");
    node.delete(&["pod/a", "pod/b", "pod/c"]);
    devices.iter().for_each(Device::wait_until_free);
    drop(agent);
}

#[test]
fn a_pod_too_many_waits_until_a_device_is_free() {
    let node = lock();
    let device = node.add_device("many0");
    let agent = offering(&node, &["many0"]);
    node.apply(&pod("first", SLEEP));
    node.wait_until_ready("first");
    node.apply(&pod("second", SLEEP));
    let why =
        || node.get(&["pod", "second"])["status"]["conditions"][0]["message"].as_str().unwrap_or_default().to_owned();
    wait_for("the scheduler says why", why, |why| why.contains("Insufficient networking.k8s.io/netdevice"));
    node.delete(&["pod/first"]);
    node.wait_until_ready("second");
    assert_eq!(device_of(&node, "second").0, "many0");
    gone(&node, "second", &device);
    drop(agent);
}

#[test]
fn a_pod_that_takes_the_only_device_over_from_one_that_is_just_going_gets_it() {
    let node = lock();
    let device = node.add_device("over0");
    let agent = offering(&node, &["over0"]);
    node.apply(&pod("over", SLEEP));
    for _ in 0..4 {
        node.wait_until_ready("over");
        // the object goes at once; its container and its device come later
        node.kubectl(&["delete", "pod", "over", "--grace-period=0", "--force", "--wait=false"]).text();
        wait_for("the object goes", || node.get(&["pod", "over"]), Value::is_null);
        node.apply(&pod("over", SLEEP));
    }
    let now = node.wait_until_ready("over");
    assert_eq!(device_of(&node, "over").0, "over0", "{now}");
    gone(&node, "over", &device);
    drop(agent);
}

/// Defect 10 of the original.
#[test]
fn a_container_that_crashes_in_a_loop_gets_its_device_each_time() {
    let node = lock();
    let device = node.add_device("loop0");
    let agent = offering(&node, &["loop0"]);
    node.apply(&pod("loop", "ip address show dev loop0; exit 1"));
    let status = || node.get(&["pod", "loop"])["status"]["containerStatuses"][0].clone();
    wait_for("it was started three times", status, |status| {
        let reason = status["state"]["waiting"]["reason"].as_str().unwrap_or_default();
        assert!(!["RunContainerError", "CreateContainerError"].contains(&reason), "{status}");
        status["restartCount"].as_u64() >= Some(3)
    });
    node.wait_for_logs(&["loop", "--previous"], &["inet 192.0.2.5/24"]);
    gone(&node, "loop", &device);
    drop(agent);
}

#[test]
fn an_init_container_lends_its_device_to_the_container_that_follows() {
    let node = lock();
    let device = node.add_device("init0");
    let agent = offering(&node, &["init0"]);
    let init = format!(
        "  initContainers:
  - name: i
    image: {}
    command: [ip, address, show, dev, init0]
    resources: {{limits: {{networking.k8s.io/netdevice: 1}}}}",
        e2e::BUSYBOX_IMAGE
    );
    node.apply(&pod_with("init", SLEEP, &init));
    node.wait_until_ready("init");
    node.wait_for_logs(&["init", "--container=i"], &["inet 192.0.2.5/24"]);
    assert!(device_of(&node, "init").1.contains("inet 192.0.2.5/24"));
    gone(&node, "init", &device);
    drop(agent);
}

#[test]
fn a_kubelet_that_restarts_leaves_the_pod_and_its_device_alone() {
    let node = lock();
    let device = node.add_device("kubelet0");
    let agent = offering(&node, &["kubelet0"]);
    node.apply(&pod("kubelet", SLEEP));
    let before = node.wait_until_ready("kubelet");
    node.kubelet(Action::Restart);
    wait_for("it registers again", || agent.output(), |log| log.matches("registered with the kubelet").count() >= 2);
    wait_for_capacity(&node, &agent, 1);
    assert_untouched(&node, "kubelet", &before);
    crash(&node, "kubelet");
    gone(&node, "kubelet", &device);
}

/// Defect 18 of the original: nothing is remembered.
#[test]
fn an_agent_that_restarts_or_is_killed_leaves_the_pod_and_its_device_alone() {
    let node = lock();
    let device = node.add_device("agent0");
    let agent = offering(&node, &["agent0"]);
    node.apply(&pod("agent", SLEEP));
    let before = node.wait_until_ready("agent");
    assert!(agent.stop().success());
    crash(&node, "agent");
    let before_kill = node.get(&["pod", "agent"]);
    assert_ne!(container(&before), container(&before_kill));
    let agent = offering(&node, &["agent0"]);
    agent.kill();
    assert_untouched(&node, "agent", &before_kill);
    let agent = offering(&node, &["agent0"]);
    assert_untouched(&node, "agent", &before_kill);
    assert!(agent.stop().success());
    gone(&node, "agent", &device);
    let agent = offering(&node, &["agent0"]);
    drop(agent);
}

#[test]
fn a_rolling_update_loses_no_capacity_for_good_and_no_pod() {
    let node = lock();
    let devices = ["roll0", "roll1"].map(|name| node.add_device(name));
    let names = ["roll0", "roll1"];
    let old = offering(&node, &names);
    node.apply(&pod("roll", SLEEP));
    let before = node.wait_until_ready("roll");
    let new = node.agent(&selection(&names));
    new.wait_until_registered();
    assert!(old.stop().success());
    // the end of the old one's stream makes the kubelet end the new one's too
    let listed = r#"netdevice_registered{resource="networking.k8s.io/netdevice"}"#;
    wait_for("the new one is registered", || new.metric(listed), |value| *value == Some(1));
    wait_for_capacity(&node, &new, 2);
    assert_untouched(&node, "roll", &before);
    node.apply(&pod("roll-next", SLEEP));
    node.wait_until_ready("roll-next");
    assert_ne!(device_of(&node, "roll").0, device_of(&node, "roll-next").0);
    node.delete(&["pod/roll", "pod/roll-next"]);
    devices.iter().for_each(Device::wait_until_free);
    wait_for_capacity(&node, &new, 2);
}

#[test]
fn a_pod_comes_back_with_its_device_after_a_reboot() {
    let node = lock();
    let device = node.add_device("reboot0");
    let agent = offering(&node, &["reboot0"]);
    node.apply(&pod("reboot", SLEEP));
    let before = node.wait_until_ready("reboot");
    node.kubelet(Action::Stop);
    agent.kill();
    node.remove_all_pods();
    node.sh("rm -rf /run/netdevice /run/cdi");
    device.wait_until_home();
    // as the unit does: it is started before the kubelet, whose old socket is still there
    let agent = node.agent(&selection(&["reboot0"]));
    node.kubelet(Action::Start);
    let now = || node.get(&["pod", "reboot"])["status"]["containerStatuses"][0].clone();
    wait_for("it runs again", now, |now| now["restartCount"].as_u64() >= Some(1) && now["ready"] == true);
    let after = node.get(&["pod", "reboot"]);
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert!(device_of(&node, "reboot").1.contains("inet 192.0.2.5/24"));
    wait_for_capacity(&node, &agent, 1);
    gone(&node, "reboot", &device);
}

/// Defect 6 of the original: an empty list is never sent.
#[test]
fn the_last_device_is_withdrawn_when_its_link_goes_and_counted_again_when_it_comes() {
    let node = lock();
    let device = node.add_device("last0");
    let agent = offering(&node, &["last0"]);
    drop(device);
    wait_for_capacity(&node, &agent, 0);
    let device = node.add_device("last0");
    wait_for_capacity(&node, &agent, 1);
    node.sh("ip link set last0 down");
    wait_for("a link that is down is not allocatable", || capacity(&node), |seen| *seen == ("1".into(), "0".into()));
    drop(device);
}

/// Defect 8 of the original: the uplink is looked up once, for IPv4.
#[test]
fn a_device_that_becomes_the_uplink_is_withdrawn_and_offered_again_afterwards() {
    let node = lock();
    let device = node.add_device("route0");
    let agent = offering(&node, &["route0"]);
    for route in ["default via 192.0.2.1 dev route0 metric 9", "-6 default dev route0 metric 9"] {
        let (family, route) = route.strip_prefix("-6 ").map_or(("-4", route), |route| ("-6", route));
        node.sh(&format!("ip {family} route add {route}"));
        wait_for_capacity(&node, &agent, 0);
        node.sh(&format!("ip {family} route delete {route}"));
        wait_for_capacity(&node, &agent, 1);
    }
    device.wait_until_home();
}

/// The node without a default route through it: what the kubelet is known by is the node's all the same.
#[test]
fn a_device_with_the_kubelets_own_address_is_withdrawn_and_offered_again_afterwards() {
    let node = lock();
    let device = node.add_device("known0");
    let status = node.get(&["node", node.name()])["status"].clone();
    let addresses = status["addresses"].as_array().cloned().unwrap_or_default();
    let own = addresses.iter().find(|address| address["type"] == "InternalIP").expect("a kubelet tells its --node-ip");
    let own = own["address"].as_str().expect("a text");
    let agent = node.agent(&[selection(&["known0"]).as_slice(), &["-node-ip", own]].concat());
    wait_for_capacity(&node, &agent, 1);
    node.sh(&format!("ip address add {own}/32 dev known0"));
    wait_for_capacity(&node, &agent, 0);
    let netdevctl = e2e::program("netdevctl");
    let said = node.run([netdevctl.as_os_str(), "explain".as_ref(), "known0".as_ref()]);
    assert!(said.text().contains(&format!("it has the node's own address {own}")), "{said}");
    node.sh(&format!("ip address delete {own}/32 dev known0"));
    wait_for_capacity(&node, &agent, 1);
    device.wait_until_home();
}

#[test]
fn the_reason_why_a_device_is_not_handed_out_is_one_line_of_the_pods_description() {
    let node = lock();
    let device = node.add_device("reason0");
    let agent = offering(&node, &["reason0"]);
    // Somebody takes it past the kubelet: not a Pod, for the kubelet ends those that it does not know.
    let by_name = ["ctr", "run", "--detach", "--device", "networking.k8s.io/netdevice=reason0"];
    node.run(by_name.iter().chain(&[e2e::BUSYBOX_IMAGE, "thief", "sleep", "1000000"])).text();
    node.apply(&pod("late", SLEEP));
    node.wait_for_phase("late", "Failed");
    let said = node.kubectl(&["describe", "pod", "late"]);
    let reason = "device reason0: it is held by container thief: ";
    assert!(
        said.text().lines().any(|line| line.contains("UnexpectedAdmissionError") && line.contains(reason)),
        "{said}"
    );
    node.delete(&["pod/late"]);
    node.sh("ctr tasks delete --force thief; ctr containers delete thief");
    device.wait_until_free();
    // and a hook's words, where the runtime repeats them: crun keeps them to itself, and the journal has them
    node.apply(&pod_with("hostnet", SLEEP, "  hostNetwork: true"));
    let reason =
        "device reason0: the pod uses the node's own network (hostNetwork), to which the device belongs already";
    let is_crun = std::env::var("NETDEVICE_RUNTIME").is_ok_and(|runtime| runtime == "crun");
    let words = || {
        let described = node.kubectl(&["describe", "pod", "hostnet"]).stdout;
        let journal = std::fs::read_to_string(node.path("/run/netdevice/hook.log")).unwrap_or_default();
        (described, journal)
    };
    wait_for("the hook's words", words, |(described, journal)| {
        let has_failed = |line: &str| line.contains("Failed") && line.contains("Error:");
        let is_told = |line: &str| has_failed(line) && (is_crun || line.contains(reason));
        described.lines().any(is_told) && (!is_crun || journal.contains(reason.trim_start_matches("device reason0: ")))
    });
    node.delete(&["pod/hostnet"]);
    device.wait_until_free();
    drop(agent);
}

#[test]
fn a_device_that_is_deleted_under_a_pod_ends_with_it_and_is_told() {
    let node = lock();
    let device = node.add_device("deleted0");
    let mut agent = offering(&node, &["deleted0"]);
    node.apply(&pod("deleted", SLEEP));
    let before = node.wait_until_ready("deleted");
    // its other end takes it along out of the Pod
    drop(device);
    assert_untouched(&node, "deleted", &before);
    assert_eq!(capacity(&node), ("1".into(), "1".into()), "a Pod has it by the books");
    node.delete(&["pod/deleted"]);
    wait_for_capacity(&node, &agent, 0);
    assert_eq!(agent.metric(r#"netdevice_detach_total{result="lost"}"#), Some(1), "{}", agent.get("/metrics").body);
    agent.signal(Signal::INT);
    assert!(agent.wait().success());
}
