//! Rules, tables, neighbours and settings that a Pod requests: they are there, and gone with the device.

use link::{Detached, Ended};
use serde_json::{Value, json};
use store::Records;

use crate::{
    home::{assert_has, wired},
    support::{
        Host, Sandbox,
        driver::{GET_GRO, GET_GSO, GET_TSO, is_on},
        inject::Order,
        on_host,
    },
};

fn order(host: &Host, sandbox: &Sandbox, configuration: &Value) -> Order {
    Order::new(host, sandbox, &json!([["dev0", configuration]]))
}

#[test]
fn rules_and_tables_are_in_the_pod_and_gone_with_the_device() {
    on_host(|host| {
        wired(host, "");
        let (before, sandbox) = (host.settled(), host.sandbox("web"));
        let empty = sandbox.settled();
        let rules = sandbox.show("rule show") + &sandbox.show("-6 rule show");
        let asked = json!({"addresses": ["10.7.0.2/24", "10.7.1.2/24", "2001:db8:7::2/64"],
            "rules": ["100 lookup 1000 from 10.7.0.0/24", "101 lookup 7 from 2001:db8:7::/64 to 2001:db8:9::/48"],
            "routes": [{"to": "0.0.0.0/0", "via": "10.7.0.1", "table": 1000},
                {"to": "10.9.0.0/16", "via": "192.0.2.1", "onlink": true, "source": "10.7.1.2"},
                {"to": "10.10.0.0/16", "scope": 0, "metric": 5}, {"to": "::/0", "via": "2001:db8:7::1", "table": 7}]});
        let order = order(host, &sandbox, &asked);
        order.arrives();
        assert!(order.arrives()[0].was_there, "it can be repeated");
        let shown = sandbox.show("rule show") + &sandbox.show("-6 rule show");
        assert_has(
            &shown,
            &[
                "100:\tfrom 10.7.0.0/24 lookup 1000 proto 78",
                "101:\tfrom 2001:db8:7::/64 to 2001:db8:9::/48 lookup 7 proto 78",
            ],
        );
        assert_has(&sandbox.show("route show table 1000"), &["default via 10.7.0.1 dev dev0 proto static"]);
        assert_has(&sandbox.show("-6 route show table 7"), &["default via 2001:db8:7::1 dev dev0"]);
        assert_has(
            &sandbox.show("route show"),
            &[
                "10.9.0.0/16 via 192.0.2.1 dev dev0 proto static src 10.7.1.2 onlink",
                "10.10.0.0/16 dev dev0 proto static metric 5",
            ],
        );
        assert!(matches!(order.detach()[0].1, Ok(Detached::Done(Ended::Returned { .. }))));
        assert_eq!(sandbox.show("rule show") + &sandbox.show("-6 rule show"), rules);
        sandbox.assert_same(&empty);
        host.assert_same(&before);
    });
}

/// The lines of the Pod's rules that this test has to do with.
fn rules_of(sandbox: &Sandbox) -> Vec<String> {
    let all = sandbox.show("rule show") + &sandbox.show("-6 rule show");
    all.lines().filter(|line| line.starts_with("10")).map(str::to_owned).collect()
}

#[test]
fn a_rule_that_two_devices_of_a_pod_request_stays_until_both_are_gone() {
    on_host(|host| {
        wired(host, "");
        host.ip("link add dev1 type ifb");
        let (before, sandbox) = (host.settled(), host.sandbox("web"));
        let empty = sandbox.settled();
        let shared = "100 lookup 1000 from 10.7.0.0/24";
        let devices = json!([
            ["dev0", {"rules": [shared, "101 lookup 7 from 2001:db8:7::/64"]}],
            ["dev1", {"rules": [shared, "102 lookup 1000 to 10.8.0.0/24"]}],
        ]);
        let detach = |device: &str| {
            let (records, device) = (Records::new(host.state_dir()), device.parse().unwrap());
            link::detach_from_sandbox(&records, &device, sandbox.id(), None).unwrap();
        };
        for (first, last, left) in [("dev0", "dev1", "102:"), ("dev1", "dev0", "101:")] {
            Order::new(host, &sandbox, &devices).arrives();
            assert_eq!(rules_of(&sandbox).len(), 3);
            detach(first);
            let now = rules_of(&sandbox);
            assert!(now.len() == 2 && now[0].starts_with("100:") && now[1].starts_with(left), "{now:?}");
            detach(last);
            sandbox.assert_same(&empty);
            host.assert_same(&before);
        }
    });
}

