//! Devices by annotation when the injector or the runtime is killed in the middle, or somebody else is slow: a device is
//! home or in the Pod, never between, and a Pod that asked for one does not run without it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::{
    ANNOTATION, Action, Agent, ContainerSpec, Device, Failure, Kind, Node, PodSpec, SharedNode, Signal, wait_for,
};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::process::{Pid, kill_process};

static NODE: SharedNode = SharedNode::new("annkilled", Kind::Containerd);

fn injector<'n>(node: &'n Node, interfaces: &str) -> Agent<'n> {
    let injector = node.injector(&["-interfaces", interfaces]);
    injector.wait_until_connected();
    injector
}

fn asking(name: &str, annotation: &str) -> PodSpec {
    PodSpec::new(name).annotation(ANNOTATION, annotation)
}

/// Starts the first container of a Pod; the runtime may refuse the sandbox or the container.
fn first_container(node: &Node, spec: PodSpec) -> Result<(), Failure> {
    let pod = node.run_pod(spec)?;
    pod.start(&ContainerSpec::new("c")).map(drop)
}

#[track_caller]
fn assert_refused(node: &Node, spec: PodSpec, reason: &str) {
    let Err(failure) = first_container(node, spec) else { panic!("the pod runs, in spite of {reason:?}") };
    assert!(failure.message.contains(reason), "{reason:?} is not in\n{failure}");
}

/// Takes a lock that injectors and hooks take.
fn hold(node: &Node, lock: &str) -> File {
    let path = node.path(&format!("/run/netdevice/{lock}"));
    fs::create_dir_all(path.parent().expect("it is in a folder")).expect("/run is writable");
    let file = File::create(path).expect("/run is writable");
    file.lock().expect("it can be locked");
    file
}

/// Waits until a process has a file open.
#[track_caller]
fn wait_until_open(pid: i32, name: &str) {
    let is_open = || {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|file| file.ends_with(name))
    };
    wait_for(&format!("{name} is open"), is_open, |open| *open);
}

/// Where a device is, by its record and by the kernel.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// On the node, and nobody has it.
    Home,
    /// In the Pod, which has it.
    Pod,
    /// On its way.
    Between,
}

fn place(node: &Node, device: &Device<'_>, name: &str, sandbox: Option<&str>) -> Place {
    let record = fs::read_to_string(node.path(&format!("/run/netdevice/{name}.json"))).ok();
    // its other end stays on the node as long as it lives
    assert!(node.has_link(&format!("{name}-p")), "{name} is lost");
    match (record, device.is_on_node()) {
        (None, true) => Place::Home,
        (Some(record), false) => {
            let record: serde_json::Value = serde_json::from_str(&record).unwrap_or_default();
            let is_whole = record["phase"] == "attached" && record["holder"]["sandbox"].as_str() == sandbox;
            if is_whole { Place::Pod } else { Place::Between }
        }
        _ => Place::Between,
    }
}

#[test]
fn an_injector_that_is_killed_at_any_moment_leaves_its_device_at_home_or_in_the_pod() {
    let node = NODE.lock();
    let rounds: u32 = std::env::var("NETDEVICE_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(30);
    let lock = node.path("/run/netdevice/lock/kill0");
    let (mut home, mut inside) = (0, 0);
    let device = node.add_rich_device("kill0");
    for round in 0..rounds {
        let first = injector(&node, "^kill0$");
        let pid = Pid::from_raw(first.pid()).unwrap();
        let strike = kill_after(&lock, pid, Duration::from_micros(700 * u64::from(round)));
        let pod = node.run_pod(asking(&format!("kill-{round}"), "[{name: kill0, new_name: net1, address: 10.1.1.1}]"));
        assert!(strike.join().unwrap(), "the injector never took the device's lock: {pod:?}");
        drop(first);
        let second = injector(&node, "^kill0$");
        let sandbox = pod.as_ref().ok().map(|pod| pod.id().to_owned());
        let settled = || place(&node, &device, "kill0", sandbox.as_deref());
        let is_settled = |place: &Place| match place {
            // the Pod runs: it gets what it asks for, now that somebody is connected
            Place::Pod => pod.is_ok(),
            Place::Home => pod.is_err(),
            Place::Between => false,
        };
        match wait_for(&format!("round {round}: the device is somewhere, {pod:?}"), settled, is_settled) {
            Place::Pod => inside += 1,
            _ => home += 1,
        }
        node.remove_all_pods();
        device.wait_until_free();
        drop(second);
    }
    println!("killed {rounds} times: {home} at home, {inside} in the pod");
}

/// Kills a process so long after a file was created; whether it was. The kernel queues the event: a file that exists for some
/// milliseconds only is not missed on a busy machine.
fn kill_after(file: &Path, pid: Pid, after: Duration) -> std::thread::JoinHandle<bool> {
    let directory = file.parent().expect("the file is in a directory");
    fs::create_dir_all(directory).expect("/run is writable");
    let name = file.file_name().expect("the file has a name").as_bytes().to_vec();
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).expect("inotify is available");
    inotify::add_watch(&inotify, directory, WatchFlags::CREATE).expect("there is a watch left");
    std::thread::spawn(move || {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&inotify, &mut buffer);
        let mut is_created =
            || events.next().is_ok_and(|event| event.file_name().is_some_and(|seen| seen.to_bytes() == name));
        let limit = Instant::now() + Duration::from_secs(20);
        while !is_created() {
            if Instant::now() > limit {
                return false;
            }
            std::hint::spin_loop();
        }
        let moment = Instant::now() + after;
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        kill_process(pid, Signal::KILL).is_ok()
    })
}

