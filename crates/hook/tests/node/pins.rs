//! A virtual device is destroyed with its namespace. While it is attached, the namespace is pinned in the state
//! directory, so that no process and no mount of the runtime need live for the device to return.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use link::{Detached, Diagnosis, Ended, Repair, RouteSocket};
use netdevice::Attachment;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;
use store::{Namespace, Records};

use crate::{
    home::wired,
    support::{
        Host, Sandbox, ended_state,
        inject::{ARGUMENTS, Order, PROGRAM},
        on_host, until,
    },
};

const HOST: &str = "link set dev0 mtu 1400 alias a-nic
     link property add dev dev0 altname fast-nic
     addr add 10.1.0.5/24 dev dev0
     addr add 2001:db8::5/64 dev dev0
     route add 10.50.0.0/16 via 10.1.0.1
     neigh add 10.1.0.77 lladdr 02:00:00:00:00:77 dev dev0 nud permanent";

/// A sandbox's namespace as a runtime keeps it: a mount below the test's directory.
struct Mounted(PathBuf);

impl Mounted {
    fn new(host: &Host, sandbox: &Sandbox, name: &str) -> Self {
        let path = host.folder().join("netns").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        let none = None::<&str>;
        let namespace = format!("/proc/{}/ns/net", sandbox.pid());
        mount(Some(namespace.as_str()), &path, none, MsFlags::MS_BIND, none).unwrap();
        Self(path)
    }

    /// As a runtime does at StopPodSandbox.
    fn end(&self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
        fs::remove_file(&self.0).unwrap();
    }
}

/// OCI state of a container whose bundle says where the sandbox's namespace is mounted.
fn state_with_bundle(host: &Host, sandbox: &Sandbox, container: &str, mounted: &Mounted) -> String {
    let bundle = host.folder().join(container);
    fs::create_dir_all(&bundle).unwrap();
    let config = json!({"linux": {"namespaces": [{"type": "network", "path": mounted.0}]}});
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    sandbox.state(container).replace("/nowhere", bundle.to_str().unwrap())
}

/// The record of the only device.
fn record(host: &Host) -> Attachment {
    let (ledger, unreadable) = Records::new(host.state_dir()).list().unwrap();
    assert!(unreadable.is_empty(), "{unreadable:?}");
    Attachment::clone(ledger.values().next().unwrap())
}

#[track_caller]
fn assert_ends(record: &Attachment) {
    let mut home = RouteSocket::open().unwrap();
    until("the kernel says that the namespace ended", || link::diagnose(record, &mut home) == Diagnosis::SandboxEnded);
}

/// A process in a mount namespace of its own with copies of all mounts.
struct Copies(Child);

impl Copies {
    fn new(propagation: &str) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", propagation, "sleep", "600"]);
        let child = command.spawn().unwrap();
        until("it sleeps in a mount namespace of its own", || {
            fs::read_to_string(format!("/proc/{}/comm", child.id())).is_ok_and(|name| name == "sleep\n")
        });
        Self(child)
    }

    fn has(&self, path: &str) -> bool {
        fs::read_to_string(format!("/proc/{}/mountinfo", self.0.id())).unwrap().contains(path)
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_device_returns_after_its_sandbox_was_killed_and_nobody_held_the_namespace() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        let of_sandbox = fs::metadata(format!("/proc/{}/ns/net", sandbox.pid())).unwrap();
        let pin = fs::metadata(host.pin_path("dev0")).unwrap();
        assert_eq!((pin.dev(), pin.ino()), (of_sandbox.dev(), of_sandbox.ino()));
        drop(sandbox);
        host.detach("c1", "dev0").succeeds();
        host.assert_same(&before);
    });
}

#[test]
fn the_next_pod_gets_a_device_whose_pod_was_killed_without_hooks() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let first = host.sandbox("web");
        host.attach(&first, "c1", "dev0").succeeds();
        drop(first);
        let second = host.sandbox("other");
        host.attach(&second, "c2", "dev0").succeeds();
        let pinned = fs::metadata(host.pin_path("dev0")).unwrap().ino();
        assert_eq!(pinned, fs::metadata(format!("/proc/{}/ns/net", second.pid())).unwrap().ino());
        host.detach("c2", "dev0").succeeds();
        host.assert_same(&before);
    });
}

