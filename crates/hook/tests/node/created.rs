//! Devices that are created in the sandbox, on an interface that stays on the host.

use std::fs;

use link::{Attached, Detached, Diagnosis, Ended, Repair, RouteSocket};
use netdevice::{Attachment, exclusion::UplinkParents};
use serde_json::{Value, json};
use store::Records;

use crate::support::{Host, Sandbox, finish, inject::Order, on_host};

const PARENT: &str = "link add dev0 type veth peer name wire
     link set wire up addrgenmode none
     link set dev0 up mtu 1400
     addr add 10.1.0.5/24 dev dev0";

fn macvlan(device: &str, asked: &Value) -> Value {
    json!([[device, asked, {"macvlan": {"mode": "bridge"}}]])
}

fn order(host: &Host, sandbox: &Sandbox, device: &str, asked: &Value) -> Order {
    Order::new(host, sandbox, &macvlan(device, asked))
}

fn link(sandbox: &Sandbox, name: &str) -> Value {
    let text = sandbox.show(&format!("-j -d address show dev {name}"));
    serde_json::from_str::<Value>(&text).unwrap()[0].clone()
}

#[test]
fn a_device_is_created_in_the_sandbox_as_asked_and_deleted_and_its_parent_stays_as_it_is() {
    on_host(|host| {
        host.ip(PARENT);
        let (before, sandbox) = (host.settled(), host.sandbox("web"));
        let empty = sandbox.settled();
        let asked = json!({"name": "net1", "addresses": ["10.7.0.2/24"], "mtu": 1300, "mac": "02:00:00:00:00:0b"});
        let order = order(host, &sandbox, "dev0:1", &asked);
        assert_eq!(order.arrives(), [Attached { was_there: false, skipped: Vec::new() }]);
        let made = link(&sandbox, "net1");
        assert_eq!(
            (&made["linkinfo"]["info_kind"], &made["linkinfo"]["info_data"]["mode"]),
            (&json!("macvlan"), &json!("bridge"))
        );
        assert_eq!((&made["mtu"], &made["address"]), (&json!(1300), &json!("02:00:00:00:00:0b")));
        assert_eq!(made["addr_info"][0]["local"], "10.7.0.2");
        assert!(made["ifindex"].as_u64().unwrap() > 1 << 30 && made["flags"].to_string().contains("UP"), "{made}");
        assert!(host.has_link("dev0"), "the parent stays");
        assert_eq!(host.records(), ["dev0:1.json"], "its namespace is not pinned: it dies with it");
        // asked for once more, it is there
        assert_eq!(order.arrives(), [Attached { was_there: true, skipped: Vec::new() }]);
        order.comes_home();
        host.assert_same(&before);
        sandbox.assert_same(&empty);
    });
}

#[test]
fn a_parent_with_children_is_not_moved_and_a_parent_that_is_moved_gets_none() {
    on_host(|host| {
        host.ip(PARENT);
        let (web, other) = (host.sandbox("web"), host.sandbox("other"));
        let child = order(host, &web, "dev0:1", &json!({"name": "net1"}));
        let parent = Order::new(host, &other, &json!([["dev0", {}]]));
        child.arrives();
        parent.fails_with("pod default/web (sandbox");
        parent.fails_with("has a device that was created on it: delete that pod or choose another device");
        host.attach(&other, "c1", "dev0").fails_with("has a device that was created on it");
        child.comes_home();
        parent.arrives();
        child.fails_with("it is held by pod default/other");
        parent.comes_home();
        child.arrives();
        child.comes_home();
    });
}

