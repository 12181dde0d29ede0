//! Devices that a Pod asks for with a configuration: it is applied and proven, or everything is as before.

use std::fs;

use link::{Detached, Diagnosis, Ended, Repair, RouteSocket};
use netdevice::DeviceId;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use store::{Namespace, Records};

use crate::{
    home::{assert_has, wired},
    support::{Host, Sandbox, inject::Order, on_host},
};

const HOST: &str = "link set dev0 mtu 1400 alias a-nic
     link property add dev dev0 altname fast-nic
     addr add 10.1.0.5/24 dev dev0
     addr add 2001:db8::5/64 dev dev0
     route add 10.50.0.0/16 via 10.1.0.1
     neigh add 10.1.0.77 lladdr 02:00:00:00:00:77 dev dev0 nud permanent";

fn asked() -> Value {
    json!({"name": "eth1", "addresses": ["192.168.2.2/24", "2001:db8:2::2/64"], "mtu": 1300, "mac": "02:00:00:00:00:0a",
        "routes": [{"to": "10.9.0.0/16", "via": "192.168.2.1"}, {"to": "2001:db8:9::/48", "via": "2001:db8:2::1"},
            {"to": "10.8.0.0/16", "metric": 7}]})
}

fn order(host: &Host, sandbox: &Sandbox, device: &str, configuration: &Value) -> Order {
    Order::new(host, sandbox, &json!([[device, configuration]]))
}

#[track_caller]
fn assert_lacks(text: &str, all: &[&str]) {
    for words in all {
        assert!(!text.contains(words), "{words:?} is in:\n{text}");
    }
}

#[test]
fn what_is_asked_for_is_there_and_nothing_of_the_hosts() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        // an address that was not unique would be tried out for a second
        sandbox.write("/proc/sys/net/ipv6/conf/default/accept_dad", "1");
        let order = order(host, &sandbox, "dev0", &asked());
        assert!(!order.arrives()[0].was_there);
        let text = sandbox.show("-d addr show eth1");
        assert_has(
            &text,
            &["192.168.2.2/24", "2001:db8:2::2/64", "mtu 1300", "02:00:00:00:00:0a", ",UP", "fe80::ff:fe00:a/64"],
        );
        assert_lacks(&text, &["10.1.0.5", "2001:db8::5", "tentative", "a-nic", "fast-nic"]);
        let routes = sandbox.show("route show") + &sandbox.show("-6 route show");
        assert_has(
            &routes,
            &[
                "10.9.0.0/16 via 192.168.2.1 dev eth1",
                "10.8.0.0/16 dev eth1 proto static scope link metric 7",
                "2001:db8:9::/48 via 2001:db8:2::1 dev eth1 proto static metric 1024",
            ],
        );
        assert_lacks(&routes, &["10.50.0.0"]);
        assert_lacks(&sandbox.show("neigh show nud permanent"), &["10.1.0.77"]);
        let record = fs::read_to_string(host.record_path("dev0")).unwrap();
        assert_has(&record, &[r#""name":"eth1""#, r#""mtu":1300"#]);
        assert_lacks(&record, &[r#""process""#]);
        order.comes_home();
        host.assert_same(&before);
    });
}

#[test]
fn a_device_without_wishes_is_up_and_bare() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let order = order(host, &sandbox, "dev0", &json!({}));
        order.arrives();
        let text = sandbox.show("-d addr show dev0");
        assert_has(&text, &["mtu 1400", ",UP"]);
        assert_lacks(&text, &["10.1.0.5", "2001:db8", "a-nic", "fast-nic", "tentative"]);
        order.comes_home();
        host.assert_same(&before);
    });
}

