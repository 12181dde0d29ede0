//! The agent's reconciler in real namespaces: each test makes a host and sandboxes of its own, attaches devices as a hook
//! does, starts the real program, and lets sandboxes end without a hook.

#![allow(clippy::unwrap_used)] // outside #[test] functions too: all of it is a test

use std::{
    fs,
    os::unix::fs::MetadataExt,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use link::{AttachRequest, DetachRequest, OpenSandbox};
use netdevice::{Acquisition, DeviceId, Owner, Pod, Reservation, exclusion::UplinkParents, oci::State, owner::Request};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use nri::{
    PodSandbox,
    stand_in::{self, Listener},
};
use store::Records;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(90);

/// A network and a mount namespace for one test, in which sysfs shows the network; the thread that has it is in both.
struct Host {
    directory: tempfile::TempDir,
}

fn on_host(test: impl FnOnce(&Host) + Send) {
    assert!(nix::unistd::geteuid().is_root(), "these tests make network namespaces: run them as root");
    let result = thread::scope(|scope| scope.spawn(|| test(&Host::new())).join());
    result.unwrap_or_else(|panic| resume_unwind(panic));
}

impl Host {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).unwrap();
        let directory = tempfile::tempdir().unwrap();
        // what is mounted below it reaches mount namespaces that are made from this one
        mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), none).unwrap();
        mount(none, directory.path(), none, MsFlags::MS_SHARED, none).unwrap();
        let host = Self { directory };
        fs::create_dir(host.path("state")).unwrap();
        host.ip("link set lo up");
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn records(&self) -> Records {
        Records::new(self.path("state"))
    }

    fn ip(&self, arguments: &str) {
        let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "ip {arguments}");
    }

    fn add_device(&self, name: &str) {
        self.ip(&format!("link add {name} type ifb"));
    }

    fn has_link(&self, name: &str) -> bool {
        Path::new("/sys/class/net").join(name).exists()
    }

    /// A sandbox with a process.
    fn sandbox(&self) -> Sandbox {
        let process = thread::scope(|scope| {
            let start = || {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap()
            };
            scope.spawn(start).join().unwrap()
        });
        Sandbox(process)
    }

    /// A sandbox without a process, as CRI-O makes them: a mount of its namespace.
    fn mounted_sandbox(&self, name: &str) -> PathBuf {
        let process = self.sandbox();
        let path = self.path(name);
        fs::write(&path, "").unwrap();
        mount(Some(&process.path()), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        path
    }

    /// As a hook does, for a container of that first process; or as the injector and commands do, for a sandbox that is found by
    /// its path and may have a process.
    fn attach(&self, device: &str, path: &Path, owner: &Owner, pid: Option<i32>) {
        let path = Some(path.to_str().unwrap().to_owned());
        let found = match (owner, pid) {
            (Owner::Container { id, .. }, Some(pid)) => {
                let state = format!("{{\"id\":\"{id}\",\"pid\":{pid}}}");
                netdevice::Sandbox::from_oci(&State::from_json(state.as_bytes()).unwrap(), path)
            }
            (_, pid) => {
                let pid = pid.map(i32::cast_unsigned);
                netdevice::Sandbox::from_nri(owner.id(), owner.pod().unwrap().clone(), path, pid)
            }
        };
        let request = AttachRequest {
            device: &device.parse().unwrap(),
            resource: None,
            sandbox: &OpenSandbox::open(&found).unwrap(),
            owner,
            acquisition: Acquisition::Move,
            uplink_parents: UplinkParents::Refused,
            configuration: None,
        };
        link::attach(&self.records(), &request).unwrap();
        assert!(!self.has_link(device));
    }

    fn edit_record(&self, device: &str, edit: impl FnOnce(&mut serde_json::Value)) {
        let path = self.path(&format!("state/{device}.json"));
        let mut record = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut record);
        fs::write(&path, record.to_string()).unwrap();
    }

    fn agent(&self) -> Agent {
        self.agent_with_limit("1024:4096")
    }

    /// An agent with that soft and hard limit of open files.
    fn agent_with_limit(&self, limit: &str) -> Agent {
        self.agent_with(limit, &[])
    }

    fn agent_with(&self, limit: &str, flags: &[&str]) -> Agent {
        let log = self.path("log");
        let mut command = Command::new("prlimit");
        command.args([&format!("--nofile={limit}"), "unshare"]);
        // its mounts are its own, as in a container, and those of the host reach it
        command.args(["--mount", "--propagation", "slave", env!("CARGO_BIN_EXE_netdevice-agent")]);
        command.args(["-interfaces", "^dev", "-events", "off", "-v", "4", "-admin-address", "127.0.0.1:0"]);
        for (flag, name) in [
            ("-state-dir", "state"),
            ("-cdi-dir", "cdi"),
            ("-device-plugin-dir", "plugins"),
            ("-pod-resources-socket", "none.sock"),
            ("-hook-path", "hook"),
        ] {
            command.arg(flag).arg(self.path(name));
        }
        command.args(flags);
        command.stdin(Stdio::null()).stdout(fs::File::create(&log).unwrap());
        command.stderr(fs::File::options().append(true).open(&log).unwrap());
        Agent { process: command.spawn().unwrap(), log }
    }
}