#[test]
fn children_of_one_parent_are_in_many_sandboxes_at_once_and_each_is_one_pods() {
    on_host(|host| {
        host.ip(PARENT);
        let before = host.settled();
        let sandboxes: Vec<Sandbox> = (0..4).map(|number| host.sandbox(&format!("pod{number}"))).collect();
        let orders: Vec<Order> = sandboxes
            .iter()
            .enumerate()
            .map(|(at, sandbox)| order(host, sandbox, &format!("dev0:{}", at + 1), &json!({"name": "net1"})))
            .collect();
        std::thread::scope(|scope| orders.iter().for_each(|order| _ = scope.spawn(|| order.run("attach"))));
        assert_eq!(host.records().len(), 4);
        for (at, sandbox) in sandboxes.iter().enumerate() {
            assert!(sandbox.has_link("net1"));
            let next = &sandboxes[(at + 1) % 4];
            order(host, next, &format!("dev0:{}", at + 1), &json!({})).fails_with("it is held by pod default/pod");
        }
        orders.iter().for_each(Order::comes_home);
        host.assert_same(&before);
    });
}

#[test]
fn what_cannot_be_created_is_refused_and_leaves_nothing() {
    on_host(|host| {
        host.ip(PARENT);
        host.ip("link add down0 type ifb\nlink property add dev dev0 altname other");
        let (before, sandbox) = (host.settled(), host.sandbox("web"));
        sandbox.ip("link add net1 type ifb");
        let empty = sandbox.settled();
        for (device, asked, words) in [
            ("gone0:1", json!({}), "the node has no such interface"),
            ("other:1", json!({}), "the node has no such interface"),
            ("lo:1", json!({"name": "net2"}), "no device is created on lo because it is the loopback interface"),
            ("down0:1", json!({}), "its parent down0 is down: set it up"),
            ("dev0:1", json!({"name": "net1"}), "the name net1 is taken in the pod's network namespace"),
            ("dev0:1", json!({"mtu": 9000}), "mtu 9000 is larger than that of its parent dev0, 1400"),
            ("dev0:1", json!({"routes": [{"to": "10.9.0.0/16", "via": "10.7.0.1"}]}), "cannot apply route 10.9.0.0/16"),
            (
                "dev0",
                json!({}),
                "an id with a number is of a device that is created, any other id of one that is moved",
            ),
        ] {
            order(host, &sandbox, device, &asked).fails_with(words);
            host.assert_same(&before);
            sandbox.assert_same(&empty);
        }
        let moved = Order::new(host, &sandbox, &json!([["dev0:1", {}]]));
        moved.fails_with("an id with a number is of a device that is created, any other id of one that is moved");
        host.assert_same(&before);
    });
}

#[test]
fn an_index_that_the_pod_has_given_away_is_replaced_by_another_one() {
    on_host(|host| {
        host.ip(PARENT);
        let (before, sandbox) = (host.settled(), host.sandbox("web"));
        sandbox.ip("link add squatter index 1073741825 type ifb");
        let order = order(host, &sandbox, "dev0:1", &json!({"name": "net1"}));
        order.arrives();
        assert!(link(&sandbox, "net1")["ifindex"].as_u64().unwrap() > 1_073_741_825);
        order.comes_home();
        host.assert_same(&before);
        assert!(sandbox.has_link("squatter"), "only what we made is deleted");
    });
}

#[test]
fn a_device_that_is_asked_for_in_another_way_is_deleted_and_created_anew() {
    on_host(|host| {
        host.ip(PARENT);
        let (before, sandbox) = (host.settled(), host.sandbox("web"));
        order(host, &sandbox, "dev0:1", &json!({"name": "net1"})).arrives();
        let private = json!([["dev0:1", {"name": "net2"}, {"macvlan": {"mode": "private"}}]]);
        let order = Order::new(host, &sandbox, &private);
        assert_eq!(order.arrives(), [Attached { was_there: false, skipped: Vec::new() }]);
        assert!(!sandbox.has_link("net1"));
        assert_eq!(link(&sandbox, "net2")["linkinfo"]["info_data"]["mode"], "private");
        order.comes_home();
        host.assert_same(&before);
    });
}

