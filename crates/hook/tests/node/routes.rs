//! Routes through a device: which go along, which stay, and that all come back.

use crate::{
    home::{assert_has, there_and_back, wired},
    support::on_host,
};

#[test]
fn routes_of_every_table_go_along_in_an_order_that_works() {
    on_host(|host| {
        wired(
            host,
            "addr add 10.1.0.5/24 dev dev0
             addr add 10.1.0.6/24 dev dev0
             addr add 2001:db8::5/64 dev dev0
             addr add 2001:db8::6/64 nodad dev dev0
             route add 10.50.0.0/16 via 10.1.0.1
             route add 10.51.0.0/16 via 10.50.0.1 dev dev0 onlink proto static
             route add 10.40.0.1/32 dev dev0 scope link proto boot
             route add 10.41.0.0/16 via 10.40.0.1
             route add 10.60.0.0/16 via 10.1.0.1 table 100 metric 50 mtu 1300 advmss 1200 initcwnd 20
             route add 10.61.0.0/16 via 10.1.0.1 src 10.1.0.6 metric 3
             route add 10.61.0.0/16 via 10.1.0.2 metric 4
             route add 10.62.0.0/16 dev dev0 table 4000000000 tos 8
             route add 10.63.0.0/16 via inet6 2001:db8::1 dev dev0
             route add default via 10.1.0.1 table 200
             route add blackhole 10.70.0.0/16
             route add 2001:db8:9::/48 via 2001:db8::1 src 2001:db8::6
             route add 2001:db8:a::/48 via fe80::1 dev dev0 metric 5 mtu 1400 pref high
             route add 2001:db8:b::/48 via 2001:db8::1 table 100
             route add 2001:db8:c::/48 dev dev0 expires 3000
             route add default via fe80::1 dev dev0 table 200",
        );
        host.ip("rule add to 10.99.0.0/16 table 100");
        there_and_back(host, |sandbox| {
            let inside = sandbox.show("-d route show table all");
            assert_has(
                &inside,
                &[
                    "10.50.0.0/16 via 10.1.0.1 dev dev0",
                    "10.51.0.0/16 via 10.50.0.1 dev dev0 table main proto static scope global onlink",
                    "10.41.0.0/16 via 10.40.0.1 dev dev0",
                    "10.60.0.0/16 via 10.1.0.1 dev dev0 table 100 proto boot scope global metric 50 mtu 1300 advmss 1200 initcwnd 20",
                    "src 10.1.0.6 metric 3",
                    "10.61.0.0/16 via 10.1.0.2 dev dev0 table main proto boot scope global metric 4",
                    "10.62.0.0/16 tos 0x08 dev dev0 table 4000000000",
                    "10.63.0.0/16 via inet6 2001:db8::1 dev dev0",
                    "default via 10.1.0.1 dev dev0 table 200",
                ],
            );
            assert!(!inside.contains("blackhole"));
            assert_has(
                &sandbox.show("-6 -d route show table all"),
                &[
                    "2001:db8:9::/48 via 2001:db8::1 dev dev0",
                    "src 2001:db8::6",
                    "2001:db8:a::/48 via fe80::1 dev dev0 table main proto boot scope global metric 5 mtu 1400 pref high",
                    "2001:db8:b::/48 via 2001:db8::1 dev dev0 table 100",
                    "2001:db8:c::/48 dev dev0",
                    "default via fe80::1 dev dev0 table 200",
                ],
            );
        });
    });
}

#[test]
fn routes_of_other_links_from_an_address_of_the_device_are_there_again() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0\naddr add 10.1.0.6/24 dev dev0");
        host.ip("link add other type ifb
             link set other up
             addr add 10.2.0.5/24 dev other
             route add 10.90.0.0/16 via 10.2.0.1 src 10.1.0.5
             route add 10.91.0.0/16 dev other src 10.1.0.6 table 100 metric 5
             route add 10.92.0.0/16 dev other src 10.2.0.5
             route add 10.93.0.0/16 src 10.1.0.5 nexthop via 10.2.0.1 nexthop via 10.2.0.2");
        there_and_back(host, |sandbox| assert!(!sandbox.show("route show table all").contains("10.90.0.0")));
    });
}

#[test]
fn two_routes_to_one_place_both_go_along_and_come_back() {
    on_host(|host| {
        wired(
            host,
            "addr add 10.1.0.5/24 dev dev0
             route add 10.50.0.0/16 via 10.1.0.1
             route append 10.50.0.0/16 via 10.1.0.2",
        );
        there_and_back(host, |sandbox| {
            assert_has(&sandbox.show("route show"), &["10.50.0.0/16 via 10.1.0.1", "10.50.0.0/16 via 10.1.0.2"]);
        });
    });
}