#[test]
fn with_inherit_the_hosts_goes_along_and_what_is_asked_for_comes_on_top() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        sandbox.ip("link add eth0 type ifb\nlink set eth0 up\nroute add 10.50.0.0/16 dev eth0");
        let configuration = json!({"name": "fast-nic", "addresses": ["2001:db8::5/96", "10.2.0.2/24"], "inherit": true,
            "mac": "02:00:00:00:00:0a"});
        let order = order(host, &sandbox, "dev0", &configuration);
        let attached = order.arrives();
        assert_eq!(attached[0].skipped.len(), 1, "the pod's own route: {attached:?}");
        let text = sandbox.show("-d addr show fast-nic");
        assert_has(&text, &["10.1.0.5/24", "2001:db8::5/96", "10.2.0.2/24", "a-nic", "mtu 1400", "fe80::ff:fe00:a/64"]);
        assert_lacks(&text, &["2001:db8::5/64", "altname", "tentative"]);
        assert_has(&sandbox.show("neigh show nud permanent"), &["10.1.0.77"]);
        order.comes_home();
        host.assert_same(&before);
    });
}

#[test]
fn a_device_that_is_made_too_small_for_ipv6_has_ipv4_alone() {
    on_host(|host| {
        wired(host, "addr add 2001:db8::5/64 dev dev0");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let order = order(host, &sandbox, "dev0", &json!({"addresses": ["10.7.0.2/24"], "mtu": 1000}));
        order.arrives();
        let text = sandbox.show("addr show dev0");
        assert_has(&text, &["10.7.0.2/24", "mtu 1000"]);
        assert_lacks(&text, &["inet6"]);
        order.comes_home();
        host.assert_same(&before);
    });
}

#[test]
fn ipv6_addresses_come_where_the_sandbox_has_no_ipv6() {
    on_host(|host| {
        wired(host, "");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        sandbox.write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        let order = order(host, &sandbox, "dev0", &json!({"addresses": ["2001:db8::2/64", "fe80::2/64"]}));
        order.arrives();
        assert_has(&sandbox.show("addr show dev0"), &["2001:db8::2/64", "fe80::2/64"]);
        order.comes_home();
        host.assert_same(&before);
    });
}

#[test]
fn a_repetition_changes_nothing_and_repairs_what_is_missing() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let order = order(host, &sandbox, "dev0", &asked());
        order.arrives();
        let inside = sandbox.settled();
        assert!(order.arrives()[0].was_there);
        sandbox.assert_same(&inside);
        for damage in [
            "link set eth1 down",
            "addr flush dev eth1 scope global",
            "route del 10.9.0.0/16",
            "link set eth1 mtu 1280",
        ] {
            sandbox.ip(damage);
            order.arrives();
            sandbox.assert_same(&inside);
        }
        order.comes_home();
        host.assert_same(&before);
    });
}

#[test]
fn what_the_sandbox_has_stays_whatever_its_containers_do() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let order = order(host, &sandbox, "dev0", &asked());
        order.arrives();
        let inside = sandbox.settled();
        // a container that has the device as a resource too
        for container in ["c1", "c2"] {
            host.attach(&sandbox, container, "dev0").succeeds();
            sandbox.assert_same(&inside);
            host.detach(container, "dev0").succeeds();
            sandbox.assert_same(&inside);
        }
        order.comes_home();
        host.assert_same(&before);
    });
}

#[test]
fn another_configuration_takes_the_place_of_the_one_that_is_there() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        order(host, &sandbox, "dev0", &asked()).arrives();
        let order = order(host, &sandbox, "dev0", &json!({"name": "eth2", "addresses": ["10.7.0.2/24"]}));
        assert!(!order.arrives()[0].was_there);
        let text = sandbox.show("addr show eth2");
        assert_has(&text, &["10.7.0.2/24"]);
        assert_lacks(&text, &["192.168.2.2"]);
        assert!(!sandbox.has_link("eth1") && !sandbox.has_link("dev0"));
        order.comes_home();
        host.assert_same(&before);
    });
}