#[test]
fn a_rule_that_the_pod_had_before_stays_when_the_device_leaves_or_cannot_be_attached() {
    on_host(|host| {
        wired(host, "");
        host.ip("link add dev1 type ifb");
        let (before, sandbox) = (host.settled(), host.sandbox("web"));
        sandbox.ip("rule add from 10.7.0.0/24 lookup 1000 priority 100 protocol static");
        sandbox.ip("-6 rule add to 2001:db8:9::/48 lookup 7 priority 101 protocol static");
        // others, which differ in one condition
        sandbox.ip(
            "rule add from 10.7.0.0/24 fwmark 1 lookup 9 priority 104\nrule add from 10.7.0.0/24 lookup 9 priority 104",
        );
        let empty = sandbox.settled();
        let rules =
            ["100 lookup 1000 from 10.7.0.0/24", "101 lookup 7 to 2001:db8:9::/48", "104 lookup 9 from 10.7.0.0/24"];
        let failing = json!({"rules": rules, "routes": [{"to": "10.9.0.0/16", "via": "10.8.0.1"}]});
        order(host, &sandbox, &failing).fails_with("cannot apply route 10.9.0.0/16");
        sandbox.assert_same(&empty);
        host.assert_same(&before);
        // two devices: it is as little the second one's
        let asked = json!({"rules": rules});
        let order = Order::new(host, &sandbox, &json!([["dev0", asked], ["dev1", asked]]));
        order.arrives();
        assert!(order.arrives()[0].was_there);
        let now = rules_of(&sandbox);
        assert_eq!(now.len(), 4 + 3, "those of the Pod and ours, once: {now:?}");
        order.comes_home();
        sandbox.assert_same(&empty);
        host.assert_same(&before);
    });
}

#[test]
fn neighbours_queues_and_settings_are_as_asked_and_the_hosts_are_as_before() {
    on_host(|host| {
        wired(host, "link set dev0 txqueuelen 500");
        let (before, sandbox) = (host.settled(), host.sandbox("web"));
        let asked = json!({"addresses": ["10.7.0.2/24"], "tx_queue_length": 77,
            "offload_sizes": {"41": 32768, "58": 40000, "63": 20000, "64": 30000},
            "neighbours": ["10.7.0.9 02:00:00:00:00:09", "2001:db8::9 02:00:00:00:00:0a"],
            "sysctls": {"ipv4/conf/arp_ignore": "1", "ipv4/conf/arp_announce": "2", "ipv4/conf/rp_filter": "2",
                "ipv6/conf/accept_ra": "0", "ipv6/conf/hop_limit": "17", "ipv4/neigh/gc_stale_time": "321",
                "ipv6/neigh/mcast_solicit": "5"}});
        let order = order(host, &sandbox, &asked);
        order.arrives();
        assert!(order.arrives()[0].was_there);
        // an older ip shows no sizes of IPv4: the attachment has read them again itself
        let shown = sandbox.show("-d link show dev0");
        assert_has(&shown, &["qlen 77", "gso_max_size 32768", "gro_max_size 40000"]);
        assert_has(
            &sandbox.show("neigh show nud permanent"),
            &[
                "10.7.0.9 dev dev0 lladdr 02:00:00:00:00:09 PERMANENT",
                "2001:db8::9 dev dev0 lladdr 02:00:00:00:00:0a PERMANENT",
            ],
        );
        for (file, value) in [
            ("ipv4/conf/dev0/arp_ignore", "1"),
            ("ipv4/conf/dev0/arp_announce", "2"),
            ("ipv4/conf/dev0/rp_filter", "2"),
            ("ipv6/conf/dev0/accept_ra", "0"),
            ("ipv6/conf/dev0/hop_limit", "17"),
            ("ipv4/neigh/dev0/gc_stale_time", "321"),
            ("ipv6/neigh/dev0/mcast_solicit", "5"),
        ] {
            assert_eq!(sandbox.read(&format!("/proc/sys/net/{file}")).trim(), value, "{file}");
        }
        order.comes_home();
        host.assert_same(&before);
    });
}

