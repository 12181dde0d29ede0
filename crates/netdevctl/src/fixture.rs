//! A node for tests: a card with a default route, one that is offered, one that is down, a bridge and its port, an
//! attached virtual function, a link with an odd name, and a record that cannot be read.

use std::{collections::BTreeMap, sync::Arc};

use netdevice::{
    Attachment, HardwareAddress, InterfaceName, KernelString, Ledger, Link, LinkState, Owner, Pod, Pools, Projector,
    Reservation, Snapshot,
    link::{Hardware, flags},
    record::{Reservations, SandboxPlace},
    snapshot::{DefaultRoute, Family},
    state::HardwarePlace,
};
use store::{RecordDirectory, Unreadable};

use crate::node::{Agent, Node, Selection};

fn host_link(index: u32, name: &[u8]) -> Link {
    Link {
        name: InterfaceName::new(name).expect("a name of a test"),
        kind: None,
        mac: HardwareAddress::new(&[2, 0, 0, 0, 0, index as u8]),
        flags: flags::UP | flags::LOWER_UP,
        ..netdevice::fixture::link(index, "any")
    }
}

fn card(driver: &str, address: &str, speed: Option<u32>) -> Option<Arc<Hardware>> {
    Some(Arc::new(Hardware {
        driver: Some(driver.into()),
        pci_address: Some(address.into()),
        pcie_root: None,
        pci_id: Some((0x8086, 0x1592)),
        numa_node: Some(1),
        virtual_function: None,
        speed,
    }))
}

fn snapshot() -> Snapshot {
    let links = [
        Link { flags: flags::UP | flags::LOOPBACK, mac: None, mtu: 65536, ..host_link(1, b"lo") },
        Link { hardware: card("igb", "0000:01:00.0", Some(1000)), ..host_link(2, b"eth0") },
        Link {
            hardware: card("ice", "0000:3b:00.0", Some(25_000)),
            altnames: [KernelString::new(b"fast-one")].into(),
            ..host_link(3, b"eth1")
        },
        Link { hardware: card("ice", "0000:3b:00.1", None), flags: 0, ..host_link(4, b"eth2") },
        Link { kind: Some("bridge".into()), ..host_link(5, b"br0") },
        Link { kind: Some("veth".into()), master: Some(5), ..host_link(6, b"eth-port") },
        Link { kind: Some("dummy".into()), ..host_link(7, "eth\u{e9}".as_bytes()) },
        Link { kind: Some("dummy".into()), ..host_link(8, b"other0") },
    ];
    let mut snapshot = Snapshot::default();
    links.into_iter().for_each(|link| snapshot.insert_link(Arc::new(link)));
    snapshot.set_reached_tables([(Family::V4, 254)]);
    snapshot.insert_default_route(DefaultRoute { family: Family::V4, table: 254, metric: 0, link: 2 });
    snapshot
}

fn ledger() -> Ledger {
    let mut record = Attachment {
        resource: "example.com/fast".parse().ok(),
        owner: Owner::Container {
            id: "0123456789abcdef0123".into(),
            sandbox: Some("fedcba9876543210fedc".into()),
            pod: Some(Pod { namespace: "default".into(), name: "web".into(), uid: "1-2-3".into() }),
        },
        since: 1_700_000_000,
        ..netdevice::fixture::record("ens1f0v3")
    };
    record.sandbox =
        SandboxPlace { cookie: 77, ifindex: 9, name: "net0".parse().expect("an id of a test"), ..record.sandbox };
    let host = record.host_mut().expect("it was moved");
    *host = LinkState {
        mac: "02:00:00:00:00:09".parse().ok(),
        mtu: 9000,
        hardware: Some(HardwarePlace { path: "/nonexistent/0000:3b:10.3".into(), numa_node: Some(1) }),
        index: 9,
        ..host.clone()
    };
    Ledger::from([(record.device.clone(), Arc::new(record))])
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
            reason: "the record has version 7, written by a newer netdevice: this program reads versions up to 3"
                .into(),
            place: RecordDirectory::Records,
        },
        Unreadable {
            path: "/run/netdevice/:.json".into(),
            device: None,
            reason: "invalid device id: \":\" does not encode an interface name".into(),
            place: RecordDirectory::Records,
        },
        Unreadable {
            path: "/run/netdevice/quarantine/eth8.1.json".into(),
            device: "eth8".parse().ok(),
            reason: "invalid record: EOF while parsing a value at line 1 column 0".into(),
            place: RecordDirectory::Quarantine,
        },
    ];
    let selection = Selection { pools, source: "/run/netdevice/config.yaml".into() };
    let agent = Agent::Running(Vec::new());
    Node { projector, unreadable, reservations: BTreeMap::new(), waiting: BTreeMap::new(), selection, agent }
}

/// Reservations of these devices: the kubelet's, and of each after the first a claim's.
pub(crate) fn reservations(devices: &[&str]) -> Reservations {
    let claim = Owner::Claim {
        uid: "1-2-4".into(),
        namespace: "default".into(),
        name: "fast".into(),
        request: "nic".into(),
        sandbox: None,
        pod: None,
    };
    let reservation = |(at, device): (usize, &&str)| Reservation {
        device: device.parse().expect("an id of a test"),
        resource: None,
        owner: if at == 0 { Owner::Kubelet } else { claim.clone() },
        acquisition: netdevice::Acquisition::Move,
        uplink_parents: netdevice::exclusion::UplinkParents::Refused,
        configuration: None,
        is_of_one_pod: false,
        since: 1_700_000_000,
    };
    let all = devices.iter().enumerate().map(reservation);
    all.map(|reservation| (reservation.device.clone(), reservation)).collect()
}

/// Pools of cards by driver, and of everything that begins with eth.
pub(crate) const POOLS: &str = "pools:\n- resource: example.com/fast\n  select: {drivers: [ice, igb]}\n  \
                                except: {names: [eth0]}\n- resource: networking.k8s.io/netdevice\n  \
                                select: {names: [^eth]}\n";
