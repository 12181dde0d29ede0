//! A device goes and comes home with its addresses, neighbours, settings and whatever else is the link's own.

use std::time::Instant;

use crate::support::{Host, Sandbox, on_host};

/// A veth whose other end is up, and what is said of it.
pub(crate) fn wired(host: &Host, lines: &str) {
    host.ip("link add dev0 type veth peer name wire");
    wired_up(host);
    host.ip(lines);
}

fn wired_up(host: &Host) {
    // the other end shall not be changed by this one's going up and down
    host.ip("link set wire up addrgenmode none\nlink set dev0 up");
}

/// Attaches, looks inside, detaches, and compares.
pub(crate) fn there_and_back(host: &Host, inside: impl FnOnce(&Sandbox)) {
    let before = host.settled();
    let sandbox = host.sandbox("web");
    host.attach(&sandbox, "c1", "dev0").succeeds();
    assert!(!host.has_link("dev0") && sandbox.has_link("dev0"));
    inside(&sandbox);
    host.detach("c1", "dev0").succeeds();
    host.assert_same(&before);
}

#[track_caller]
pub(crate) fn assert_has(text: &str, all: &[&str]) {
    for words in all {
        assert!(text.contains(words), "{words:?} is missing in:\n{text}");
    }
}

#[test]
fn the_secret_of_stable_private_addresses_goes_along_and_comes_home() {
    on_host(|host| {
        wired(host, "addr add 2001:db8::5/64 dev dev0");
        let (file, secret) = ("/proc/sys/net/ipv6/conf/dev0/stable_secret", "2001:0db8:0000:0000:0000:0000:0000:0007");
        host.write(file, secret);
        host.ip("link set dev0 down\nlink set dev0 up\naddr add 2001:db8::5/64 dev dev0");
        let address = host.settled().facts("link dev0 addr_info").find_map(|fact| {
            let address = fact.split("\"local\":\"").nth(1)?.split('"').next()?;
            address.starts_with("fe80").then(|| address.to_owned())
        });
        let address = address.expect("the kernel made one of the secret");
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        assert_eq!(sandbox.read(file), secret);
        assert_eq!(sandbox.read("/proc/sys/net/ipv6/conf/dev0/addr_gen_mode"), "2");
        assert_has(&sandbox.show("addr show dev0"), &[&address]);
        host.detach("c1", "dev0").succeeds();
        assert_eq!(std::fs::read_to_string(file).unwrap().trim(), secret);
        assert!(host.settled().has(&address));
        assert!(!host.journal().contains("left out"), "{}", host.journal());
    });
}

#[test]
fn a_plain_device_goes_and_comes_home() {
    on_host(|host| {
        wired(host, "");
        there_and_back(host, |sandbox| assert_has(&sandbox.show("link show dev0"), &[",UP"]));
    });
}

#[test]
fn every_attribute_of_an_address_goes_along_and_comes_back() {
    on_host(|host| {
        wired(
            host,
            "addr add 10.1.0.5/24 brd 10.1.0.255 dev dev0 metric 77
             addr add 10.1.0.6/24 label dev0:two dev dev0
             addr add 10.9.9.9 peer 10.9.9.10/32 dev dev0
             addr add 10.2.0.1/16 scope link noprefixroute dev dev0
             addr add 10.3.0.1/24 dev dev0 valid_lft 3000 preferred_lft 2000
             addr add 2001:db8::5/64 dev dev0 metric 88
             addr add 2001:db8::6/64 dev dev0 noprefixroute home
             addr add 2001:db8:1::1 peer 2001:db8:1::2/64 dev dev0
             addr add 2001:db8:2::1/64 dev dev0 valid_lft 3000 preferred_lft 2000
             addr add 2001:db8:3::1/64 dev dev0 preferred_lft 0",
        );
        there_and_back(host, |sandbox| {
            assert_has(
                &sandbox.show("-d addr show dev0"),
                &[
                    "inet 10.1.0.5/24 metric 77 brd 10.1.0.255 scope global dev0",
                    "inet 10.1.0.6/24 scope global secondary dev0:two",
                    "inet 10.9.9.9 peer 10.9.9.10/32",
                    "inet 10.2.0.1/16 scope link noprefixroute",
                    "inet6 2001:db8::5/64 metric 88",
                    "inet6 2001:db8::6/64 scope global home noprefixroute",
                    "inet6 2001:db8:1::1 peer 2001:db8:1::2/64",
                    "inet6 2001:db8:3::1/64 scope global deprecated",
                ],
            );
        });
    });
}

