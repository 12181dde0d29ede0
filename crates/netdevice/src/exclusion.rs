//! Which links are never offered, whatever is selected, and why.
//!
//! The agent applies the rules to each snapshot. The hook applies the same rules to the links around one device at the
//! moment of the move.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use crate::{
    link::Link,
    name::InterfaceName,
    record::Attachment,
    snapshot::{DefaultRoute, Family, Snapshot},
};

/// Kinds whose links the kernel does not move to another namespace (`dev->netns_immutable`). For kernels before Linux 6.15,
/// which do not report it for each link.
const IMMOVABLE_KINDS: [&str; 9] = ["bridge", "bond", "vrf", "team", "batadv", "hsr", "openvswitch", "amt", "lowpan"];

/// The fallback links that tunnel modules make in each namespace. The kernel does not move them, but it moves other links of
/// their kind. Name and kind, for kernels before Linux 6.15.
const FALLBACK_TUNNELS: [(&[u8], &str); 9] = [
    (b"tunl0", "ipip"),
    (b"sit0", "sit"),
    (b"gre0", "gre"),
    (b"gretap0", "gretap"),
    (b"erspan0", "erspan"),
    (b"ip_vti0", "vti"),
    (b"ip6tnl0", "ip6tnl"),
    (b"ip6gre0", "ip6gre"),
    (b"ip6_vti0", "vti6"),
];

/// Kinds of links that come in pairs: each has the other one as `IFLA_LINK`, and neither is built on the other.
const PAIR_KINDS: [&str; 3] = ["veth", "netkit", "vxcan"];

/// The only kind of master that does not send through its ports: it selects a routing table.
const VRF: &str = "vrf";

/// Why a link is not offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exclusion {
    /// It is a loopback interface.
    Loopback,
    /// The kernel does not move it to another namespace; its kind, if it has one.
    Immovable(Option<Box<str>>),
    /// A default route of the node goes through it.
    Uplink(DefaultRoute),
    /// It has an address that the node is known by: the kubelet's, or that of a connection to the API server.
    NodeAddress(IpAddr),
    /// It is below an uplink: the uplink is stacked on it or has it as a port.
    BelowUplink(InterfaceName),
    /// It is above an uplink: stacked on it, or its master.
    AboveUplink(InterfaceName),
    /// It is a port of a master of this kind and name: a bridge, a bond or the like.
    Port(Box<str>, InterfaceName),
    /// It is the node's end of a Pod's own network.
    PodNetwork,
    /// A link of the node, of this kind and name, is built on it: a VLAN, a macvlan, a tunnel. When a device moves, the kernel
    /// deletes a vxlan or a macsec on it and takes a VLAN down (`vlan_device_event`); other links keep sending into the Pod.
    Below(Box<str>, InterfaceName),
    /// A link of this kind in another network namespace is built on it: in a Pod, made by a CNI plugin.
    BelowElsewhere(Box<str>),
    /// A traffic control filter of the node sends packets out through it (mirred). The kernel takes the link out of the
    /// filter when it moves (`mirred_device_event`).
    RedirectTarget,
}

impl fmt::Display for Exclusion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => write!(out, "it is the loopback interface"),
            Self::Immovable(Some(kind)) => write!(out, "the kernel does not move links of kind {kind}"),
            Self::Immovable(None) => write!(out, "the kernel does not move it to another network namespace"),
            Self::Uplink(route) => {
                let family = if route.family == Family::V4 { "IPv4" } else { "IPv6" };
                write!(out, "the node's {family} default route (table {}) goes through it", route.table)
            }
            Self::NodeAddress(address) => write!(out, "it has the node's own address {address}"),
            Self::BelowUplink(uplink) => write!(out, "the node's uplink {uplink} is built on it"),
            Self::AboveUplink(uplink) => write!(out, "it is built on the node's uplink {uplink}"),
            Self::Port(kind, master) => write!(out, "it is a port of {kind} {master}"),
            Self::PodNetwork => write!(out, "it is the node's end of a pod's own network"),
            Self::Below(kind, upper) if &**kind == "vlan" => write!(out, "the node's VLAN {upper} is built on it"),
            Self::BelowElsewhere(kind) => write!(out, "a {kind} in another network namespace is built on it"),
            Self::RedirectTarget => {
                write!(out, "a traffic control filter of the node redirects packets to it (mirred)")
            }
            Self::Below(kind, upper) => write!(out, "the node's {kind} {upper} is built on it"),
        }
    }
}

