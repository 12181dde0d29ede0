//! Which links are never offered, whatever a selector says, and why.
//!
//! The rule exists once: the agent asks it of each snapshot, the hook asks it again of the links around one device at
//! the moment of the move.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use crate::{
    link::Link,
    name::InterfaceName,
    snapshot::{DefaultRoute, Family, Snapshot},
};

/// Kinds whose links the kernel does not let go ("netns is immutable", `dev->netns_immutable`).
const IMMOVABLE_KINDS: [&str; 7] = ["bridge", "bond", "vrf", "team", "batadv", "hsr", "openvswitch"];

/// Kinds of master whose ports carry the traffic of others.
const BRIDGE_KINDS: [&str; 2] = ["bridge", "openvswitch"];

/// Why a link is not offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exclusion {
    /// It is a loopback interface.
    Loopback,
    /// The kernel does not move links of this kind.
    Immovable(Box<str>),
    /// A default route of the node goes through it.
    Uplink(DefaultRoute),
    /// It has an address that the node is known by: the kubelet's, or that of a connection to the API server.
    NodeAddress(IpAddr),
    /// An uplink, by a route or an address, is stacked on it or has it as a port: it is below the uplink.
    BelowUplink(InterfaceName),
    /// It is stacked on an uplink, or is its master.
    AboveUplink(InterfaceName),
    /// It is a port of a bridge.
    BridgePort(InterfaceName),
    /// It is the node's end of a Pod's own network.
    PodNetwork,
    /// A VLAN of the node is stacked on it. The kernel takes that down and up again with the device, wherever the device
    /// goes, and its IPv6 addresses and routes with it (`vlan_device_event`).
    BelowVlan(InterfaceName),
}

impl fmt::Display for Exclusion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => write!(out, "it is the loopback interface"),
            Self::Immovable(kind) => write!(out, "the kernel does not move links of kind {kind}"),
            Self::Uplink(route) => {
                let family = if route.family == Family::V4 { "IPv4" } else { "IPv6" };
                write!(out, "the node's {family} default route (table {}) goes through it", route.table)
            }
            Self::NodeAddress(address) => write!(out, "it has the node's own address {address}"),
            Self::BelowUplink(uplink) => write!(out, "the node's uplink {uplink} is built on it"),
            Self::AboveUplink(uplink) => write!(out, "it is built on the node's uplink {uplink}"),
            Self::BridgePort(bridge) => write!(out, "it is a port of bridge {bridge}"),
            Self::PodNetwork => write!(out, "it is the node's end of a pod's own network"),
            Self::BelowVlan(vlan) => write!(out, "the node's VLAN {vlan} is built on it"),
        }
    }
}

/// The links that a snapshot says must not be offered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exclusions(BTreeMap<u32, Exclusion>);

impl Exclusions {
    /// Finds the uplinks and all that is below or above them. What is neither is decided by [`Exclusions::of`] link by
    /// link: it costs nothing while routes and stacking stay as they are.
    pub fn find(snapshot: &Snapshot) -> Self {
        let mut found = BTreeMap::new();
        for route in snapshot.default_routes() {
            if snapshot.is_reached(route.family, route.table) {
                found.entry(route.link).or_insert(Exclusion::Uplink(*route));
            }
        }
        for (link, address) in snapshot.node_links() {
            found.entry(*link).or_insert(Exclusion::NodeAddress(*address));
        }
        let uplinks: Vec<u32> = found.keys().copied().collect();
        for uplink in uplinks {
            let Some(link) = snapshot.link(uplink) else { continue };
            for below in reach(uplink, |index| snapshot.lowers(index).collect()) {
                found.entry(below).or_insert_with(|| Exclusion::BelowUplink(link.name.clone()));
            }
            for above in reach(uplink, |index| snapshot.uppers(index).collect()) {
                found.entry(above).or_insert_with(|| Exclusion::AboveUplink(link.name.clone()));
            }
        }
        Self(found)
    }

    /// Links of which both say different things.
    pub fn differences<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u32> + 'a {
        let keys = self.0.keys().chain(other.0.keys());
        keys.filter(|index| self.0.get(index) != other.0.get(index)).copied()
    }

    /// Why this link of the snapshot must not be offered, if so.
    pub fn of(&self, link: &Link, snapshot: &Snapshot) -> Option<Exclusion> {
        if link.is_loopback() {
            return Some(Exclusion::Loopback);
        }
        if let Some(exclusion) = self.0.get(&link.index) {
            return Some(exclusion.clone());
        }
        if let Some(kind) = link.kind.as_deref().filter(|kind| IMMOVABLE_KINDS.contains(kind)) {
            return Some(Exclusion::Immovable(kind.into()));
        }
        if is_pod_network(link) {
            return Some(Exclusion::PodNetwork);
        }
        let is_vlan = |upper: &&Arc<Link>| upper.parent == Some(link.index) && upper.kind.as_deref() == Some("vlan");
        if let Some(vlan) = snapshot.uppers(link.index).filter_map(|index| snapshot.link(index)).find(is_vlan) {
            return Some(Exclusion::BelowVlan(vlan.name.clone()));
        }
        let master = snapshot.link(link.master?)?;
        let is_bridge = master.kind.as_deref().is_some_and(|kind| BRIDGE_KINDS.contains(&kind));
        is_bridge.then(|| Exclusion::BridgePort(master.name.clone()))
    }
}

