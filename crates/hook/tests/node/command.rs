//! A device of the node in a Pod that runs, by a command: added, refused, taken back, and returned when the Pod ends.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, thread};

use netdevctl::inject::device::{Outcome, Way};
use netdevice::{Owner, Reservation};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;
use store::Records;

use crate::support::{
    Host, Sandbox,
    command::{PodCommand, device},
    inject::Order,
    on_host,
};

const DEVICE: &str = "link add dev0 type veth peer name wire
     link set wire up addrgenmode none
     link set dev0 up mtu 1400 txqueuelen 77 alias a-nic
     link property add dev dev0 altname fast-nic
     addr add 10.1.0.5/24 dev dev0
     addr add 2001:db8::5/64 dev dev0
     route add 10.50.0.0/16 via 10.1.0.1
     neigh add 10.1.0.77 lladdr 02:00:00:00:00:77 dev dev0 nud permanent";

/// A mount of the sandbox's namespace, as CRI-O has it.
fn mounted(host: &Host, sandbox: &Sandbox, name: &str) -> PathBuf {
    let path = host.folder().join(name);
    fs::write(&path, "").unwrap();
    let namespace = format!("/proc/{}/ns/net", sandbox.pid());
    mount(Some(namespace.as_str()), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    path
}

fn reserve(host: &Host, device: &str, owner: Owner) {
    let (records, device) = (Records::new(host.state_dir()), device.parse().unwrap());
    let lock = records.lock(&device).unwrap();
    let since = store::journal::now();
    records
        .reserve(
            &Reservation {
                device,
                resource: None,
                owner,
                acquisition: netdevice::Acquisition::Move,
                uplink_parents: netdevice::exclusion::UplinkParents::Refused,
                configuration: None,
                is_of_one_pod: false,
                since,
            },
            &lock,
        )
        .unwrap();
}

#[test]
fn a_device_is_in_the_pod_as_the_flags_say_until_it_is_taken_back() {
    on_host(|host| {
        host.ip(DEVICE);
        let (before, web) = (host.settled(), host.sandbox("web"));
        let command = PodCommand::new(host, &web);
        let request = device("dev0", |flags| {
            flags.name = Some("net1".into());
            flags.ips = vec!["10.0.0.2/24,2001:db8:2::2/64".into()];
            flags.mtu = Some("1300".into());
            flags.mac = Some("02:00:00:00:00:0a".into());
            flags.routes = vec!["198.51.100.0/24 via 10.0.0.1 metric 5".into()];
        });
        let mut added = command.adds(&request);
        // where PID 1 is not visible, one says so
        added.warnings.clear();
        let expected = json!({"device": "dev0", "pool": "networking.k8s.io/netdevice", "pod": "default/web",
            "sandbox": web.id(), "name": "net1", "addresses": ["10.0.0.2/24", "2001:db8:2::2/64"], "wasThere": false});
        assert_eq!(serde_json::to_value(&added).unwrap(), expected);
        assert!(!host.has_link("dev0") && host.pin_path("dev0").exists());
        let inside = web.show("address show dev net1") + &web.show("route show");
        for words in
            ["10.0.0.2/24", "2001:db8:2::2/64", "mtu 1300", "02:00:00:00:00:0a", "198.51.100.0/24 via 10.0.0.1"]
        {
            assert!(inside.contains(words), "{words}: {inside}");
        }
        let listed = command.list();
        let [listed] = &listed[..] else { panic!("{listed:?}") };
        assert_eq!((listed.device.as_str(), listed.name.as_str(), listed.by), ("dev0", "net1", Way::Command));
        assert!(listed.since > 0);

        // what the Pod took away is there again
        web.ip("addr del 10.0.0.2/24 dev net1\nlink set net1 mtu 1280");
        assert!(command.adds(&request).was_there);
        let again = web.show("address show dev net1") + &web.show("route show");
        assert!(again.contains("10.0.0.2/24") && again.contains("mtu 1300"), "{again}");
        command.refuses(&device("dev0", |_| {}), "with another configuration: run del -device dev0 first");

        command.dels("dev0", Outcome::Returned);
        host.assert_same(&before);
        let nothing = command.del("dev0").unwrap();
        assert_eq!((nothing.outcome, nothing.reason.as_deref()), (Outcome::Nothing, Some("it is on the node")));
        assert!(command.list().is_empty());
    });
}

#[test]
fn a_device_is_found_by_its_id_and_by_an_alternative_name() {
    on_host(|host| {
        host.ip("link add dev0 type ifb\nlink property add dev dev0 altname fast-nic\nlink add dev1_ type ifb");
        let (before, web) = (host.settled(), host.sandbox("web"));
        let command = PodCommand::new(host, &web);
        assert_eq!(command.adds(&device("fast-nic", |_| {})).device, "dev0");
        assert!(command.adds(&device("fast-nic", |flags| flags.name = Some("dev0".into()))).was_there);
        assert_eq!(command.adds(&device("x:dev1:5f", |_| {})).name, "dev1_");
        command.dels("fast-nic", Outcome::Returned);
        command.dels("dev1_", Outcome::Returned);
        host.assert_same(&before);
    });
}

#[test]
fn a_device_that_may_not_be_taken_is_refused_in_the_same_words_as_to_an_annotation() {
    on_host(|host| {
        host.ip("link add dev-uplink type ifb\nlink set dev-uplink up\naddr add 10.9.0.2/24 dev dev-uplink
            route add default via 10.9.0.1\nlink add other0 type ifb\nlink add dev0 type ifb\nlink add dev1 type ifb
            link add dev2 type ifb\nlink add dev3 type ifb\nlink add dev4 type ifb\nlink add dev5 type ifb");
        let (before, web, other) = (host.settled(), host.sandbox("web"), host.sandbox("other"));
        let (command, others) = (PodCommand::new(host, &web), PodCommand::new(host, &other));
        command.refuses(&device("dev-uplink", |_| {}), "device dev-uplink: it is never handed out because");
        command.refuses(&device("other0", |_| {}), "device other0: no pool of this node selects it");
        command.refuses(&device("none0", |_| {}), "device none0: the node has no such interface");
        command.refuses(&device("a/b", |_| {}), "-device: \"a/b\" is not the name of an interface");
        command.refuses(&device("dev0", |flags| flags.mtu = Some("1".into())), "-mtu: must be a number from 68");

        // a container of another Pod, and one of this Pod
        host.attach(&other, "c1", "dev0").succeeds();
        host.attach(&web, "c2", "dev1").succeeds();
        command.refuses(&device("dev0", |_| {}), "device dev0: it is held by pod default/other (sandbox sandbox-");
        command.refuses(&device("dev1", |_| {}), "device dev1: it is held by pod default/web (sandbox sandbox-");
        // annotations of both
        let annotations =
            [(&other, "dev2"), (&web, "dev3")].map(|(pod, name)| Order::new(host, pod, &json!([[name, {}]])));
        annotations.iter().for_each(|order| drop(order.arrives()));
        command.refuses(&device("dev2", |_| {}), "device dev2: it is held by pod default/other");
        command.refuses(&device("dev3", |_| {}), "device dev3: it is held by pod default/web");
        // reservations
        let (uid, namespace, name) = ("c1".into(), "default".into(), "fast".into());
        let claim = Owner::Claim { uid, namespace, name, request: "nic".into(), sandbox: None, pod: None };
        reserve(host, "dev4", claim);
        reserve(host, "dev5", Owner::Kubelet);
        command.refuses(&device("dev4", |_| {}), "device dev4: it is reserved for claim default/fast");
        command
            .refuses(&device("dev5", |_| {}), "device dev5: it is reserved for a pod that the kubelet has not started");
        fs::remove_dir_all(host.state_dir().join("reservations")).unwrap();
        // another Pod's command
        others.adds(&device("dev4", |_| {}));
        command.refuses(&device("dev4", |_| {}), "device dev4: it is held by pod default/other");
        // nor does an annotation get what a command took
        let annotation = Order::new(host, &web, &json!([["dev4", {}]]));
        annotation.fails_with("device dev4: it is held by pod default/other");

        // what another way has is not taken back
        let error = command.del("dev3").unwrap_err();
        assert!(error.contains("has it by annotation, not by command"), "{error}");
        let error = command.del("dev1").unwrap_err();
        assert!(error.contains("pod default/web") && error.contains("has it by resource, not by command"), "{error}");
        let elsewhere = command.del("dev4").unwrap();
        assert_eq!(elsewhere.outcome, Outcome::Nothing);
        assert!(elsewhere.reason.unwrap().contains("pod default/other (sandbox sandbox-"));
        let ways: Vec<_> = command.list().into_iter().map(|listed| (listed.device, listed.by)).collect();
        assert_eq!(ways, [("dev1".into(), Way::Resource), ("dev3".into(), Way::Annotation)]);

        others.dels("dev4", Outcome::Returned);
        annotations.iter().for_each(Order::comes_home);
        host.detach("c1", "dev0").succeeds();
        host.detach("c2", "dev1").succeeds();
        host.assert_same(&before);
    });
}

#[test]
fn the_pools_say_for_which_namespaces_a_device_is() {
    on_host(|host| {
        host.ip("link add dev0 type ifb\nlink add dev1 type ifb\nlink add dev2 type ifb");
        let web = host.sandbox("web");
        let mut command = PodCommand::new(host, &web);
        command.place.node.interfaces = None;
        command.refuses(&device("dev0", |_| {}), "no pools are known");
        let config = host.folder().join("config.yaml");
        host.write(
            &config,
            "pools:
- {resource: example.com/default, select: {names: [^dev0]}, annotations: {namespaces: [default]}}
- {resource: example.com/team, select: {names: [^dev1]}, annotations: {namespaces: [team]}}
- {resource: example.com/kubelet, select: {names: [^dev2]}}
",
        );
        command.place.node.config = Some(config);
        assert_eq!(command.adds(&device("dev0", |_| {})).pool, "example.com/default");
        command.refuses(&device("dev1", |_| {}), "is not available to annotations in namespace default");
        // which is for no annotation
        assert_eq!(command.adds(&device("dev2", |_| {})).pool, "example.com/kubelet");
        command.dels("dev0", Outcome::Returned);
        command.dels("dev2", Outcome::Returned);
    });
}

#[test]
fn a_name_that_the_pod_has_is_refused_before_anything_moves() {
    on_host(|host| {
        host.ip(DEVICE);
        host.ip("link add eth0 type ifb");
        let (before, web) = (host.settled(), host.sandbox("web"));
        web.ip("link add eth0 type ifb\nlink property add dev eth0 altname primary\nlink add dev0 type ifb");
        let inside = web.settled();
        let mut command = PodCommand::new(host, &web);
        command.place.node.interfaces = Some("^(dev|eth)0$".parse().unwrap());
        for name in ["eth0", "primary"] {
            let words = format!("-name: the name {name} is taken in the pod's network namespace");
            command.refuses(&device("dev0", |flags| flags.name = Some(name.into())), &words);
        }
        for name in ["eth0", "dev0"] {
            let words =
                format!("device {name}: the name {name} is taken in the pod's network namespace: set another name");
            command.refuses(&device(name, |_| {}), &words);
        }
        web.assert_same(&inside);
        host.assert_same(&before);
        command.adds(&device("dev0", |flags| flags.name = Some("net1".into())));
        command.dels("dev0", Outcome::Returned);
        host.assert_same(&before);
    });
}

#[test]
fn a_device_is_taken_back_and_collected_when_its_pod_is_gone() {
    on_host(|host| {
        host.ip(DEVICE);
        host.ip("link add dev1 type ifb\nlink add dev2 type ifb");
        let before = host.settled();
        let (web, next, runs) = (host.sandbox("web"), host.sandbox("next"), host.sandbox("runs"));
        let [mut first, second, third] = [&web, &next, &runs].map(|sandbox| PodCommand::new(host, sandbox));
        first.adds(&device("dev0", |flags| flags.inherit = true));
        second.adds(&device("dev1", |_| {}));
        third.adds(&device("dev2", |_| {}));
        assert_eq!(third.gc(), [], "all Pods run");
        drop((web, next));
        // the runtime no longer knows it
        first.sandbox = None;
        first.dels("dev0", Outcome::Returned);
        assert_eq!(third.gc(), [("dev1".into(), Outcome::Returned)]);
        assert!(runs.has_link("dev2"));
        third.dels("dev2", Outcome::Returned);
        host.assert_same(&before);
    });
}

#[test]
fn without_a_process_the_end_of_the_mount_is_the_end_of_the_sandbox() {
    on_host(|host| {
        host.ip(DEVICE);
        let (before, web) = (host.settled(), host.sandbox("web"));
        let path = mounted(host, &web, "netns");
        let command = PodCommand::of_mount(host, "web", &path);
        command.adds(&device("dev0", |_| {}));
        // where the mount was seen: with one thread a command in a container enters the node's mount namespace
        let mounts = fs::metadata("/proc/thread-self/ns/mnt").unwrap().ino();
        assert_ne!(mounts, fs::metadata("/proc/self/ns/mnt").unwrap().ino());
        let record = Records::new(host.state_dir()).read(&"dev0".parse().unwrap()).unwrap().unwrap();
        assert_eq!(record.sandbox.seen_from.mount_namespace, mounts);
        assert_eq!(command.gc(), []);
        umount2(&path, MntFlags::MNT_DETACH).unwrap();
        fs::remove_file(&path).unwrap();
        // its containers live on
        assert_eq!(command.gc(), [("dev0".into(), Outcome::Returned)]);
        host.assert_same(&before);
        let gone = command.add(&device("dev0", |_| {})).unwrap_err();
        assert!(gone.contains("cannot open the pod's network namespace"), "{gone}");
    });
}

#[test]
fn commands_for_one_pod_and_for_several_at_the_same_time_all_succeed() {
    on_host(|host| {
        let devices: Vec<String> = (0..6).map(|number| format!("dev{number}")).collect();
        devices.iter().for_each(|name| host.ip(&format!("link add {name} type ifb")));
        let (before, pods) = (host.settled(), [host.sandbox("web"), host.sandbox("other")]);
        let commands = pods.each_ref().map(|sandbox| PodCommand::new(host, sandbox));
        let of = |at: usize| &commands[at % 2];
        // each in the host's namespaces, as this thread is
        thread::scope(|scope| {
            for (at, name) in devices.iter().enumerate() {
                scope.spawn(move || of(at).adds(&device(name, |_| {})));
            }
        });
        assert!(devices.iter().all(|name| !host.has_link(name)));
        thread::scope(|scope| {
            for (at, name) in devices.iter().enumerate() {
                scope.spawn(move || of(at).dels(name, Outcome::Returned));
            }
        });
        host.assert_same(&before);
    });
}

/// Serves the kubelet's PodResources while this lives.
struct Kubelet {
    /// Dropped to end it.
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    server: Option<thread::JoinHandle<()>>,
}

impl Kubelet {
    fn new(socket: PathBuf, pod: &'static str, device: &'static str) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let server = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let resources = kubelet_stand_in::PodResources::start(&socket).unwrap();
                // of whichever resource
                resources.set_pods("example.com/other", &[(pod, &[device])]);
                ready.send(()).unwrap();
                let _ = stopped.await;
            });
        });
        is_ready.recv().unwrap();
        Self { stop: Some(stop), server: Some(server) }
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.server.take().unwrap().join().unwrap();
    }
}

