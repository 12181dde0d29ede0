//! Devices by annotation on a real containerd: into the sandbox as written, home as they were, and no Pod that asked for
//! one runs without it.

use e2e::{
    ANNOTATION, Action, Agent, Container, ContainerSpec, Failure, Kind, Network, Node, Pod, PodSpec, SharedNode,
    Signal, wait_for,
};
use serde_json::Value;

static NODE: SharedNode = SharedNode::new("annotations", Kind::Containerd);

const RUNTIMES: [&str; 2] = ["runc", "crun"];
fn injector<'n>(node: &'n Node, interfaces: &str) -> Agent<'n> {
    let injector = node.injector(&["-idx", "10", "-interfaces", interfaces]);
    injector.wait_until_connected();
    injector
}

fn asking(name: &str, annotation: &str) -> PodSpec {
    PodSpec::new(name).annotation(ANNOTATION, annotation)
}

/// A Pod's link of that name, and its addresses as `ADDRESS/PREFIX`.
#[track_caller]
fn link(pod: &Pod<'_>, name: &str) -> (Value, Vec<String>) {
    let links = pod.ip(&["address", "show"]);
    let found = links.as_array().into_iter().flatten().find(|link| link["ifname"] == name);
    let link = found.unwrap_or_else(|| panic!("no {name} in {links:#}")).clone();
    let address = |info: &Value| format!("{}/{}", info["local"].as_str().unwrap_or_default(), info["prefixlen"]);
    let addresses = link["addr_info"].as_array().into_iter().flatten().map(address).collect();
    (link, addresses)
}

/// Starts the first container of a Pod; the runtime may refuse the sandbox or the container.
fn first_container(node: &Node, spec: PodSpec) -> Result<(), Failure> {
    let pod = node.run_pod(spec)?;
    let started: Result<Container<'_>, Failure> = pod.start(&ContainerSpec::new("c"));
    started.map(drop)
}

#[track_caller]
fn assert_refused(node: &Node, spec: PodSpec, reason: &str) {
    let refused = first_container(node, spec);
    let Err(failure) = refused else { panic!("the pod runs, in spite of {reason:?}") };
    // crictl quotes what the runtime says
    let said = failure.message.replace("\\\"", "\"");
    assert!(said.contains(reason), "{reason:?} is not in\n{failure}");
    node.remove_all_pods();
}

