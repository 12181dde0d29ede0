//! Kinds of devices that are created in the sandbox and that few kernels have.

use serde_json::{Value, json};

use super::machine::{on_machine, wait_for_carrier};
use crate::support::{Host, inject::Order};

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