/// CRI-O: a container restarts before the poststop of its predecessor, whose process is gone; the namespace is unmounted
/// before the last poststop; no agent runs.
#[test]
fn crios_order_of_calls_without_an_agent_brings_the_device_home() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let mounted = Mounted::new(host, &sandbox, "8b3f");
        host.hook("attach", &["dev0"], &state_with_bundle(host, &sandbox, "c1", &mounted)).succeeds();
        host.hook("attach", &["dev0"], &state_with_bundle(host, &sandbox, "c2", &mounted)).succeeds();
        host.detach("c1", "dev0").succeeds();
        assert!(sandbox.has_link("dev0"));
        drop(sandbox);
        mounted.end();
        host.hook("detach", &["dev0"], &ended_state("c2")).succeeds();
        host.assert_same(&before);
    });
}

/// A sandbox without a process whose mount goes right after Run; Stop comes later, and the search finds nothing.
#[test]
fn a_sandbox_whose_path_goes_before_stop_gives_its_device_back_without_a_descriptor() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let mounted = Mounted::new(host, &sandbox, "8b3f");
        let mut order = Order::new(host, &sandbox, &json!([["dev0", {"name": "eth1"}]]));
        order.path.clone_from(&mounted.0);
        order.arrives();
        drop(sandbox);
        mounted.end();
        order.comes_home();
        host.assert_same(&before);
    });
}

#[test]
fn an_agent_that_starts_after_everybody_died_brings_the_device_home() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        drop(sandbox);
        // PID 1 of the test's machine is in another mount namespace, as an agent without hostPID sees it
        let (records, obstacle) = Records::of_agent(host.state_dir());
        assert!(obstacle.is_some());
        let record = record(host);
        let kept = link::keep_sandbox(&records, &record).unwrap();
        assert!(kept.is_some(), "its own mounts may end with it");
        let is_due = |now: &Attachment, home: &mut RouteSocket| link::diagnose(now, home) == Diagnosis::HolderEnded;
        let repaired = link::repair(&records, &record.device, kept.as_ref(), is_due).unwrap();
        assert_eq!(repaired, Repair::Done(Ended::Returned { renamed: None, skipped: Vec::new() }));
        host.assert_same(&before);
        drop(kept);
        assert_ends(&record);
    });
}

