//! Sandboxes that have something of their own, and who holds a device.

use std::{
    fs::{self, File},
    io::Write,
};

use crate::{
    home::{assert_has, wired},
    support::{on_host, until},
};

#[test]
fn a_name_that_is_taken_in_the_sandbox_leaves_the_device_at_home() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        sandbox.ip("link add dev0 type ifb");
        let own = sandbox.settled();
        host.attach(&sandbox, "c1", "dev0").fails_with("device dev0: the name dev0 is taken in the pod's network");
        host.assert_same(&before);
        sandbox.assert_same(&own);
    });
}

#[test]
fn the_pods_own_link_of_the_same_name_kind_and_index_is_not_taken_for_the_device() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let index = host.ifindex("dev0");
        sandbox.ip(&format!("link add dev0 index {index} type veth peer name p\nlink set dev0 up\nlink set p up"));
        let own = sandbox.settled();
        host.attach(&sandbox, "c1", "dev0").fails_with("the name dev0 is taken");
        host.assert_same(&before);
        sandbox.assert_same(&own);
    });
}

/// containerd was killed under its runtime: the container ends while the hook is at work, and no hook will run for it.
#[test]
fn the_record_names_the_process_of_a_container_that_ends_meanwhile() {
    on_host(|host| {
        wired(host, "");
        let sandbox = host.sandbox("web");
        let _namespace = File::open(format!("/proc/{}/ns/net", sandbox.pid())).unwrap();
        let lock = host.state_dir().join("lock/dev0");
        fs::create_dir_all(lock.parent().unwrap()).unwrap();
        let held = File::create(&lock).unwrap();
        held.lock().unwrap();
        let mut hook = host.command("attach", &["dev0"]).spawn().unwrap();
        hook.stdin.take().unwrap().write_all(sandbox.state("c1").as_bytes()).unwrap();
        let open = || {
            let files = fs::read_dir(format!("/proc/{}/fd", hook.id())).into_iter().flatten().flatten();
            files.filter_map(|file| fs::read_link(file.path()).ok()).any(|file| file == lock)
        };
        until("the hook waits for the lock", open);
        let pid = sandbox.pid();
        drop(sandbox);
        drop(held);
        assert!(hook.wait().unwrap().success());
        let record = fs::read_to_string(host.state_dir().join("dev0.json")).unwrap();
        assert_has(&record, &[&format!(r#""process":{{"pid":{pid},"start_time":"#)]);
        host.detach("c1", "dev0").succeeds();
    });
}

#[test]
fn a_name_that_is_an_alternative_name_in_the_sandbox_is_taken_too() {
    on_host(|host| {
        wired(host, "");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        sandbox.ip("link add eth0 type ifb\nlink property add dev eth0 altname dev0");
        host.attach(&sandbox, "c1", "dev0").fails_with("the name dev0 is taken");
        host.assert_same(&before);
    });
}

#[test]
fn an_alternative_name_that_is_taken_in_the_sandbox_is_named() {
    on_host(|host| {
        wired(host, "link property add dev dev0 altname eth0");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        sandbox.ip("link add eth0 type ifb");
        host.attach(&sandbox, "c1", "dev0").fails_with("the name eth0 is taken in the pod's network");
        host.assert_same(&before);
    });
}

#[test]
fn an_index_that_is_taken_in_the_sandbox_is_no_hindrance() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0\nroute add 10.50.0.0/16 via 10.1.0.1");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let index = host.ifindex("dev0");
        sandbox.ip(&format!("link add eth0 index {index} type veth peer name p\nlink set eth0 up\nlink set p up"));
        let own = sandbox.settled();
        host.attach(&sandbox, "c1", "dev0").succeeds();
        assert_has(&sandbox.show("route show"), &["10.50.0.0/16 via 10.1.0.1 dev dev0"]);
        host.attach(&sandbox, "c2", "dev0").succeeds();
        host.detach("c2", "dev0").succeeds();
        host.assert_same(&before);
        sandbox.assert_same(&own);
    });
}

#[test]
fn a_repeated_attachment_changes_nothing_and_a_later_container_takes_over() {
    on_host(|host| {
        wired(
            host,
            "addr add 10.1.0.5/24 dev dev0\naddr add 2001:db8::5/64 dev dev0\nroute add 10.50.0.0/16 via 10.1.0.1",
        );
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        let inside = sandbox.settled();
        host.attach(&sandbox, "c1", "dev0").succeeds();
        sandbox.assert_same(&inside);
        host.attach(&sandbox, "c2", "dev0").succeeds();
        sandbox.assert_same(&inside);
        host.detach("c1", "dev0").succeeds();
        sandbox.assert_same(&inside);
        assert_has(&host.journal(), &["a later container has the device"]);
        host.detach("c2", "dev0").succeeds();
        host.assert_same(&before);
        host.detach("c2", "dev0").succeeds();
        host.assert_same(&before);
    });
}

#[test]
fn a_repeated_attachment_repairs_what_is_missing() {
    on_host(|host| {
        wired(
            host,
            "addr add 10.1.0.5/24 dev dev0\naddr add 2001:db8::5/64 dev dev0\nroute add 10.50.0.0/16 via 10.1.0.1",
        );
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        let inside = sandbox.settled();
        for damage in ["link set dev0 down", "addr flush dev dev0", "route del 10.50.0.0/16", "link set dev0 mtu 1280"]
        {
            sandbox.ip(damage);
            host.attach(&sandbox, "c1", "dev0").succeeds();
            sandbox.assert_same(&inside);
        }
        host.detach("c1", "dev0").succeeds();
        host.assert_same(&before);
    });
}