struct Sandbox(Child);

impl Sandbox {
    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid()))
    }
}

/// Another process in a namespace: a container that lives on when its sandbox has ended.
fn container_in(path: &Path) -> Sandbox {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", path.display())).args(["sleep", "600"]).stdin(Stdio::null());
    let process = Sandbox(command.spawn().unwrap());
    // until it has entered
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    while inode(&process.path()) != inode(path) {
        thread::yield_now();
    }
    process
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Agent {
    process: Child,
    log: PathBuf,
}

impl Agent {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    #[track_caller]
    fn wait_for(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + LONG;
        while !is_so() {
            assert!(Instant::now() < deadline, "{what} does not happen; the log:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The agent follows the attachment.
    #[track_caller]
    fn wait_until_followed(&self, device: &str) {
        self.wait_for_line(device, "following its attachment");
    }

    #[track_caller]
    fn wait_for_line(&self, device: &str, words: &str) {
        let (device, is_end) =
            (format!("device={device}"), |rest: &str| !rest.starts_with(|c: char| c.is_ascii_digit()));
        let has = |line: &str| line.contains(words) && line.split_once(&device).is_some_and(|(_, rest)| is_end(rest));
        self.wait_for(&format!("{device}: {words}"), || self.log().lines().any(has));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn container(id: &str) -> Owner {
    let pod = Pod { namespace: "default".into(), name: id.into(), uid: format!("uid-{id}") };
    Owner::Container { id: id.into(), sandbox: Some(format!("sandbox-{id}")), pod: Some(pod) }
}

fn sandbox(id: &str) -> Owner {
    let pod = container(id).pod().cloned();
    Owner::Sandbox { id: format!("sandbox-{id}"), pod, by: Request::Annotation }
}

fn by_command(id: &str) -> Owner {
    Owner::Sandbox { id: format!("sandbox-{id}"), pod: container(id).pod().cloned(), by: Request::Command }
}

#[test]
fn a_device_whose_work_hangs_holds_up_no_other() {
    on_host(|host| {
        // opening a FIFO waits for a writer who never comes: three records name one as their namespace
        let pod = host.sandbox();
        for name in ["dev0", "dev1", "dev2"] {
            host.add_device(name);
            host.attach(name, &pod.path(), &container(name), Some(pod.pid()));
            let fifo = host.path(&format!("fifo-{name}"));
            nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
            host.edit_record(name, |record| {
                record["sandbox"]["inode"] = fs::metadata(&fifo).unwrap().ino().into();
                record["sandbox"]["paths"] = serde_json::json!([fifo]);
            });
        }
        for name in ["dev3", "dev4"] {
            host.add_device(name);
            host.attach(name, &pod.path(), &container(name), Some(pod.pid()));
        }
        let agent = host.agent();
        agent.wait_until_followed("dev4");
        drop(pod);
        agent.wait_for("both return", || host.has_link("dev3") && host.has_link("dev4"));
        assert!(!host.has_link("dev0"));
    });
}

#[test]
fn a_sandbox_without_a_process_that_is_unmounted_gives_its_devices_back_whatever_mounts_the_agent_is_in() {
    on_host(|host| {
        host.add_device("dev0");
        let mounted = host.mounted_sandbox("netns-a");
        host.attach("dev0", &mounted, &sandbox("a"), None);
        let agent = host.agent();
        agent.wait_for_line("dev0", "a mount of its sandbox is visible here");
        umount2(&mounted, MntFlags::MNT_DETACH).unwrap();
        fs::remove_file(&mounted).unwrap();
        agent.wait_for("it returns", || host.has_link("dev0"));
        agent.wait_for("its record ends", || !host.path("state/dev0.json").exists());
    });
}

#[test]
fn a_new_sandbox_of_the_same_pod_gets_the_device_of_one_that_was_unmounted() {
    on_host(|host| {
        host.add_device("dev0");
        let (old, new) = (host.mounted_sandbox("netns-a"), host.mounted_sandbox("netns-b"));
        host.attach("dev0", &old, &sandbox("a"), None);
        umount2(&old, MntFlags::MNT_DETACH).unwrap();
        fs::remove_file(&old).unwrap();
        let next = Owner::Sandbox { id: "next".into(), pod: sandbox("a").pod().cloned(), by: Request::Annotation };
        host.attach("dev0", &new, &next, None);
        let (ledger, _) = host.records().list().unwrap();
        assert_eq!(ledger.values().next().unwrap().owner, next);
    });
}

#[test]
fn more_devices_than_descriptors_return_and_the_soft_limit_is_raised() {
    on_host(|host| {
        let pods: Vec<Sandbox> = (0..3).map(|_| host.sandbox()).collect();
        let names: Vec<String> = (0..45).map(|number| format!("dev{number}")).collect();
        for (at, name) in names.iter().enumerate() {
            let pod = &pods[at % pods.len()];
            host.add_device(name);
            host.attach(name, &pod.path(), &container(name), Some(pod.pid()));
        }
        let agent = host.agent_with_limit("40:4096");
        names.iter().for_each(|name| agent.wait_until_followed(name));
        assert!(agent.log().contains("raised the limit of open files limit=4096"), "{}", agent.log());
        drop(pods);
        agent.wait_for("all return", || names.iter().all(|name| host.has_link(name)));
        assert!(!agent.log().contains(" lost: "), "{}", agent.log());
    });
}

#[test]
fn with_fewer_descriptors_than_pods_every_device_returns_and_none_is_lost() {
    on_host(|host| {
        let names: Vec<String> = (0..40).map(|number| format!("dev{number}")).collect();
        let pods: Vec<Sandbox> = names
            .iter()
            .map(|name| {
                let pod = host.sandbox();
                host.add_device(name);
                host.attach(name, &pod.path(), &container(name), Some(pod.pid()));
                pod
            })
            .collect();
        let agent = host.agent_with_limit("128:128");
        names.iter().for_each(|name| agent.wait_until_followed(name));
        drop(pods);
        agent.wait_for("all return", || names.iter().all(|name| host.has_link(name)));
        assert!(!agent.log().contains(" lost: "), "{}", agent.log());
    });
}

#[test]
fn an_ordinary_end_on_cri_o_is_no_repair() {
    on_host(|host| {
        host.add_device("dev0");
        let (pod, mounted) = (host.sandbox(), host.mounted_sandbox("netns-a"));
        // as a hook writes it: the container's own process, and the mount that config.json names
        host.attach("dev0", &mounted, &container("a"), Some(pod.pid()));
        let agent = host.agent();
        agent.wait_until_followed("dev0");
        drop(pod);
        agent.wait_for("it is said", || agent.log().contains("returned to the host: its container ended"));
        assert!(host.has_link("dev0"));
        assert!(!agent.log().contains("no hook had done so"), "{}", agent.log());
    });
}

#[test]
fn a_device_whose_name_was_taken_gets_it_as_soon_as_it_is_free_also_after_a_restart() {
    on_host(|host| {
        let pod = host.sandbox();
        host.add_device("dev0");
        host.attach("dev0", &pod.path(), &container("a"), Some(pod.pid()));
        host.add_device("dev0");
        let device: DeviceId = "dev0".parse().unwrap();
        link::detach(&host.records(), &DetachRequest { device: &device, owner: "a" }).unwrap();
        let waiting = host.records().waiting().unwrap();
        let [waiting] = &waiting[..] else { panic!("{waiting:?}") };
        let present = waiting.present.to_string();
        assert!(host.has_link(&present));
        let index = |name: &str| fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).unwrap();
        let own = index(&present);
        // this agent was started after the device had returned
        let agent = host.agent();
        agent.wait_for("the devices are offered", || agent.log().contains("offered"));
        assert!(host.has_link(&present));
        host.ip("link set dev0 name other0");
        agent.wait_for("it has its name", || host.has_link("dev0"));
        assert_eq!(index("dev0"), own);
        assert!(!host.has_link(&present));
        agent.wait_for("nothing waits", || host.records().waiting().unwrap().is_empty());
    });
}

#[test]
fn a_link_that_took_the_place_of_one_that_waits_is_not_renamed() {
    on_host(|host| {
        let pod = host.sandbox();
        host.add_device("dev0");
        host.attach("dev0", &pod.path(), &container("a"), Some(pod.pid()));
        host.add_device("dev0");
        let device: DeviceId = "dev0".parse().unwrap();
        link::detach(&host.records(), &DetachRequest { device: &device, owner: "a" }).unwrap();
        let [waiting] = &host.records().waiting().unwrap()[..] else { panic!("one waits") };
        let present = waiting.present.to_string();
        // the same name and index, another kind
        host.ip(&format!("link del {present}"));
        host.ip(&format!("link add {present} index {} type bridge", waiting.index));
        host.ip("link del dev0");
        assert_eq!(link::restore_name(&host.records(), waiting).unwrap(), link::Restored::Void);
        assert!(host.has_link(&present) && !host.has_link("dev0"));
        assert!(host.records().waiting().unwrap().is_empty());
    });
}

#[test]
fn a_device_that_another_program_renames_on_its_return_gets_its_name_back() {
    on_host(|host| {
        let pod = host.sandbox();
        host.add_device("dev0");
        host.attach("dev0", &pod.path(), &container("a"), Some(pod.pid()));
        let agent = host.agent();
        agent.wait_until_followed("dev0");
        drop(pod);
        agent.wait_for("the device returns", || host.has_link("dev0"));
        agent.wait_for_line("dev0", "offered");
        host.ip("link set dev0 name other0");
        agent.wait_for("it has its name again", || host.has_link("dev0"));
        assert!(!host.has_link("other0"));
        agent.wait_for_line("dev0", "renamed back from other0");
    });
}

#[test]
fn without_nri_a_device_by_command_returns_when_its_pod_ends_also_while_containers_live_on() {
    on_host(|host| {
        ["dev0", "dev1"].iter().for_each(|name| host.add_device(name));
        // containerd: the sandbox has a process; CRI-O: it has a mount
        let (pod, mounted) = (host.sandbox(), host.mounted_sandbox("netns-b"));
        let _live_on = [container_in(&pod.path()), container_in(&mounted)];
        host.attach("dev0", &pod.path(), &by_command("a"), Some(pod.pid()));
        host.attach("dev1", &mounted, &by_command("b"), None);
        let agent = host.agent();
        agent.wait_until_followed("dev0");
        agent.wait_for_line("dev1", "a mount of its sandbox is visible here");
        // as StopPodSandbox does
        drop(pod);
        umount2(&mounted, MntFlags::MNT_DETACH).unwrap();
        fs::remove_file(&mounted).unwrap();
        for name in ["dev0", "dev1"] {
            agent.wait_for_line(name, "returned to the host: its pod ended");
            assert!(host.has_link(name));
            agent.wait_for("its record ends", || !host.path(&format!("state/{name}.json")).exists());
        }
        assert!(!agent.log().contains("no hook had done so"), "{}", agent.log());
    });
}

#[test]
fn a_device_by_command_returns_to_an_agent_that_starts_after_its_pod_ended() {
    on_host(|host| {
        host.add_device("dev0");
        let pod = host.sandbox();
        let _lives_on = container_in(&pod.path());
        host.attach("dev0", &pod.path(), &by_command("a"), Some(pod.pid()));
        drop(pod);
        let agent = host.agent();
        agent.wait_for_line("dev0", "returned to the host: its pod ended");
        assert!(host.has_link("dev0"));
    });
}

#[test]
fn with_nri_a_device_by_command_stays_while_its_pod_is_listed_and_returns_at_the_runtimes_event() {
    on_host(|host| {
        ["dev0", "dev1", "dev2"].iter().for_each(|name| host.add_device(name));
        let pods = ["a", "b", "z"].map(|id| (id, host.sandbox()));
        for ((id, pod), device) in pods.iter().zip(["dev0", "dev1", "dev2"]) {
            host.attach(device, &pod.path(), &by_command(id), Some(pod.pid()));
        }
        // none has an annotation; the last ended while nobody was connected, and its processes live on
        let listed = pods.each_ref().map(|(id, pod)| PodSandbox {
            id: format!("sandbox-{id}"),
            name: (*id).into(),
            namespace: "default".into(),
            uid: format!("uid-{id}"),
            network_namespace: Some(pod.path().to_str().unwrap().into()),
            pid: Some(pod.pid().cast_unsigned()),
            ..PodSandbox::default()
        });
        let socket = host.path("nri.sock");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(async { Listener::bind(&socket).unwrap() });
        let agent = host.agent_with("1024:4096", &["-nri", "-nri-socket", socket.to_str().unwrap()]);
        let peer = runtime.block_on(async {
            let mut peer = listener.accept().await.unwrap();
            peer.start(stand_in::runtime(), &listed[..2], &[]).await.unwrap();
            peer
        });
        // by then the others were checked: in the order of their ids
        agent.wait_for_line("dev2", "returned to the node");
        assert!(host.has_link("dev2") && !host.has_link("dev0") && !host.has_link("dev1"), "{}", agent.log());
        runtime.block_on(peer.stop_pod_sandbox(&listed[0])).unwrap();
        assert!(host.has_link("dev0") && !host.has_link("dev1"), "{}", agent.log());
        runtime.block_on(peer.remove_pod_sandbox(&listed[1])).unwrap();
        assert!(host.has_link("dev1"), "{}", agent.log());
        agent.wait_for("no record is left", || host.records().list().unwrap().0.is_empty());
    });
}

#[test]
fn a_device_that_a_command_returned_and_another_program_renames_gets_its_name_back() {
    on_host(|host| {
        host.add_device("dev0");
        let pod = host.sandbox();
        host.attach("dev0", &pod.path(), &by_command("a"), Some(pod.pid()));
        let agent = host.agent();
        agent.wait_until_followed("dev0");
        let device: DeviceId = "dev0".parse().unwrap();
        link::detach(&host.records(), &DetachRequest { device: &device, owner: by_command("a").id() }).unwrap();
        agent.wait_for_line("dev0", "no longer in the pod");
        agent.wait_for_line("dev0", "offered");
        host.ip("link set dev0 name other0");
        agent.wait_for("it has its name again", || host.has_link("dev0"));
        agent.wait_for_line("dev0", "renamed back from other0");
    });
}

/// The claim of the Pod of that id, in a sandbox or not attached yet.
fn claim(id: &str, sandbox: Option<&str>) -> Owner {
    Owner::Claim {
        uid: format!("claim-uid-{id}"),
        namespace: "default".into(),
        name: format!("claim-{id}"),
        request: "nic".into(),
        sandbox: sandbox.map(Into::into),
        pod: container(id).pod().cloned(),
    }
}

/// As Prepare does.
fn prepare(host: &Host, device: &str, id: &str) {
    let (records, device) = (host.records(), device.parse().unwrap());
    let lock = records.lock(&device).unwrap();
    let since = store::journal::now();
    let reservation = Reservation {
        device,
        resource: None,
        owner: claim(id, None),
        acquisition: netdevice::Acquisition::Move,
        uplink_parents: UplinkParents::Refused,
        configuration: None,
        is_of_one_pod: false,
        since,
    };
    records.reserve(&reservation, &lock).unwrap();
}

fn listed(id: &str, sandbox: &str, pod: &Sandbox) -> PodSandbox {
    PodSandbox {
        id: sandbox.into(),
        name: id.into(),
        namespace: "default".into(),
        uid: format!("uid-{id}"),
        network_namespace: Some(pod.path().to_str().unwrap().into()),
        pid: Some(pod.pid().cast_unsigned()),
        ..PodSandbox::default()
    }
}

#[test]
fn each_sandbox_of_a_pod_has_the_devices_of_its_claims_before_its_first_container() {
    on_host(|host| {
        ["dev0", "dev1", "dev2"].iter().for_each(|name| host.add_device(name));
        let (first, second, late) = (host.sandbox(), host.sandbox(), host.sandbox());
        prepare(host, "dev0", "a");
        prepare(host, "dev1", "a");
        // its Pod started while nobody was connected
        prepare(host, "dev2", "late");
        let socket = host.path("nri.sock");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(async { Listener::bind(&socket).unwrap() });
        let agent = host.agent_with("1024:4096", &["-nri", "-nri-socket", socket.to_str().unwrap()]);
        let peer = runtime.block_on(async {
            let mut peer = listener.accept().await.unwrap();
            peer.start(stand_in::runtime(), &[listed("late", "s-late", &late)], &[]).await.unwrap();
            peer
        });
        agent.wait_for_line("dev2", "attached after the pod had started");
        assert!(!host.has_link("dev2"));

        let sandbox = listed("a", "s-1", &first);
        runtime.block_on(peer.run_pod_sandbox(&sandbox)).unwrap();
        assert!(!host.has_link("dev0") && !host.has_link("dev1"), "{}", agent.log());
        let container = nri::Container { id: "c1".into(), sandbox_id: "s-1".into(), ..nri::Container::default() };
        runtime.block_on(peer.create_container(&sandbox, &container)).unwrap();
        // the next sandbox is there before the first one is stopped
        let next = listed("a", "s-2", &second);
        runtime.block_on(peer.run_pod_sandbox(&next)).unwrap();
        runtime.block_on(peer.stop_pod_sandbox(&sandbox)).unwrap();
        let record = host.records().read(&"dev0".parse().unwrap()).unwrap().unwrap();
        assert_eq!(record.owner, claim("a", Some("s-2")));
        runtime.block_on(peer.stop_pod_sandbox(&next)).unwrap();
        assert!(host.has_link("dev0") && host.has_link("dev1"), "{}", agent.log());
        assert!(host.records().reservation(&"dev0".parse().unwrap()).is_some());
        assert_eq!(link::unprepare(&host.records(), "claim-uid-a", Instant::now()).unwrap().len(), 2);
        assert_eq!(host.records().reservations().unwrap().len(), 1);
    });
}

#[test]
fn a_container_is_refused_while_the_device_of_a_claim_cannot_be_attached() {
    on_host(|host| {
        host.add_device("dev0");
        let pod = host.sandbox();
        let socket = host.path("nri.sock");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(async { Listener::bind(&socket).unwrap() });
        let agent = host.agent_with("1024:4096", &["-nri", "-nri-socket", socket.to_str().unwrap()]);
        let mut peer = runtime.block_on(async { listener.accept().await.unwrap() });
        runtime.block_on(peer.start(stand_in::old_runtime(), &[], &[])).unwrap();
        let sandbox = listed("a", "s-1", &pod);
        let container = nri::Container { id: "c1".into(), sandbox_id: "s-1".into(), ..nri::Container::default() };
        prepare(host, "dev0", "a");
        host.ip("link set dev0 name gone0");
        runtime.block_on(peer.run_pod_sandbox(&sandbox)).unwrap();
        let error = runtime.block_on(peer.create_container(&sandbox, &container)).unwrap_err().to_string();
        assert!(
            error.contains("netdevice: claim default/claim-a: device dev0: the node has no such interface"),
            "{error}"
        );
        host.ip("link set gone0 name dev0");
        runtime.block_on(peer.create_container(&sandbox, &container)).unwrap();
        assert!(!host.has_link("dev0"), "{}", agent.log());
    });
}

#[test]
fn without_nri_the_device_of_a_claim_returns_when_its_sandbox_ends_and_stays_reserved() {
    on_host(|host| {
        ["dev0", "dev1"].iter().for_each(|name| host.add_device(name));
        let (pod, ended) = (host.sandbox(), host.sandbox());
        for (device, id, sandbox) in [("dev0", "a", &pod), ("dev1", "b", &ended)] {
            prepare(host, device, id);
            host.attach(device, &sandbox.path(), &claim(id, Some(&format!("sandbox-{id}"))), Some(sandbox.pid()));
        }
        // while the agent was away
        drop(ended);
        let agent = host.agent();
        agent.wait_for_line("dev1", "returned to the host: its pod ended");
        agent.wait_until_followed("dev0");
        assert!(!host.has_link("dev0") && host.has_link("dev1"));
        drop(pod);
        agent.wait_for_line("dev0", "returned to the host: its pod ended");
        assert!(host.has_link("dev0"));
        assert_eq!(host.records().reservations().unwrap().len(), 2);
        assert!(!agent.log().contains("no hook had done so"), "{}", agent.log());
    });
}
