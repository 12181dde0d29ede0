//! The status: from results, and beside the entries of others.

use netdevice::networks::{entries_of_result, merge_status, read_status, write_status};
use serde_json::{Value, json};

#[test]
fn what_cannot_be_read_has_no_entries() {
    for text in ["", "null", "{}", "[", "[1", "\"a\""] {
        assert_eq!(read_status(text), Vec::<Value>::new(), "{text}");
    }
    assert_eq!(read_status(r#"[{"name":"n"},1]"#), [json!({"name": "n"}), json!(1)]);
}

#[test]
fn a_single_interface_has_all_addresses() {
    let result = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "hot0", "mac": "1a:b8:00:00:00:01", "mtu": 1400, "sandbox": "/run/netns/a"}],
        "ips": [{"address": "10.51.0.3/24", "gateway": "10.51.0.1", "interface": 0}, {"address": "2001:db8::3/64"}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.51.0.1"}, {"dst": "::/0"}, {"dst": "10.0.0.0/8", "gw": "10.51.0.9"}],
        "dns": {"nameservers": ["10.0.0.10"], "search": [], "domain": ""},
    });
    let entry = json!({
        "name": "default/a", "interface": "hot0", "ips": ["10.51.0.3", "2001:db8::3"], "mac": "1a:b8:00:00:00:01",
        "mtu": 1400, "dns": {"nameservers": ["10.0.0.10"]}, "gateway": ["10.51.0.1"],
    });
    assert_eq!(entries_of_result("default/a", "hot0", &result), [entry]);
}

#[test]
fn a_single_interface_on_the_host_and_no_interface_at_all_have_the_requested_name() {
    let result = json!({"interfaces": [{"name": "veth0", "mac": "02:00:00:00:00:01", "mtu": 1}], "ips": [{"address": "10.1.0.2/24"}]});
    let entry = json!({"name": "ns/a", "interface": "net1", "ips": ["10.1.0.2"], "dns": {}});
    assert_eq!(entries_of_result("ns/a", "net1", &result), [entry]);
    for empty in [json!({}), json!(null), json!([]), json!({"interfaces": [], "ips": "x", "routes": {}, "dns": 3})] {
        let entry = json!({"name": "ns/a", "interface": "net1", "dns": {}});
        assert_eq!(entries_of_result("ns/a", "net1", &empty), [entry], "{empty}");
    }
}

#[test]
fn several_interfaces_have_an_entry_each_and_ours_is_the_first() {
    let result = json!({
        "interfaces": [
            {"name": "br0"},
            {"name": "other", "sandbox": "/run/netns/a"},
            {"name": "veth0", "mac": "02:00:00:00:00:01"},
            {"name": "net1", "sandbox": "/run/netns/a", "mac": "02:00:00:00:00:02"},
            {"name": "last", "sandbox": "/run/netns/a"},
        ],
        "ips": [
            {"address": "10.1.0.1/24", "interface": 1},
            {"address": "10.1.0.2/24", "interface": 3},
            {"address": "10.1.0.3/24"},
            {"address": "10.1.0.4/24", "interface": 0},
            {"address": "10.1.0.5/24", "interface": 9},
        ],
        "routes": [{"dst": "0::0/0", "gw": "fe80::1"}],
    });
    let entries = [
        json!({"name": "ns/a", "interface": "net1", "ips": ["10.1.0.2"], "mac": "02:00:00:00:00:02", "dns": {}, "gateway": ["fe80::1"]}),
        json!({"name": "ns/a", "interface": "other", "ips": ["10.1.0.1"], "dns": {}, "gateway": ["fe80::1"]}),
        json!({"name": "ns/a", "interface": "last", "ips": ["10.1.0.3"], "dns": {}, "gateway": ["fe80::1"]}),
    ];
    assert_eq!(entries_of_result("ns/a", "net1", &result), entries);
}

fn entry(name: &str, interface: &str, ip: &str) -> Value {
    json!({"name": name, "interface": interface, "ips": [ip], "dns": {}})
}

fn default_network() -> Value {
    json!({"name": "testbed", "interface": "eth0", "ips": ["10.213.0.2"], "default": true, "dns": {}, "gateway": ["<nil>"]})
}

#[test]
fn the_order_of_the_entries_stays() {
    let now = [entry("ns/a", "x0", "1"), default_network(), entry("ns/b", "x1", "2"), entry("ns/c", "x2", "3")];
    let removed = [("ns/a".to_owned(), "x0".to_owned())];
    let present = [vec![entry("ns/d", "x3", "4")], vec![entry("ns/c", "x2", "5"), entry("ns/c", "x4", "6")]];
    let merged = [
        default_network(),
        entry("ns/b", "x1", "2"),
        entry("ns/c", "x2", "5"),
        entry("ns/d", "x3", "4"),
        entry("ns/c", "x4", "6"),
    ];
    assert_eq!(merge_status(&now, &removed, &present), merged);
    assert_eq!(merge_status(&merged, &removed, &present), merged);
    assert_eq!(merge_status(&[], &[], &present).len(), 3);
}

#[test]
fn the_default_network_is_never_removed_or_replaced() {
    let removed = [("testbed".to_owned(), "eth0".to_owned())];
    assert_eq!(merge_status(&[default_network()], &removed, &[]), [default_network()]);
    let present = [vec![entry("testbed", "eth0", "1")]];
    assert_eq!(merge_status(&[default_network()], &[], &present)[0], default_network());
}

#[test]
fn what_is_removed_and_added_again_is_replaced_in_its_place_and_only_once() {
    let now = [entry("ns/a", "x0", "1"), entry("ns/b", "x1", "2"), entry("ns/a", "x0", "3")];
    let removed = [("ns/a".to_owned(), "x0".to_owned())];
    let merged = merge_status(&now, &removed, &[vec![entry("ns/a", "x0", "4")]]);
    assert_eq!(merged, [entry("ns/a", "x0", "4"), entry("ns/b", "x1", "2")]);
}

#[test]
fn the_text_is_that_of_multus() {
    let entries = [
        default_network(),
        json!({"zz": 1, "dns": {}, "ips": ["10.1.0.2"], "mtu": 1500, "mac": "m", "interface": "net1", "name": "ns/a", "device-info": {"type": "pci"}}),
    ];
    let text = r#"[{
    "name": "testbed",
    "interface": "eth0",
    "ips": [
        "10.213.0.2"
    ],
    "default": true,
    "dns": {},
    "gateway": [
        "<nil>"
    ]
},{
    "name": "ns/a",
    "interface": "net1",
    "ips": [
        "10.1.0.2"
    ],
    "mac": "m",
    "mtu": 1500,
    "dns": {},
    "device-info": {
        "type": "pci"
    },
    "zz": 1
}]"#;
    assert_eq!(write_status(&entries), text);
    assert_eq!(write_status(&[]), "[]");
    assert_eq!(read_status(text), entries);
}