/// Each of these fails, and then host and sandbox are as before.
#[test]
fn what_cannot_be_given_leaves_everything_as_it_was() {
    let table = [
        (json!({"mtu": 9000}), "cannot set mtu: "),
        (json!({"name": "eth0"}), "the name eth0 is taken in the pod's network namespace"),
        (json!({"name": "uplink"}), "the name uplink is taken in the pod's network namespace"),
        (
            json!({"addresses": ["10.3.0.2/24"], "routes": [{"to": "10.9.0.0/16", "via": "10.4.0.1"}]}),
            "cannot apply route 10.9.0.0/16 via 10.4.0.1",
        ),
        (json!({"routes": [{"to": "10.60.0.0/16"}]}), "the pod has a route of its own to that place"),
        (json!({"routes": [{"to": "2001:db8:9::/48", "via": "2001:db8:7::1"}]}), "cannot apply route 2001:db8:9::"),
        (json!({"addresses": ["2001:db8::2/64"], "mtu": 1000}), "cannot set address 2001:db8::2/64: "),
    ];
    on_host(|host| {
        host.ip("link add wire type veth peer name peer\nlink set wire up\nlink set peer up
             link add dev0 link wire type macvlan\nlink set dev0 up\naddr add 10.1.0.5/24 dev dev0");
        let sandbox = host.sandbox("web");
        sandbox.ip("link add eth0 type ifb\nlink set eth0 up\nlink property add dev eth0 altname uplink\nroute add 10.60.0.0/16 dev eth0");
        let (before, own) = (host.settled(), sandbox.settled());
        for (configuration, words) in table {
            let order = order(host, &sandbox, "dev0", &configuration);
            order.fails_with(words);
            host.assert_same(&before);
            sandbox.assert_same(&own);
            assert_eq!(order.detach(), [], "nothing is there to come home");
        }
    });
}

#[test]
fn its_own_name_may_be_taken_in_the_sandbox_and_its_new_one_on_the_node() {
    on_host(|host| {
        wired(host, HOST);
        host.ip("link add eth1 type ifb");
        let sandbox = host.sandbox("web");
        sandbox.ip("link add dev0 type ifb");
        let (before, own) = (host.settled(), sandbox.settled());
        let order = order(host, &sandbox, "dev0", &asked());
        order.arrives();
        order.comes_home();
        host.assert_same(&before);
        sandbox.assert_same(&own);
    });
}

#[test]
fn a_taken_name_is_refused_before_anything_is_written_or_moved() {
    on_host(|host| {
        wired(host, "");
        let sandbox = host.sandbox("web");
        sandbox.ip("link add eth0 type ifb");
        // a record could not be written: the refusal comes before
        fs::create_dir_all(host.state_dir().join(".dev0.json.new")).unwrap();
        order(host, &sandbox, "dev0", &json!({"name": "eth0"})).fails_with("the name eth0 is taken");
    });
}

#[test]
fn when_the_third_device_fails_the_first_two_are_as_they_were() {
    on_host(|host| {
        wired(host, HOST);
        host.ip("link add dev1 type ifb\nlink set dev1 mtu 1200\nlink add dev2 type ifb\nlink set dev2 up");
        let sandbox = host.sandbox("web");
        sandbox.ip("link add eth3 type ifb");
        let (before, own) = (host.settled(), sandbox.settled());
        let mut devices = json!([["dev0", asked()], ["dev1", {"name": "eth2"}], ["dev2", {"name": "eth3"}]]);
        Order::new(host, &sandbox, &devices).fails_with("device dev2: the name eth3 is taken");
        host.assert_same(&before);
        sandbox.assert_same(&own);
        // what was there before the attempt, complete, stays
        let first = order(host, &sandbox, "dev0", &asked());
        first.arrives();
        let inside = sandbox.settled();
        Order::new(host, &sandbox, &devices).fails_with("device dev2: the name eth3 is taken");
        sandbox.assert_same(&inside);
        first.comes_home();
        // two names that are one are found before the first move
        devices[2][1]["name"] = json!("eth2");
        Order::new(host, &sandbox, &devices).fails_with("device dev2: the pod requests two devices with the name eth2");
        devices[2][1]["name"] = json!("dev0");
        devices[2][0] = json!("absent");
        Order::new(host, &sandbox, &devices).fails_with("device absent: the node has no such interface");
        host.assert_same(&before);
        sandbox.assert_same(&own);
    });
}

#[test]
fn who_is_told_to_stop_begins_nothing() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let mut order = order(host, &sandbox, "dev0", &asked());
        order.is_stopped = true;
        order.fails_with("device dev0: stopped: ");
        host.assert_same(&before);
        assert_eq!(host.records(), Vec::<String>::new());
    });
}