/// Whether a CNI plugin made this link for a Pod: the one end of a veth pair whose other end is in another namespace,
/// named as the common plugins name theirs: `veth` (bridge, ptp, kindnet, Docker), `cali` (Calico), `lxc` (Cilium) or
/// `eni` (Amazon VPC) and hex digits.
fn is_pod_network(link: &Link) -> bool {
    let digits = |prefix: &&str| link.name.as_bytes().strip_prefix(prefix.as_bytes());
    let is_generated = |digits: &[u8]| digits.len() >= 7 && digits.iter().all(u8::is_ascii_hexdigit);
    link.kind.as_deref() == Some("veth")
        && link.link_netnsid.is_some()
        && ["veth", "cali", "lxc", "eni"].iter().filter_map(digits).any(is_generated)
}

/// All links that lead away from `start`, however far; `start` is not among them.
fn reach(start: u32, next: impl Fn(u32) -> Vec<u32>) -> Vec<u32> {
    let mut seen = vec![start];
    let mut queue = VecDeque::from([start]);
    while let Some(index) = queue.pop_front() {
        for neighbour in next(index) {
            if !seen.contains(&neighbour) {
                seen.push(neighbour);
                queue.push_back(neighbour);
            }
        }
    }
    seen.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::flags;

    const MAIN: u32 = 254;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.try_into().unwrap(),
            altnames: Box::default(),
            alias: None,
            kind: None,
            mac: None,
            flags: flags::UP,
            mtu: 1500,
            master: None,
            parent: None,
            link_netnsid: None,
            hardware: None,
        }
    }

    fn snapshot(links: impl IntoIterator<Item = Link>, routes: &[(Family, u32, u32)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        links.into_iter().for_each(|link| snapshot.insert_link(Arc::new(link)));
        snapshot.set_reached_tables([(Family::V4, MAIN), (Family::V6, MAIN), (Family::V4, 100)]);
        for (family, table, link) in routes {
            let (family, table, link) = (*family, *table, *link);
            snapshot.insert_default_route(DefaultRoute { family, table, metric: 0, link });
        }
        snapshot
    }

    /// `name: reason` of each excluded link.
    fn excluded(snapshot: &Snapshot) -> Vec<String> {
        let exclusions = Exclusions::find(snapshot);
        let reason = |link: &Arc<Link>| Some(format!("{}: {}", link.name, exclusions.of(link, snapshot)?));
        snapshot.links().values().filter_map(reason).collect()
    }

    #[test]
    fn loopback_is_told_by_bit_3_and_never_offered() {
        let lo = Link { flags: flags::UP | flags::LOOPBACK, ..link(1, "lo") };
        assert_eq!(excluded(&snapshot([lo, link(2, "eth1")], &[])), ["lo: it is the loopback interface"]);
    }

    #[test]
    fn default_routes_of_both_families_and_of_reached_tables_exclude() {
        let links = || [link(2, "eth0"), link(3, "eth1"), link(4, "eth2")];
        let v4 = snapshot(links(), &[(Family::V4, MAIN, 2), (Family::V4, MAIN, 3)]);
        assert_eq!(excluded(&v4).len(), 2, "every next hop of a multipath route");
        let v6 = snapshot(links(), &[(Family::V6, MAIN, 4)]);
        assert_eq!(excluded(&v6), ["eth2: the node's IPv6 default route (table 254) goes through it"]);
        let policy = snapshot(links(), &[(Family::V4, 100, 3), (Family::V4, 200, 4)]);
        assert_eq!(excluded(&policy), ["eth1: the node's IPv4 default route (table 100) goes through it"]);
    }

    #[test]
    fn without_rules_every_table_counts() {
        let mut unknown = snapshot([link(2, "eth0")], &[(Family::V4, 200, 2)]);
        unknown.set_reached_tables([]);
        assert_eq!(excluded(&unknown).len(), 1);
    }

    #[test]
    fn a_link_with_an_address_of_the_node_is_excluded_with_its_family_and_no_sibling() {
        let bond = Link { kind: Some("bond".into()), ..link(3, "bond0") };
        let port = Link { master: Some(3), ..link(2, "eth0") };
        let vlan = Link { parent: Some(3), kind: Some("vlan".into()), ..link(4, "bond0.7") };
        let sibling = Link { parent: Some(3), kind: Some("vlan".into()), ..link(5, "bond0.8") };
        let macvlan = Link { parent: Some(4), kind: Some("macvlan".into()), ..link(6, "mv0") };
        let links = [port, bond, vlan, sibling, macvlan, link(7, "eth1")];
        let with = |node_links: &[(u32, &str)], routes: &[(Family, u32, u32)]| {
            let mut all = snapshot(links.clone(), routes);
            all.set_node_links(node_links.iter().map(|(link, address)| (*link, address.parse().unwrap())));
            excluded(&all)
        };
        let immovable = "bond0: the kernel does not move links of kind bond";
        assert_eq!(with(&[], &[]), [immovable]);
        assert_eq!(with(&[(7, "2001:db8::5")], &[]), [immovable, "eth1: it has the node's own address 2001:db8::5"]);
        assert_eq!(
            with(&[(4, "10.0.0.5")], &[]),
            [
                "eth0: the node's uplink bond0.7 is built on it",
                "bond0: the node's uplink bond0.7 is built on it",
                "bond0.7: it has the node's own address 10.0.0.5",
                "mv0: it is built on the node's uplink bond0.7",
            ]
        );
        let both = with(&[(7, "10.0.0.5")], &[(Family::V4, MAIN, 7)]);
        assert_eq!(
            both[1], "eth1: the node's IPv4 default route (table 254) goes through it",
            "the route is told first"
        );
        assert_eq!(with(&[(99, "10.0.0.5")], &[]), [immovable], "of a link that is not known yet");
    }

    #[test]
    fn the_family_below_and_above_an_uplink_is_excluded_and_no_sibling() {
        let nic = link(2, "eth0");
        let bond = Link { kind: Some("bond".into()), ..link(3, "bond0") };
        let port = Link { master: Some(3), ..nic };
        let vlan = Link { parent: Some(3), kind: Some("vlan".into()), ..link(4, "bond0.7") };
        let sibling = Link { parent: Some(3), kind: Some("vlan".into()), ..link(5, "bond0.8") };
        let macvlan = Link { parent: Some(4), kind: Some("macvlan".into()), ..link(6, "mv0") };
        let all = snapshot([port, bond, vlan, sibling, macvlan], &[(Family::V4, MAIN, 4)]);
        assert_eq!(
            excluded(&all),
            [
                "eth0: the node's uplink bond0.7 is built on it",
                "bond0: the node's uplink bond0.7 is built on it",
                "bond0.7: the node's IPv4 default route (table 254) goes through it",
                "mv0: it is built on the node's uplink bond0.7",
            ]
        );
    }

    #[test]
    fn bridge_ports_are_excluded_with_or_without_a_default_route() {
        let bridge = Link { kind: Some("bridge".into()), ..link(2, "br0") };
        let port = Link { master: Some(2), ..link(3, "eth1") };
        let vrf = Link { kind: Some("vrf".into()), ..link(4, "blue") };
        let vrf_port = Link { master: Some(4), ..link(5, "eth2") };
        assert_eq!(
            excluded(&snapshot([bridge, port, vrf, vrf_port], &[])),
            [
                "br0: the kernel does not move links of kind bridge",
                "eth1: it is a port of bridge br0",
                "blue: the kernel does not move links of kind vrf",
            ]
        );
    }

    #[test]
    fn the_nodes_end_of_a_pods_own_network_is_excluded_and_no_other_veth() {
        let veth = |index, name, link_netnsid| Link { kind: Some("veth".into()), link_netnsid, ..link(index, name) };
        let links = [
            veth(2, "veth0a1b2c3d", Some(0)),
            veth(3, "cali0123456789a", Some(1)),
            veth(4, "vethwire", Some(0)),
            veth(5, "veth0a1b2c3e", None),
            veth(6, "dummy0", Some(0)),
        ];
        assert_eq!(
            excluded(&snapshot(links, &[])),
            [
                "veth0a1b2c3d: it is the node's end of a pod's own network",
                "cali0123456789a: it is the node's end of a pod's own network",
            ]
        );
    }

    #[test]
    fn the_parent_of_a_vlan_is_excluded_and_that_of_a_macvlan_is_not() {
        let above = |index, name, kind: &str| Link { parent: Some(2), kind: Some(kind.into()), ..link(index, name) };
        let vlan = snapshot([link(2, "eth1"), above(3, "eth1.7", "vlan")], &[]);
        assert_eq!(excluded(&vlan), ["eth1: the node's VLAN eth1.7 is built on it"]);
        assert_eq!(excluded(&snapshot([link(2, "eth1"), above(3, "mv0", "macvlan")], &[])).len(), 0);
    }

    #[test]
    fn a_removed_link_takes_its_stacking_along() {
        let vlan = Link { parent: Some(2), ..link(3, "eth0.7") };
        let mut all = snapshot([link(2, "eth0"), vlan], &[(Family::V4, MAIN, 3)]);
        assert_eq!(excluded(&all).len(), 2);
        all.remove_link(3);
        assert_eq!(excluded(&all).len(), 0);
    }

    #[test]
    fn a_veth_pair_that_leads_in_a_circle_ends() {
        let one = Link { parent: Some(3), ..link(2, "a") };
        let other = Link { parent: Some(2), ..link(3, "b") };
        assert_eq!(excluded(&snapshot([one, other], &[(Family::V6, MAIN, 2)])).len(), 2);
    }
}