/// The uplinks of a snapshot and the links below and above them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exclusions(BTreeMap<u32, Exclusion>);

impl Exclusions {
    /// Finds the uplinks and all links below or above them. All other links are checked one by one by [`Exclusions::of`], so
    /// that a change of a link costs nothing here.
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

    /// Links that are not the same in both.
    pub fn differences<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u32> + 'a {
        let keys = self.0.keys().chain(other.0.keys());
        keys.filter(|index| self.0.get(index) != other.0.get(index)).copied()
    }

    /// Why this link of the snapshot is never offered, if so.
    pub fn of(&self, link: &Link, snapshot: &Snapshot) -> Option<Exclusion> {
        if link.is_loopback() {
            return Some(Exclusion::Loopback);
        }
        if let Some(exclusion) = self.0.get(&link.index) {
            return Some(exclusion.clone());
        }
        if is_immovable(link) {
            return Some(Exclusion::Immovable(link.kind.clone()));
        }
        if is_pod_network(link) {
            return Some(Exclusion::PodNetwork);
        }
        let is_built_on_it = |upper: &&Arc<Link>| {
            let is_pair = upper.kind.as_deref().is_some_and(|kind| PAIR_KINDS.contains(&kind));
            upper.parent == Some(link.index) && !is_pair
        };
        if let Some(upper) = snapshot.uppers(link.index).filter_map(|index| snapshot.link(index)).find(is_built_on_it) {
            return Some(Exclusion::Below(kind_of(upper), upper.name.clone()));
        }
        if let Some(kind) = snapshot.built_on_elsewhere().get(&link.index) {
            return Some(Exclusion::BelowElsewhere(kind.clone()));
        }
        if snapshot.redirect_targets().contains(&link.index) {
            return Some(Exclusion::RedirectTarget);
        }
        port(link, snapshot)
    }

    /// Why no device is created on this link, if so. The link stays on the host, so what is built on it already is no reason.
    pub fn of_parent(&self, link: &Link, snapshot: &Snapshot, uplinks: UplinkParents) -> Option<Exclusion> {
        match self.of(link, snapshot)? {
            Exclusion::Uplink(_)
            | Exclusion::NodeAddress(_)
            | Exclusion::BelowUplink(_)
            | Exclusion::AboveUplink(_)
                if uplinks == UplinkParents::Allowed =>
            {
                port(link, snapshot)
            }
            Exclusion::Immovable(_)
            | Exclusion::Below(..)
            | Exclusion::BelowElsewhere(_)
            | Exclusion::RedirectTarget => port(link, snapshot),
            other => Some(other),
        }
    }
}

/// Whether devices may be created on a link that the node itself is connected by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UplinkParents {
    /// As the pool says: `allowUplinkParent`.
    Allowed,
    /// Not unless a pool says it.
    #[default]
    Refused,
}

impl UplinkParents {
    /// From what a configuration or a file says.
    pub fn allowed_if(is_allowed: bool) -> Self {
        if is_allowed { Self::Allowed } else { Self::Refused }
    }
}

/// The master that a link is a port of. A VRF is none: its links have addresses and routes of their own.
fn port(link: &Link, snapshot: &Snapshot) -> Option<Exclusion> {
    let master = snapshot.link(link.master?)?;
    let kind = kind_of(master);
    (&*kind != VRF).then(|| Exclusion::Port(kind, master.name.clone()))
}