#[test]
fn a_device_that_ended_with_its_namespace_or_by_its_pods_hand_ends_its_record() {
    on_host(|host| {
        host.ip(PARENT);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let by_hand = order(host, &sandbox, "dev0:1", &json!({"name": "net1"}));
        by_hand.arrives();
        sandbox.ip("link delete net1");
        by_hand.comes_home();
        order(host, &sandbox, "dev0:2", &json!({"name": "net1"})).arrives();
        let record = fs::read(host.record_path("dev0:2")).unwrap();
        let record = Attachment::from_json(&"dev0:2".parse().unwrap(), &record).unwrap();
        drop(sandbox);
        let records = Records::new(host.state_dir());
        crate::support::until("the namespace has ended", || {
            let mut home = RouteSocket::open().unwrap();
            link::diagnose(&record, &mut home) == Diagnosis::SandboxEnded
        });
        assert_eq!(link::repair(&records, &record.device, None, |_, _| true).unwrap(), Repair::Done(Ended::Deleted));
        host.assert_same(&before);
    });
}

#[test]
fn a_second_detachment_does_nothing() {
    on_host(|host| {
        host.ip(PARENT);
        let sandbox = host.sandbox("web");
        let order = order(host, &sandbox, "dev0:1", &json!({"name": "net1"}));
        order.arrives();
        order.comes_home();
        let records = Records::new(host.state_dir());
        let device = "dev0:1".parse().unwrap();
        let again = link::detach_from_sandbox(&records, &device, sandbox.id(), None);
        assert_eq!(again.unwrap(), Detached::NotAttached);
    });
}

/// Between the choice and the creation the parent became a link that the node is connected by.
#[test]
fn no_device_is_created_on_a_link_that_became_the_nodes_uplink_unless_the_pool_allows_it() {
    let vlan = "link add dev0.7 link dev0 type macvlan\nlink set dev0.7 up\naddr add 10.2.0.5/24 dev dev0.7";
    for (lines, device, words) in [
        ("route add default via 10.1.0.1", "dev0:1", "the node's IPv4 default route (table 254) goes through it"),
        ("route add default nexthop via 10.1.0.1 nexthop via 10.1.0.2", "dev0:1", "the node's IPv4 default route"),
        ("nexthop add id 7 via 10.1.0.1 dev dev0\nroute add default nhid 7", "dev0:1", "the node's IPv4 default route"),
        (&*format!("{vlan}\nroute add default via 10.2.0.1"), "dev0:1", "the node's uplink dev0.7 is built on it"),
        (&*format!("{vlan}\nroute add default via 10.1.0.1"), "dev0.7:1", "it is built on the node's uplink dev0"),
    ] {
        on_host(|host| {
            host.ip(PARENT);
            host.ip(lines);
            let (before, sandbox) = (host.settled(), host.sandbox("web"));
            let mut order = order(host, &sandbox, device, &json!({"name": "net1"}));
            let parent = device.trim_end_matches(":1");
            order.fails_with(&format!("no device is created on {parent} because {words}"));
            order.fails_with("choose another device, or set allowUplinkParent in its pool");
            host.assert_same(&before);
            order.uplink_parents = UplinkParents::Allowed;
            order.arrives();
            order.comes_home();
            host.assert_same(&before);
        });
    }
}

#[test]
fn no_device_is_created_on_a_port_of_a_bridge_whatever_the_pool_allows() {
    on_host(|host| {
        host.ip(PARENT);
        let sandbox = host.sandbox("web");
        let mut order = order(host, &sandbox, "dev0:1", &json!({"name": "net1"}));
        order.uplink_parents = UplinkParents::Allowed;
        host.ip("link add br0 type bridge\nlink set dev0 master br0\nlink set br0 up\nroute add default via 10.1.0.1");
        order.fails_with("no device is created on dev0 because it is a port of bridge br0");
        host.ip("link set dev0 nomaster");
        order.arrives();
        order.comes_home();
    });
}