#[test]
fn another_pods_live_sandbox_keeps_the_device_and_is_named() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        let before = host.settled();
        let (first, second) = (host.sandbox("web"), host.sandbox("thief"));
        host.attach(&first, "c1", "dev0").succeeds();
        let inside = first.settled();
        host.attach(&second, "c2", "dev0").fails_with("device dev0: it is held by pod default/web (sandbox sandbox-");
        first.assert_same(&inside);
        host.detach("c2", "dev0").succeeds();
        first.assert_same(&inside);
        host.detach("c1", "dev0").succeeds();
        host.assert_same(&before);
    });
}

#[test]
fn the_same_pods_older_sandbox_gives_the_device_to_the_new_one() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        let before = host.settled();
        let (first, second) = (host.sandbox("web"), host.sandbox("web"));
        host.attach(&first, "c1", "dev0").succeeds();
        host.attach(&second, "c2", "dev0").succeeds();
        assert!(!first.has_link("dev0"));
        assert_has(&second.show("addr show dev0"), &["10.1.0.5/24", ",UP"]);
        host.detach("c1", "dev0").succeeds();
        assert!(second.has_link("dev0"));
        host.detach("c2", "dev0").succeeds();
        host.assert_same(&before);
    });
}

#[test]
fn a_virtual_device_that_its_container_deleted_ends_its_record_with_a_clear_error() {
    on_host(|host| {
        host.ip("link add dev0 type ifb\nlink set dev0 up");
        let first = host.sandbox("web");
        host.attach(&first, "c1", "dev0").succeeds();
        first.ip("link delete dev0");
        drop(first);
        let second = host.sandbox("web");
        host.attach(&second, "c2", "dev0").fails_with("device dev0: the node has no such interface");
        assert_eq!(host.records(), Vec::<String>::new());
        host.ip("link add dev0 type ifb");
        host.attach(&second, "c2", "dev0").succeeds();
        host.detach("c2", "dev0").succeeds();
        assert!(host.has_link("dev0"));
    });
}

#[test]
fn another_pod_gets_a_device_whose_holder_is_gone() {
    on_host(|host| {
        host.ip("link add dev0 type ifb\nlink set dev0 up");
        let first = host.sandbox("web");
        host.attach(&first, "c1", "dev0").succeeds();
        first.ip("link delete dev0");
        host.ip("link add dev0 type ifb");
        let second = host.sandbox("next");
        host.attach(&second, "c2", "dev0").succeeds();
        host.detach("c2", "dev0").succeeds();
        assert_eq!(host.records(), Vec::<String>::new());
    });
}

#[test]
fn a_device_that_is_not_attached_is_detached_already() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        let before = host.settled();
        host.detach("c1", "dev0").succeeds();
        host.detach("c1", "absent").succeeds();
        host.assert_same(&before);
    });
}

#[test]
fn a_host_network_pod_is_refused() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        let before = host.settled();
        let state = format!(r#"{{"id":"c1","pid":{},"bundle":""}}"#, nix::unistd::gettid());
        host.hook("attach", &["dev0"], &state).fails_with("the pod uses the node's own network (hostNetwork)");
        host.assert_same(&before);
    });
}

#[test]
fn a_device_that_is_not_there_is_refused() {
    on_host(|host| {
        wired(host, "link property add dev dev0 altname other");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "absent").fails_with("device absent: the node has no such interface");
        host.attach(&sandbox, "c1", "other").fails_with("the node has no such interface");
        host.attach(&sandbox, "c1", "lo").fails_with("it is the loopback interface");
        host.assert_same(&before);
    });
}

#[test]
fn when_a_second_device_fails_the_first_is_home_again() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let devices = ["dev0", "absent"];
        host.hook("attach", &devices, &sandbox.state("c1")).fails_with("device absent: the node has no such interface");
        host.assert_same(&before);
        // a document for each device, so that a hook runs for each
        host.attach(&sandbox, "c1", "dev0").succeeds();
        host.attach(&sandbox, "c1", "absent").fails_with("device absent: the node has no such interface");
        host.assert_same(&before);
        // another container's device stays
        host.attach(&sandbox, "c2", "dev0").succeeds();
        host.attach(&sandbox, "c1", "absent").fails_with("device absent: the node has no such interface");
        assert!(sandbox.has_link("dev0"));
        host.detach("c2", "dev0").succeeds();
        host.assert_same(&before);
    });
}

#[test]
fn a_detachment_goes_on_behind_a_device_that_does_not_come() {
    on_host(|host| {
        wired(host, "link add dev1 type ifb\nlink set dev1 up");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.hook("attach", &["dev0", "dev1"], &sandbox.state("c1")).succeeds();
        let record = std::fs::read(host.record_path("dev0")).unwrap();
        host.write(host.record_path("dev0"), "{");
        let ended = crate::support::ended_state("c1");
        host.hook("detach", &["dev0", "dev1"], &ended).fails_with("device dev0: its record");
        assert!(host.has_link("dev1") && !host.has_link("dev0"));
        // an administrator who kept the record puts it back, and removes what was put aside
        std::fs::write(host.record_path("dev0"), record).unwrap();
        std::fs::remove_dir_all(host.state_dir().join("quarantine")).unwrap();
        host.hook("detach", &["dev0", "dev1"], &ended).succeeds();
        host.assert_same(&before);
    });
}