#[test]
fn of_devices_that_another_actor_is_at_work_on_none_is_reserved() {
    on_host(|host| {
        wired(host, HOST);
        host.ip("link add dev1 type ifb");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let order = Order::new(host, &sandbox, &json!([["dev0", {}], ["dev1", {}]]));
        let records = store::Records::new(host.state_dir());
        let other = records.lock(&"dev1".parse().unwrap()).unwrap();
        order.fails_with("device dev1: it is being attached or detached: try again in a moment");
        assert!(records.try_lock(&"dev0".parse().unwrap()).unwrap().is_some(), "nothing is kept of it");
        host.assert_same(&before);
        assert_eq!(host.records(), Vec::<String>::new());
        drop(other);
        order.arrives();
        order.comes_home();
        host.assert_same(&before);
    });
}

#[test]
fn a_device_that_its_container_renamed_comes_home_by_its_index() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let order = order(host, &sandbox, "dev0", &asked());
        order.arrives();
        sandbox.ip(
            "link set eth1 down\nlink set eth1 name evil alias eth0 address 02:00:00:00:00:99\nlink add eth1 type ifb",
        );
        order.comes_home();
        host.assert_same(&before);
        assert!(sandbox.has_link("eth1") && !sandbox.has_link("evil"));
        assert_eq!(order.detach(), [], "a second time there is nothing to do");
    });
}

#[test]
fn another_pod_is_refused_and_the_same_pods_next_sandbox_gets_the_device() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let (first, second, thief) = (host.sandbox("web"), host.sandbox("web"), host.sandbox("thief"));
        let older = order(host, &first, "dev0", &asked());
        older.arrives();
        order(host, &thief, "dev0", &asked()).fails_with("it is held by pod default/web (sandbox sandbox-");
        host.attach(&thief, "c3", "dev0").fails_with("it is held by pod default/web (sandbox sandbox-");
        let next = order(host, &second, "dev0", &asked());
        next.arrives();
        assert!(!first.has_link("eth1") && second.has_link("eth1"));
        assert_eq!(older.detach(), [], "the older sandbox has nothing any more");
        assert!(second.has_link("eth1"));
        next.comes_home();
        host.assert_same(&before);
    });
}

#[test]
fn the_nodes_own_network_and_a_path_that_leads_nowhere_are_refused() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let mut order = order(host, &sandbox, "dev0", &asked());
        for (path, words) in [
            (format!("/proc/{}/ns/net", nix::unistd::gettid()), "the pod uses the node's own network (hostNetwork)"),
            ("/run/netns/nowhere".into(), "No such file"),
            ("/proc/self/ns/mnt".into(), "cannot enter the network namespace /proc/self/ns/mnt"),
            (
                "/proc/self/status".into(),
                "cannot open the pod's network namespace /proc/self/status: not a network namespace",
            ),
        ] {
            order.path = path.into();
            order.fails_with(words);
            host.assert_same(&before);
        }
    });
}

#[test]
fn the_nodes_uplink_is_refused() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0\nroute add default via 10.1.0.1");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        order(host, &sandbox, "dev0", &asked()).fails_with("it is never handed out because");
        host.assert_same(&before);
    });
}

#[test]
fn a_detachment_of_a_sandbox_goes_on_behind_a_device_that_does_not_come() {
    on_host(|host| {
        wired(host, "link add dev1 type ifb\nlink set dev1 up");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let order = Order::new(host, &sandbox, &json!([["dev0", asked()], ["dev1", {}]]));
        order.arrives();
        host.attach(&sandbox, "c1", "dev1").succeeds();
        // something moved it on
        sandbox.ip("link add br0 type bridge\nlink set eth1 down\nlink delete dev1");
        let lost =
            |(device, result): &(DeviceId, _)| device.as_str() == "dev1" && *result == Ok(Detached::Done(Ended::Lost));
        let results = order.detach();
        assert!(results.len() == 2 && lost(&results[1]), "{results:?}");
        host.ip("link add dev1 type ifb\nlink set dev1 up");
        assert!(host.has_link("dev0"));
        assert_eq!(host.records(), Vec::<String>::new());
        drop(before);
    });
}