/// Addresses, routes, MTU, flags, groups and promiscuity are part of what is compared.
#[test]
fn the_uplinks_own_traffic_stays_while_devices_are_created_on_it_and_deleted() {
    on_host(|host| {
        host.ip(PARENT);
        host.ip("addr add 2001:db8::5/64 dev dev0\nroute add default via 10.1.0.1\nroute add default via 2001:db8::1");
        host.ip("route add 10.9.0.0/16 via 10.1.0.2 mtu 1300\nneigh add 10.1.0.1 lladdr 02:00:00:00:00:01 dev dev0");
        let before = host.settled();
        assert!(before.has("link dev0 promiscuity = 0"), "it is among the facts");
        let was: Value = serde_json::from_str(&host.show("-j addr show dev dev0")).unwrap();
        let sandboxes: Vec<Sandbox> = (0..3).map(|number| host.sandbox(&format!("pod{number}"))).collect();
        let kinds = [json!({"mode": "bridge"}), json!({"mode": "private"}), json!({"mode": "vepa"})];
        let order = |at: usize| {
            let asked = json!({"name": "net1", "addresses": ["10.7.0.2/24"], "mtu": 1300});
            let device = json!([[format!("dev0:{}", at + 1), asked, {"macvlan": kinds[at]}]]);
            let mut order = Order::new(host, &sandboxes[at], &device);
            order.uplink_parents = UplinkParents::Allowed;
            order
        };
        let orders: Vec<Order> = (0..3).map(order).collect();
        for order in &orders {
            order.arrives();
            // a parent without a filter of its own for unicast addresses receives all frames meanwhile
            let now = host.settled();
            for start in ["route ", "neighbour ", "rule "] {
                assert_eq!(now.facts(start).collect::<Vec<_>>(), before.facts(start).collect::<Vec<_>>());
            }
            let links: Value = serde_json::from_str(&host.show("-j addr show dev dev0")).unwrap();
            let own = &links[0];
            assert_eq!((&own["mtu"], &own["flags"]), (&was[0]["mtu"], &was[0]["flags"]));
            assert_eq!(own["addr_info"], was[0]["addr_info"]);
        }
        orders.iter().for_each(Order::comes_home);
        host.assert_same(&before);
    });
}

#[test]
fn a_device_of_a_pool_of_children_lives_as_long_as_its_container_under_its_own_name() {
    on_host(|host| {
        host.ip(PARENT);
        let (before, sandbox) = (host.settled(), host.sandbox("web"));
        let empty = sandbox.settled();
        let attach = |container: &str, device: &str| {
            let mut command = host.command("attach", &[device]);
            command.args(["-create", "macvlan/bridge"]);
            finish(command.spawn().unwrap(), &sandbox.state(container))
        };
        attach("c1", "dev0:1").succeeds();
        attach("c2", "dev0:12").succeeds();
        assert_eq!(link(&sandbox, "dev0-1")["linkinfo"]["info_kind"], "macvlan");
        assert!(link(&sandbox, "dev0-12")["flags"].to_string().contains("UP"));
        // the same container once more; one of another Pod; no kind, as when the pool was changed
        attach("c1", "dev0:1").succeeds();
        let other = host.sandbox("other");
        let mut command = host.command("attach", &["dev0:1"]);
        command.args(["-create", "macvlan/bridge"]);
        let refused = finish(command.spawn().unwrap(), &other.state("c3"));
        refused.fails_with("it is held by pod default/web");
        host.attach(&other, "c3", "dev0:7").fails_with("an id with a number is of a device that is created");
        attach("c3", "dev0").fails_with("an id with a number is of a device that is created");
        host.detach("c1", "dev0:1").succeeds();
        host.detach("c2", "dev0:12").succeeds();
        host.assert_same(&before);
        sandbox.assert_same(&empty);
    });
}
