//! When a device cannot be given, nothing is lost, and the reason is where somebody looks for it: in the runtime's error
//! (runc), and in the hooks' journal and the agent's log (crun loses what a hook says).

use e2e::{
    Action, Agent, Container, ContainerSpec, Failure, HOOK_LOG, Kind, Network, Node, PodSpec, SharedNode, wait_for,
};

static NODE: SharedNode = SharedNode::new("refusals", Kind::Containerd);

const RUNTIMES: [&str; 2] = ["runc", "crun"];

fn with_device(id: &str) -> ContainerSpec {
    ContainerSpec::new("c").cdi_device(&format!("networking.k8s.io/netdevice={id}"))
}

fn offering<'n>(node: &'n Node, names: &[&str]) -> Agent<'n> {
    let agent = node.agent(&["-interfaces", &format!("^({})$", names.join("|"))]);
    agent.wait_until_offered(names);
    agent
}

/// The container does not start, and says why: `device DEVICE: REASON` in one line.
#[track_caller]
fn assert_refused(node: &Node, agent: &Agent<'_>, handler: &str, started: Result<(), Failure>, line: &str) {
    let Err(failure) = started else { panic!("{handler}: it starts, in spite of {line:?}") };
    let said = format!("netdevice-hook attach: {line}");
    match handler {
        "runc" => assert!(failure.message.contains(&said), "{said:?} is not in\n{failure}"),
        _ => assert!(failure.message.contains("error executing hook"), "{failure}"),
    }
    let (device, reason) =
        line.strip_prefix("device ").and_then(|rest| rest.split_once(": ")).expect("device DEVICE: REASON");
    let journal = std::fs::read_to_string(node.path(HOOK_LOG)).unwrap_or_default();
    let last = journal.lines().rev().find(|line| line.contains("failed")).unwrap_or_default();
    let last: serde_json::Value = serde_json::from_str(last).expect("the journal is of JSON lines");
    assert_eq!((last["device"].as_str(), last["outcome"].as_str()), (Some(device), Some("failed")), "{last}");
    assert!(last["message"].as_str().is_some_and(|message| message.contains(reason)), "{last}");
    let told = |output: &String| output.lines().any(|line| line.contains("WARN") && line.contains(reason));
    wait_for("the agent repeats it", || agent.output(), told);
}

#[test]
fn a_name_that_is_taken_in_the_pod_is_told() {
    let node = NODE.lock();
    for handler in RUNTIMES {
        let device = node.add_rich_device("taken0");
        let agent = offering(&node, &["taken0"]);
        let pod = node.run_pod(PodSpec::new(&format!("taken-{handler}")).handler(handler)).unwrap();
        node.sh(&format!("nsenter --net=/proc/{}/ns/net ip link add taken0 type ifb", pod.pid()));
        let container = pod.create(&with_device("taken0")).unwrap();
        let line =
            "device taken0: the name taken0 is taken in the pod's network namespace: rename the device on the node";
        assert_refused(&node, &agent, handler, container.start(), line);
        device.wait_until_free();
        node.remove_all_pods();
        device.wait_until_free();
    }
}

#[test]
fn a_device_that_vanished_before_the_start_is_told() {
    let node = NODE.lock();
    for handler in RUNTIMES {
        let device = node.add_device("vanish0");
        let agent = offering(&node, &["vanish0"]);
        let pod = node.run_pod(PodSpec::new(&format!("vanish-{handler}")).handler(handler)).unwrap();
        let container = pod.create(&with_device("vanish0")).unwrap();
        drop(device);
        let line = "device vanish0: the node has no such interface: it was removed or renamed; choose another device";
        assert_refused(&node, &agent, handler, container.start(), line);
        node.remove_all_pods();
    }
}

#[test]
fn a_device_that_another_pod_holds_is_told_with_its_holder() {
    let node = NODE.lock();
    for handler in RUNTIMES {
        let device = node.add_device("held0");
        let agent = offering(&node, &["held0"]);
        let first = node.run_pod(PodSpec::new(&format!("first-{handler}")).handler(handler)).unwrap();
        let holder = first.start(&with_device("held0")).unwrap();
        let second = node.run_pod(PodSpec::new(&format!("second-{handler}")).handler(handler)).unwrap();
        let container = second.create(&with_device("held0")).unwrap();
        let line = format!("device held0: it is held by pod default/first-{handler} (sandbox {})", &first.id()[..13]);
        assert_refused(&node, &agent, handler, container.start(), &line);
        // the failed one's end takes nothing from the first
        second.stop().unwrap();
        assert!(holder.exec(&["ip", "address", "show", "held0"]).text().contains("192.0.2.5/24"), "{handler}");
        node.remove_all_pods();
        device.wait_until_free();
    }
}

#[test]
fn a_host_network_pod_is_refused() {
    let node = NODE.lock();
    for handler in RUNTIMES {
        let device = node.add_device("hostnet0");
        let agent = offering(&node, &["hostnet0"]);
        let spec = PodSpec::new(&format!("hostnet-{handler}")).network(Network::Host).handler(handler);
        let pod = node.run_pod(spec).unwrap();
        let container = pod.create(&with_device("hostnet0")).unwrap();
        let line = "device hostnet0: the pod uses the node's own network (hostNetwork), to which the device belongs \
                    already: remove hostNetwork or the device";
        assert_refused(&node, &agent, handler, container.start(), line);
        device.wait_until_free();
        node.remove_all_pods();
        device.wait_until_free();
    }
}

