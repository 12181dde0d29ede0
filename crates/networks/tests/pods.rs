//! Networks of sandboxes that are processes in network namespaces of their own, with plugins that are shell scripts.

#![allow(clippy::unwrap_used)] // tests, in functions of their own

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use cni::{Cache, CapabilityArguments, ForeignFiles, Limits, NetworkList, Plugins, Runtime};
use link::OpenSandbox;
use netdevice::{Owner, Pod, Reservation, Sandbox, Snapshot, fixture};
use networks::{AddRequest, Boot, Deleted, Error, Networks, Place};
use store::Records;

/// A process in a network namespace of its own.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        let child = command.args(["--net", "sleep", "600"]).stdin(Stdio::null()).spawn().unwrap();
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", child.id());
        while fs::read_link(&path).is_ok_and(|namespace| namespace == own) {
            std::thread::yield_now();
        }
        Self(child)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    /// A command inside.
    fn run(&self, command: &str) -> bool {
        let mut words = vec![format!("--net={}", self.path())];
        words.extend(command.split_whitespace().map(str::to_owned));
        Command::new("nsenter").args(words).stderr(Stdio::null()).stdout(Stdio::null()).status().unwrap().success()
    }

    fn has(&self, link: &str) -> bool {
        self.run(&format!("ip link show dev {link}"))
    }

    fn sandbox(&self, pod: &Pod) -> Sandbox {
        let info = format!(
            r#"{{"pid":{},"runtimeSpec":{{"linux":{{"namespaces":[{{"type":"network","path":"{}"}}]}}}}}}"#,
            self.0.id(),
            self.path()
        );
        Sandbox::from_cri("s1", pod.clone(), &info).unwrap()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

struct Rig {
    directory: tempfile::TempDir,
    networks: Networks,
    pod: Pod,
}

/// Makes one end of a pair, and an address that is a file.
const GOOD: &str = r#"
case $CNI_COMMAND in
  ADD) touch "$leases/$CNI_CONTAINERID-$CNI_IFNAME"
       nsenter --net="$CNI_NETNS" ip link add "$CNI_IFNAME" type veth peer name "peer-$CNI_IFNAME" || exit 1
       echo '{"cniVersion":"1.0.0"}' ;;
  DEL) rm -f "$leases/$CNI_CONTAINERID-$CNI_IFNAME"
       [ -z "$CNI_NETNS" ] || nsenter --net="$CNI_NETNS" ip link del "$CNI_IFNAME" 2>/dev/null || true ;;
  CHECK) nsenter --net="$CNI_NETNS" ip link show dev "$CNI_IFNAME" >/dev/null ;;