#[test]
fn a_pod_has_its_device_as_the_annotation_says_before_its_first_instruction_and_it_comes_home_as_it_was() {
    let node = NODE.lock();
    let injector = injector(&node, "^front0$");
    for handler in RUNTIMES {
        let device = node.add_rich_device("front0");
        let annotation = "- name: front0\n  new_name: eth1\n  address: 192.168.2.2\n  prefix: 24\n  mtu: 1300\n";
        let pod = node.run_pod(asking(&format!("seed-{handler}"), annotation).handler(handler)).unwrap();
        let (eth1, addresses) = link(&pod, "eth1");
        assert_eq!((eth1["mtu"].as_u64(), eth1["operstate"].as_str()), (Some(1300), Some("UP")), "{eth1:#}");
        assert!(addresses.contains(&"192.168.2.2/24".to_owned()), "{addresses:?}");
        assert!(!addresses.iter().any(|address| address.starts_with("192.0.2.")), "{addresses:?}");
        assert!(!pod.ip(&["-d", "link", "show"]).to_string().contains("front door"), "its alias stays");
        assert!(!device.is_on_node());
        let (_, own) = link(&pod, "eth0");
        let container = pod.start(&ContainerSpec::new("c")).unwrap();
        let inside = container.exec(&["ip", "address", "show", "eth1"]);
        assert!(inside.text().contains("192.168.2.2/24"), "{inside}");
        assert_eq!(link(&pod, "eth0").1, own, "the pod's own network is untouched");
        pod.stop().unwrap();
        device.wait_until_free();
        pod.remove().unwrap();
        device.wait_until_free();
    }
    assert_eq!(injector.metric(r#"netdevice_injections_total{result="ok"}"#), Some(2));
    assert_eq!(injector.metric(r#"netdevice_releases_total{result="ok"}"#), Some(2));
}

#[test]
fn what_the_annotation_grows_is_applied() {
    let node = NODE.lock();
    let _injector = injector(&node, "^grow");
    let (first, second) = (node.add_rich_device("grow0"), node.add_device("grow1"));
    let annotation = r#"[
        {"name": "grow1", "new_name": "net1", "mac": "02:00:5e:aa:bb:cc",
         "addresses": ["10.77.0.2/24", "2001:db8:77::2/64"],
         "routes": [{"to": "10.78.0.0/16", "via": "10.77.0.1"}, {"to": "2001:db8:78::/48", "via": "2001:db8:77::1"}]},
        {"pool": "netdevice", "inherit": true}
    ]"#;
    let pod = node.run_pod(asking("grow", annotation)).unwrap();
    let (net1, addresses) = link(&pod, "net1");
    assert_eq!(net1["address"], "02:00:5e:aa:bb:cc");
    for address in ["10.77.0.2/24", "2001:db8:77::2/64"] {
        assert!(addresses.contains(&address.to_owned()), "{addresses:?}");
    }
    for (family, to, via) in [("-4", "10.78.0.0/16", "10.77.0.1"), ("-6", "2001:db8:78::/48", "2001:db8:77::1")] {
        let routes = pod.ip(&[family, "route", "show", "dev", "net1"]);
        let is_asked = |route: &Value| route["dst"] == to && route["gateway"] == via;
        assert!(routes.as_array().into_iter().flatten().any(is_asked), "{routes:#}");
    }
    let (grow0, addresses) = link(&pod, "grow0");
    assert_eq!(grow0["mtu"].as_u64(), Some(1400), "{grow0:#}");
    assert!(pod.ip(&["-d", "link", "show"]).to_string().contains("front door"), "its alias goes along");
    assert!(addresses.contains(&"192.0.2.5/24".to_owned()), "{addresses:?}");
    pod.stop().unwrap();
    first.wait_until_free();
    second.wait_until_free();
    node.remove_all_pods();
}

#[test]
fn a_pod_that_cannot_have_what_it_asks_for_does_not_run_and_nothing_is_lost() {
    let node = NODE.lock();
    let _injector = injector(&node, "^(bad|eth0)");
    let (first, second) = (node.add_rich_device("bad0"), node.add_device("bad1"));
    let (uplink, processes) = (node.device_state("eth0"), node.sandbox_processes());
    let long = format!("[{{name: bad0, comment: \"{}\"}}]", "x".repeat(10_000));
    let table = [
        ("[{name: bad0", "annotation netdevices.nri.containerd.io: "),
        ("[{new_name: eth1}]", "device 1 of the list: name or pool is missing"),
        ("[{name: bad0, adress: 10.0.0.1}]", "unknown field \"adress\""),
        (long.as_str(), "unknown field \"comment\""),
        ("[{name: none0}]", "device none0: the node has no such interface"),
        ("[{name: bad0-p}, {name: eth0}]", "device eth0: it is never handed out because"),
        ("[{name: bad0, new_name: eth0}]", "the name eth0 is taken in the pod's network namespace"),
        ("[{name: bad0}, {name: bad1}, {name: bad2}]", "device bad2: the node has no such interface"),
        ("[{name: bad0}, {name: bad1, new_name: eth0}]", "the name eth0 is taken in the pod's network namespace"),
        ("[{name: bad0}, {name: bad0}]", "requested twice"),
        ("[{name: bad0, new_name: a}, {name: bad1, new_name: a}]", "device 1 of the list has the same name in the pod"),
        ("[{name: bad0, address: 10.0.0.1, prefix: 33}]", "prefix"),
        ("[{name: bad0, mtu: 4000000}]", "mtu"),
        ("[{name: other0}]", "device other0: the node has no such interface"),
        ("[{name: lo}]", "loopback"),
    ];
    for (annotation, reason) in table {
        assert_refused(&node, asking("bad", annotation), reason);
        first.wait_until_free();
        second.wait_until_free();
    }
    let hostnet = asking("hostnet", "[{name: bad0}]").network(Network::Host);
    assert_refused(&node, hostnet, "the pod uses the node's own network (hostNetwork)");
    // some runtimes forget the processes of a sandbox that a plugin refused (containerd#13355)
    wait_for(
        "no process is left of the pods that were refused",
        || node.sandbox_processes(),
        |now| now.is_subset(&processes),
    );
    first.wait_until_free();
    assert_eq!(node.device_state("eth0"), uplink);
    for nothing in ["", "null", "[]"] {
        first_container(&node, asking("nothing", nothing)).unwrap();
        node.remove_all_pods();
    }
}

/// More than a runtime waits for: the rest follows before the first container, which a kubelet tries again.
#[test]
fn a_pod_may_have_64_devices() {
    let node = NODE.lock();
    let injector = injector(&node, "^many");
    let names: Vec<String> = (0..64).map(|at| format!("many{at}")).collect();
    let devices: Vec<_> = names.iter().map(|name| node.add_device(name)).collect();
    let entries: Vec<String> = names.iter().map(|name| format!("{{name: {name}}}")).collect();
    let pod = node.run_pod(asking("many", &format!("[{}]", entries.join(", ")))).unwrap();
    let attempts = (0..60).map(|attempt| pod.start(&ContainerSpec::new("c").attempt(attempt)));
    let mut refusals = Vec::new();
    let container =
        attempts.filter_map(|started| started.map_err(|failure| refusals.push(failure.message)).ok()).next();
    assert!(container.is_some(), "no container starts: {refusals:#?}");
    assert!(refusals.iter().all(|refusal| refusal.contains("are still being attached")), "{refusals:#?}");
    let links = pod.ip(&["link", "show"]);
    let inside: Vec<&str> = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str()).collect();
    assert!(names.iter().all(|name| inside.contains(&name.as_str())), "{inside:?} {}", injector.output());
    pod.stop().unwrap();
    devices.iter().for_each(e2e::Device::wait_until_free);
    node.remove_all_pods();
    drop(injector);
}

#[test]
fn a_device_is_given_to_one_pod_at_a_time_and_to_the_kubelet_it_is_unhealthy_meanwhile() {
    let node = NODE.lock();
    let device = node.add_device("one0");
    let agent = node.agent(&["-nri", "-interfaces", "^one0$"]);
    agent.wait_until_connected();
    agent.wait_until_offered(&["one0"]);
    let healthy =
        |state: &str| format!("netdevice_devices{{resource=\"networking.k8s.io/netdevice\",state=\"{state}\"}}");
    assert_eq!(agent.metric(&healthy("healthy")), Some(1));
    let pod = node.run_pod(asking("first", "[{name: one0}]")).unwrap();
    pod.start(&ContainerSpec::new("c")).unwrap();
    wait_for("it is attached", || agent.metric(&healthy("attached")), |count| *count == Some(1));
    assert_refused_beside(&node, asking("second", "[{name: one0}]"), "device one0: it is held by pod default/first");
    let by_resource = ContainerSpec::new("r").cdi_device("networking.k8s.io/netdevice=one0");
    let third = node.run_pod(PodSpec::new("third")).unwrap();
    assert!(third.start(&by_resource).is_err(), "the hook gives away what an annotation took");
    assert!(link(&pod, "one0").0["ifname"] == "one0");
    pod.stop().unwrap();
    device.wait_until_free();
    // and the other way round
    let container = third.start(&by_resource.attempt(1)).unwrap();
    assert_refused_beside(&node, asking("fourth", "[{name: one0}]"), "device one0: it is held by pod default/third");
    container.stop().unwrap();
    device.wait_until_free();
    node.remove_all_pods();
}

/// As [`assert_refused`], and the other Pods stay.
#[track_caller]
fn assert_refused_beside(node: &Node, spec: PodSpec, reason: &str) {
    let Err(failure) = first_container(node, spec) else { panic!("the pod runs, in spite of {reason:?}") };
    assert!(failure.message.contains(reason), "{reason:?} is not in\n{failure}");
}

#[test]
fn a_sandbox_that_came_while_nobody_was_connected_gets_its_device_with_its_first_container_or_when_somebody_is() {
    let node = NODE.lock();
    let device = node.add_rich_device("late0");
    let pod = node.run_pod(asking("late", "[{name: late0, new_name: net1}]")).unwrap();
    let running = node.run_pod(asking("running", "[{name: late1}]")).unwrap();
    running.start(&ContainerSpec::new("c")).unwrap();
    let other = node.add_device("late1");
    assert!(device.is_on_node());
    let injector = injector(&node, "^late");
    pod.start(&ContainerSpec::new("c")).unwrap();
    link(&pod, "net1");
    wait_for("the running pod has its device", || other.is_on_node(), |there| !there);
    link(&running, "late1");
    for (pod, device) in [(pod, device), (running, other)] {
        pod.stop().unwrap();
        device.wait_until_free();
    }
    node.remove_all_pods();
    drop(injector);
}

#[test]
fn a_restart_of_the_runtime_loses_no_device_although_it_tells_nobody_of_the_end_of_older_pods() {
    let node = NODE.lock();
    let mut injector = injector(&node, "^restart");
    for (round, signal) in [None, Some("KILL")].into_iter().enumerate() {
        let device = node.add_rich_device("restart0");
        let pod = node.run_pod(asking(&format!("older-{round}"), "[{name: restart0}]")).unwrap();
        let container = pod.start(&ContainerSpec::new("c")).unwrap();
        if let Some(signal) = signal {
            node.sh(&format!("pkill -{signal} -x containerd"));
        }
        node.containerd(Action::Restart);
        injector.wait_until_connected();
        assert!(!device.is_on_node(), "the pod runs on, and so it has its device");
        assert!(container.exec(&["ip", "link", "show", "restart0"]).success());
        pod.stop().unwrap();
        device.wait_until_free();
        node.remove_all_pods();
    }
    injector.signal(Signal::TERM);
    assert!(injector.wait().success());
}

#[test]
fn an_injector_that_was_killed_leaves_pods_alone_and_the_next_one_brings_their_devices_home() {
    let node = NODE.lock();
    let device = node.add_rich_device("next0");
    let first = injector(&node, "^next");
    let pod = node.run_pod(asking("survivor", "[{name: next0}]")).unwrap();
    pod.start(&ContainerSpec::new("c")).unwrap();
    first.kill();
    assert!(!device.is_on_node());
    let gone = node.run_pod(asking("unseen", "[]")).unwrap();
    drop(gone);
    let second = injector(&node, "^next");
    assert!(!device.is_on_node());
    pod.stop().unwrap();
    device.wait_until_free();
    // and where nobody was there at the end of the Pod
    let pod = node.run_pod(asking("unwatched", "[{name: next0}]")).unwrap();
    second.kill();
    // a virtual device dies with its namespace: this one is held open for the time being
    node.sh(&format!("ip netns attach kept {}", pod.pid()));
    pod.stop().unwrap();
    assert!(!device.is_on_node());
    let third = injector(&node, "^next");
    device.wait_until_free();
    node.sh("ip netns delete kept");
    node.remove_all_pods();
    drop(third);
}

#[test]
fn of_two_injectors_one_does_the_work_and_the_other_stands_by() {
    let node = NODE.lock();
    let (old, device) = (injector(&node, "^two"), node.add_rich_device("two0"));
    let new = node.injector(&["-interfaces", "^two", "-name", "new", "-admin-address", "127.0.0.1:9782"]);
    wait_for("the other is connected", || node.http(9782, "/readyz").status, |status| *status == 200);
    for round in 0..3 {
        let pod = node.run_pod(asking(&format!("two-{round}"), "[{pool: netdevice}]")).unwrap();
        pod.start(&ContainerSpec::new("c")).unwrap();
        link(&pod, "two0");
        pod.stop().unwrap();
        device.wait_until_free();
        pod.remove().unwrap();
    }
    let injected = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("netdevice_injections_total{result=\"ok\"} "));
        line.and_then(|count| count.parse::<u64>().ok()).unwrap_or_default()
    };
    let counts = [injected(old.get("/metrics").body), injected(node.http(9782, "/metrics").body)];
    assert_eq!(counts.iter().sum::<u64>(), 3, "{counts:?}");
    assert!(old.stop().success());
    let pod = node.run_pod(asking("two-alone", "[{name: two0}]")).unwrap();
    link(&pod, "two0");
    pod.stop().unwrap();
    device.wait_until_free();
    node.remove_all_pods();
    drop(new);
}