/// A sandbox's namespace as a runtime keeps it: a mount.
fn mounted(host: &Host, sandbox: &Sandbox) -> std::path::PathBuf {
    let path = host.folder().join("cni-1");
    fs::write(&path, "").unwrap();
    let none = None::<&str>;
    let namespace = format!("/proc/{}/ns/net", sandbox.pid());
    mount(Some(namespace.as_str()), &path, none, MsFlags::MS_BIND, none).unwrap();
    path
}

#[test]
fn a_sandbox_that_the_runtime_has_unmounted_has_ended_though_somebody_keeps_it_open() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let mut order = order(host, &sandbox, "dev0", &asked());
        order.path = mounted(host, &sandbox);
        order.arrives();
        let records = Records::new(host.state_dir());
        let device: DeviceId = "dev0".parse().unwrap();
        let mut home = RouteSocket::open().unwrap();
        let mut diagnosis = || link::diagnose(&records.list().unwrap().0[&device], &mut home);
        assert_eq!(diagnosis(), Diagnosis::Healthy);
        let kept = Namespace::open(&order.path).unwrap();
        umount2(&order.path, MntFlags::MNT_DETACH).unwrap();
        assert_eq!(diagnosis(), Diagnosis::HolderEnded);
        fs::remove_file(&order.path).unwrap();
        assert_eq!(diagnosis(), Diagnosis::HolderEnded);
        drop(sandbox);
        assert_eq!(diagnosis(), Diagnosis::HolderEnded, "it is kept open");
        let repaired =
            link::repair(&records, &device, Some(&kept), |now, home| link::diagnose(now, home) != Diagnosis::Healthy);
        assert_eq!(repaired.unwrap(), Repair::Done(Ended::Returned { renamed: None, skipped: Vec::new() }));
        host.assert_same(&before);
    });
}

#[test]
fn a_sandbox_whose_path_is_gone_gives_its_devices_back_through_a_descriptor() {
    on_host(|host| {
        wired(host, HOST);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let mut order = order(host, &sandbox, "dev0", &asked());
        order.path = mounted(host, &sandbox);
        order.arrives();
        let kept = Namespace::open(&order.path).unwrap();
        umount2(&order.path, MntFlags::MNT_DETACH).unwrap();
        let id = sandbox.id().to_owned();
        drop(sandbox);
        let records = Records::new(host.state_dir());
        let (ledger, _) = records.list().unwrap();
        let results = link::detach_all(&records, &ledger, &id, Some(&kept));
        let results: Vec<_> = results.map(|(_, result)| result.unwrap()).collect();
        assert_eq!(results, [Detached::Done(Ended::Returned { renamed: None, skipped: Vec::new() })]);
        host.assert_same(&before);
    });
}

#[test]
fn a_sandbox_that_died_with_its_virtual_device_ends_the_record() {
    on_host(|host| {
        host.ip("link add dev0 type ifb\nlink set dev0 up");
        let sandbox = host.sandbox("web");
        let order = order(host, &sandbox, "dev0", &json!({"name": "eth1"}));
        order.arrives();
        umount2(&host.pin_path("dev0"), MntFlags::MNT_DETACH).unwrap();
        drop(sandbox);
        let records = Records::new(host.state_dir());
        let record = records.list().unwrap().0.remove(&"dev0".parse().unwrap()).unwrap();
        let mut home = RouteSocket::open().unwrap();
        crate::support::until("the namespace has ended", || {
            link::diagnose(&record, &mut home) == Diagnosis::SandboxEnded
        });
        assert_eq!(order.detach(), [("dev0".parse().unwrap(), Ok(Detached::Done(Ended::Lost)))]);
        assert_eq!(host.records(), Vec::<String>::new());
    });
}