#[test]
fn a_route_beside_another_links_to_the_same_place_comes_back() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        host.ip("link add other type ifb\nlink set other up\naddr add 10.2.0.5/24 dev other");
        host.ip("route add 10.50.0.0/16 via 10.2.0.1\nroute append 10.50.0.0/16 via 10.1.0.1");
        there_and_back(host, |_| {});
    });
}

#[test]
fn multipath_routes_through_the_device_alone_go_along() {
    on_host(|host| {
        wired(
            host,
            "addr add 10.1.0.5/24 dev dev0\naddr add 2001:db8::5/64 dev dev0
             route add 10.50.0.0/16 nexthop via 10.1.0.1 weight 3 nexthop via 10.1.0.2 weight 5
             route add 2001:db8:9::/48 nexthop via 2001:db8::1 weight 2 nexthop via 2001:db8::2",
        );
        there_and_back(host, |sandbox| {
            assert_has(&sandbox.show("route show"), &["nexthop via 10.1.0.1 dev dev0 weight 3", "weight 5"]);
            assert_has(&sandbox.show("-6 route show"), &["nexthop via 2001:db8::1 dev dev0 weight 2", "2001:db8::2"]);
        });
    });
}

#[test]
fn multipath_routes_through_two_devices_stay_and_are_whole_again() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0\naddr add 2001:db8::5/64 dev dev0");
        host.ip("link add other type ifb\nlink set other up\naddr add 10.2.0.5/24 dev other
             addr add 2001:db8:2::5/64 dev other
             route add 10.50.0.0/16 nexthop via 10.1.0.1 weight 3 nexthop via 10.2.0.1
             route add 2001:db8:9::/48 nexthop via 2001:db8::1 nexthop via 2001:db8:2::1 weight 4");
        there_and_back(host, |sandbox| {
            assert!(!sandbox.show("route show").contains("10.50"));
            assert!(!sandbox.show("-6 route show").contains("2001:db8:9::"));
        });
        assert_has(&host.journal(), &["route 10.50.0.0/16", "it has next hops on other links of the node"]);
    });
}

#[test]
fn the_pods_own_routes_win() {
    on_host(|host| {
        wired(
            host,
            "addr add 10.1.0.5/24 dev dev0
             addr add 2001:db8::5/64 dev dev0
             route add 10.50.0.0/16 via 10.1.0.1
             route add 10.51.0.0/16 via 10.1.0.1
             route add 2001:db8:9::/48 via 2001:db8::1",
        );
        let before = host.settled();
        let sandbox = host.sandbox("web");
        sandbox.ip("link add eth0 type ifb
             link set eth0 up
             addr add 10.244.0.9/24 dev eth0
             addr add fd00::9/64 dev eth0
             route add default via 10.244.0.1
             route add default via fd00::1
             route add 10.50.0.0/16 via 10.244.0.1 metric 9
             route add 2001:db8:9::/48 via fd00::1");
        let own = sandbox.settled();
        host.attach(&sandbox, "c1", "dev0").succeeds();
        let inside = sandbox.settled();
        let missing: Vec<_> = own.facts("route").filter(|fact| !inside.has(fact)).collect();
        assert_eq!(missing, Vec::<&str>::new(), "the pod's routes are as they were");
        assert_has(&sandbox.show("route show"), &["10.51.0.0/16 via 10.1.0.1 dev dev0"]);
        assert!(!sandbox.show("route show").contains("10.50.0.0/16 via 10.1.0.1"));
        let journal = host.journal();
        assert_has(
            &journal,
            &["route 10.50.0.0/16 via 10.1.0.1 table 254 is left out: the pod has a route of its own"],
        );
        assert_has(&journal, &["route 2001:db8:9::/48 via 2001:db8::1"]);
        host.detach("c1", "dev0").succeeds();
        host.assert_same(&before);
        sandbox.assert_same(&own);
    });
}

#[test]
fn thousands_of_routes_go_and_come_back() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        let lines: Vec<String> = (0..2000)
            .map(|route| format!("route add 10.100.{}.{}/32 via 10.1.0.1", route / 250, route % 250))
            .collect();
        host.ip(&lines.join("\n"));
        there_and_back(host, |sandbox| assert_eq!(sandbox.show("route show").matches("10.100.").count(), 2000));
    });
}

#[test]
fn a_device_with_more_routes_than_a_record_has_room_for_stays_on_the_host() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        let lines: Vec<String> = (0..80_000)
            .map(|route| {
                format!("route add 10.{}.{}.{}/32 via 10.1.0.1", 2 + route / 62500, route / 250 % 250, route % 250)
            })
            .collect();
        host.ip(&lines.join("\n"));
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").fails_with("the limit is 8388608");
        assert_eq!(host.show("route show").matches("via 10.1.0.1").count(), 80_000);
        assert_eq!(host.records(), Vec::<String>::new());
    });
}