/// What an attached device says of the link of the host that it is built on: that link is below a link of another
/// namespace.
pub fn below_attached(record: &Attachment) -> Option<(u32, Exclusion)> {
    let host = record.host()?;
    let kind = host.kind.as_deref().filter(|kind| !PAIR_KINDS.contains(kind))?;
    let parent = host.parent.filter(|parent| host.link_netnsid.is_none() && *parent != host.index)?;
    Some((parent, Exclusion::BelowElsewhere(kind.into())))
}

/// The kind of a link, for messages.
fn kind_of(link: &Link) -> Box<str> {
    link.kind.clone().unwrap_or_else(|| "interface".into())
}

/// Whether the kernel refuses to move the link ("netns is immutable").
fn is_immovable(link: &Link) -> bool {
    link.netns_immutable.unwrap_or_else(|| {
        link.kind.as_deref().is_some_and(|kind| {
            IMMOVABLE_KINDS.contains(&kind) || FALLBACK_TUNNELS.contains(&(link.name.as_bytes(), kind))
        })
    })
}

/// Whether a CNI plugin made this link for a Pod: one end of a veth pair whose other end is in another namespace, with a
/// name that the common plugins generate: `veth` (bridge, ptp, kindnet, Docker), `cali` (Calico), `lxc` (Cilium) or
/// `eni` (Amazon VPC) and hex digits.
fn is_pod_network(link: &Link) -> bool {
    let digits = |prefix: &&str| link.name.as_bytes().strip_prefix(prefix.as_bytes());
    let is_generated = |digits: &[u8]| digits.len() >= 7 && digits.iter().all(u8::is_ascii_hexdigit);
    link.kind.as_deref() == Some("veth")
        && link.link_netnsid.is_some()
        && ["veth", "cali", "lxc", "eni"].iter().filter_map(digits).any(is_generated)
}