#[test]
fn lifetimes_go_on_running_while_a_device_is_away() {
    on_host(|host| {
        wired(
            host,
            "addr add 10.1.0.5/24 dev dev0 valid_lft 3000 preferred_lft 2000
             addr add 10.1.1.5/24 dev dev0 valid_lft 2 preferred_lft 1",
        );
        let sandbox = host.sandbox("web");
        let start = Instant::now();
        host.attach(&sandbox, "c1", "dev0").succeeds();
        crate::support::until("the short one ends", || !sandbox.show("addr show dev0").contains("10.1.1.5"));
        host.detach("c1", "dev0").succeeds();
        let shown: serde_json::Value = serde_json::from_str(&host.show("-j -4 addr show dev0")).unwrap();
        let addresses = shown[0]["addr_info"].as_array().unwrap();
        assert_eq!(addresses.len(), 1, "{addresses:?}");
        let left = addresses[0]["valid_life_time"].as_u64().unwrap();
        let gone = 3000 - left;
        assert!((1..=start.elapsed().as_secs() + 1).contains(&gone), "{left} s are left");
    });
}

#[test]
fn no_address_is_tentative_at_the_containers_first_instruction_or_at_home() {
    on_host(|host| {
        host.write("/proc/sys/net/ipv6/conf/default/accept_dad", "1");
        wired(host, "addr add 2001:db8::5/64 dev dev0\naddr add 2001:db8::6/64 nodad dev dev0");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        sandbox.write("/proc/sys/net/ipv6/conf/default/accept_dad", "1");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        let shown = sandbox.show("addr show dev0");
        assert!(!shown.contains("tentative"), "{shown}");
        assert_has(&shown, &["2001:db8::5/64 scope global \n", "2001:db8::6/64 scope global nodad \n", "inet6 fe80:"]);
        host.detach("c1", "dev0").succeeds();
        let shown = host.show("addr show dev0");
        assert!(!shown.contains("tentative"), "{shown}");
        host.assert_same(&before);
    });
}

#[test]
fn permanent_neighbours_go_along_and_come_back() {
    on_host(|host| {
        wired(
            host,
            "addr add 10.1.0.5/24 dev dev0\naddr add 2001:db8::5/64 dev dev0
             neigh add 10.1.0.77 lladdr 02:00:00:00:00:77 dev dev0 nud permanent
             neigh add 10.1.0.78 lladdr 02:00:00:00:00:78 dev dev0 nud reachable
             neigh add 2001:db8::77 lladdr 02:00:00:00:00:77 dev dev0 nud permanent router",
        );
        there_and_back(host, |sandbox| {
            let shown = sandbox.show("neigh show nud permanent");
            assert_has(&shown, &["10.1.0.77 dev dev0", "2001:db8::77 dev dev0", "router"]);
            assert!(!shown.contains("10.1.0.78"));
        });
    });
}

#[test]
fn neighbours_of_a_device_that_is_down_come_back() {
    on_host(|host| {
        host.ip("link add dev0 type ifb\nneigh add 10.1.0.77 lladdr 02:00:00:00:00:77 dev dev0 nud permanent");
        there_and_back(host, |_| {});
    });
}

#[test]
fn settings_that_somebody_made_go_along_and_all_come_back() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        let made = [
            ("ipv4/conf/dev0/rp_filter", "2"),
            ("ipv4/conf/dev0/arp_ignore", "1"),
            ("ipv4/conf/dev0/forwarding", "1"),
            ("ipv4/neigh/dev0/gc_stale_time", "33"),
            ("ipv6/conf/dev0/accept_ra", "0"),
            ("ipv6/conf/dev0/router_solicitation_interval", "7"),
            ("ipv6/conf/dev0/mldv1_unsolicited_report_interval", "4324"),
            ("ipv6/conf/dev0/hop_limit", "33"),
            ("ipv6/neigh/dev0/mcast_solicit", "5"),
        ];
        for (file, value) in made {
            host.write(format!("/proc/sys/net/{file}"), value);
        }
        there_and_back(host, |sandbox| {
            for (file, value) in made {
                assert_eq!(sandbox.read(&format!("/proc/sys/net/{file}")), value, "{file}");
            }
            // the container may do what it likes
            sandbox.write("/proc/sys/net/ipv4/conf/dev0/rp_filter", "1");
            sandbox.write("/proc/sys/net/ipv6/conf/dev0/hop_limit", "9");
            sandbox.write("/proc/sys/net/ipv6/conf/dev0/disable_ipv6", "1");
            sandbox.write("/proc/sys/net/ipv4/neigh/dev0/gc_stale_time", "99");
        });
    });
}

#[test]
fn a_device_without_ipv6_stays_so_everywhere() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        host.write("/proc/sys/net/ipv6/conf/dev0/disable_ipv6", "1");
        there_and_back(host, |sandbox| assert!(!sandbox.show("addr show dev0").contains("inet6")));
    });
}