#[test]
fn what_the_kubelet_allocated_is_refused_and_so_is_every_device_while_a_kubelet_does_not_answer() {
    on_host(|host| {
        host.ip("link add dev0 type ifb\nlink add dev1 type ifb");
        let (before, web) = (host.settled(), host.sandbox("web"));
        let mut command = PodCommand::new(host, &web);
        command.place.pod_resources = host.folder().join("kubelet.sock");
        let kubelet = Kubelet::new(command.place.pod_resources.clone(), "web", "dev0");
        // also by a container of the same Pod
        command.refuses(&device("dev0", |_| {}), "device dev0: the kubelet gave it to pod default/web");
        command.adds(&device("dev1", |_| {}));
        drop(kubelet);
        command.refuses(&device("dev0", |_| {}), "cannot get the allocated devices from the kubelet: cannot connect");
        // what the Pod has needs no answer
        assert!(command.adds(&device("dev1", |_| {})).was_there);
        command.dels("dev1", Outcome::Returned);
        host.assert_same(&before);
    });
}

#[test]
fn a_new_sandbox_of_the_pod_gets_the_device_that_the_old_one_has() {
    on_host(|host| {
        host.ip(DEVICE);
        let (before, old) = (host.settled(), host.sandbox("web"));
        PodCommand::new(host, &old).adds(&device("dev0", |_| {}));
        let new = host.sandbox("web");
        let command = PodCommand::new(host, &new);
        let added = command.adds(&device("dev0", |flags| flags.mtu = Some("1300".into())));
        assert!(!added.was_there && new.has_link("dev0") && !old.has_link("dev0"));
        assert_eq!(command.list()[0].sandbox.as_deref(), Some(new.id()));
        command.dels("dev0", Outcome::Returned);
        host.assert_same(&before);
    });
}
