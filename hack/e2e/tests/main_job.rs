//! The main job without a kubelet: the runtime resolves the CDI device, starts the hook, and the device is in the Pod;
//! the container ends, and the device is home.

use std::time::Duration;

use e2e::{Action, Container, ContainerSpec, Kind, Node, Pod, PodSpec, SharedNode, Signal, eventually, wait_for};

static NODE: SharedNode = SharedNode::new("main-job", Kind::Containerd);

const RUNTIMES: [&str; 2] = ["runc", "crun"];

/// A container with one device.
fn with_device(id: &str) -> ContainerSpec {
    ContainerSpec::new("c").cdi_device(&format!("networking.k8s.io/netdevice={id}"))
}

/// A container that tells what it has of a device when it begins, and then sleeps.
fn telling(id: &str) -> ContainerSpec {
    let script = "
        ip address show dev $0; ip route show table all dev $0; ip -6 route show table all dev $0; ip neigh show dev $0
        for file in ipv4/conf/$0/rp_filter ipv4/conf/$0/arp_ignore ipv6/conf/$0/accept_ra ipv4/neigh/$0/gc_stale_time; do
          echo $file=$(cat /proc/sys/net/$file)
        done
        echo told
        trap exit TERM; sleep 1000000 & wait";
    with_device(id).argv(&["sh", "-c", script, id])
}

fn told(container: &Container<'_>) -> String {
    wait_for("the container tells", || container.logs(), |logs| logs.contains("told\n"))
}

fn is_in(pod: &Pod<'_>, name: &str) -> bool {
    let links = pod.ip(&["link"]);
    links.as_array().is_some_and(|links| links.iter().any(|link| link["ifname"] == name && link["operstate"] == "UP"))
}

fn remove(pod: &Pod<'_>) {
    // a container that is just exiting can make the runtime refuse; a kubelet asks again too
    for (what, act) in [("the Pod stops", Pod::stop as fn(&_) -> _), ("the Pod goes", Pod::remove)] {
        wait_for(what, || act(pod), Result::is_ok).expect("it was waited for");
    }
}

#[test]
fn a_device_is_in_the_pod_complete_at_the_first_instruction_and_comes_home_as_it_was() {
    let node = NODE.lock();
    let device = node.add_rich_device("rich0");
    let agent = node.agent(&["-interfaces", "^rich0$"]);
    agent.wait_until_offered(&["rich0"]);
    for handler in RUNTIMES {
        let pod = node.run_pod(PodSpec::new(&format!("rich-{handler}")).handler(handler)).unwrap();
        let container = pod.start(&telling("rich0")).unwrap();
        assert!(!device.is_on_node(), "{handler}: it is on the node too");
        let seen = told(&container);
        for part in [
            "mtu 1400",
            "qlen 500",
            "link/ether 02:00:5e:10:20:30",
            "inet 192.0.2.5/24",
            "inet 192.0.2.6/24 scope global secondary rich0:b",
            "inet 10.9.8.7 peer 10.9.8.1/32 scope link rich0",
            "inet6 2001:db8:1::5/64",
            "inet6 2001:db8:1::6/64 scope global deprecated",
            "inet6 fe80::5eff:fe10:2030/64",
            "198.51.100.0/24 via 192.0.2.1",
            "203.0.113.0/24",
            "2001:db8:2::/64 via 2001:db8:1::1",
            "192.0.2.1 lladdr 02:00:5e:00:00:01",
            "2001:db8:1::1 lladdr 02:00:5e:00:00:01",
            "ipv4/conf/rich0/rp_filter=2",
            "ipv4/conf/rich0/arp_ignore=1",
            "ipv6/conf/rich0/accept_ra=0",
            "ipv4/neigh/rich0/gc_stale_time=77",
        ] {
            assert!(seen.contains(part), "{handler}: {part:?} is not in\n{seen}");
        }
        assert!(!seen.contains("tentative"), "{handler}:\n{seen}");
        container.stop().unwrap();
        device.wait_until_home();
        remove(&pod);
        device.wait_until_home();
    }
    agent.wait_for_output("hook: ");
}

#[test]
fn a_stopped_pod_gives_its_device_back_although_its_container_was_running() {
    let node = NODE.lock();
    let device = node.add_device("running0");
    let agent = node.agent(&["-interfaces", "^running0$"]);
    agent.wait_until_offered(&["running0"]);
    for handler in RUNTIMES {
        let pod = node.run_pod(PodSpec::new(&format!("running-{handler}")).handler(handler)).unwrap();
        // its agent is not needed for that
        pod.start(&with_device("running0").argv(&["sleep", "1000000"])).unwrap();
        remove(&pod);
        device.wait_until_home();
    }
}