#[test]
fn without_ipv6_there_is_none() {
    on_host(|host| {
        wired(host, "addr add 2001:db8::5/64 dev dev0");
        let (before, sandbox) = (host.settled(), host.sandbox("web"));
        for inherit in [false, true] {
            let asked =
                json!({"addresses": ["10.7.0.2/24"], "sysctls": {"ipv6/conf/disable_ipv6": "1"}, "inherit": inherit});
            let order = order(host, &sandbox, &asked);
            order.arrives();
            let shown = sandbox.show("addr show dev0");
            assert!(shown.contains("10.7.0.2/24") && !shown.contains("inet6"), "{shown}");
            order.comes_home();
            host.assert_same(&before);
        }
    });
}

#[test]
fn features_are_switched_and_the_hosts_come_back() {
    on_host(|host| {
        wired(host, "");
        let (before, sandbox) = (host.settled(), host.sandbox("web"));
        let asked =
            json!({"features": {"tso": "off", "rx-gro": "on", "generic-segmentation-offload": "off", "lro": "off"}});
        let order = order(host, &sandbox, &asked);
        order.arrives();
        assert!(order.arrives()[0].was_there);
        for (command, on) in [(GET_TSO, false), (GET_GSO, false), (GET_GRO, true)] {
            assert_eq!(sandbox.run(|| is_on("dev0", command)), on, "{command:#x}");
        }
        order.comes_home();
        host.assert_same(&before);
    });
}

#[test]
fn what_cannot_be_set_returns_the_device_with_the_reason() {
    on_host(|host| {
        wired(host, "");
        let (before, sandbox) = (host.settled(), host.sandbox("web"));
        sandbox.ip("link add blue type ifb");
        let empty = sandbox.settled();
        for (asked, words) in [
            (
                json!({"features": {"tos": "on"}}),
                "cannot apply ethtool feature tos, which the pod requests: the kernel has no such",
            ),
            (
                json!({"features": {"lro": "on"}}),
                "ethtool feature lro, which the pod requests: the driver has it fixed to off",
            ),
            (
                json!({"private_flags": {"x": "on"}}),
                "ethtool private flag x, which the pod requests: the driver has no such flag",
            ),
            (json!({"offload_sizes": {"41": 600000}}), "cannot set segment size"),
            (
                json!({"offload_sizes": {"41": 4095}}),
                "segment size 4095, which the pod requests: it must be at least 4096",
            ),
            (json!({"offload_sizes": {"63": 1}}), "segment size 1, which the pod requests: it must be at least 4096"),
            (json!({"sysctls": {"ipv6/neigh/no_such": "1"}}), "cannot write net.ipv6.neigh.no_such"),
            (json!({"vrf": "100 blue"}), "VRF blue"),
            (
                json!({"rules": ["100 lookup 1000 from 10.7.0.0/24"], "routes": [{"to": "10.9.0.0/16", "via": "10.8.0.1"}]}),
                "cannot apply route 10.9.0.0/16",
            ),
        ] {
            order(host, &sandbox, &asked).fails_with(words);
            host.assert_same(&before);
            sandbox.assert_same(&empty);
            assert!(!sandbox.show("rule show").contains("1000"));
        }
    });
}
