//! What is said of hardware: to the kubelet, which places Pods by it, and to people.

use serde_json::{Value, json};

use super::machine::{Agent, IGB, VF0, VF1, interface_of, make_functions, netdevctl, on_machine, switch_functions};
use crate::{home::assert_has, support::Host};

/// Names of the devices that a selector takes.
fn selected(host: &Host, selector: &str) -> Vec<String> {
    let pools = format!("pools: [{{resource: example.com/dev, health: present, select: {{{selector}}}}}]");
    let rows: Value = serde_json::from_str(&netdevctl(host, &pools, &["ls", "-o", "json"])).unwrap();
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| row["device"].as_str().unwrap().to_owned()).collect()
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn ls_shows_driver_address_and_numa_node() {
    on_machine(|host| {
        make_functions(host, 1);
        let vf = interface_of(VF0);
        let pools = "pools: [{resource: example.com/dev, health: present, select: {kinds: [physical]}}]";
        let rows: Value = serde_json::from_str(&netdevctl(host, pools, &["ls", "-o", "json"])).unwrap();
        let shown = |name: &str| {
            let row = rows.as_array().unwrap().iter().find(|row| row["device"] == name).unwrap().clone();
            json!([row["driver"], row["pciAddress"], row["numaNode"], row["kind"]])
        };
        assert_eq!(shown("eth0"), json!(["igb", IGB, 1, "physical"]));
        assert_eq!(shown("eth1"), json!(["e1000e", "0000:01:00.0", null, "physical"]));
        assert_eq!(shown(&vf), json!(["igbvf", VF0, 1, "physical"]));
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn selectors_of_hardware_take_what_they_say() {
    on_machine(|host| {
        make_functions(host, 2);
        let (first, second) = (interface_of(VF0), interface_of(VF1));
        let both = [first, second];
        assert_eq!(selected(host, "drivers: [igbvf]"), both);
        assert_eq!(selected(host, "drivers: [e1000e]"), ["eth1", "eth2"]);
        assert_eq!(selected(host, "pciIds: ['8086:10ca']"), both);
        assert_eq!(selected(host, "pciIds: ['8086:10c9']"), ["eth0"]);
        assert_eq!(selected(host, "pciIds: ['8086:*'], kinds: [physical]").len(), 5);
        assert_eq!(selected(host, "pciAddresses: ['0000:02:00.0']"), ["eth2"]);
        assert_eq!(selected(host, "virtualFunctions: [eth0]"), both);
        assert_eq!(selected(host, "virtualFunctions: ['eth0#1']"), both[1..]);
        assert_eq!(selected(host, &format!("virtualFunctions: ['{IGB}#0']")), both[..1]);
        assert_eq!(selected(host, "numaNodes: [1]").len(), 3);
        assert!(selected(host, "numaNodes: [0]").is_empty());
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn explain_tells_each_condition_on_hardware() {
    on_machine(|host| {
        make_functions(host, 1);
        let pools = "pools: [{resource: example.com/dev, health: present, select: {virtualFunctions: ['eth0#0'],
             numaNodes: [1], pciIds: ['8086:10ca']}}]";
        let vf = interface_of(VF0);
        let explained = netdevctl(host, pools, &["explain", &vf]);
        assert_has(
            &explained,
            &[
                &format!("{vf}: offered as example.com/dev"),
                &format!("physical, driver igbvf, PCI {VF0}"),
                "PCI id: 8086:10ca matches",
                &format!("virtual function: {IGB}#0 matches"),
                "NUMA node: 1 matches",
            ],
        );
        let explained = netdevctl(host, pools, &["explain", "eth1"]);
        assert_has(
            &explained,
            &["not offered", "no virtual function does not match", "NUMA node: none does not match"],
        );
    });
}

const FUNCTIONS: &str = "pools: [{resource: example.com/vf, health: present, select: {virtualFunctions: [eth0]}},
     {resource: example.com/card, health: present, select: {drivers: [e1000e]}}]";

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn the_kubelet_hears_of_numa_nodes_also_of_devices_that_are_away() {
    on_machine(|host| {
        make_functions(host, 2);
        let mut agent = Agent::start(host, FUNCTIONS, "example.com/vf", 2);
        agent.wait_for(host, "example.com/card", 2);
        let nodes = |devices: &Value| {
            let nodes = devices.as_array().unwrap().iter().map(|device| device["numaNodes"].clone());
            nodes.collect::<Vec<_>>()
        };
        assert_eq!(nodes(&agent.devices("example.com/vf")), [json!([1]), json!([1])]);
        assert_eq!(nodes(&agent.devices("example.com/card")), [json!([]), json!([])]);
        let sandbox = host.sandbox("web");
        let vf = interface_of(VF0);
        host.attach(&sandbox, "c1", &vf).succeeds();
        // the tests' hook names devices as those of the resource without a configuration
        agent.wait_for(host, "networking.k8s.io/netdevice", 1);
        assert_eq!(nodes(&agent.devices("networking.k8s.io/netdevice")), [json!([1])]);
        assert_eq!(nodes(&agent.devices("example.com/vf")), [json!([1])]);
        host.detach("c1", &vf).succeeds();
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn functions_that_are_switched_on_and_off_come_and_go_at_the_kubelet() {
    on_machine(|host| {
        let mut agent = Agent::start(host, FUNCTIONS, "example.com/card", 2);
        for count in [3, 0, 7, 0] {
            switch_functions(host, count);
            agent.wait_for(host, "example.com/vf", count as usize);
        }
    });
}