#[test]
fn a_device_that_became_the_uplink_after_it_was_handed_out_stays() {
    let node = NODE.lock();
    for handler in RUNTIMES {
        for (family, table) in [("-4", "main"), ("-6", "main"), ("-4", "100")] {
            let device = node.add_device("uplink0");
            let agent = offering(&node, &["uplink0"]);
            let pod = node.run_pod(PodSpec::new(&format!("uplink-{handler}")).handler(handler)).unwrap();
            let container = pod.create(&with_device("uplink0")).unwrap();
            if table != "main" {
                node.sh("ip rule add from 192.0.2.0/24 lookup 100");
            }
            node.sh(&format!("ip {family} route add default dev uplink0 metric 500 table {table}"));
            let number = if table == "main" { "254" } else { table };
            let line = format!(
                "device uplink0: it is never handed out because the node's IPv{} default route (table {number}) goes \
                 through it: choose another device",
                &family[1..]
            );
            assert_refused(&node, &agent, handler, container.start(), &line);
            assert!(device.is_on_node());
            node.remove_all_pods();
            if table != "main" {
                node.sh("ip rule delete lookup 100");
            }
        }
    }
}

#[test]
fn when_the_second_of_two_devices_fails_the_first_is_home_again() {
    let node = NODE.lock();
    for handler in RUNTIMES {
        let first = node.add_rich_device("both1");
        let second = node.add_device("both2");
        let agent = offering(&node, &["both1", "both2"]);
        let pod = node.run_pod(PodSpec::new(&format!("both-{handler}")).handler(handler)).unwrap();
        let spec = with_device("both1").cdi_device("networking.k8s.io/netdevice=both2");
        let container = pod.create(&spec).unwrap();
        drop(second);
        let line = "device both2: the node has no such interface";
        assert_refused(&node, &agent, handler, container.start(), line);
        // before the Pod ends: crun runs no poststop hook after a failed start
        first.wait_until_free();
        node.remove_all_pods();
        first.wait_until_free();
    }
}

#[test]
fn a_device_that_could_not_be_given_is_given_at_the_next_attempt() {
    let node = NODE.lock();
    for handler in RUNTIMES {
        let device = node.add_device("retry0");
        let agent = offering(&node, &["retry0"]);
        let pod = node.run_pod(PodSpec::new(&format!("retry-{handler}")).handler(handler)).unwrap();
        let inside = format!("nsenter --net=/proc/{}/ns/net", pod.pid());
        node.sh(&format!("{inside} ip link add retry0 type ifb"));
        let container = pod.create(&with_device("retry0")).unwrap();
        assert_refused(&node, &agent, handler, container.start(), "device retry0: the name retry0 is taken");
        node.sh(&format!("{inside} ip link delete retry0"));
        let again: Container<'_> = pod.start(&with_device("retry0").attempt(1)).unwrap();
        assert!(again.exec(&["ip", "address", "show", "retry0"]).text().contains("192.0.2.5/24"), "{handler}");
        node.remove_all_pods();
        device.wait_until_free();
    }
}

/// Defect 9 of the original: a hook that cannot read its state exits with 0.
#[test]
fn a_hook_that_gets_no_state_fails_and_says_so() {
    let node = NODE.lock();
    let hook = e2e::program("netdevice-hook");
    let hook = hook.to_string_lossy();
    for state in ["", "{", r#"{"ociVersion":"1.0","id":"x","pid":0,"bundle":"/"}"#, "[]", "\u{0}"] {
        let done = node.run_with([&*hook, "attach", "dummy0"], state);
        assert_eq!(done.code, Some(1), "{state:?}: {done}");
        assert!(done.stderr.starts_with("netdevice-hook attach: device dummy0: "), "{done}");
        assert_eq!(done.stderr.lines().count(), 1, "{done}");
    }
    let done = node.run_with([&*hook, "attach", "dummy0"], &" ".repeat(20 << 20));
    assert_eq!((done.code, done.stderr.lines().count()), (Some(1), 1), "{done}");
    // one whose process is gone
    let done =
        node.run_with([&*hook, "attach", "dummy0"], r#"{"ociVersion":"1.0","id":"x","pid":4194303,"bundle":"/"}"#);
    assert!(done.stderr.contains("cannot open the pod's network namespace /proc/4194303/ns/net"), "{done}");
}

#[test]
fn a_device_without_a_cdi_file_is_refused_in_the_runtimes_words_and_containerd_goes_on() {
    let node = NODE.lock();
    let pod = node.run_pod(PodSpec::new("nofile")).unwrap();
    let failure = pod.create(&with_device("ghost0")).unwrap_err();
    assert!(failure.message.contains("unresolvable CDI devices networking.k8s.io/netdevice=ghost0"), "{failure}");
    node.containerd(Action::Restart);
    node.remove_all_pods();
}
