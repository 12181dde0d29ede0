//! The devices that come and go, each of another shape, and what a container may do to one.

use e2e::{Node, wait_for};

use crate::schedule::Deed;

/// A device of one shape.
pub(crate) struct Shape {
    /// Its name and its id.
    pub(crate) name: &'static str,
    /// How it is made: `$d` is its name, `$w` that of the other end of a pair.
    make: &'static str,
    /// What `ip address show` says of it in a Pod.
    pub(crate) inside: &'static [&'static str],
}

const PAIR: &str = "ip link add $d type veth peer name $w; ip link set $w addrgenmode none up";

/// All devices begin like this, and nothing else of the node does.
pub(crate) const SELECTION: &str = "^churn-";

pub(crate) const SHAPES: [Shape; 7] = [
    Shape { name: "churn-bare", make: "ip link add $d type ifb; ip link set $d up", inside: &["mtu 1500"] },
    Shape {
        name: "churn-rich",
        make: "pair
            ip link set $d address 02:00:5e:10:20:30 mtu 1400 txqueuelen 500 alias 'front door' group 7
            ip link property add dev $d altname $d-other altname $d-third
            ip link set $d up
            echo 2 > /proc/sys/net/ipv4/conf/$d/rp_filter; echo 1 > /proc/sys/net/ipv4/conf/$d/arp_ignore
            echo 0 > /proc/sys/net/ipv6/conf/$d/accept_ra; echo 77 > /proc/sys/net/ipv4/neigh/$d/gc_stale_time
            ip address add 192.0.2.5/24 dev $d; ip address add 192.0.2.6/24 dev $d label $d:b
            ip address add 10.9.8.7 peer 10.9.8.1 dev $d scope link
            ip address add 2001:db8:1::5/64 dev $d; ip address add 2001:db8:1::6/64 dev $d preferred_lft 0
            ip route add 198.51.100.0/24 via 192.0.2.1 dev $d metric 7
            ip route add 203.0.113.0/24 dev $d table 100 src 192.0.2.6
            ip route add 2001:db8:2::/64 via 2001:db8:1::1 dev $d
            ip neighbour add 192.0.2.1 lladdr 02:00:5e:00:00:01 nud permanent dev $d
            ip neighbour add 2001:db8:1::1 lladdr 02:00:5e:00:00:01 nud permanent dev $d",
        inside: &[
            "mtu 1400",
            "02:00:5e:10:20:30",
            "192.0.2.5/24",
            "192.0.2.6/24",
            "10.9.8.7 peer 10.9.8.1/32",
            "2001:db8:1::5/64",
            "2001:db8:1::6/64",
        ],
    },
    Shape {
        name: "churn-stacked",
        make: "ip link show dev anchor >/dev/null 2>&1 || { ip link add anchor type ifb; ip link set anchor addrgenmode none up; }
            ip link add $d link anchor type macvlan mode bridge; ip link set $d up
            ip address add 10.31.0.5/24 dev $d; ip address add 2001:db8:31::5/64 dev $d
            ip route add 10.32.0.0/16 via 10.31.0.1",
        inside: &["10.31.0.5/24", "2001:db8:31::5/64"],
    },
    Shape {
        name: "churn-down",
        make: "ip link add $d type ifb; ip link set $d mtu 1300 alias asleep; ip address add 10.41.0.5/24 dev $d",
        inside: &["mtu 1300", "10.41.0.5/24"],
    },
    Shape {
        name: "churn-six",
        make: "pair
            ip link set $d up; ip address add 2001:db8:51::5/64 dev $d; ip address add 2001:db8:51::6/128 dev $d
            ip route add 2001:db8:52::/48 via 2001:db8:51::1 metric 5
            ip route add 2001:db8:53::/48 dev $d table 101",
        inside: &["2001:db8:51::5/64", "2001:db8:51::6/128"],
    },
    // without VRFs in the kernel, it is a device as others
    Shape {
        name: "churn-port",
        make: "pair
            ip link show dev blue >/dev/null 2>&1 || { ip link add blue type vrf table 70 && ip link set blue up; } 2>/dev/null ||
              echo 'no VRF: this kernel has none' >&2
            ! ip link show dev blue >/dev/null 2>&1 || ip link set $d master blue
            ip link set $d up; ip address add 10.61.0.5/24 dev $d; ip address add 2001:db8:61::5/64 dev $d",
        inside: &["10.61.0.5/24", "2001:db8:61::5/64"],
    },
    Shape {
        name: "churn-many",
        make: "pair
            ip link set $d up
            for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
              ip address add 10.71.$n.5/24 dev $d; ip address add 2001:db8:71:$n::5/64 dev $d
              ip route add 10.72.$n.0/24 via 10.71.$n.1; ip neighbour add 10.71.$n.9 lladdr 02:00:5e:00:01:$n dev $d
            done",
        inside: &["10.71.1.5/24", "10.71.20.5/24", "2001:db8:71:1::5/64", "2001:db8:71:20::5/64"],
    },
];

/// Makes a device; one that is there goes first.
#[track_caller]
pub(crate) fn make(node: &Node, shape: &Shape) {
    let name = shape.name;
    let script = shape.make.replace("pair", PAIR);
    let made = node.sh(&format!("d={name} w=w-{name}; ip link delete $d 2>/dev/null || :; {script}"));
    if !made.stderr.is_empty() {
        println!("{name}: {}", made.stderr.trim_end());
    }
    let tentative = || node.sh(&format!("ip -6 address show dev {name} tentative")).stdout;
    wait_for("addresses are not tentative any more", tentative, String::is_empty);
}

/// What is run in a Pod's network for a deed to a device.
pub(crate) fn script(deed: Deed, device: &str) -> String {
    let script = match deed {
        Deed::Nothing => ":",
        Deed::Rename => {
            "ip link set $d down; ip link set $d name mine-$$; ip link property add dev mine-$$ altname evil-$$
            ip link set mine-$$ alias 'not yours' up"
        }
        Deed::Resize => {
            "ip link set $d down; ip link set $d address 02:66:66:66:66:66 mtu 1290 txqueuelen 3; ip link set $d up"
        }
        Deed::Shrink => "ip link set $d mtu 900",
        Deed::Readdress => {
            "ip address flush dev $d; ip link set $d up; ip address add 10.66.0.1/24 dev $d
            ip route add 10.67.0.0/24 via 10.66.0.2; ip address add 2001:db8:66::1/64 dev $d
            ip neighbour add 10.66.0.9 lladdr 02:00:00:00:00:09 dev $d"
        }
        Deed::Settings => {
            "echo 0 > /proc/sys/net/ipv4/conf/$d/rp_filter; echo 1 > /proc/sys/net/ipv4/conf/$d/forwarding
            echo 1 > /proc/sys/net/ipv6/conf/$d/disable_ipv6; echo 5 > /proc/sys/net/ipv6/neigh/$d/mcast_solicit
            ip link set $d promisc on allmulticast on arp off"
        }
        Deed::Down => "ip link set $d down",
        Deed::Bridge => "ip link add br-$$ type bridge; ip link set $d master br-$$; ip link set br-$$ up",
        Deed::Stack => "ip link add up-$$ link $d type macvlan; ip link set up-$$ up",
    };
    format!("d={device}; {script}")
}
