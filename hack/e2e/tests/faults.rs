//! What goes wrong around the agent: it says so, stays up, and is right again as soon as it can be.

use std::time::{Duration, Instant};

use e2e::{Action, Agent, CDI_FILE, Kind, Node, Output, SharedNode, Signal, eventually, wait_for};

static NODE: SharedNode = SharedNode::new("faults", Kind::Cluster);

const SOCKETS: &str = "/var/lib/kubelet/device-plugins";
const REGISTERED: &str = r#"netdevice_registered{resource="networking.k8s.io/netdevice"}"#;
const HEALTHY: &str = r#"netdevice_devices{resource="networking.k8s.io/netdevice",state="healthy"}"#;

fn capacity(node: &Node, resource: &str) -> String {
    node.get(&["node", node.name()])["status"]["capacity"][resource].as_str().unwrap_or("none").to_owned()
}

#[track_caller]
fn wait_for_capacity(node: &Node, agent: &Agent<'_>, resource: &str, count: &str) {
    let found = eventually(Duration::from_secs(30), || (capacity(node, resource) == count).then_some(()));
    assert!(found.is_some(), "{resource}: {} is not {count}\n{}", capacity(node, resource), agent.output());
}

#[track_caller]
fn wait_for_metric(agent: &Agent<'_>, series: &str, value: i64) {
    let found = eventually(Duration::from_secs(30), || (agent.metric(series) == Some(value)).then_some(()));
    assert!(found.is_some(), "{series} is not {value} in\n{}\n{}", agent.get("/metrics").body, agent.output());
}

/// Our sockets in the kubelet's folder.
fn sockets(node: &Node) -> Vec<String> {
    let all = std::fs::read_dir(node.path(SOCKETS)).into_iter().flatten().flatten();
    let names = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("netdevice")).collect()
}

fn run_agent(node: &Node, args: &[&str]) -> Output {
    let program = e2e::program("netdevice-agent");
    node.run([&*program.to_string_lossy()].iter().chain(args))
}

#[test]
fn wrong_arguments_end_the_agent_with_a_line_that_says_what_is_wrong() {
    let node = NODE.lock();
    for (args, line) in [
        (&["-bogus"][..], "error: unexpected argument '--bogus' found"),
        (
            &["-interfaces", "["],
            "error: invalid value '[' for '--interfaces <REGEX>': invalid regular expression \"[\": unclosed character class",
        ),
        (&[], "error: the following required arguments were not provided:"),
        (
            &["-interfaces", "a", "-config", "b"],
            "error: the argument '--interfaces <REGEX>' cannot be used with '--config <FILE>'",
        ),
        (
            &["-interfaces", "a", "-hook-path", "rel"],
            "error: invalid value 'rel' for '--hook-path <FILE>': must be an absolute path",
        ),
    ] {
        let done = run_agent(&node, args);
        assert_eq!((done.code, done.stderr.lines().next()), (Some(2), Some(line)), "{done}");
    }
}

#[test]
fn a_wrong_configuration_ends_an_agent_that_starts_with_its_line_and_reason() {
    let node = NODE.lock();
    node.write("/run/wrong/1.yaml", "pools:\n- resource: a.b/cc\n  select: {names: [a]}\n  helth: up\n");
    node.write("/run/wrong/2.yaml", "pools:\n- resource: a.b/cc\n  select: {names: ['[']}\n");
    for (file, reasons) in [
        ("/run/wrong/1.yaml", ["configuration /run/wrong/1.yaml: unknown field `helth`", "at line 4, column 3"]),
        ("/run/wrong/2.yaml", ["configuration /run/wrong/2.yaml: ", "at line 3, column 20"]),
        ("/run/wrong", ["configuration /run/wrong: ", "Is a directory"]),
    ] {
        let done = run_agent(&node, &["-config", file]);
        let errors: Vec<&str> = done.stderr.lines().filter(|line| line.contains("ERROR")).collect();
        assert_eq!((done.code, errors.len()), (Some(1), 1), "{done}");
        assert!(reasons.iter().all(|reason| errors[0].contains(reason)), "{done}");
    }
}

/// Defect 13 of the original: SIGTERM is not handled, and after SIGINT it never ends.
#[test]
fn a_signal_ends_the_agent_in_time_and_leaves_the_cdi_file() {
    let node = NODE.lock();
    let device = node.add_device("signal0");
    for signal in [Signal::TERM, Signal::INT] {
        let mut agent = node.agent(&["-interfaces", "^signal0$"]);
        agent.wait_until_registered();
        agent.wait_until_offered(&["signal0"]);
        let before = std::fs::read_to_string(node.path(CDI_FILE)).unwrap();
        let sent = Instant::now();
        agent.signal(signal);
        assert!(agent.wait().success(), "{}", agent.output());
        assert!(sent.elapsed() < Duration::from_secs(5), "{:?}", sent.elapsed());
        assert_eq!(std::fs::read_to_string(node.path(CDI_FILE)).unwrap(), before);
        assert_eq!(sockets(&node), [""; 0]);
    }
    device.wait_until_home();
}