#[test]
fn what_a_container_does_to_the_device_does_not_come_home() {
    let node = NODE.lock();
    let device = node.add_rich_device("hostile0");
    let agent = node.agent(&["-interfaces", "^hostile0$"]);
    agent.wait_until_offered(&["hostile0"]);
    for handler in RUNTIMES {
        let pod = node.run_pod(PodSpec::new(&format!("hostile-{handler}")).handler(handler)).unwrap();
        let container = pod.start(&with_device("hostile0")).unwrap();
        // as a container with NET_ADMIN may
        let script = "
            ip link set hostile0 down; ip link set hostile0 name mine address 02:66:66:66:66:66 mtu 900
            ip link property add dev mine altname evil; ip link set mine alias 'not yours'
            ip address flush dev mine; ip link set mine up; ip address add 10.66.0.1/24 dev mine
            ip route add 10.67.0.0/24 via 10.66.0.2; echo 0 > /proc/sys/net/ipv4/conf/mine/rp_filter";
        let inside = format!("--net=/proc/{}/ns/net", pod.pid());
        node.run(["nsenter", &inside, "sh", "-ec", script]).text();
        container.stop().unwrap();
        device.wait_until_home();
        remove(&pod);
    }
}

/// Defect 10 of the original: the hook finds no link on the node and fails.
#[test]
fn a_container_that_crashed_starts_again_in_the_same_pod_with_its_device() {
    let node = NODE.lock();
    let device = node.add_rich_device("crash0");
    let agent = node.agent(&["-interfaces", "^crash0$"]);
    agent.wait_until_offered(&["crash0"]);
    for handler in RUNTIMES {
        let pod = node.run_pod(PodSpec::new(&format!("crash-{handler}")).handler(handler)).unwrap();
        let first = pod.start(&with_device("crash0").argv(&["sh", "-c", "kill -SEGV $$"])).unwrap();
        // started again while the poststop hook of the first may still run, as a kubelet may
        wait_for("the first one crashes", || first.state(), |state| state == "CONTAINER_EXITED");
        let again = pod.start(&telling("crash0").attempt(1)).unwrap();
        assert!(told(&again).contains("inet 192.0.2.5/24"), "{handler}");
        wait_for("the device stays in the Pod", || is_in(&pod, "crash0"), |there| *there);
        assert!(!device.is_on_node(), "{handler}");
        remove(&pod);
        device.wait_until_home();
    }
}