/// All links that can be reached from `start`, without `start`.
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
    use crate::{fixture, link::flags};

    const MAIN: u32 = 254;

    fn link(index: u32, name: &str) -> Link {
        Link { kind: None, ..fixture::link(index, name) }
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
        let port = "eth0: it is a port of bond bond0";
        let below = "bond0.7: the node's macvlan mv0 is built on it";
        let with = |node_links: &[(u32, &str)], routes: &[(Family, u32, u32)]| {
            let mut all = snapshot(links.clone(), routes);
            all.set_node_links(node_links.iter().map(|(link, address)| (*link, address.parse().unwrap())));
            excluded(&all)
        };
        let immovable = "bond0: the kernel does not move links of kind bond";
        assert_eq!(with(&[], &[]), [port, immovable, below]);
        assert_eq!(
            with(&[(7, "2001:db8::5")], &[]),
            [port, immovable, below, "eth1: it has the node's own address 2001:db8::5"]
        );
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
            both[3], "eth1: the node's IPv4 default route (table 254) goes through it",
            "the route is told first"
        );
        assert_eq!(with(&[(99, "10.0.0.5")], &[]), [port, immovable, below], "of a link that is not known yet");
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
    fn ports_are_excluded_with_or_without_a_default_route_and_those_of_a_vrf_are_not() {
        let bridge = Link { kind: Some("bridge".into()), ..link(2, "br0") };
        let port = Link { master: Some(2), ..link(3, "eth1") };
        let bond = Link { kind: Some("bond".into()), ..link(6, "bond0") };
        let bond_port = Link { master: Some(6), ..link(7, "eth3") };
        let vrf = Link { kind: Some("vrf".into()), ..link(4, "blue") };
        let vrf_port = Link { master: Some(4), ..link(5, "eth2") };
        assert_eq!(
            excluded(&snapshot([bridge, port, vrf, vrf_port, bond, bond_port], &[])),
            [
                "br0: the kernel does not move links of kind bridge",
                "eth1: it is a port of bridge br0",
                "blue: the kernel does not move links of kind vrf",
                "bond0: the kernel does not move links of kind bond",
                "eth3: it is a port of bond bond0",
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
    fn a_link_with_anything_of_the_node_built_on_it_is_excluded() {
        let above = |kind: &str| Link { parent: Some(2), kind: Some(kind.into()), ..link(3, "up0") };
        let with = |upper: Link| excluded(&snapshot([link(2, "eth1"), upper], &[]));
        assert_eq!(with(above("vlan")), ["eth1: the node's VLAN up0 is built on it"]);
        let kinds = [
            "macvlan",
            "macvtap",
            "ipvlan",
            "ipvtap",
            "vxlan",
            "macsec",
            "geneve",
            "gre",
            "gretap",
            "ipip",
            "sit",
            "vti",
            "xfrm",
            "ipoib",
            "dsa",
            "a-kind-to-come",
        ];
        for kind in kinds {
            assert_eq!(with(above(kind)), [format!("eth1: the node's {kind} up0 is built on it")]);
        }
        assert_eq!(with(Link { kind: None, ..above("") }), ["eth1: the node's interface up0 is built on it"]);
        for kind in PAIR_KINDS {
            assert!(with(above(kind)).is_empty(), "{kind}: the other end of a pair is not built on this one");
        }
        let elsewhere = Link { parent: None, link_netnsid: Some(1), ..above("macvlan") };
        assert!(with(elsewhere).is_empty(), "what is built on a link of another namespace");
    }

    #[test]
    fn a_link_that_a_filter_sends_to_or_that_another_namespace_builds_on_is_excluded() {
        let mut all = snapshot([link(2, "eth1"), link(3, "eth2"), link(4, "eth3")], &[]);
        all.set_redirect_targets([3, 99]);
        all.set_built_on_elsewhere([(4, "macvlan".into())]);
        assert_eq!(
            excluded(&all),
            [
                "eth2: a traffic control filter of the node redirects packets to it (mirred)",
                "eth3: a macvlan in another network namespace is built on it",
            ]
        );
        all.set_redirect_targets([]);
        all.set_built_on_elsewhere([]);
        assert!(excluded(&all).is_empty());
    }

    #[test]
    fn what_was_built_on_a_link_and_was_deleted_or_moved_is_no_hindrance() {
        let vxlan = Link { parent: Some(2), kind: Some("vxlan".into()), ..link(3, "flannel.1") };
        let mut all = snapshot([link(2, "eth1"), vxlan.clone()], &[]);
        assert_eq!(excluded(&all).len(), 1);
        all.insert_link(Arc::new(Link { parent: None, ..vxlan.clone() }));
        assert_eq!(excluded(&all).len(), 0);
        all.insert_link(Arc::new(vxlan));
        all.remove_link(3);
        assert_eq!(excluded(&all).len(), 0);
    }

    #[test]
    fn the_kernels_word_on_what_it_moves_counts_before_kind_and_name() {
        let of = |name: &str, kind: Option<&str>, netns_immutable| {
            excluded(&snapshot([Link { kind: kind.map(Into::into), netns_immutable, ..link(2, name) }], &[]))
        };
        let plain = "the kernel does not move it to another network namespace";
        assert_eq!(of("pimreg", None, Some(true)), [format!("pimreg: {plain}")]);
        assert_eq!(of("eth1_0", None, Some(true)), [format!("eth1_0: {plain}")], "a representor");
        assert_eq!(of("new0", Some("new"), Some(true)), ["new0: the kernel does not move links of kind new"]);
        assert!(of("eth1", None, Some(false)).is_empty());
        assert!(of("tunl0", Some("ipip"), Some(false)).is_empty());
        for (name, kind) in FALLBACK_TUNNELS {
            let name = std::str::from_utf8(name).unwrap();
            assert_eq!(of(name, Some(kind), None).len(), 1, "{name}");
            assert!(of("tun7", Some(kind), None).is_empty(), "another {kind} moves");
            assert!(of(name, Some("dummy"), None).is_empty(), "a dummy of the name {name} moves");
        }
        for kind in IMMOVABLE_KINDS {
            assert_eq!(of("x", Some(kind), None), [format!("x: the kernel does not move links of kind {kind}")]);
        }
        assert!(of("eth1", None, None).is_empty());
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