#[test]
fn a_signal_ends_an_agent_that_waits_for_everything() {
    let node = NODE.lock();
    node.kubelet(Action::Stop);
    let mut agent = node.agent(&[
        "-config",
        "/nowhere/config.yaml",
        "-device-plugin-dir",
        "/nowhere/sockets",
        "-cdi-dir",
        "/proc/nowhere",
        "-hook-path",
        "/proc/hook",
    ]);
    agent.wait_for_output("the configuration file does not exist yet");
    agent.wait_for_output("cannot install the hook");
    agent.signal(Signal::TERM);
    assert!(agent.wait().success(), "{}", agent.output());
    node.kubelet(Action::Start);
}

#[test]
fn a_kubelet_that_is_not_there_yet_is_waited_for() {
    let node = NODE.lock();
    let device = node.add_device("late0");
    node.kubelet(Action::Stop);
    node.sh(&format!("rm -rf {SOCKETS}"));
    let agent = node.agent(&["-interfaces", "^late0$"]);
    agent.wait_for_output("waiting for the kubelet at /var/lib/kubelet/device-plugins/kubelet.sock");
    wait_for("the admin endpoint is listening", || agent.get("/healthz").status, |status| *status == 200);
    let ready = agent.get("/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("networking.k8s.io/netdevice is not registered with the kubelet"), "{}", ready.body);
    // Pods without a kubelet are served already
    agent.wait_until_offered(&["late0"]);
    node.kubelet(Action::Start);
    agent.wait_until_registered();
    assert_eq!(agent.get("/readyz").status, 200, "{}", agent.get("/readyz").body);
    wait_for_capacity(&node, &agent, "networking.k8s.io/netdevice", "1");
    device.wait_until_home();
}

#[test]
fn a_kubelet_that_restarts_ten_times_in_a_row_has_the_device_each_time() {
    let node = NODE.lock();
    let device = node.add_device("ten0");
    let agent = node.agent(&["-interfaces", "^ten0$"]);
    agent.wait_until_registered();
    for round in 1..=10 {
        let started = agent.metric(r#"netdevice_registrations_total{resource="networking.k8s.io/netdevice"}"#);
        assert!(started >= Some(round), "{}", agent.output());
        node.kubelet(Action::Restart);
        let log = || agent.output().matches("registered with the kubelet").count();
        wait_for("it registers again", log, |count| *count > usize::try_from(round).unwrap());
    }
    wait_for_capacity(&node, &agent, "networking.k8s.io/netdevice", "1");
    assert_eq!(sockets(&node).len(), 1);
    device.wait_until_home();
}

#[test]
fn a_plugin_socket_that_somebody_removed_comes_again() {
    let node = NODE.lock();
    let device = node.add_device("socket0");
    let agent = node.agent(&["-interfaces", "^socket0$"]);
    agent.wait_until_registered();
    wait_for_capacity(&node, &agent, "networking.k8s.io/netdevice", "1");
    let before = sockets(&node);
    assert_eq!(before.len(), 1);
    std::fs::remove_file(node.path(SOCKETS).join(&before[0])).unwrap();
    let log = || agent.output().matches("registered with the kubelet").count();
    wait_for("it registers again", log, |count| *count >= 2);
    assert_ne!(sockets(&node), before);
    let allocatable =
        || node.get(&["node", node.name()])["status"]["allocatable"]["networking.k8s.io/netdevice"].clone();
    wait_for("the device can be had again", allocatable, |count| *count == "1");
    device.wait_until_home();
}

/// Defect 3 of the original: an error while writing the CDI file stops everything for good.
#[test]
fn the_cdi_file_is_there_again_whatever_happens_to_it() {
    let node = NODE.lock();
    let device = node.add_device("cdi0");
    node.sh("rm -rf /run/cdi");
    let agent = node.agent(&["-interfaces", "^cdi0$"]);
    agent.wait_until_offered(&["cdi0"]);
    let right = std::fs::read_to_string(node.path(CDI_FILE)).unwrap();
    for fault in [
        &format!("rm {CDI_FILE}"),
        // not rm -r: the file is there again before the folder is empty
        "mv /run/cdi /run/cdi.away; rm -r /run/cdi.away",
        "mv /run/cdi /run/cdi.away; mkdir -p /run/cdi; rm -r /run/cdi.away",
        &format!("echo rubbish > {CDI_FILE}"),
    ] {
        node.sh(fault);
        let now = || std::fs::read_to_string(node.path(CDI_FILE)).unwrap_or_default();
        wait_for(fault, now, |text| *text == right);
    }
    // no folder can be made: told, and made up for
    drop(device);
    wait_for("the file goes with its last device", || node.path(CDI_FILE).exists(), |there| !there);
    node.sh("rm -r /run/cdi; echo in the way > /run/cdi");
    let device = node.add_device("cdi0");
    agent.wait_for_output("cannot write the CDI file /var/run/cdi/networking.k8s.io-netdevice.json");
    assert!(agent.metric(r#"netdevice_cdi_write_errors_total{resource="networking.k8s.io/netdevice"}"#) >= Some(1));
    node.sh("rm /run/cdi");
    agent.wait_until_offered(&["cdi0"]);
    wait_for_capacity(&node, &agent, "networking.k8s.io/netdevice", "1");
    device.wait_until_home();
}

#[test]
fn a_device_is_not_offered_while_the_disk_has_no_room_for_its_cdi_file() {
    let node = NODE.lock();
    let device = node.add_device("full0");
    node.sh("rm -rf /run/cdi; mkdir /run/cdi; mount -t tmpfs -o size=16k none /run/cdi; dd if=/dev/zero of=/run/cdi/full bs=4k count=4 2>/dev/null");
    let agent = node.agent(&["-interfaces", "^full0$"]);
    agent.wait_until_registered();
    agent.wait_for_output("No space left on device");
    wait_for_capacity(&node, &agent, "networking.k8s.io/netdevice", "0");
    node.sh("rm /run/cdi/full");
    wait_for_capacity(&node, &agent, "networking.k8s.io/netdevice", "1");
    drop(agent);
    node.sh("umount /run/cdi");
    device.wait_until_home();
}

/// Defect 16 of the original: there is one resource, by one flag.
#[test]
fn a_changed_configuration_is_in_force_at_once_and_a_wrong_one_never() {
    let node = NODE.lock();
    let devices = [node.add_device("pool0"), node.add_device("pool1")];
    let one = "pools:\n- resource: networking.k8s.io/netdevice\n  select: {names: [^pool0$]}\n";
    let two = format!("{one}- resource: example.com/second\n  select: {{names: [^pool1$]}}\n");
    let config = "/run/agent/config.yaml";
    node.write(config, one);
    let agent = node.agent(&["-config", config]);
    wait_for_capacity(&node, &agent, "networking.k8s.io/netdevice", "1");
    node.write(config, &two);
    wait_for_capacity(&node, &agent, "example.com/second", "1");
    node.write(config, &format!("{two}  helth: up\n"));
    agent.wait_for_output("invalid configuration, the previous one stays in use: unknown field `helth`");
    let refused = agent.output();
    let refused = refused.lines().find(|line| line.contains("`helth`")).unwrap_or_default();
    assert!(refused.contains("at line 6, column 3"), "{refused}");
    assert_eq!(agent.metric(r#"netdevice_config_reloads_total{result="failed"}"#), Some(1));
    assert_eq!(agent.metric(r#"netdevice_devices{resource="example.com/second",state="healthy"}"#), Some(1));
    assert_eq!(agent.get("/readyz").status, 200);
    // the pool goes, and its plugin with it
    node.write(config, one);
    agent.wait_for_output("the device plugin ends: its pool was removed");
    let allocatable = || node.get(&["node", node.name()])["status"]["allocatable"]["example.com/second"].clone();
    wait_for("the second resource cannot be had any more", allocatable, |count| *count == "0" || count.is_null());
    assert_eq!(capacity(&node, "networking.k8s.io/netdevice"), "1");
    drop(devices);
}

/// Defects 7 and 8 of the original: the loopback interface is offered, and without a default route it ends.
#[test]
fn a_selection_of_nothing_or_of_the_uplink_is_told_and_waited_with() {
    let node = NODE.lock();
    for (pattern, line) in [
        ("^nothing-here$", "the selection matches no interface of this node: waiting for one"),
        (
            "^eth0$",
            "the selection matches only interfaces that are never offered: eth0: the node's IPv4 default route (table 254) goes through it",
        ),
        ("^lo$", "the selection matches only interfaces that are never offered: lo: it is the loopback interface"),
    ] {
        let mut agent = node.agent(&["-interfaces", pattern]);
        agent.wait_for_output(line);
        agent.wait_until_registered();
        assert_eq!(agent.get("/readyz").status, 200);
        assert_eq!(agent.metric(HEALTHY), Some(0));
        assert!(agent.runs());
    }
    let agent = node.agent(&["-interfaces", "^eth0$|^loner0$"]);
    node.sh("ip route delete default");
    wait_for_metric(&agent, HEALTHY, 1);
    node.sh("ip route add default via 10.212.0.1");
    wait_for_metric(&agent, HEALTHY, 0);
}

/// Defects 11 and 19 of the original: events get lost, and each costs seconds.
#[test]
fn ten_thousand_link_events_at_once_end_in_the_right_list() {
    let node = NODE.lock();
    let device = node.add_device("calm0");
    let mut agent = node.agent(&["-interfaces", r"^(storm\d+|storm-last|calm0)$"]);
    agent.wait_until_registered();
    wait_for_metric(&agent, HEALTHY, 1);
    let lines = |count: u32, line: &dyn Fn(u32) -> String| (0..count).map(line).collect::<String>();
    node.write(
        "/run/storm/add",
        &lines(1000, &|n| format!("link add storm{n} group 77 type ifb\nlink set storm{n} up\n")),
    );
    node.write("/run/storm/alias", &lines(8000, &|n| format!("link set calm0 alias a{n}\n")));
    node.sh("ip -batch /run/storm/add; ip -batch /run/storm/alias; ip link delete group 77; ip -batch /run/storm/add");
    wait_for_metric(&agent, HEALTHY, 1001);
    node.sh("ip link delete group 77; ip link add storm-last type ifb; ip link set storm-last up");
    wait_for_metric(&agent, HEALTHY, 2);
    wait_for_capacity(&node, &agent, "networking.k8s.io/netdevice", "2");
    let events = agent.metric("netdevice_inventory_events_total").unwrap();
    let resyncs = agent.metric("netdevice_inventory_resyncs_total").unwrap();
    let published = agent.metric("netdevice_inventory_snapshots_total").unwrap();
    assert!(resyncs > 0 || events >= 10_000, "{events} events, {resyncs} resyncs");
    assert!(published < events / 5, "{events} events led to {published} snapshots");
    assert!(agent.runs());
    node.sh("ip link delete storm-last");
    drop(device);
}

#[test]
fn the_admin_endpoint_tells_health_readiness_and_metrics() {
    let node = NODE.lock();
    // somebody else has the port for a while
    let other = node.agent(&["-interfaces", "^nothing-here$", "-device-plugin-dir", "/run/elsewhere"]);
    other.wait_for_output("the admin endpoint is listening");
    let agent = node.agent(&["-interfaces", "^nothing-here$"]);
    agent.wait_for_output("cannot listen on the address of the admin endpoint, trying again");
    agent.wait_until_registered();
    drop(other);
    wait_for(
        "the admin endpoint is listening",
        || agent.get("/healthz"),
        |answer| answer.status == 200 && answer.body == "ok\n",
    );
    assert_eq!((agent.get("/readyz").status, agent.get("/nothing").status), (200, 404));
    let metrics = agent.get("/metrics").body;
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        assert!(
            line.starts_with("netdevice_")
                && line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok()),
            "{line}"
        );
    }
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    assert_eq!(agent.metric(REGISTERED), Some(1));
    let _ = agent.stop();
}

#[test]
fn a_record_that_nobody_can_follow_is_put_aside_and_its_device_waits_for_an_administrator() {
    let node = NODE.lock();
    let device = node.add_device("record0");
    node.write("/run/netdevice/record0.json", "{\"version\": 1, rubbish");
    node.write("/run/netdevice/newer0.json", "{\"version\": 99}");
    let agent = node.agent(&["-interfaces", "^record0$"]);
    agent.wait_for_output("the device is quarantined");
    wait_for_metric(&agent, "netdevice_records_quarantined", 1);
    wait_for_metric(&agent, "netdevice_unreadable_records", 1);
    assert!(agent.output().contains("written by a newer netdevice"), "{}", agent.output());
    wait_for_capacity(&node, &agent, "networking.k8s.io/netdevice", "0");
    // the folder of the records is watched: what goes from there is seen at once
    node.sh("rm /run/netdevice/quarantine/record0.1.json /run/netdevice/newer0.json");
    wait_for_metric(&agent, "netdevice_unreadable_records", 0);
    wait_for_metric(&agent, "netdevice_records_quarantined", 0);
    wait_for_capacity(&node, &agent, "networking.k8s.io/netdevice", "1");
    device.wait_until_home();
}
