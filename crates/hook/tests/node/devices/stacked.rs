//! Devices that others are made of: ports of a bond and of a VRF, parents of VLANs, tunnels and the like.

use super::machine::{Shape, netdevctl, on_machine, wait_for_carrier};
use crate::{
    home::assert_has,
    support::{Host, Sandbox},
};

const POOL: &str = "pools: [{resource: example.com/dev, select: {names: ['^(eth|dev|bond|vrf)']}}]";

/// Attaches, looks inside, detaches, compares.
fn there_and_back(host: &Host, device: &str, inside: impl FnOnce(&Sandbox)) {
    let before = host.settled();
    let sandbox = host.sandbox("web");
    host.attach(&sandbox, "c1", device).succeeds();
    assert!(sandbox.has_link(device));
    inside(&sandbox);
    host.detach("c1", device).succeeds();
    host.assert_same(&before);
}

/// `eth2` and a dummy in a bond that has an address. The dummy has the bond's hardware address from the start: a port's own
/// one, which the bond keeps for it, is not restored.
fn bond(host: &Host) {
    host.ip("link add bond0 type bond mode active-backup miimon 100
         link add dev0 address 52:54:00:00:00:03 type dummy
         link set eth2 down
         link set eth2 master bond0
         link set dev0 master bond0
         link set bond0 up
         link set bond0 type bond primary eth2
         addr add 10.7.0.5/24 dev bond0");
    wait_for_carrier("eth2");
    wait_for_carrier("bond0");
}

fn vrf(host: &Host, port: &str) {
    host.ip(&format!(
        "link add vrf0 type vrf table 70\nlink set vrf0 up\nlink set {port} master vrf0\nlink set {port} up"
    ));
    wait_for_carrier(port);
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn the_ports_of_a_bond_are_refused() {
    on_machine(|host| {
        bond(host);
        assert_has(&netdevctl(host, POOL, &["explain", "bond0"]), &["the kernel does not move links of kind bond"]);
        for device in ["eth2", "dev0"] {
            assert_has(&netdevctl(host, POOL, &["explain", device]), &["not offered", "it is a port of bond bond0"]);
            let before = host.settled();
            host.attach(&host.sandbox("web"), "c1", device).fails_with("it is a port of bond bond0");
            host.assert_same(&before);
        }
    });
}

/// A link of the node on `eth1`: what it is called in a message, and what `ip` is told.
const BUILT_ON_ETH1: [(&str, &str); 11] = [
    ("vxlan", "link add dev0 type vxlan id 7 dev eth1 dstport 4789"),
    ("macvlan", "link add dev0 link eth1 type macvlan"),
    ("macvtap", "link add dev0 link eth1 type macvtap"),
    ("ipvlan", "link add dev0 link eth1 type ipvlan"),
    ("macsec", "link add dev0 link eth1 type macsec"),
    ("gre", "link add dev0 type gre local 10.1.0.5 remote 10.1.0.6 dev eth1"),
    ("gretap", "link add dev0 type gretap local 10.1.0.5 remote 10.1.0.6 dev eth1"),
    ("ipip", "link add dev0 type ipip local 10.1.0.5 remote 10.1.0.6 dev eth1"),
    ("sit", "link add dev0 type sit local 10.1.0.5 remote 10.1.0.6 dev eth1"),
    ("ip6gre", "link add dev0 type ip6gre local 2001:db8::5 remote 2001:db8::6 dev eth1"),
    ("ip6tnl", "link add dev0 type ip6tnl local 2001:db8::5 remote 2001:db8::6 dev eth1"),
];

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn a_card_with_anything_of_the_node_built_on_it_is_refused() {
    on_machine(|host| {
        let mut made = 0;
        for (kind, line) in BUILT_ON_ETH1 {
            // the guest's kernel may lack the kind
            let added = std::process::Command::new("ip").args(line.split(' ')).output().unwrap();
            if !added.status.success() {
                continue;
            }
            made += 1;
            let words = format!("the node's {kind} dev0 is built on it");
            assert_has(&netdevctl(host, POOL, &["explain", "eth1"]), &["not offered", &words]);
            host.attach(&host.sandbox("web"), "c1", "eth1").fails_with(&words);
            assert!(host.has_link("dev0"), "{kind}");
            host.ip("link delete dev0");
        }
        assert!(made >= 5, "of {} kinds the guest has {made}", BUILT_ON_ETH1.len());
        assert_has(&netdevctl(host, POOL, &["explain", "eth1"]), &["eth1: offered as example.com/dev"]);
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn a_card_in_a_vrf_comes_back_into_it_when_its_namespace_dies() {
    on_machine(|host| {
        vrf(host, "eth2");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "eth2").succeeds();
        sandbox.ip("link set eth2 down\nlink set eth2 name evil0");
        drop(sandbox);
        crate::support::until("the kernel brings it back", || host.has_link("evil0"));
        host.detach("c1", "eth2").succeeds();
        host.assert_same(&before);
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn a_vrf_that_is_gone_is_left_out_and_said() {
    on_machine(|host| {
        vrf(host, "eth2");
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "eth2").succeeds();
        host.ip("link delete vrf0");
        host.detach("c1", "eth2").succeeds();
        assert!(host.has_link("eth2"));
        assert_has(&host.journal(), &["master vrf0", "it is gone"]);
        assert_eq!(host.records(), Vec::<String>::new());
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn the_ports_of_a_bond_with_the_default_route_are_refused() {
    on_machine(|host| {
        bond(host);
        host.ip("route add default via 10.7.0.1");
        for device in ["eth2", "dev0"] {
            assert_has(
                &netdevctl(host, POOL, &["explain", device]),
                &["not offered", "the node's uplink bond0 is built on it"],
            );
            let before = host.settled();
            let sandbox = host.sandbox("web");
            host.attach(&sandbox, "c1", device).fails_with("the node's uplink bond0 is built on it");
            host.assert_same(&before);
        }
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn the_parent_of_a_vlan_with_the_default_route_is_refused_and_so_is_the_vlan() {
    on_machine(|host| {
        assert!(Shape::Vlan.make(host));
        host.ip("route add default via 10.1.0.1");
        for (device, words) in
            [("eth1", "the node's uplink dev0 is built on it"), ("dev0", "default route (table 254)")]
        {
            assert_has(&netdevctl(host, POOL, &["explain", device]), &["not offered", words]);
            host.attach(&host.sandbox("web"), "c1", device).fails_with(words);
        }
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn the_parent_of_a_vlan_is_refused_and_the_vlan_keeps_all_that_it_has() {
    on_machine(|host| {
        assert!(Shape::Vlan.make(host));
        host.ip("addr add 2001:db8:7::5/64 dev dev0");
        let before = host.settled();
        assert_has(
            &netdevctl(host, POOL, &["explain", "eth1"]),
            &["not offered", "the node's VLAN dev0 is built on it"],
        );
        host.attach(&host.sandbox("web"), "c1", "eth1").fails_with("the node's VLAN dev0 is built on it");
        host.assert_same(&before);
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn a_vlan_keeps_its_number_and_works_on_its_parent_in_the_pod() {
    on_machine(|host| {
        assert!(Shape::Vlan.make(host));
        there_and_back(host, "dev0", |sandbox| {
            assert_has(&sandbox.show("-d link show dev0"), &["vlan protocol 802.1Q id 7"])
        });
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn a_port_of_a_vrf_comes_back_into_it_with_its_routes() {
    on_machine(|host| {
        vrf(host, "eth1");
        host.ip("addr add 10.1.0.5/24 dev eth1
             addr add 2001:db8::5/64 dev eth1
             route add 10.50.0.0/16 via 10.1.0.1 vrf vrf0
             route add 2001:db8:9::/48 via 2001:db8::1 vrf vrf0");
        assert_has(&netdevctl(host, POOL, &["explain", "vrf0"]), &["the kernel does not move links of kind vrf"]);
        there_and_back(host, "eth1", |sandbox| {
            let shown = sandbox.show("addr show eth1");
            assert_has(&shown, &["10.1.0.5/24", "2001:db8::5/64"]);
        });
    });
}