#[test]
fn a_container_with_net_admin_changes_nothing_that_comes_home() {
    let node = NODE.lock();
    let injector = injector(&node, "^hostile");
    let device = node.add_rich_device("hostile0");
    let pod = node.run_pod(asking("hostile", "[{name: hostile0, new_name: net1}]")).unwrap();
    let script = "ip link set net1 down; ip link set net1 name eth9 mtu 1280 address 02:00:5e:66:66:66 alias gotcha;
        ip address add 10.66.0.1/24 dev eth9; ip link add hostile0 type ifb; ip link add net1 type ifb";
    node.sh(&format!("nsenter --net=/proc/{}/ns/net sh -ec \"{script}\"", pod.pid()));
    pod.stop().unwrap();
    device.wait_until_free();
    node.remove_all_pods();
    drop(injector);
}

#[test]
fn the_runtime_starts_the_injector_itself_with_the_configuration_that_it_has_for_it() {
    let node = NODE.lock();
    let device = node.add_rich_device("pre0");
    let pools =
        "pools:\n- {resource: example.com/pre, select: {names: [^pre]}, annotations: {namespaces: [default]}}\n";
    node.write("/etc/nri/conf.d/42-network-device-injector.conf", pools);
    let program = e2e::program("netdevice-agent");
    let plugin = "/opt/nri/plugins/42-network-device-injector";
    node.sh(&format!("mkdir -p /opt/nri/plugins; ln -s {} {plugin}", program.display()));
    node.containerd(Action::Restart);
    let ready = || node.http(9781, "/readyz");
    wait_for("the injector is ready", ready, |answer| answer.status == 200);
    let pod = node.run_pod(asking("pre", "[{pool: pre, new_name: net1}]")).unwrap();
    link(&pod, "net1");
    pod.stop().unwrap();
    device.wait_until_free();
    node.remove_all_pods();
    let log = std::fs::read_to_string(node.path("/run/netdevice/injector.log")).unwrap();
    assert!(log.contains("network-device-injector starts"), "{log}");
    node.sh(&format!("rm {plugin}"));
    node.containerd(Action::Restart);
    wait_for("it ends with its runtime", || node.http(9781, "/readyz").status, |status| *status == 0);
}