#[test]
fn a_container_that_restarts_in_a_tight_loop_keeps_its_device_right() {
    let rounds = std::env::var("NETDEVICE_RESTARTS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(12_u32);
    let node = NODE.lock();
    let device = node.add_rich_device("tight0");
    let agent = node.agent(&["-interfaces", "^tight0$"]);
    agent.wait_until_offered(&["tight0"]);
    for handler in RUNTIMES {
        let pod = node.run_pod(PodSpec::new(&format!("tight-{handler}")).handler(handler)).unwrap();
        for attempt in 0..rounds {
            let script = "ip address show dev tight0 | grep -q 'inet6 2001:db8:1::5/64' && echo right";
            let spec = with_device("tight0").attempt(attempt).argv(&["sh", "-c", script]);
            let container = pod.start(&spec).unwrap_or_else(|error| panic!("{handler}, round {attempt}: {error}"));
            wait_for("it ends", || container.state(), |state| state == "CONTAINER_EXITED");
            assert_eq!(container.logs(), "right\n", "{handler}, round {attempt}");
        }
        remove(&pod);
        device.wait_until_home();
    }
}

#[test]
fn every_legal_interface_name_goes_and_comes() {
    use std::os::unix::ffi::OsStrExt as _;
    let names: [(&[u8], &str); 7] = [
        (b"-a", "x:-a"),
        (b"a_", "x:a:5f"),
        ("é".as_bytes(), "x::c3:a9"),
        (b"odd\xff", "x:odd:ff"),
        (b"eth0.100", "eth0.100"),
        (b"0odd", "0odd"),
        (b"odd-fifteen-byt", "odd-fifteen-byt"),
    ];
    let node = NODE.lock();
    for (name, _) in names {
        let name = std::ffi::OsStr::from_bytes(name);
        // `dev` and `name` keep a leading dash from being an option
        let added = node.run(["ip", "link", "add", "name"].map(AsRef::as_ref).into_iter().chain([
            name,
            "type".as_ref(),
            "ifb".as_ref(),
        ]));
        assert!(added.success(), "{added}");
        let up = node.run(["ip", "link", "set", "dev"].map(AsRef::as_ref).into_iter().chain([name, "up".as_ref()]));
        assert!(up.success(), "{up}");
    }
    let agent = node.agent(&["-interfaces", r"^-a$|^a_$|^é$|odd|^eth0\.100$"]);
    let ids = names.map(|(_, id)| id);
    agent.wait_until_offered(&ids);
    let list = |network: &str| {
        let said = node.sh(&format!(
            "nsenter --net={network} ls -1 --quoting-style=literal --show-control-chars /proc/sys/net/ipv4/conf"
        ));
        said.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let all_in = |network: &str| {
        let there = list(network);
        names.iter().filter(|(name, _)| there.contains(&String::from_utf8_lossy(name).into_owned())).count()
    };
    for handler in RUNTIMES {
        assert_eq!(all_in("/proc/self/ns/net"), names.len());
        let pod = node.run_pod(PodSpec::new(&format!("odd-{handler}")).handler(handler)).unwrap();
        let spec = ids
            .iter()
            .fold(ContainerSpec::new("c"), |spec, id| spec.cdi_device(&format!("networking.k8s.io/netdevice={id}")));
        pod.start(&spec).unwrap();
        assert_eq!(
            all_in(&format!("/proc/{}/ns/net", pod.pid())),
            names.len(),
            "{handler}: {:?}",
            list(&format!("/proc/{}/ns/net", pod.pid()))
        );
        assert_eq!(all_in("/proc/self/ns/net"), 0, "{handler}");
        remove(&pod);
        wait_for("all are home", || all_in("/proc/self/ns/net"), |count| *count == names.len());
    }
}

#[test]
fn a_pods_next_container_fetches_the_device_from_one_whose_shim_was_killed() {
    let node = NODE.lock();
    let device = node.add_rich_device("shim0");
    let agent = node.agent(&["-interfaces", "^shim0$"]);
    agent.wait_until_offered(&["shim0"]);
    for handler in RUNTIMES {
        let name = format!("shim-{handler}");
        let old = node.run_pod(PodSpec::new(&name).handler(handler)).unwrap();
        let container = old.start(&with_device("shim0").argv(&["sleep", "1000000"])).unwrap();
        let leaked = container.inspect()["info"]["pid"].as_u64().unwrap();
        // the poststop hook will never run; the container's process lives on and holds the device
        node.sh(&format!("kill -KILL $(pgrep -f '[c]ontainerd-shim.* -id {}')", old.id()));
        wait_for("the container counts as exited", || container.state(), |state| state == "CONTAINER_EXITED");
        assert!(node.sh(&format!("nsenter --net=/proc/{leaked}/ns/net ip link show shim0")).success());
        let new = node.run_pod(PodSpec::new(&name).attempt(1).handler(handler)).unwrap();
        let again = new.start(&telling("shim0").attempt(1)).unwrap();
        assert!(told(&again).contains("inet 192.0.2.5/24"), "{handler}");
        assert!(is_in(&new, "shim0"), "{handler}");
        remove(&new);
        device.wait_until_home();
        node.sh(&format!("kill -KILL {leaked}"));
        node.remove_all_pods();
    }
}

#[test]
fn a_device_comes_home_although_containerd_was_down_when_its_container_ended() {
    let node = NODE.lock();
    let device = node.add_device("down0");
    let agent = node.agent(&["-interfaces", "^down0$"]);
    agent.wait_until_offered(&["down0"]);
    for handler in RUNTIMES {
        let pod = node.run_pod(PodSpec::new(&format!("down-{handler}")).handler(handler)).unwrap();
        let container = pod.start(&with_device("down0").argv(&["sleep", "1000000"])).unwrap();
        let pid = container.inspect()["info"]["pid"].as_u64().unwrap();
        kill_containerd(&node);
        node.containerd(Action::Start);
        assert!(is_in(&pod, "down0"), "{handler}: it went with containerd");
        node.containerd(Action::Stop);
        node.sh(&format!("kill -KILL {pid}"));
        node.containerd(Action::Start);
        device.wait_until_home();
        remove(&pod);
    }
}

fn kill_containerd(node: &Node) {
    node.sh("read -r pid </run/rig/containerd.pid; kill -KILL $pid; while [ -e /proc/$pid ]; do sleep 0.01; done; rm /run/rig/containerd.pid");
}

#[test]
fn pods_come_and_go_while_the_agent_is_away() {
    let node = NODE.lock();
    let device = node.add_device("away0");
    let agent = node.agent(&["-interfaces", "^away0$"]);
    agent.wait_until_offered(&["away0"]);
    assert!(agent.stop().success());
    let pod = node.run_pod(PodSpec::new("away")).unwrap();
    pod.start(&with_device("away0")).unwrap();
    let agent = node.agent(&["-interfaces", "^away0$", "-v", "2"]);
    // it learns of the attachment from the record
    let attached = || agent.metric(r#"netdevice_devices{resource="networking.k8s.io/netdevice",state="attached"}"#);
    assert!(
        eventually(Duration::from_secs(10), || attached().filter(|count| *count == 1)).is_some(),
        "{}",
        agent.output()
    );
    agent.kill();
    remove(&pod);
    device.wait_until_home();
}

#[test]
fn a_signal_to_a_container_is_no_matter_of_the_agents() {
    let node = NODE.lock();
    let device = node.add_device("oom0");
    let mut agent = node.agent(&["-interfaces", "^oom0$"]);
    agent.wait_until_offered(&["oom0"]);
    for handler in RUNTIMES {
        let pod = node.run_pod(PodSpec::new(&format!("oom-{handler}")).handler(handler)).unwrap();
        let container = pod.start(&with_device("oom0")).unwrap();
        node.sh(&format!("kill -KILL {}", container.inspect()["info"]["pid"].as_u64().unwrap()));
        device.wait_until_home();
        remove(&pod);
    }
    assert!(agent.runs());
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
}
