//! Without Kubernetes: the CDI names are there for any container engine, here Debian's podman.

use std::{ops::Deref, process::Command, sync::Once};

use e2e::{BUSYBOX_IMAGE, Kind, Node, Output, Process, SharedNode, program, wait_for};

static NODE: SharedNode = SharedNode::new("podman", Kind::Containerd);

const DEVICE: &str = "networking.k8s.io/netdevice=dummy0";

/// The node; podman is unpacked before it starts.
fn lock() -> impl Deref<Target = Node> {
    static FETCHED: Once = Once::new();
    FETCHED.call_once(|| {
        let hack = concat!(env!("CARGO_MANIFEST_DIR"), "/../node/node");
        let fetched = Command::new(hack).args(["fetch", "podman"]).status();
        assert!(fetched.is_ok_and(|status| status.success()), "{hack} fetch podman");
    });
    NODE.lock()
}

/// The node with podman, a device and the agent; there is no kubelet.
fn start(node: &Node) -> Process {
    node.run(["podman", "load", "--quiet", "--input", &format!("{}/test-images/busybox.tar", cache())]).text();
    node.run(["sh", "-ec", MAKE_DEVICE]).text();
    let agent = node.spawn([program("netdevice-agent").to_string_lossy().as_ref(), "-interfaces", "dummy"]);
    let cdi = node.path("/run/cdi/networking.k8s.io-netdevice.json");
    wait_for("the agent writes the CDI file", || cdi.exists(), |there| *there);
    agent
}

const MAKE_DEVICE: &str = "
    ip link delete dummy0 2>/dev/null || true
    ip link add dummy0 type dummy 2>/dev/null || ip link add dummy0 type ifb
    ip link set dummy0 mtu 1400 up
    ip address add 192.0.2.10/24 dev dummy0
    ip address add 2001:db8:1::10/64 dev dummy0
    ip route add 198.51.100.0/24 via 192.0.2.1";

fn podman(node: &Node, args: &[&str]) -> Output {
    node.run(["podman"].iter().chain(args))
}

fn run_args<'a>(name: &'a str, runtime: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let start = ["--runtime", runtime, "run", "--name", name, "--network", "none", "--device", DEVICE];
    [&start[..], more, &[BUSYBOX_IMAGE]].concat()
}

/// What is to come home.
fn state(node: &Node) -> String {
    node.run(["sh", "-c", "ip -o link show dummy0; ip -o address show dummy0; ip route show dev dummy0"]).stdout
}

fn wait_until_home(node: &Node, before: &str) {
    wait_for("the device comes home as it was", || state(node), |now| now == before);
}

#[test]
fn a_container_of_podman_gets_the_device_and_gives_it_back() {
    let node = lock();
    let _agent = start(&node);
    let before = state(&node);
    for runtime in ["crun", "runc"] {
        podman(&node, &[&run_args("one", runtime, &["--detach"])[..], &["sleep", "1000000"]].concat()).text();
        let inside = podman(&node, &["exec", "one", "sh", "-c", "ip address show dummy0; ip route"]);
        for wanted in ["192.0.2.10/24", "2001:db8:1::10/64", "198.51.100.0/24", "mtu 1400"] {
            assert!(inside.text().contains(wanted), "{runtime}: no {wanted}: {inside}");
        }
        assert!(!node.run(["ip", "link", "show", "dummy0"]).success(), "{runtime}: it is still on the node");
        podman(&node, &["rm", "--force", "--time", "0", "one"]).text();
        wait_until_home(&node, &before);
    }
}

#[test]
fn the_device_of_a_container_that_ends_by_itself_comes_home() {
    let node = lock();
    let _agent = start(&node);
    let before = state(&node);
    let done = podman(&node, &[&run_args("two", "crun", &["--rm"])[..], &["ip", "address", "show", "dummy0"]].concat());
    assert!(done.text().contains("192.0.2.10/24"), "{done}");
    wait_until_home(&node, &before);
}

#[test]
fn a_second_container_is_refused_with_the_holder() {
    let node = lock();
    let _agent = start(&node);
    let before = state(&node);
    podman(&node, &[&run_args("holder", "runc", &["--detach"])[..], &["sleep", "1000000"]].concat()).text();
    let refused = podman(&node, &[&run_args("late", "runc", &["--rm"])[..], &["true"]].concat());
    assert!(!refused.success() && refused.stderr.contains("it is held by container"), "{refused}");
    podman(&node, &["rm", "--force", "--time", "0", "holder"]).text();
    wait_until_home(&node, &before);
}

fn cache() -> String {
    std::env::var("NETDEVICE_RIG").unwrap_or_else(|_| "/tmp/netdevice-rig".into()) + "/cache"
}
