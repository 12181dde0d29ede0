//! The node's own connectivity is refused at the moment of the move.

use std::fs;

use crate::support::on_host;

/// The device is refused with these words, and the host is as it was.
fn refused(lines: &str, device: &str, words: &str) {
    on_host(|host| {
        host.ip("link add eth9 type veth peer name far\nlink set far up addrgenmode none\nlink set eth9 up");
        host.ip("addr add 10.1.0.5/24 dev eth9\naddr add 2001:db8::5/64 dev eth9");
        host.ip(lines);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", device).fails_with(&format!("it is never handed out because {words}"));
        host.assert_same(&before);
    });
}

const V4: &str = "the node's IPv4 default route (table 254) goes through it";

#[test]
fn the_link_of_the_ipv4_default_route_is_refused() {
    refused("route add default via 10.1.0.1", "eth9", V4);
}

#[test]
fn the_link_of_a_default_route_with_a_high_metric_is_refused() {
    refused("route add default via 10.1.0.1 metric 4000", "eth9", V4);
}

#[test]
fn the_link_of_the_ipv6_default_route_is_refused() {
    refused("route add default via 2001:db8::1", "eth9", "the node's IPv6 default route (table 254) goes through it");
}

#[test]
fn every_link_of_a_multipath_default_route_is_refused() {
    let lines = "link add eth8 type ifb\nlink set eth8 up\naddr add 10.2.0.5/24 dev eth8
         route add default nexthop via 10.1.0.1 nexthop via 10.2.0.1";
    refused(lines, "eth9", V4);
    refused(lines, "eth8", V4);
    let lines = "link add eth8 type ifb\nlink set eth8 up\naddr add 2001:db8:2::5/64 dev eth8
         route add default nexthop via 2001:db8::1 nexthop via 2001:db8:2::1";
    refused(lines, "eth9", "the node's IPv6 default route");
    refused(lines, "eth8", "the node's IPv6 default route");
}

#[test]
fn the_link_of_a_policy_route_that_a_rule_reaches_is_refused() {
    let words = "the node's IPv4 default route (table 100) goes through it";
    refused("route add default via 10.1.0.1 table 100\nrule add from 10.1.0.5 table 100", "eth9", words);
    let words = "the node's IPv6 default route (table 100) goes through it";
    refused("route add default via 2001:db8::1 table 100\n-6 rule add from 2001:db8::5 table 100", "eth9", words);
}

#[test]
fn what_an_uplink_is_built_on_is_refused() {
    let lines = "link add mv0 link eth9 type macvlan\nlink set mv0 up\naddr add 10.3.0.5/24 dev mv0
         route add default via 10.3.0.1";
    refused(lines, "eth9", "the node's uplink mv0 is built on it");
}

#[test]
fn what_is_built_on_an_uplink_is_refused() {
    let lines = "route add default via 10.1.0.1\nlink add mv0 link eth9 type macvlan\nlink set mv0 up
         link add mv1 link mv0 type macvlan\nlink set mv1 up";
    refused(lines, "mv0", "it is built on the node's uplink eth9");
    refused(lines, "mv1", "it is built on the node's uplink eth9");
}

#[test]
fn a_bridge_and_its_ports_are_refused() {
    let lines = "link add br0 type bridge\nlink set eth9 master br0\nlink set br0 up";
    refused(lines, "eth9", "it is a port of bridge br0");
    refused(lines, "br0", "the kernel does not move links of kind bridge");
    let lines = "link add br0 type bridge\nlink set eth9 master br0\nlink set br0 up
         addr add 10.3.0.5/24 dev br0\nroute add default via 10.3.0.1";
    refused(lines, "eth9", "the node's uplink br0 is built on it");
}

/// Above all of these stands a link that the kernel deletes, cuts off or leaves behind when the device moves.
#[test]
fn a_device_with_anything_of_the_node_built_on_it_is_refused() {
    let vxlan =
        "link add flannel.1 type vxlan id 1 dev eth9 local 10.1.0.5 dstport 8472 nolearning\nlink set flannel.1 up";
    refused(vxlan, "eth9", "the node's vxlan flannel.1 is built on it");
    refused(
        "link add flannel.1 type vxlan id 1 dev eth9 dstport 8472",
        "eth9",
        "the node's vxlan flannel.1 is built on it",
    );
    refused("link add mv0 link eth9 type macvlan", "eth9", "the node's macvlan mv0 is built on it");
    let on_the_parent = "link add mv0 link eth9 type macvlan\nlink add mv1 link mv0 type macvlan";
    refused(on_the_parent, "eth9", "the node's macvlan");
}

#[test]
fn a_device_is_given_out_again_when_nothing_is_built_on_it_any_more() {
    on_host(|host| {
        host.ip("link add eth9 type veth peer name far\nlink set far up addrgenmode none\nlink set eth9 up");
        host.ip("link add vx0 type vxlan id 1 dev eth9 dstport 8472\nlink delete vx0");
        host.ip("link add vx1 type vxlan id 1 local 10.1.0.5 dstport 8473");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "eth9").succeeds();
        host.detach("c1", "eth9").succeeds();
        host.assert_same(&before);
    });
}

