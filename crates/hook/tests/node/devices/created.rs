//! Kinds of devices that are created in the sandbox and that few kernels have.

use link::{Detached, Ended};
use serde_json::{Value, json};
use store::Records;

use super::machine::{on_machine, wait_for_carrier};
use crate::support::{
    Host, Sandbox,
    driver::{GET_GRO, GET_TSO, is_on},
    inject::Order,
    trace::{Fault, run_with_fault},
};

/// Creates, looks inside, deletes, compares.
fn there_and_gone(host: &Host, asked: &Value, kind: &Value, words: &[&str]) {
    let (before, sandbox) = (host.settled(), host.sandbox("web"));
    let empty = sandbox.settled();
    let order = Order::new(host, &sandbox, &json!([["eth1:1", asked, kind]]));
    order.arrives();
    let shown = sandbox.show("-d address show dev net1");
    assert!(words.iter().all(|word| shown.contains(word)), "{words:?} are not all in {shown}");
    assert!(host.has_link("eth1"));
    // another container of the Pod finds it there
    assert!(order.arrives()[0].was_there);
    order.comes_home();
    host.assert_same(&before);
    sandbox.assert_same(&empty);
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn ipvlans_and_vlans_are_created_on_a_card_and_deleted() {
    on_machine(|host| {
        host.ip("link set eth1 up");
        wait_for_carrier("eth1");
        let asked = json!({"name": "net1", "addresses": ["10.7.0.2/24", "2001:db8:7::2/64"],
            "routes": [{"to": "10.9.0.0/16", "via": "10.7.0.1"}]});
        for mode in ["l2", "l3", "l3s"] {
            let words = ["ipvlan  mode ".to_owned() + mode, "inet 10.7.0.2/24".into(), "2001:db8:7::2/64".into()];
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            there_and_gone(host, &asked, &json!({"ipvlan": {"mode": mode}}), &words);
        }
        for mode in ["private", "vepa", "bridge"] {
            let words = format!("macvlan mode {mode}");
            there_and_gone(host, &asked, &json!({"macvlan": {"mode": mode}}), &[&words, "inet 10.7.0.2/24"]);
        }
        there_and_gone(host, &asked, &json!({"vlan": {"id": 7}}), &["vlan protocol 802.1Q id 7", "inet 10.7.0.2/24"]);
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn a_vlan_of_a_number_that_the_card_has_already_is_refused() {
    on_machine(|host| {
        host.ip("link set eth1 up");
        wait_for_carrier("eth1");
        let (web, other) = (host.sandbox("web"), host.sandbox("other"));
        let vlan = |sandbox, device: &str| {
            Order::new(host, sandbox, &json!([[device, {"name": "net1"}, {"vlan": {"id": 7}}]]))
        };
        let first = vlan(&web, "eth1:1");
        first.arrives();
        vlan(&other, "eth1:2").fails_with("VLAN 7 of eth1 exists already: choose another id");
        first.comes_home();
        let second = vlan(&other, "eth1:2");
        second.arrives();
        second.comes_home();
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn a_card_is_in_a_vrf_of_its_pod_which_ends_with_it() {
    on_machine(|host| {
        host.ip("link set eth1 up");
        wait_for_carrier("eth1");
        let (before, sandbox) = (host.settled(), host.sandbox("web"));
        let asked = json!({"name": "net1", "addresses": ["10.7.0.2/24", "2001:db8:7::2/64"], "vrf": "1000 blue",
            "routes": [{"to": "0.0.0.0/0", "via": "10.7.0.1"}]});
        let order = Order::new(host, &sandbox, &json!([["eth1", asked]]));
        order.arrives();
        assert!(order.arrives()[0].was_there);
        assert!(sandbox.show("-d link show dev net1").contains("master blue"));
        let routes = sandbox.show("route show vrf blue") + &sandbox.show("-6 route show vrf blue");
        for words in ["default via 10.7.0.1 dev net1", "10.7.0.0/24 dev net1", "2001:db8:7::/64 dev net1"] {
            assert!(routes.contains(words), "{words}: {routes}");
        }
        let other = Order::new(
            host,
            &sandbox,
            &json!([["eth1:1", {"name": "net2", "vrf": "7 blue"}, {"macvlan": {"mode": "bridge"}}]]),
        );
        other.fails_with("it is held by");
        order.comes_home();
        assert!(!sandbox.has_link("blue"));
        host.assert_same(&before);
        // one that the Pod made stays, and what it accepts is the Pod's business
        sandbox.ip("link add blue type vrf table 1000");
        order.arrives();
        assert_eq!(accepting(&sandbox), ["0", "0"]);
        order.comes_home();
        assert!(sandbox.has_link("blue"));
        Order::new(host, &sandbox, &json!([["eth1", {"vrf": "7 blue"}]]))
            .fails_with("a link of that name that is not a VRF with that table");
        host.assert_same(&before);
    });
}

/// Whether programs that are bound to no VRF accept connections through VRFs, of TCP and of UDP.
fn accepting(sandbox: &Sandbox) -> [String; 2] {
    ["tcp", "udp"].map(|protocol| sandbox.read(&format!("/proc/sys/net/ipv4/{protocol}_l3mdev_accept")))
}

/// A device in a VRF of the Pod.
fn in_vrf(host: &Host, sandbox: &Sandbox, number: u32, vrf: &str) -> Order {
    let asked = json!({"name": format!("net{number}"), "vrf": vrf});
    Order::new(host, sandbox, &json!([[format!("eth1:{number}"), asked, {"macvlan": {"mode": "bridge"}}]]))
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn connections_through_vrfs_are_accepted_from_the_first_vrf_to_the_last_and_as_before_afterwards() {
    on_machine(|host| {
        host.ip("link set eth1 up");
        wait_for_carrier("eth1");
        let sandbox = host.sandbox("web");
        let end = |device: &str| {
            let records = Records::new(host.state_dir());
            let ended = link::detach_from_sandbox(&records, &device.parse().unwrap(), sandbox.id(), None);
            assert_eq!(ended.unwrap(), Detached::Done(Ended::Deleted));
        };
        // as a Pod may have it from the start
        for before in [["0", "0"], ["0", "1"], ["1", "1"]] {
            for (protocol, value) in ["tcp", "udp"].into_iter().zip(before) {
                sandbox.write(&format!("/proc/sys/net/ipv4/{protocol}_l3mdev_accept"), value);
            }
            let (first, second) = (in_vrf(host, &sandbox, 1, "1000 blue"), in_vrf(host, &sandbox, 2, "1001 red"));
            let third = in_vrf(host, &sandbox, 3, "1001 red");
            first.arrives();
            assert_eq!(accepting(&sandbox), ["1", "1"]);
            // somebody's own idea of it lasts until the Pod's next container starts
            sandbox.write("/proc/sys/net/ipv4/tcp_l3mdev_accept", "0");
            assert!(first.arrives()[0].was_there);
            assert_eq!(accepting(&sandbox), ["1", "1"]);
            second.arrives();
            third.arrives();
            end("eth1:1");
            assert!(!sandbox.has_link("blue"));
            end("eth1:2");
            assert!(sandbox.has_link("red"), "it has another port");
            assert_eq!(accepting(&sandbox), ["1", "1"]);
            end("eth1:3");
            assert!(!sandbox.has_link("red"));
            assert_eq!(accepting(&sandbox), before);
        }
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn a_vrf_is_whole_or_gone_whenever_its_maker_is_killed() {
    on_machine(|host| {
        host.ip("link set eth1 up");
        wait_for_carrier("eth1");
        let sandbox = host.sandbox("web");
        let order = in_vrf(host, &sandbox, 1, "1000 blue");
        for verb in ["attach", "detach"] {
            for number in 0.. {
                if verb == "detach" {
                    order.arrives();
                }
                let traced = run_with_fault(Order::start(), &order.input(verb), number, Fault::KillAfter);
                let case = format!("{verb}, killed after step {number} ({:?})", traced.step);
                if number % 2 == 0 {
                    order.arrives();
                    assert!(sandbox.show("link show dev net1").contains("master blue"), "{case}");
                    assert_eq!(accepting(&sandbox), ["1", "1"], "{case}");
                }
                order.comes_home();
                assert!(!sandbox.has_link("net1") && !sandbox.has_link("blue"), "{case}");
                assert_eq!(accepting(&sandbox), ["0", "0"], "{case}");
                assert_eq!(host.records(), Vec::<String>::new(), "{case}");
                if traced.step.is_none() {
                    println!("{verb}: {number} steps");
                    break;
                }
            }
        }
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn features_of_a_card_are_switched_in_the_pod_and_come_back() {
    on_machine(|host| {
        host.ip("link set eth1 up");
        wait_for_carrier("eth1");
        let (before, sandbox) = (host.settled(), host.sandbox("web"));
        let asked = json!({"features": {"tso": "off", "rx-vlan-offload": "off", "gro": "off"}, "tx_queue_length": 99});
        let order = Order::new(host, &sandbox, &json!([["eth1", asked]]));
        order.arrives();
        assert!(!sandbox.run(|| is_on("eth1", GET_TSO)) && !sandbox.run(|| is_on("eth1", GET_GRO)));
        order.comes_home();
        host.assert_same(&before);
    });
}
