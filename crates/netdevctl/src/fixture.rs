//! A node for tests: a card with a default route, one that is offered, one that is down, a bridge and its port, an
//! attached virtual function, a link with an odd name, and a record that cannot be read.

use std::sync::Arc;

use link::Unreadable;
use netdevice::{
    DeviceId, HardwareAddress, InterfaceName, KernelString, Ledger, Link, Pools, Projector, Record, Snapshot,
    link::{Hardware, flags},
    snapshot::{DefaultRoute, Family},
};

use crate::node::{Node, Selection};

fn link(index: u32, name: &[u8]) -> Link {
    Link {
        index,
        name: InterfaceName::new(name).expect("a name of a test"),
        altnames: Box::default(),
        alias: None,
        kind: None,
        mac: HardwareAddress::new(&[2, 0, 0, 0, 0, index as u8]),
        flags: flags::UP | flags::LOWER_UP,
        mtu: 1500,
        master: None,
        parent: None,
        link_netnsid: None,
        hardware: None,
    }
}

fn card(driver: &str, address: &str, speed: Option<u32>) -> Option<Arc<Hardware>> {
    Some(Arc::new(Hardware {
        driver: Some(driver.into()),
        pci_address: Some(address.into()),
        pci_id: Some((0x8086, 0x1592)),
        numa_node: Some(1),
        virtual_function: None,
        speed,
    }))
}

fn snapshot() -> Snapshot {
    let links = [
        Link { flags: flags::UP | flags::LOOPBACK, mac: None, mtu: 65536, ..link(1, b"lo") },
        Link { hardware: card("igb", "0000:01:00.0", Some(1000)), ..link(2, b"eth0") },
        Link {
            hardware: card("ice", "0000:3b:00.0", Some(25_000)),
            altnames: [KernelString::new(b"fast-one")].into(),
            ..link(3, b"eth1")
        },
        Link { hardware: card("ice", "0000:3b:00.1", None), flags: 0, ..link(4, b"eth2") },
        Link { kind: Some("bridge".into()), ..link(5, b"br0") },
        Link { kind: Some("veth".into()), master: Some(5), ..link(6, b"eth-port") },
        Link { kind: Some("dummy".into()), ..link(7, "eth\u{e9}".as_bytes()) },
        Link { kind: Some("dummy".into()), ..link(8, b"other0") },
    ];
    let mut snapshot = Snapshot::default();
    links.into_iter().for_each(|link| snapshot.insert_link(Arc::new(link)));
    snapshot.set_reached_tables([(Family::V4, 254)]);
    snapshot.insert_default_route(DefaultRoute { family: Family::V4, table: 254, metric: 0, link: 2 });
    snapshot
}

fn ledger() -> Ledger {
    let text = r#"{
        "version": 1, "device": "ens1f0v3", "resource": "example.com/fast", "phase": "attached", "since": 1700000000,
        "holder": {"container": "0123456789abcdef0123", "sandbox": "fedcba9876543210fedc",
                   "pod": {"namespace": "default", "name": "web", "uid": "1-2-3"}},
        "sandbox": {"cookie": 77, "inode": 4026532999,
                    "seen_from": {"pid_namespace": 1, "mount_namespace": 2}, "paths": ["/proc/1/ns/net"], "name": "net0", "ifindex": 9},
        "host": {"name": "ens1f0v3", "index": 9, "kind": null, "flags": 4099, "mac": "02:00:00:00:00:09",
                 "permanent_mac": null, "alias": null, "altnames": [], "mtu": 9000, "txqlen": 1000, "group": 0,
                 "master": null, "parent": null, "link_netnsid": null, "addresses": [], "routes": [],
                 "neighbours": [], "ipv4_conf": [], "ipv6_conf": [], "addr_gen_mode": null, "sysctls": {},
                 "hardware": {"path": "/nonexistent/0000:3b:10.3", "numa_node": 1}, "read_at": 5}
    }"#;
    let device: DeviceId = "ens1f0v3".parse().expect("an id of a test");
    let record = Record::from_json(&device, text.as_bytes()).expect("a record of a test");
    Ledger::from([(device, record)])
}

/// The node, with these pools.
pub(crate) fn node(pools: Option<&str>) -> Node {
    let pools = pools.map(|yaml| Pools::from_yaml(yaml).expect("pools of a test"));
    let mut projector = Projector::new();
    projector.set_pools(Arc::new(pools.clone().unwrap_or_default()));
    projector.set_ledger(Arc::new(ledger()));
    projector.set_snapshot(snapshot());
    let unreadable = vec![
        Unreadable {
            path: "/run/netdevice/eth9.json".into(),
            device: "eth9".parse().ok(),
            reason: "the record has version 7: this program reads up to 1, a newer netdevice wrote it".into(),
        },
        Unreadable { path: "/run/netdevice/:.json".into(), device: None, reason: "\":\" is no device id".into() },
    ];
    let selection = Selection { pools, source: "/run/netdevice/config.yaml".into() };
    Node { projector, unreadable, selection }
}

/// Pools of cards by driver, and of everything that begins with eth.
pub(crate) const POOLS: &str = "pools:\n- resource: example.com/fast\n  select: {drivers: [ice, igb]}\n  \
                                except: {names: [eth0]}\n- resource: networking.k8s.io/netdevice\n  \
                                select: {names: [^eth]}\n";