/// As a CNI plugin makes it: nothing of it is in the host's namespace.
#[test]
fn a_device_that_a_macvlan_of_another_pod_is_built_on_is_refused() {
    on_host(|host| {
        host.ip("link add eth9 type veth peer name far\nlink set far up addrgenmode none\nlink set eth9 up");
        let other = host.sandbox("other");
        host.ip(&format!("link add vethwire type veth peer name eth0 netns {}", other.pid()));
        host.ip(&format!("link add mv0 link eth9 netns {} type macvlan mode bridge", other.pid()));
        other.ip("link set mv0 up");
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "eth9").fails_with("a link in another network namespace is built on it");
        assert!(host.has_link("eth9"));
        other.ip("link delete mv0");
        host.attach(&sandbox, "c1", "eth9").succeeds();
        host.detach("c1", "eth9").succeeds();
    });
}

#[test]
fn a_device_that_a_filter_of_the_node_redirects_to_is_refused() {
    on_host(|host| {
        host.ip("link add eth9 type veth peer name far\nlink set far up addrgenmode none\nlink set eth9 up");
        host.ip("link add from0 type ifb\nlink set from0 up addrgenmode none");
        let redirect =
            "filter add dev from0 ingress protocol all u32 match u32 0 0 action mirred egress redirect dev eth9";
        tc("qdisc add dev from0 ingress");
        tc(redirect);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "eth9")
            .fails_with("a traffic control filter of the node redirects packets to it (mirred)");
        host.assert_same(&before);
        tc("qdisc del dev from0 ingress");
        crate::support::until("the action goes after its filter", || {
            let left = std::process::Command::new("tc").args(["actions", "ls", "action", "mirred"]).output().unwrap();
            !String::from_utf8_lossy(&left.stdout).contains("eth9")
        });
        let before = host.settled();
        host.attach(&sandbox, "c1", "eth9").succeeds();
        host.detach("c1", "eth9").succeeds();
        host.assert_same(&before);
    });
}

fn tc(arguments: &str) {
    let status = std::process::Command::new("tc").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "tc {arguments}");
}

#[test]
fn the_other_end_of_an_uplink_is_refused() {
    refused("route add default via 10.1.0.1", "far", "the node's uplink eth9 is built on it");
}

#[test]
fn a_default_route_that_no_rule_reaches_and_an_uplinks_sibling_are_no_hindrance() {
    on_host(|host| {
        host.ip("link add eth9 type veth peer name far
             link set far up addrgenmode none\nlink set eth9 up
             addr add 10.1.0.5/24 dev eth9
             route add default via 10.1.0.1 table 200
             link add up0 type ifb\nlink set up0 up\naddr add 10.2.0.5/24 dev up0
             route add default via 10.2.0.1");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "eth9").succeeds();
        assert!(sandbox.show("route show table 200").contains("default via 10.1.0.1"));
        host.detach("c1", "eth9").succeeds();
        host.assert_same(&before);
    });
}

/// The same with the addresses by which the agent says that the node is known.
fn refused_for_an_address(addresses: &str, lines: &str, device: &str, words: &str) {
    let lines = lines.to_owned();
    on_host(|host| {
        host.ip("link add eth9 type veth peer name far\nlink set far up addrgenmode none\nlink set eth9 up");
        host.ip("addr add 10.1.0.5/24 dev eth9\naddr add 2001:db8::5/64 dev eth9");
        host.ip(&lines);
        fs::create_dir_all(host.state_dir()).unwrap();
        host.write(host.state_dir().join("node-addresses"), addresses);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", device).fails_with(&format!("it is never handed out because {words}"));
        host.assert_same(&before);
    });
}

#[test]
fn the_link_that_the_node_is_known_by_is_refused_without_a_default_route() {
    let words = "it has the node's own address 10.1.0.5";
    refused_for_an_address("10.1.0.5\n", "", "eth9", words);
    refused_for_an_address("192.0.2.1\nnonsense\n10.1.0.5\n", "link set eth9 down", "eth9", words);
    refused_for_an_address("2001:db8::5\n", "", "eth9", "it has the node's own address 2001:db8::5");
}

#[test]
fn what_is_built_on_the_link_that_the_node_is_known_by_and_what_it_is_built_on_is_refused() {
    let lines = "link add mv0 link eth9 type macvlan\nlink set mv0 up\naddr add 10.3.0.5/24 dev mv0
         addr add 2001:db8:3::5/64 dev mv0 nodad";
    refused_for_an_address("10.3.0.5\n", lines, "eth9", "the node's uplink mv0 is built on it");
    refused_for_an_address("2001:db8:3::5\n", lines, "eth9", "the node's uplink mv0 is built on it");
    refused_for_an_address("10.1.0.5\n", lines, "mv0", "it is built on the node's uplink eth9");
}

#[test]
fn addresses_that_the_node_is_not_known_by_are_no_hindrance() {
    on_host(|host| {
        host.ip("link add eth9 type veth peer name far\nlink set far up addrgenmode none\nlink set eth9 up");
        host.ip("addr add 10.1.0.5/24 dev eth9");
        fs::create_dir_all(host.state_dir()).unwrap();
        host.write(host.state_dir().join("node-addresses"), "10.1.0.50\n10.1.0.6\n");
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "eth9").succeeds();
        host.detach("c1", "eth9").succeeds();
    });
}