#[test]
fn a_runtime_that_is_killed_while_it_makes_a_sandbox_loses_no_device() {
    let node = NODE.lock();
    let injector = injector(&node, "^mid");
    let device = node.add_rich_device("mid0");
    let gate = hold(&node, "injector.lock");
    let mut asked = node.begin_pod(&asking("mid", "[{name: mid0}]"));
    wait_until_open(injector.pid(), "injector.lock");
    node.sh("pkill -KILL -x containerd");
    // the work goes on, although nobody waits for it any more
    drop(gate);
    assert!(!asked.wait().success());
    node.containerd(Action::Restart);
    injector.wait_until_connected();
    node.remove_all_pods();
    device.wait_until_free();
    first_container(&node, asking("next", "[{name: mid0}]")).unwrap();
    node.remove_all_pods();
    device.wait_until_free();
}

#[test]
fn an_injector_that_is_late_says_so_before_the_runtime_gives_up_and_the_pod_does_not_run() {
    let node = NODE.lock();
    let injector = injector(&node, "^slow");
    let (first, second) = (node.add_rich_device("slow0"), node.add_device("slow1"));
    let connections = || injector.output().matches("connected: a pod that").count();
    let asks = "[{name: slow0}, {name: slow1}]";
    let gate = hold(&node, "injector.lock");
    assert_refused(
        &node,
        asking("gate", asks),
        "still being attached: another program of this node did not finish in time",
    );
    drop(gate);
    node.remove_all_pods();
    first.wait_until_free();
    // one who is at work on the second device, when the first one is in the sandbox already
    let lock = hold(&node, "lock/slow1");
    let failure = first_container(&node, asking("lock", asks)).unwrap_err();
    let why = "still being attached: device slow1: it is being attached or detached";
    assert!(failure.message.contains(why), "{failure}");
    first.wait_until_free();
    node.remove_all_pods();
    drop(lock);
    assert_eq!((injector.metric("netdevice_nri_connected"), connections()), (Some(1), 1), "{}", injector.output());
    first_container(&node, asking("in-time", asks)).unwrap();
    assert!(!first.is_on_node() && !second.is_on_node());
    node.remove_all_pods();
    first.wait_until_free();
    second.wait_until_free();
}

/// Some runtimes forget the processes of a sandbox that a plugin refused (containerd#13355): there it is not refused, and
/// its first container is.
#[test]
fn an_injector_that_hangs_fails_the_pod_and_leaves_no_process_behind() {
    let node = NODE.lock();
    let injector = injector(&node, "^hang");
    let (device, before) = (node.add_rich_device("hang0"), node.sandbox_processes());
    // who opens it to write waits for a reader
    node.sh("rm -f /run/netdevice/injector.lock; mkfifo /run/netdevice/injector.lock");
    assert_refused(&node, asking("hang", "[{name: hang0}]"), "still being attached: another program of this node");
    node.sh("rm -f /run/netdevice/away; mv /run/netdevice/injector.lock /run/netdevice/away");
    let readers = File::open(node.path("/run/netdevice/away")).unwrap();
    drop(readers);
    node.sh("rm /run/netdevice/away");
    node.remove_all_pods();
    device.wait_until_free();
    let is_none_left = |now: &BTreeSet<String>| now.is_subset(&before);
    wait_for("no process is left of the pod that was refused", || node.sandbox_processes(), is_none_left);
    assert_eq!(injector.metric("netdevice_nri_connected"), Some(1));
    first_container(&node, asking("again", "[{name: hang0}]")).unwrap();
    node.remove_all_pods();
    device.wait_until_free();
}

