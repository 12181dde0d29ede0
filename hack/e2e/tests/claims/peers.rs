//! The cases of DRANET's end-to-end tests by their numbers (facts: `docs/claims-conformance.md`), all with claims at Pod level.
//! Those that are not here are in the other files, or need what this kernel lacks.

use e2e::{ClaimPod, ClaimSpec, Level};
use serde_json::{Value, json};

use crate::{agent, alone, inside, side_by_side, start_agent};

/// A Pod that has the device with this configuration; `check` sees it, and the device is home afterwards as it was.
#[track_caller]
fn with_device(
    name: &str,
    number: u8,
    prepare: &str,
    fields: Value,
    check: impl FnOnce(&e2e::Node, &e2e::PodNetwork<'_>),
) {
    let node = side_by_side();
    let device = node.add_device_at(name, &format!("198.51.103.{number}/24"));
    node.sh(prepare);
    let device = device.as_it_is_now();
    node.wait_until_sliced(name);
    node.apply(&ClaimSpec::device(name).configure(fields).claim(name));
    node.apply(&ClaimPod::new(name, name, Level::Pod).manifest());
    node.wait_long_until_ready(name);
    check(&node, &node.pod_network(name));
    node.delete(&[&format!("pod/{name}"), &format!("resourceclaim/{name}")]);
    device.wait_until_free();
}

#[test]
fn case_1_an_address_and_a_name() {
    with_device("clcase1", 1, "true", json!({"name": "eth99", "addresses": ["169.254.169.13/32"]}), |_, pod| {
        assert_eq!(pod.addresses("eth99"), ["169.254.169.13/32"]);
    });
}

#[test]
fn case_3_settings_of_the_interface() {
    let fields =
        json!({"name": "eth99", "sysctls": {"net.ipv4.conf.arp_ignore": "1", "net.ipv4.conf.arp_announce": "2"}});
    with_device("clcase3", 3, "true", fields, |node, _| {
        let read = |key: &str| {
            node.exec("clcase3", &["cat", &format!("/proc/sys/net/ipv4/conf/eth99/{key}")]).stdout.trim().to_owned()
        };
        assert_eq!((read("arp_ignore"), read("arp_announce")), ("1".into(), "2".into()));
    });
}

#[test]
fn case_5_an_address_and_a_route_by_a_gateway() {
    let fields =
        json!({"name": "eth99", "addresses": ["10.76.5.2/24"], "routes": [{"to": "10.77.0.0/16", "via": "10.76.5.1"}]});
    with_device("clcase5", 5, "true", fields, |node, _| {
        let routes = node.exec("clcase5", &["ip", "route"]).stdout;
        assert!(routes.contains("10.77.0.0/16 via 10.76.5.1 dev eth99"), "{routes}");
    });
}

#[test]
fn case_6_metrics_answer_on_the_host() {
    let node = side_by_side();
    let metrics = node.http(9780, "/metrics");
    assert_eq!(metrics.status, 200);
    assert!(metrics.body.contains("netdevice_"), "{}", metrics.body);
}

#[test]
fn case_7_name_address_mtu_and_hardware_address() {
    let fields = json!({"name": "eth99", "addresses": ["10.76.7.2/24"], "mtu": 4321, "mac": "00:11:22:33:44:55",
        "ethtool": {"features": {"tx-tcp-segmentation": false, "rx-gro": false}}});
    with_device("clcase7", 7, "true", fields, |_, pod| {
        let link = pod.interface("eth99").expect("it is there");
        assert_eq!((&link["mtu"], &link["address"]), (&json!(4321), &json!("00:11:22:33:44:55")));
        assert_eq!(pod.addresses("eth99"), ["10.76.7.2/24"]);
    });
}

#[test]
fn case_8_a_large_mtu_and_four_sizes_of_gso_and_gro() {
    let fields = json!({"name": "eth99", "mtu": 8896, "gsoMaxSize": 65536, "groMaxSize": 65536, "gsoIPv4MaxSize": 65536, "groIPv4MaxSize": 65536});
    with_device("clcase8", 8, "true", fields, |_, pod| {
        let link = pod.interface("eth99").expect("it is there");
        assert_eq!(link["mtu"], 8896);
        // those of IPv4 are shown by newer versions of ip only
        for size in ["gso_max_size", "gro_max_size"] {
            assert_eq!(link[size], 65536, "{size}: {link:#}");
        }
    });
}

/// Cases 9 to 11: there is no attribute of programs. The kernel takes a tc program from a device that is moved.
#[test]
fn case_11_a_tc_program_of_the_node_is_not_in_the_pod() {
    let prepare = "tc qdisc add dev clcase11 clsact
        tc filter add dev clcase11 ingress bpf bytecode '1,6 0 0 1'
        tc filter show dev clcase11 ingress | grep -q bytecode";
    with_device("clcase11", 11, prepare, json!({"name": "eth99"}), |_, pod| {
        let shown = pod.sh("tc qdisc show dev eth99; tc filter show dev eth99 ingress").stdout;
        assert!(!shown.contains("clsact") && !shown.contains("bytecode"), "{shown}");
    });
}

/// And case 17: a route of a table of its own and the rule for it.
#[test]
fn case_16_permanent_neighbours_and_case_17_routes_of_other_tables_go_along() {
    let prepare = "ip neighbour add 198.51.103.99 lladdr 02:00:5e:00:00:01 nud permanent dev clcase16
        ip -6 neighbour add fe80::99 lladdr 02:00:5e:00:00:02 nud permanent dev clcase16
        ip route add 203.0.113.0/24 dev clcase16 table 176";
    with_device("clcase16", 16, prepare, json!({"inherit": true}), |node, _| {
        let neighbours = node.exec("clcase16", &["ip", "neigh"]).stdout;
        assert!(neighbours.contains("198.51.103.99") && neighbours.contains("fe80::99"), "{neighbours}");
        let routes = node.exec("clcase16", &["ip", "route", "show", "table", "176"]).stdout;
        assert!(routes.contains("203.0.113.0/24"), "{routes}");
    });
}

#[test]
fn case_17_a_rule_for_a_table_of_routes() {
    let fields = json!({"name": "eth99", "addresses": ["10.76.17.2/24"],
        "routes": [{"to": "203.0.113.0/24", "via": "10.76.17.1", "table": 100}],
        "rules": [{"priority": 1000, "from": "10.76.17.0/24", "table": 100}]});
    with_device("clcase17", 17, "true", fields, |node, _| {
        let rules = node.exec("clcase17", &["ip", "rule"]).stdout;
        assert!(rules.contains("10.76.17.0/24"), "{rules}");
        let routes = node.exec("clcase17", &["ip", "route", "show", "table", "100"]).stdout;
        assert!(routes.contains("203.0.113.0/24"), "{routes}");
    });
}

#[test]
fn case_18_one_route_for_an_ipv6_prefix() {
    with_device("clcase18", 18, "true", json!({"name": "eth99", "addresses": ["2001:db8:18::1/96"]}), |node, _| {
        let routes = node.exec("clcase18", &["ip", "-6", "route"]).stdout;
        let count = routes.lines().filter(|line| line.starts_with("2001:db8:18::/96")).count();
        assert_eq!(count, 1, "{routes}");
    });
}

/// Two Pods and a router between them, by routes of the claims.
#[test]
fn case_19_two_pods_reach_each_other_through_a_router_pod() {
    let node = side_by_side();
    // two wires: what comes out of clrt-a at one end goes into clrt-ra, and so for b
    for (left, right) in [("clrta", "clrtra"), ("clrtb", "clrtrb")] {
        node.sh(&format!(
            "ip link add {left} type veth peer name {right}
            for d in {left} {right}; do ip link set $d addrgenmode none; ip link set $d up; done"
        ));
        node.wait_until_sliced(left);
        node.wait_until_sliced(right);
    }
    let router = ClaimSpec::default()
        .request("a", &e2e::by_name("clrtra"))
        .request("b", &e2e::by_name("clrtrb"))
        .configure_request("a", json!({"name": "neta", "addresses": ["10.78.1.1/24"]}))
        .configure_request("b", json!({"name": "netb", "addresses": ["10.78.2.1/24"]}));
    node.apply(&router.claim("clrouter"));
    let end = |name: &str, own: &str, via: &str, other: &str| {
        let fields = json!({"name": "net1", "addresses": [own], "routes": [{"to": other, "via": via}]});
        node.apply(&ClaimSpec::device(name).configure(fields).claim(name));
        node.apply(&ClaimPod::new(name, name, Level::Pod).manifest());
    };
    end("clrta", "10.78.1.2/24", "10.78.1.1", "10.78.2.0/24");
    end("clrtb", "10.78.2.2/24", "10.78.2.1", "10.78.1.0/24");
    let sleep = "echo 1 > /proc/sys/net/ipv4/ip_forward; trap exit TERM; sleep 1000000 & wait";
    let pod = ClaimPod::empty("clrouter").claim("nic", "clrouter").container("c", sleep, &[]).manifest();
    node.apply(&pod.replacen("\"name\":\"c\"", "\"name\":\"c\",\"securityContext\":{\"privileged\":true}", 1));
    for name in ["clrouter", "clrta", "clrtb"] {
        node.wait_long_until_ready(name);
    }
    let ping = node.exec("clrta", &["ping", "-c", "1", "-w", "10", "10.78.2.2"]);
    assert!(ping.success(), "{ping}\n{}", inside(&node, "clrta", "net1"));
    node.delete(&[
        "pod/clrta",
        "pod/clrtb",
        "pod/clrouter",
        "resourceclaim/clrta",
        "resourceclaim/clrtb",
        "resourceclaim/clrouter",
    ]);
    node.sh("ip link delete clrta; ip link delete clrtb");
}

/// The device has another name, address and MTU in the Pod, and the slice says what it has on the node.
#[test]
fn case_21_attributes_stay_while_a_device_is_allocated_and_when_the_driver_restarts() {
    let node = alone();
    let device = node.add_device_at("clcase21", "198.51.103.21/24");
    let before = node.wait_until_sliced("clcase21");
    let fields = json!({"name": "eth99", "addresses": ["10.76.21.2/24"], "mtu": 1300, "mac": "02:00:5e:00:00:21"});
    node.apply(&ClaimSpec::device("clcase21").configure(fields).claim("clcase21"));
    node.apply(&ClaimPod::new("clcase21", "clcase21", Level::Pod).manifest());
    node.wait_long_until_ready("clcase21");
    let stays = |marker: &str| {
        // what was to be written is written when a device that came later is there
        let _marker = node.add_device_at(marker, "198.51.103.22/24");
        node.wait_until_sliced(marker);
        let now = node.sliced_devices().into_iter().find(|it| it["name"] == "clcase21").expect("it stays");
        assert_eq!(now["attributes"], before["attributes"]);
    };
    stays("clmark21a");
    let mut held = agent();
    held.take().expect("it runs").kill();
    *held = Some(start_agent());
    drop(held);
    stays("clmark21b");
    node.delete(&["pod/clcase21", "resourceclaim/clcase21"]);
    device.wait_until_free();
}
