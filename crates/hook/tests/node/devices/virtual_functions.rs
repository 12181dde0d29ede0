//! What only happens to devices that a driver makes: two that come back under one name, a driver that lets go, functions
//! that are switched off while they are away.

use std::fs;

use super::{
    machine::{
        Agent, IGB, Shape, VF0, VF1, interface_of, make_functions, name_of, on_machine, switch_functions, sysfs,
    },
    moves::{POOL, RESOURCE},
};
use crate::{
    home::assert_has,
    support::{Host, Sandbox, until},
};

const TWO: &str = "pools: [{resource: example.com/dev, select: {names: [^vf]}}]";

/// Two virtual functions, `vf0` and `vf1`, with an address each.
fn two(host: &Host) {
    make_functions(host, 2);
    for (at, address) in [VF0, VF1].into_iter().enumerate() {
        let name = interface_of(address);
        host.ip(&format!(
            "link set {name} down\nlink set {name} name vf{at}\nlink set vf{at} up\naddr add 10.{at}.0.5/24 dev vf{at}"
        ));
        super::machine::wait_for_carrier(&format!("vf{at}"));
    }
}

/// One virtual function, `dev0`, in a sandbox.
fn one_away(host: &Host) -> Sandbox {
    assert!(Shape::VirtualFunction.make(host));
    host.settled();
    let sandbox = host.sandbox("web");
    host.attach(&sandbox, "c1", "dev0").succeeds();
    sandbox
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn two_that_had_one_name_inside_get_their_own_ones_back() {
    on_machine(|host| {
        two(host);
        let before = host.settled();
        let agent = Agent::start(host, TWO, RESOURCE, 2);
        let sandboxes = ["one", "other"].map(|pod| host.sandbox(pod));
        for (sandbox, device) in sandboxes.iter().zip(["vf0", "vf1"]) {
            host.attach(sandbox, &format!("c-{device}"), device).succeeds();
            sandbox.ip(&format!("link set {device} down\nlink set {device} name same0 address 02:00:00:00:00:99"));
        }
        drop(sandboxes);
        until("the agent ends both records", || host.records().is_empty());
        let log = agent.log(host);
        drop(agent);
        let differences = before.differences_in_the_end();
        assert!(differences.is_empty(), "the host is not as it was:\n{differences}\n{log}");
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn one_whose_name_was_taken_meanwhile_comes_home_as_nd_and_its_index() {
    on_machine(|host| {
        assert!(Shape::VirtualFunction.make(host));
        let index = host.ifindex("dev0");
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        host.ip("link add dev0 type dummy");
        drop(sandbox);
        until("the kernel brings it back", || name_of(VF0).is_some());
        host.detach("c1", "dev0").succeeds();
        assert_eq!(name_of(VF0).unwrap(), format!("nd{index}"));
        let shown = host.show(&format!("-d addr show nd{index}"));
        assert_has(&shown, &["mtu 1400", "alias a-nic", "altname fast-nic", "10.1.0.5/24", "2001:db8::5/64", ",UP"]);
        assert_has(&host.journal(), &[&format!("its name is taken on the node: it is called nd{index} now")]);
        assert_eq!(host.records(), Vec::<String>::new());
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn one_whose_driver_let_go_is_awaited_and_comes_home_once_it_is_bound_again() {
    on_machine(|host| {
        let sandbox = one_away(host);
        host.write("/sys/bus/pci/drivers/igbvf/unbind", VF0);
        drop(sandbox);
        host.detach("c1", "dev0").succeeds();
        assert_has(
            &host.journal(),
            &["the device is not on the node yet: the agent and the next hook look for it again"],
        );
        assert_eq!(host.records(), ["dev0.json"], "it has a state that somebody wants back");
        host.write("/sys/bus/pci/drivers/igbvf/bind", VF0);
        interface_of(VF0);
        host.detach("c1", "dev0").succeeds();
        let shown = host.show("-d addr show dev0");
        assert_has(&shown, &["mtu 1400", "alias a-nic", "altname fast-nic", "10.1.0.5/24", "2001:db8::5/64", ",UP"]);
        assert_eq!(host.records(), Vec::<String>::new());
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn one_that_was_switched_off_while_away_is_lost_and_its_record_ends() {
    on_machine(|host| {
        let sandbox = one_away(host);
        switch_functions(host, 0);
        assert!(!sandbox.has_link("dev0"));
        host.detach("c1", "dev0").succeeds();
        assert_has(&host.journal(), &["\"outcome\":\"lost\""]);
        assert_eq!(host.records(), Vec::<String>::new());
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn the_agent_ends_the_record_of_one_that_was_switched_off_while_away() {
    on_machine(|host| {
        assert!(Shape::VirtualFunction.make(host));
        let mut agent = Agent::start(host, POOL, RESOURCE, 1);
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        switch_functions(host, 0);
        drop(sandbox);
        until("the record ends", || host.records().is_empty());
        agent.wait_for(host, RESOURCE, 0);
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn one_that_was_switched_off_and_on_while_away_can_be_attached_again() {
    on_machine(|host| {
        let sandbox = one_away(host);
        switch_functions(host, 0);
        drop(sandbox);
        make_functions(host, 1);
        let name = interface_of(VF0);
        host.ip(&format!("link set {name} down\nlink set {name} name dev0"));
        let next = host.sandbox("next");
        host.attach(&next, "c2", "dev0").succeeds();
        assert!(next.has_link("dev0"));
        host.detach("c2", "dev0").succeeds();
        assert!(host.has_link("dev0"));
        assert_eq!(host.records(), Vec::<String>::new());
    });
}

#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn functions_stay_and_are_offered_while_their_physical_function_is_away() {
    on_machine(|host| {
        two(host);
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "eth0").succeeds();
        let pools = format!("pools: [{{resource: example.com/vf, select: {{virtualFunctions: ['{IGB}#1']}}}}]");
        let listed = super::machine::netdevctl(host, &pools, &["ls"]);
        assert!(listed.contains("vf1") && !listed.contains("vf0"), "{listed}");
        host.detach("c1", "eth0").succeeds();
        assert_eq!(fs::read_to_string(sysfs(IGB, "sriov_numvfs")).unwrap().trim(), "2");
        assert!(host.has_link("vf0") && host.has_link("vf1"));
    });
}