/// An agent in a container with a mount namespace of its own, which ends with it, and the node's processes.
#[test]
fn an_agent_in_a_container_pins_where_pid_1_is() {
    const SCRIPT: &str = r#"mount -t proc proc /proc && unshare --mount --propagation private "$@" <attach >attach.log &&
        umount -l mounted/* && echo attached && read -r line && exec "$@" <detach >detach.log"#;
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let mounted = Mounted::new(host, &sandbox, "8b3f");
        std::os::unix::fs::symlink(mounted.0.parent().unwrap(), host.folder().join("mounted")).unwrap();
        let mut order = Order::new(host, &sandbox, &json!([["dev0", {"name": "eth1"}]]));
        order.path.clone_from(&mounted.0);
        host.write(host.folder().join("attach"), &order.input("attach as an agent"));
        host.write(host.folder().join("detach"), &order.input("detach"));
        // its shell is PID 1, in a mount namespace of its own with the same state directory
        let mut node = Command::new("unshare");
        node.args(["--pid", "--mount", "--fork", "--kill-child", "sh", "-c", SCRIPT, "sh"]);
        node.arg(std::env::current_exe().unwrap()).args(ARGUMENTS).env(PROGRAM, "1").current_dir(host.folder());
        let mut node = node.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(node.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "attached\n");
        assert!(sandbox.has_link("eth1"));
        mounted.end();
        drop(sandbox);
        node.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(node.wait().unwrap().success());
        host.assert_same(&before);
    });
}

/// An agent in a container whose profile forbids mounts. The sandbox's mount goes right after Run.
#[test]
fn an_agent_that_cannot_mount_holds_the_descriptor_of_run() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        fs::create_dir_all(host.state_dir()).unwrap();
        host.write(host.state_dir().join("netns"), "no directory");
        let sandbox = host.sandbox("web");
        let mounted = Mounted::new(host, &sandbox, "8b3f");
        let mut order = Order::new(host, &sandbox, &json!([["dev0", {"name": "eth1"}]]));
        order.path.clone_from(&mounted.0);
        let (records, _) = Records::of_agent(host.state_dir());
        order.attach_by(&records).unwrap();
        let record = record(host);
        mounted.end();
        drop(sandbox);
        assert!(link::keep_sandbox(&records, &record).unwrap().is_none(), "one descriptor is enough");
        let returned = link::detach_from_sandbox(&records, &record.device, record.owner.id(), None).unwrap();
        assert_eq!(returned, Detached::Done(Ended::Returned { renamed: None, skipped: Vec::new() }));
        host.assert_same(&before);
        assert_ends(&record);
    });
}

#[test]
fn a_device_that_is_home_holds_no_namespace_and_copies_of_the_pin_do_not_either() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        let copies = ["private", "slave"].map(Copies::new);
        let pin = host.pin_path("dev0");
        assert!(copies.iter().all(|one| one.has(pin.to_str().unwrap())));
        let record = record(host);
        drop(sandbox);
        host.detach("c1", "dev0").succeeds();
        assert_ends(&record);
        host.assert_same(&before);
    });
}

#[test]
fn a_pin_without_a_record_is_swept_and_that_of_a_record_in_quarantine_is_kept() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        let (text, pin, first) = (fs::read(host.record_path("dev0")).unwrap(), host.pin_path("dev0"), record(host));
        drop(sandbox);
        let records = Records::new(host.state_dir());
        host.write(host.record_path("dev0"), "{");
        records.quarantine(&first.device).unwrap().unwrap();
        records.sweep();
        assert_eq!(fs::metadata(&pin).unwrap().ino(), first.sandbox.inode, "an administrator can still get it");
        fs::remove_dir_all(host.state_dir().join("quarantine")).unwrap();
        fs::write(host.record_path("dev0"), text).unwrap();
        host.detach("c1", "dev0").succeeds();
        host.assert_same(&before);

        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        let second = record(host);
        drop(sandbox);
        // an older program that knows of no pins
        fs::remove_file(host.record_path("dev0")).unwrap();
        records.sweep();
        assert!(!pin.exists());
        assert_ends(&second);
    });
}

#[test]
fn an_attachment_replaces_a_pin_that_an_older_program_left() {
    on_host(|host| {
        wired(host, HOST);
        let first = host.sandbox("web");
        host.attach(&first, "c1", "dev0").succeeds();
        first.ip(&format!("link set dev0 netns {}", nix::unistd::gettid()));
        fs::remove_file(host.record_path("dev0")).unwrap();
        let second = host.sandbox("other");
        host.attach(&second, "c2", "dev0").succeeds();
        assert_eq!(fs::metadata(host.pin_path("dev0")).unwrap().ino(), record(host).sandbox.inode);
        drop(second);
        host.detach("c2", "dev0").succeeds();
        assert!(host.has_link("dev0"));
        assert_eq!(host.records(), Vec::<String>::new());
    });
}

#[test]
fn a_record_without_a_pin_gets_one_from_the_pods_next_container() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        let pin = host.pin_path("dev0");
        umount2(&pin, MntFlags::MNT_DETACH).unwrap();
        fs::remove_file(&pin).unwrap();
        host.attach(&sandbox, "c2", "dev0").succeeds();
        drop(sandbox);
        host.detach("c2", "dev0").succeeds();
        host.assert_same(&before);
    });
}

/// Without a pin: whoever holds a descriptor that was opened by the mount, which reads as `/` after the lazy unmount.
#[test]
fn a_descriptor_that_was_opened_by_an_unmounted_path_is_found() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let mounted = Mounted::new(host, &sandbox, "8b3f");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        let pin = host.pin_path("dev0");
        umount2(&pin, MntFlags::MNT_DETACH).unwrap();
        fs::remove_file(&pin).unwrap();
        let held = File::open(&mounted.0).unwrap();
        mounted.end();
        drop(sandbox);
        host.detach("c1", "dev0").succeeds();
        host.assert_same(&before);
        drop(held);
    });
}

#[test]
fn a_device_is_not_called_lost_while_the_kernel_knows_it_in_its_namespace() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        // nobody here can see that mount
        let copies = Copies::new("private");
        let pin = host.pin_path("dev0");
        umount2(&pin, MntFlags::MNT_DETACH).unwrap();
        drop(sandbox);
        host.detach("c1", "dev0").fails_with("cannot find the network namespace of its pod");
        assert!(host.record_path("dev0").exists());
        let namespace = Namespace::open(format!("/proc/{}/root{}", copies.0.id(), pin.display())).unwrap();
        let records = Records::new(host.state_dir());
        let result = link::detach_from_sandbox(&records, &"dev0".parse().unwrap(), "c1", Some(&namespace));
        assert_eq!(result.unwrap(), Detached::Done(Ended::Returned { renamed: None, skipped: Vec::new() }));
        host.assert_same(&before);
    });
}