esac
"#;

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["bin", "leases"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let cache = Cache::new(directory.path().join("cache"));
        let networks = Networks {
            runtime: Runtime::new(Plugins::new(vec![directory.path().join("bin")], Limits::default()), cache),
            records: Records::new(directory.path().join("state")),
            by: "test",
            boot: Boot::current().unwrap(),
            sysfs: PathBuf::from("/sys"),
            further_caches: Vec::new(),
        };
        let pod = Pod { namespace: "default".into(), name: "web".into(), uid: "u1".into() };
        let rig = Self { directory, networks, pod };
        rig.plugin("good", GOOD);
        rig
    }

    fn plugin(&self, name: &str, script: &str) {
        let path = self.directory.path().join("bin").join(name);
        let leases = self.directory.path().join("leases");
        fs::write(&path, format!("#!/bin/sh\nleases={}\ncat >/dev/null\n{script}\n", leases.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn leases(&self) -> usize {
        fs::read_dir(self.directory.path().join("leases")).unwrap().count()
    }

    fn entries(&self) -> usize {
        self.networks.runtime.cache.list().unwrap().0.len()
    }

    fn with<T>(&self, sleeper: &Sleeper, work: impl FnOnce(&Place<'_>) -> T) -> T {
        let opened = OpenSandbox::open(&sleeper.sandbox(&self.pod)).unwrap();
        let container = "s1".parse().unwrap();
        work(&Place { pod: &self.pod, sandbox: "s1", opened: &opened, container })
    }

    fn add(&self, sleeper: &Sleeper, list: &NetworkList, interface: &str) -> Result<(), Error> {
        self.add_on(sleeper, list, interface, Snapshot::default())
    }

    fn add_on(&self, sleeper: &Sleeper, list: &NetworkList, interface: &str, node: Snapshot) -> Result<(), Error> {
        let interface = interface.parse().unwrap();
        let (arguments, capabilities) = (Vec::new(), CapabilityArguments::new());
        let request = AddRequest { list, interface, arguments, capabilities, requested: None, gateways: Vec::new() };
        self.with(sleeper, |place| self.networks.add(place, request, &|| Ok(node.clone())).map(drop))
    }

    fn del(&self, sleeper: &Sleeper, list: Option<&NetworkList>, interface: &str) -> Result<Deleted, Error> {
        self.with(sleeper, |place| self.networks.delete(place, list, &interface.parse().unwrap()))
    }

    fn collect(&self) -> usize {
        let collected = self.networks.collect(&mut ForeignFiles::default()).unwrap();
        assert!(collected.ended.iter().all(|ended| ended.error.is_none()), "{collected:?}");
        collected.ended.len()
    }
}

fn list(plugins: &str) -> NetworkList {
    let text = format!(r#"{{"name":"n","cniVersion":"1.0.0","plugins":[{plugins}]}}"#);
    NetworkList::from_json(text.as_bytes()).unwrap()
}

fn good() -> NetworkList {
    list(r#"{"type":"good"}"#)
}

#[test]
fn an_interface_is_added_checked_and_deleted_any_number_of_times() {
    let (rig, sleeper) = (Rig::new(), Sleeper::new());
    rig.add(&sleeper, &good(), "net1").unwrap();
    assert!(sleeper.has("net1"));
    assert_eq!((rig.leases(), rig.entries()), (1, 1));
    let check = || rig.with(&sleeper, |place| rig.networks.check(place, &good(), &"net1".parse().unwrap()));
    assert!(check().unwrap());
    assert!(matches!(rig.add(&sleeper, &good(), "net1"), Err(Error::NameTaken(_))));
    let listed = rig.networks.list("default", "web", None).unwrap();
    assert_eq!(listed.iter().map(|attached| attached.interface()).collect::<Vec<_>>(), ["net1"]);
    assert_eq!(rig.collect(), 0, "its pod runs");
    assert_eq!(rig.del(&sleeper, None, "net1").unwrap(), Deleted::Attachment);
    assert!(!sleeper.has("net1"));
    assert_eq!((rig.leases(), rig.entries()), (0, 0));
    assert!(matches!(check(), Err(Error::Unchecked { .. })));
    assert_eq!(rig.del(&sleeper, Some(&good()), "net1").unwrap(), Deleted::Nothing);
    // one that the container deleted
    rig.add(&sleeper, &good(), "net1").unwrap();
    assert!(sleeper.run("ip link del net1"));
    rig.add(&sleeper, &good(), "net1").unwrap();
    assert_eq!((rig.leases(), rig.entries()), (1, 1));
}

#[test]
fn what_others_made_is_not_touched() {
    let (rig, sleeper) = (Rig::new(), Sleeper::new());
    assert!(sleeper.run("ip link add eth0 type veth peer name peer0"));
    assert!(sleeper.run("ip link add net7 type veth peer name peer7"));
    assert!(sleeper.run("ip link property add dev net7 altname other"));
    for name in ["eth0", "net7", "other"] {
        assert!(rig.add(&sleeper, &good(), name).is_err(), "{name}");
        assert!(rig.del(&sleeper, Some(&good()), name).is_err(), "{name}");
        assert!(rig.del(&sleeper, None, name).is_err(), "{name}");
        assert!(sleeper.has(name));
    }
    assert_eq!((rig.leases(), rig.entries()), (0, 0), "no plugin ran");
    // of the runtime
    let results = rig.directory.path().join("cache/results");
    fs::create_dir_all(&results).unwrap();
    let entry = r#"{"kind":"cniCacheV1","containerId":"s1","config":"eyJuYW1lIjoibiIsInR5cGUiOiJnb29kIn0=","ifName":"net7","networkName":"n","cniArgs":[["K8S_POD_NAME","web"]]}"#;
    fs::write(results.join("n-s1-net7"), entry).unwrap();
    assert!(matches!(rig.del(&sleeper, None, "net7"), Err(Error::OfRuntime(_))));
    assert!(sleeper.has("net7"));
}

#[test]
fn what_a_pod_leaves_is_collected_when_it_has_ended() {
    let (rig, sleeper, other) = (Rig::new(), Sleeper::new(), Sleeper::new());
    rig.add(&sleeper, &good(), "net1").unwrap();
    rig.add(&sleeper, &good(), "net2").unwrap();
    assert_eq!(rig.collect(), 0);
    drop(sleeper);
    assert_eq!(rig.collect(), 2);
    assert_eq!((rig.leases(), rig.entries()), (0, 0));
    assert_eq!(rig.collect(), 0);
    // by name, where the runtime knows the Pod no longer
    rig.add(&other, &good(), "net1").unwrap();
    drop(other);
    let interface = "net1".parse().unwrap();
    let del = |name| rig.networks.delete_of_ended("default", name, None, &interface).unwrap();
    assert_eq!(del("another"), Deleted::Nothing);
    assert_eq!(del("web"), Deleted::Attachment);
    assert_eq!((rig.leases(), rig.entries()), (0, 0));
}

/// Whoever comes after a program that was killed finds an ended Pod by the own cache only.
#[test]
fn the_entry_of_the_own_cache_is_the_last_one_that_goes() {
    let (mut rig, sleeper) = (Rig::new(), Sleeper::new());
    let further = rig.directory.path().join("multus");
    rig.networks.further_caches.push(Cache::new(&further));
    rig.add(&sleeper, &good(), "net1").unwrap();
    drop(sleeper);
    // a file that cannot be removed
    let stuck = further.join("results/n-s1-net1");
    fs::create_dir_all(&stuck).unwrap();
    let collected = rig.networks.collect(&mut ForeignFiles::default()).unwrap();
    assert!(collected.ended[0].error.is_some(), "{collected:?}");
    assert_eq!(rig.entries(), 1);
    fs::remove_dir(&stuck).unwrap();
    fs::write(&stuck, "{}").unwrap();
    assert_eq!(rig.collect(), 1);
    assert_eq!((rig.leases(), rig.entries(), stuck.exists()), (0, 0, false));
}

#[test]
fn an_add_or_a_del_that_was_killed_is_undone_or_completed_by_whoever_comes_next() {
    killed_in("adding");
    killed_in("deleting");
}

fn killed_in(phase: &str) {
    // what a killed program leaves: an interface, a lease, and an entry of an operation that did not end
    let leave = |rig: &Rig, sleeper: &Sleeper| {
        rig.add(sleeper, &good(), "net1").unwrap();
        let path = rig.directory.path().join("cache/results/n-s1-net1");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(r#""phase":"added""#, &format!(r#""phase":"{phase}""#))).unwrap();
    };
    let (rig, sleeper) = (Rig::new(), Sleeper::new());
    leave(&rig, &sleeper);
    assert_eq!(rig.collect(), 1, "nobody works on its pod");
    assert!(!sleeper.has("net1"));
    leave(&rig, &sleeper);
    rig.add(&sleeper, &good(), "net1").unwrap();
    assert_eq!((rig.leases(), rig.entries()), (1, 1));
    rig.del(&sleeper, None, "net1").unwrap();
    leave(&rig, &sleeper);
    rig.add(&sleeper, &good(), "net2").unwrap();
    assert!(!sleeper.has("net1"));
    // but not while another program works on the Pod
    leave(&rig, &sleeper);
    let lock = rig.networks.records.lock_sandbox("s1", std::time::Instant::now()).unwrap();
    assert!(lock.is_some());
    assert_eq!(rig.collect(), 0);
    drop(lock);
    assert_eq!(rig.collect(), 1);
    assert_eq!((rig.leases(), rig.entries()), (1, 1), "net2 stays");
}

#[test]
fn an_interface_that_the_plugins_cannot_delete_does_not_stay() {
    let (rig, sleeper) = (Rig::new(), Sleeper::new());
    let broken = r#"
[ $CNI_COMMAND != ADD ] || nsenter --net="$CNI_NETNS" ip link add "$CNI_IFNAME" type veth peer name "peer-$CNI_IFNAME"
echo "{\"code\":100,\"msg\":\"no $CNI_COMMAND\"}"; exit 1"#;
    rig.plugin("broken", broken);
    let bad = list(r#"{"type":"broken"}"#);
    let error = rig.add(&sleeper, &bad, "net1").unwrap_err().to_string();
    assert!(error.contains("undoing it failed too"), "{error}");
    assert!(!sleeper.has("net1"));
    assert_eq!(rig.entries(), 1);
    // one that refuses its configuration, each time in the same words, made nothing else
    rig.plugin("misconfigured", &broken.replace("no $CNI_COMMAND", "no subnet"));
    let error = rig.add(&sleeper, &list(r#"{"type":"misconfigured"}"#), "net9").unwrap_err().to_string();
    assert_eq!(error, "plugin misconfigured: ADD failed: code 100: no subnet");
    assert!(!sleeper.has("net9"));
    assert_eq!(rig.entries(), 1);
    // other interfaces can be added, and the same one once the plugin or the configuration is right
    rig.add(&sleeper, &list(r#"{"type":"good"}"#), "net2").unwrap();
    rig.add(&sleeper, &good(), "net1").unwrap();
    assert_eq!((rig.leases(), rig.entries()), (2, 2));
    // or it is forgotten
    assert!(rig.add(&sleeper, &bad, "net3").is_err());
    assert!(rig.del(&sleeper, None, "net3").is_err());
    let interface = "net3".parse().unwrap();
    let forget = || rig.with(&sleeper, |place| rig.networks.forget(("default", "web"), Some(place), &interface));
    assert_eq!((forget().unwrap(), forget().unwrap()), (Deleted::Attachment, Deleted::Nothing));
    assert_eq!(rig.entries(), 2);
}

#[test]
fn no_plugin_takes_a_device_that_the_node_needs_or_that_somebody_has() {
    let (rig, sleeper) = (Rig::new(), Sleeper::new());
    let snapshot = || {
        let mut snapshot = Snapshot::default();
        for (index, name) in [(1, "lo"), (2, "eth1"), (3, "eth2")] {
            let mut link = fixture::link(index, name);
            link.flags |= if name == "lo" { netdevice::link::flags::LOOPBACK } else { 0 };
            snapshot.insert_link(Arc::new(link));
        }
        snapshot
    };
    let taking = |device: &str| list(&format!(r#"{{"type":"good"}},{{"type":"host-device","device":"{device}"}}"#));
    rig.plugin("host-device", GOOD);
    let error = rig.add_on(&sleeper, &taking("lo"), "net1", snapshot()).unwrap_err().to_string();
    assert_eq!(
        error,
        "plugin host-device would take lo away from the node, which is never handed out because it is the loopback interface"
    );
    let records = &rig.networks.records;
    let claim = Owner::Claim {
        uid: "1".into(),
        namespace: "default".into(),
        name: "fast".into(),
        request: "nic".into(),
        sandbox: None,
        pod: None,
    };
    let reservation = Reservation {
        device: "eth1".parse().unwrap(),
        resource: None,
        owner: claim,
        acquisition: netdevice::Acquisition::Move,
        uplink_parents: netdevice::exclusion::UplinkParents::Refused,
        configuration: None,
        is_of_one_pod: false,
        since: 0,
    };
    records.reserve(&reservation, &records.lock(&reservation.device).unwrap()).unwrap();
    let error = rig.add_on(&sleeper, &taking("eth1"), "net1", snapshot()).unwrap_err().to_string();
    assert!(error.contains("held by claim default/fast"), "{error}");
    let lock = records.lock(&"eth2".parse().unwrap()).unwrap();
    let error = rig.add_on(&sleeper, &taking("eth2"), "net1", snapshot()).unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    drop(lock);
    assert!(!sleeper.has("net1") && rig.leases() == 0, "no plugin ran");
}
