//! Each shape of device goes into a Pod and comes home: by its hook, whatever the container did to it, and when the
//! namespace dies and no hook runs.

use super::machine::{Agent, SETTINGS, Shape, on_machine};
use crate::{
    home::assert_has,
    support::{Host, Sandbox, picture::Picture, until},
};

/// What a container with NET_ADMIN does to it.
const MISCHIEF: &str = "link set dev0 down
     link set dev0 name evil0 address 02:00:00:00:00:99 mtu 1300 alias evil txqueuelen 3
     link property add dev evil0 altname foreign
     link property del dev evil0 altname fast-nic
     link set evil0 up
     addr add 10.66.0.1/24 dev evil0
     route add 10.67.0.0/16 via 10.66.0.2";

pub(super) const POOL: &str = "pools: [{resource: example.com/dev, select: {names: [^dev0$]}}]";
pub(super) const RESOURCE: &str = "example.com/dev";

/// A device of the shape in a sandbox, where it is complete; and the host before.
fn attached(host: &Host, shape: Shape) -> Option<(Picture, Sandbox)> {
    if !shape.make(host) {
        return None;
    }
    let before = host.settled();
    let sandbox = host.sandbox("web");
    host.attach(&sandbox, "c1", "dev0").succeeds();
    assert!(!host.has_link("dev0"));
    let shown = sandbox.show("-d addr show dev0");
    let parts = ["mtu 1400", "alias a-nic", "altname fast-nic", "10.1.0.5/24", "2001:db8::5/64", ",UP"];
    assert_has(&shown, &parts);
    assert!(!shown.contains("tentative"), "{shown}");
    assert_has(&sandbox.show("route show"), &["10.50.0.0/16 via 10.1.0.1"]);
    assert_has(&sandbox.show("-6 route show"), &["2001:db8:9::/48 via 2001:db8::1"]);
    assert_has(&sandbox.show("neigh show nud permanent"), &["10.1.0.77"]);
    for (file, value) in SETTINGS {
        assert_eq!(sandbox.read(&format!("/proc/sys/net/{file}")), value, "{file}");
    }
    Some((before, sandbox))
}

fn by_its_hook(shape: Shape, deed: &str) {
    on_machine(|host| {
        let Some((before, sandbox)) = attached(host, shape) else { return };
        sandbox.ip(deed);
        host.detach("c1", "dev0").succeeds();
        host.assert_same(&before);
    });
}

/// The sandbox dies, the kernel brings the device back under a foreign name, and then the hook runs after all.
fn by_a_late_hook(shape: Shape) {
    on_machine(|host| {
        let Some((before, sandbox)) = attached(host, shape) else { return };
        sandbox.ip(MISCHIEF);
        drop(sandbox);
        until("the kernel brings it back", || host.has_link("evil0"));
        host.detach("c1", "dev0").succeeds();
        host.assert_same(&before);
    });
}

/// The next Pod's hook finds it, wherever the kernel put it, and its own detach leaves the host as it was.
fn by_the_next_pods_hook(shape: Shape) {
    on_machine(|host| {
        let Some((before, sandbox)) = attached(host, shape) else { return };
        sandbox.ip(MISCHIEF);
        drop(sandbox);
        until("the kernel brings it back", || host.has_link("evil0"));
        let next = host.sandbox("next");
        host.attach(&next, "c2", "dev0").succeeds();
        let shown = next.show("-d addr show dev0");
        assert_has(&shown, &["mtu 1400", "alias a-nic", "altname fast-nic", "10.1.0.5/24"]);
        assert!(!shown.contains("02:00:00:00:00:99") && !shown.contains("foreign"), "{shown}");
        host.detach("c2", "dev0").succeeds();
        host.assert_same(&before);
    });
}

/// No hook ever runs: the agent brings it home, under its old name and complete.
fn by_the_agent(shape: Shape) {
    on_machine(|host| {
        if !shape.make(host) {
            return;
        }
        let before = host.settled();
        let agent = Agent::start(host, POOL, RESOURCE, 1);
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        sandbox.ip(MISCHIEF);
        drop(sandbox);
        until("the agent ends the record", || host.records().iter().all(|name| !name.starts_with("dev0")));
        let log = agent.log(host);
        drop(agent);
        let differences = before.differences_in_the_end();
        assert!(differences.is_empty(), "the host is not as it was:\n{differences}\n{log}");
    });
}

/// The sandbox was killed and no agent runs: its namespace is pinned, and so the hook finds the virtual link there.
fn by_a_late_hook_from_its_pin(shape: Shape) {
    on_machine(|host| {
        let Some((before, sandbox)) = attached(host, shape) else { return };
        sandbox.ip(MISCHIEF);
        drop(sandbox);
        host.detach("c1", "dev0").succeeds();
        host.assert_same(&before);
    });
}

macro_rules! cases {
    ($($module:ident $shape:ident: $($name:ident = $body:expr,)*;)*) => {$(
        mod $module {
            use super::*;

            $(
                #[test]
                #[ignore = "it needs the guest of hack/vm-test"]
                fn $name() {
                    $body(Shape::$shape);
                }
            )*
        }
    )*};
}

fn untouched(shape: Shape) {
    by_its_hook(shape, "");
}

fn changed(shape: Shape) {
    by_its_hook(shape, MISCHIEF);
}

cases! {
    a_virtual_function VirtualFunction:
        goes_and_comes_home_complete = untouched,
        comes_home_whatever_its_container_changed = changed,
        is_recognised_by_a_late_hook = by_a_late_hook,
        is_recognised_by_the_next_pods_hook = by_the_next_pods_hook,
        is_recognised_by_the_agent = by_the_agent,;
    a_physical_function PhysicalFunction:
        goes_and_comes_home_complete = untouched,
        comes_home_whatever_its_container_changed = changed,
        is_recognised_by_a_late_hook = by_a_late_hook,
        is_recognised_by_the_agent = by_the_agent,;
    a_plain_card Card:
        goes_and_comes_home_complete = untouched,
        comes_home_whatever_its_container_changed = changed,
        is_recognised_by_a_late_hook = by_a_late_hook,
        is_recognised_by_the_agent = by_the_agent,;
    a_port_of_netdevsim Netdevsim:
        goes_and_comes_home_complete = untouched,
        comes_home_whatever_its_container_changed = changed,
        is_recognised_by_a_late_hook = by_a_late_hook,
        is_recognised_by_the_agent = by_the_agent,;
    a_dummy Dummy:
        goes_and_comes_home_complete = untouched,
        comes_home_whatever_its_container_changed = changed,
        is_returned_by_the_agent_after_its_sandbox_was_killed = by_the_agent,
        returns_without_the_agent_after_its_sandbox_was_killed = by_a_late_hook_from_its_pin,;
    a_vlan Vlan:
        goes_and_comes_home_complete = untouched,
        comes_home_whatever_its_container_changed = changed,
        is_returned_by_the_agent_after_its_sandbox_was_killed = by_the_agent,
        returns_without_the_agent_after_its_sandbox_was_killed = by_a_late_hook_from_its_pin,;
}
