//! What a container with NET_ADMIN does to the device inside, and what others do on the host meanwhile: nothing of it
//! shows when the device is home.

use crate::{
    home::{assert_has, wired},
    support::{Host, Sandbox, on_host},
};

/// All kinds of state.
const RICH: &str = "link set dev0 mtu 1400 txqueuelen 77 group 9 alias a-nic
     link property add dev dev0 altname fast-nic
     addr add 10.1.0.5/24 dev dev0
     addr add 2001:db8::5/64 dev dev0
     route add 10.50.0.0/16 via 10.1.0.1
     route add 2001:db8:9::/48 via 2001:db8::1
     neigh add 10.1.0.77 lladdr 02:00:00:00:00:77 dev dev0 nud permanent";

/// Attaches, lets the container do something, detaches, and compares.
fn survives(lines: &str, deed: impl FnOnce(&Host, &Sandbox) + Send) {
    on_host(|host| {
        wired(host, RICH);
        host.ip("link add other type ifb\nlink set other up");
        host.ip(lines);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        deed(host, &sandbox);
        host.detach("c1", "dev0").succeeds();
        host.assert_same(&before);
    });
}

#[test]
fn every_attribute_that_a_container_changed_is_put_right() {
    survives("", |_, sandbox| {
        sandbox.ip("link set dev0 down
             link set dev0 name evil address 02:00:00:00:00:99 mtu 900 alias evil txqueuelen 3 group 5 arp off
             link set evil promisc on allmulticast on multicast off
             link property add dev evil altname foreign
             link property del dev evil altname fast-nic
             link set evil up
             addr add 10.66.0.1/24 dev evil
             route add 10.67.0.0/16 via 10.66.0.2
             neigh add 10.66.0.3 lladdr 02:00:00:00:00:03 dev evil nud permanent");
    });
}

#[test]
fn segment_sizes_that_a_container_changed_are_put_right() {
    survives("link set dev0 gso_max_size 30000 gro_max_size 20000", |_, sandbox| {
        sandbox.ip("link set dev0 gso_max_size 40000 gso_max_segs 9 gro_max_size 50000");
    });
}

#[test]
fn the_mode_of_a_macvlan_that_a_container_changed_is_put_right() {
    on_host(|host| {
        host.ip("link add below type ifb\nlink set below up addrgenmode none
             link add dev0 link below type macvlan mode vepa\nlink set dev0 up");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        sandbox.ip("link set dev0 type macvlan mode bridge");
        host.detach("c1", "dev0").succeeds();
        host.assert_same(&before);
    });
}

#[test]
fn a_device_that_a_container_enslaved_comes_home_free() {
    survives("", |_, sandbox| sandbox.ip("link add br0 type bridge\nlink set dev0 master br0\nlink set br0 up"));
}

/// Else what is left of the Pod would hear what the host, or the next Pod, sends and receives.
#[test]
fn links_that_a_container_stacked_on_the_device_do_not_outlive_its_homecoming() {
    survives("", |host, sandbox| {
        sandbox.ip("link add ear link dev0 type macvlan mode bridge
             link set ear up
             link add own type ifb
             link add safe link own type macvlan");
        host.detach("c1", "dev0").succeeds();
        let left = sandbox.show("-o link");
        assert!(!left.contains("ear") && left.contains("safe"), "{left}");
    });
}

#[test]
fn a_device_that_is_stacked_on_another_device_is_no_containers_work() {
    on_host(|host| {
        wired(host, "");
        host.ip("link add dev1 link dev0 type macvlan mode bridge\nlink set dev1 up\naddr add 10.8.0.5/24 dev dev1");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        // in the other order it is refused
        host.attach(&sandbox, "c1", "dev0").fails_with("the node's macvlan dev1 is built on it");
        host.attach(&sandbox, "c1", "dev1").succeeds();
        // one that is down shows nowhere on the host
        sandbox.ip("link set dev1 down");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        host.detach("c1", "dev0").succeeds();
        assert!(sandbox.has_link("dev1"));
        host.detach("c1", "dev1").succeeds();
        host.assert_same(&before);
    });
}

#[test]
fn a_link_that_a_container_made_under_the_old_name_stays_inside() {
    survives("", |_, sandbox| {
        sandbox
            .ip("link set dev0 down\nlink set dev0 name moved\nlink add dev0 type veth peer name p\nlink set dev0 up");
    });
}

#[test]
fn names_of_the_hosts_links_inside_lead_to_no_mistake() {
    survives("link add third type ifb\nlink set third up alias third", |_, sandbox| {
        sandbox.ip("link set dev0 down\nlink set dev0 name other\nlink add third type ifb\nlink add wire type ifb");
    });
}

#[test]
fn an_alternative_name_that_collides_with_a_link_of_the_host_is_no_hindrance() {
    survives("link property add dev other altname second", |_, sandbox| {
        sandbox.ip("link property add dev dev0 altname other\nlink property add dev dev0 altname second");
    });
}

#[test]
fn an_alternative_name_and_a_name_of_the_hosts_links_are_no_hindrance_together() {
    survives("", |_, sandbox| {
        sandbox.ip("link set dev0 down\nlink set dev0 name wire\nlink property add dev wire altname other");
    });
}

#[test]
fn a_name_that_is_free_on_the_host_is_not_kept() {
    survives("", |_, sandbox| sandbox.ip("link set dev0 down\nlink set dev0 name nd7"));
}

#[test]
fn a_vlan_like_link_on_top_inside_does_not_matter() {
    survives("", |_, sandbox| sandbox.ip("link add top link dev0 type macvlan\nlink set top up"));
}

#[test]
fn a_device_that_a_container_deleted_is_lost_and_its_record_ends() {
    on_host(|host| {
        wired(host, RICH);
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        sandbox.ip("link delete dev0");
        host.detach("c1", "dev0").succeeds();
        assert_has(&host.journal(), &["\"outcome\":\"lost\""]);
        assert_eq!(host.records(), Vec::<String>::new());
    });
}

#[test]
fn a_virtual_device_in_a_nested_namespace_is_said_to_be_lost() {
    on_host(|host| {
        wired(host, RICH);
        let sandbox = host.sandbox("web");
        let nested = host.sandbox("nested");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        sandbox.ip(&format!("link set dev0 netns {}", nested.pid()));
        host.detach("c1", "dev0").succeeds();
        assert_has(&host.journal(), &["\"outcome\":\"lost\""]);
    });
}

/// A device whose name was taken meanwhile comes home as `nd<ifindex>`, complete; the other link is as it was.
fn comes_home_renamed(deed: impl FnOnce(&Sandbox) + Send) {
    on_host(|host| {
        wired(host, RICH);
        let sandbox = host.sandbox("web");
        let before = host.settled();
        let index = host.ifindex("dev0");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        host.ip("link add dev0 type ifb\nlink set dev0 up alias newcomer\naddr add 10.9.0.1/24 dev dev0");
        deed(&sandbox);
        let newcomer: Vec<String> = host.settled().facts("link dev0 ").map(str::to_owned).collect();
        host.detach("c1", "dev0").succeeds();
        let name = format!("nd{index}");
        assert_has(&host.journal(), &[&format!("its name is taken on the node: it is called {name} now")]);
        assert_has(
            &host.show(&format!("-d addr show {name}")),
            &["mtu 1400", "10.1.0.5/24", "2001:db8::5/64", "alias a-nic", "altname fast-nic", ",UP"],
        );
        assert_has(&host.show("route show"), &[&format!("10.50.0.0/16 via 10.1.0.1 dev {name}")]);
        assert_eq!(host.settled().facts("link dev0 ").collect::<Vec<_>>(), newcomer);
        host.ip(&format!("link delete dev0\nlink set {name} down\nlink set {name} name dev0\nlink set dev0 up"));
        host.ip("route add 10.50.0.0/16 via 10.1.0.1\naddr add 2001:db8::5/64 dev dev0");
        host.ip("route add 2001:db8:9::/48 via 2001:db8::1 dev dev0");
        host.ip("neigh add 10.1.0.77 lladdr 02:00:00:00:00:77 dev dev0 nud permanent");
        assert_eq!(before.facts("link dev0").count(), host.settled().facts("link dev0").count());
        assert_eq!(host.records(), Vec::<String>::new());
    });
}

#[test]
fn a_device_whose_name_was_taken_comes_home_under_another_one() {
    comes_home_renamed(|_| {});
}

#[test]
fn a_renamed_device_whose_name_was_taken_comes_home_under_another_one() {
    comes_home_renamed(|sandbox| sandbox.ip("link set dev0 down\nlink set dev0 name evil"));
}

#[test]
fn a_device_whose_index_was_taken_comes_home_under_another_one() {
    on_host(|host| {
        wired(host, RICH);
        let before = host.settled();
        let index = host.ifindex("dev0");
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        host.ip(&format!("link add squatter index {index} type veth peer name far"));
        host.detach("c1", "dev0").succeeds();
        assert_ne!(host.ifindex("dev0"), index);
        host.ip("link delete squatter");
        let now = host.settled();
        let differences = before.differences(&now);
        let other = differences.lines().filter(|line| !line.contains("link_index") && !line.contains("ifindex"));
        assert_eq!(other.collect::<Vec<_>>(), Vec::<&str>::new());
    });
}