#[test]
fn a_small_mtu_without_ipv6_goes_and_comes() {
    on_host(|host| {
        wired(host, "link set dev0 mtu 1000\naddr add 10.1.0.5/24 dev dev0");
        there_and_back(host, |sandbox| assert_has(&sandbox.show("link show dev0"), &["mtu 1000"]));
    });
}

#[test]
fn ipv6_addresses_come_along_where_the_sandbox_has_ipv6_switched_off() {
    on_host(|host| {
        wired(host, "addr add 2001:db8::5/64 dev dev0\nroute add 2001:db8:9::/48 via 2001:db8::1");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        sandbox.write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        assert_has(&sandbox.show("-6 addr show dev0"), &["2001:db8::5/64"]);
        assert_has(&sandbox.show("-6 route show"), &["2001:db8:9::/48 via 2001:db8::1"]);
        host.detach("c1", "dev0").succeeds();
        host.assert_same(&before);
    });
}

#[test]
fn what_is_the_links_own_comes_back() {
    on_host(|host| {
        wired(
            host,
            "link set dev0 down
             link set dev0 up mtu 1400 txqueuelen 77 group 9 alias a-nic address 02:00:00:00:12:34
             link property add dev dev0 altname fast-nic altname a-much-longer-alternative-name
             link set dev0 promisc on allmulticast on",
        );
        there_and_back(host, |sandbox| {
            let shown = sandbox.show("-d link show dev0");
            assert_has(&shown, &["mtu 1400", "qlen 77", "alias a-nic", "02:00:00:00:12:34", "altname fast-nic"]);
        });
    });
}

#[test]
fn a_link_local_address_of_an_older_hardware_address_stays_usable() {
    on_host(|host| {
        host.ip("link add dev0 address 02:00:00:00:00:01 type veth peer name wire");
        wired_up(host);
        host.settled();
        host.ip("link set dev0 address 02:00:00:00:00:02");
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        assert_has(&sandbox.show("addr show dev0"), &["inet6 fe80::ff:fe00:1/64 scope link \n"]);
        host.detach("c1", "dev0").succeeds();
        assert_has(&host.show("addr show dev0"), &["inet6 fe80::ff:fe00:1/64 scope link \n"]);
    });
}

#[test]
fn a_device_without_arp_comes_back_so() {
    on_host(|host| {
        wired(host, "link set dev0 arp off multicast off\naddr add 10.1.0.5/24 dev dev0");
        there_and_back(host, |sandbox| assert_has(&sandbox.show("link show dev0"), &["NOARP"]));
    });
}

#[test]
fn a_device_that_was_down_is_up_inside_and_down_at_home() {
    on_host(|host| {
        host.ip("link add dev0 type ifb\naddr add 10.1.0.5/24 dev dev0");
        there_and_back(host, |sandbox| {
            assert_has(&sandbox.show("addr show dev0"), &[",UP", "10.1.0.5/24"]);
        });
    });
}

#[test]
fn a_macvlan_and_an_ifb_go_and_come_home() {
    on_host(|host| {
        host.ip("link add wire type veth peer name far\nlink set wire up\nlink set far up");
        for kind in ["dev0 link wire type macvlan mode bridge", "dev0 type ifb"] {
            host.ip(&format!(
                "link add {kind}\nlink set dev0 up\naddr add 10.1.0.5/24 dev dev0\naddr add 2001:db8::5/64 dev dev0
                 route add 10.50.0.0/16 via 10.1.0.1"
            ));
            there_and_back(host, |sandbox| {
                assert_has(&sandbox.show("route show"), &["10.50.0.0/16 via 10.1.0.1 dev dev0"]);
            });
            host.ip("link delete dev0");
        }
    });
}

/// Lists that are not received to their end: the device's settings are in the first of several datagrams, or not come to.
#[test]
fn neighbour_settings_are_found_among_those_of_hundreds_of_links() {
    for is_the_youngest in [true, false] {
        on_host(|host| {
            let others: String = (0..300).map(|n| format!("link add a{n} type veth peer name b{n}\n")).collect();
            let file = "/proc/sys/net/ipv4/neigh/dev0/gc_stale_time";
            host.ip(if is_the_youngest { &others } else { "" });
            wired(host, "addr add 10.1.0.5/24 dev dev0");
            host.ip(if is_the_youngest { "" } else { &others });
            host.write(file, "77");
            there_and_back(host, |sandbox| assert_eq!(sandbox.read(file), "77"));
            assert_eq!(std::fs::read_to_string(file).unwrap().trim(), "77");
        });
    }
}