#[test]
fn when_the_third_of_three_devices_fails_two_come_home_as_they_were_and_the_stop_that_follows_touches_nothing() {
    let node = NODE.lock();
    let injector = injector(&node, "^three");
    let devices = [node.add_rich_device("three0"), node.add_device("three1"), node.add_device("three2")];
    let asks = "[{name: three0, mtu: 1300, address: 10.1.1.1}, {name: three1}, {name: three2, new_name: eth0}]";
    let reason = "device three2: the name eth0 is taken in the pod's network namespace";
    // where the runtime lets the sandbox live, its own eth0 is to stay as it is
    match node.run_pod(asking("three", asks)) {
        Err(failure) => assert!(failure.message.contains(reason), "{failure}"),
        Ok(pod) => {
            let own = pod.ip(&["address", "show", "eth0"]);
            let failure = pod.start(&ContainerSpec::new("c")).unwrap_err();
            assert!(failure.message.contains(reason), "{failure}");
            assert_eq!(pod.ip(&["address", "show", "eth0"]), own);
            pod.stop().unwrap();
            pod.stop().unwrap();
        }
    }
    devices.iter().for_each(Device::wait_until_free);
    node.remove_all_pods();
    devices.iter().for_each(Device::wait_until_free);
    let released = injector.metric(r#"netdevice_releases_total{result="ok"}"#);
    assert!(matches!(released, None | Some(0)), "{released:?} devices were still there to be released");
}

#[test]
fn the_stop_of_a_sandbox_that_never_had_a_device_moves_nothing() {
    let node = NODE.lock();
    let device = node.add_rich_device("never0");
    // made while nobody is connected, and what it asks for cannot be
    let pod = node.run_pod(asking("never", "[{name: never0, new_name: eth0}]")).unwrap();
    let links =
        || node.ip(&["link", "show"]).as_array().map(|links| links.iter().map(|link| link["ifname"].clone()).collect());
    let before: Option<Vec<_>> = links();
    let injector = injector(&node, "^never0$");
    let refused = r#"netdevice_injections_total{result="failed"}"#;
    wait_for("it is tried", || injector.metric(refused), |count| *count >= Some(1));
    let own = pod.ip(&["address", "show", "eth0"]);
    assert!(own[0]["addr_info"].as_array().is_some_and(|addresses| !addresses.is_empty()), "{own:#}");
    pod.stop().unwrap();
    pod.stop().unwrap();
    device.wait_until_free();
    node.remove_all_pods();
    let named = |links: Option<Vec<serde_json::Value>>| links.map(|links| links.contains(&"eth0".into()));
    assert_eq!((named(before), named(links())), (Some(true), Some(true)));
    device.wait_until_free();
}

#[test]
fn a_later_sandbox_of_the_same_pod_takes_the_device_from_the_one_before_it() {
    let node = NODE.lock();
    let _injector = injector(&node, "^later");
    let device = node.add_rich_device("later0");
    let spec = asking("later", "[{name: later0, new_name: net1, address: 10.1.1.1}]");
    let older = node.run_pod(spec.clone()).unwrap();
    older.start(&ContainerSpec::new("c")).unwrap();
    node.sh(&format!("kill -KILL {}", older.pid()));
    let later = node.run_pod(spec.attempt(1)).unwrap();
    later.start(&ContainerSpec::new("c").attempt(1)).unwrap();
    let has = |links: serde_json::Value| links.as_array().unwrap().iter().any(|link| link["ifname"] == "net1");
    assert!(has(later.ip(&["link", "show"])));
    older.stop().unwrap();
    older.remove().unwrap();
    assert!(has(later.ip(&["link", "show"])), "the end of the older sandbox takes it away from the later one");
    later.stop().unwrap();
    device.wait_until_free();
    node.remove_all_pods();
}

#[test]
fn a_long_annotation_is_read_and_one_that_is_too_long_is_refused() {
    let node = NODE.lock();
    let injector = injector(&node, "^long");
    let device = node.add_device("long0");
    let padded = |length: usize| format!("[{{name: long0}}] # {}", "x".repeat(length));
    first_container(&node, asking("long", &padded(10_000))).unwrap();
    assert!(!device.is_on_node());
    node.remove_all_pods();
    device.wait_until_free();
    assert_refused(&node, asking("long", &padded(70_000)), "too long: 70018 bytes, the limit is 65536");
    node.remove_all_pods();
    device.wait_until_free();
    assert_eq!(injector.metric("netdevice_nri_connected"), Some(1));
}

#[test]
fn a_sandbox_whose_first_process_is_killed_gives_its_device_back_while_nobody_stops_it() {
    let node = NODE.lock();
    let _injector = injector(&node, "^pause");
    let device = node.add_rich_device("pause0");
    let pod = node.run_pod(asking("pause", "[{name: pause0}]")).unwrap();
    node.sh(&format!("kill -KILL {}", pod.pid()));
    device.wait_until_free();
    pod.stop().unwrap();
    device.wait_until_free();
    node.remove_all_pods();
}
