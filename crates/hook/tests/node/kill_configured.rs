//! The same as in `kill`, of devices that a sandbox asked for with a configuration: whoever attaches or detaches them is
//! killed before and after every step, and each step fails in turn.

use nix::errno::Errno;
use serde_json::{Value, json};

use crate::support::{
    Ending, Host, Sandbox,
    inject::Order,
    on_host,
    picture::Picture,
    trace::{Fault, Traced, run_with_fault},
};

pub(crate) const DEVICE: &str = "link add dev0 type veth peer name wire
     link set wire up addrgenmode none
     link set dev0 up mtu 1400 txqueuelen 77 alias a-nic
     link property add dev dev0 altname eth1
     addr add 10.1.0.5/24 dev dev0
     addr add 2001:db8::5/64 dev dev0
     route add 10.50.0.0/16 via 10.1.0.1
     neigh add 10.1.0.77 lladdr 02:00:00:00:00:77 dev dev0 nud permanent";

/// Another name, which is an alternative one of the device, and everything else that can be asked for.
fn renamed() -> Value {
    json!([["dev0", {"name": "eth1", "addresses": ["192.168.2.2/24", "2001:db8:2::2/64"], "mtu": 1300,
        "mac": "02:00:00:00:00:0a", "routes": [{"to": "10.9.0.0/16", "via": "192.168.2.1"}]}]])
}

fn two_devices() -> Value {
    json!([["dev0", {"inherit": true, "addresses": ["10.7.0.2/24"]}], ["dev1", {"name": "eth2"}]])
}

/// A device that is created on another one, and is called as that is on the host.
fn created() -> Value {
    json!([["dev0:1", {"addresses": ["10.7.0.2/24", "2001:db8:7::2/64"], "mtu": 1300, "mac": "02:00:00:00:00:0b",
        "routes": [{"to": "10.9.0.0/16", "via": "10.7.0.1"}]}, {"macvlan": {"mode": "bridge"}}]])
}

/// Who comes after the one that was killed.
#[derive(Debug, Clone, Copy)]
enum Next {
    SamePod,
    OtherPod,
    Detach,
}

const NEXT: [Next; 3] = [Next::SamePod, Next::OtherPod, Next::Detach];

/// Which of the two programs is disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Attach,
    Detach,
}

struct Stage<'a> {
    host: &'a Host,
    sandbox: Sandbox,
    other: Sandbox,
    order: Order,
    others: Order,
    before: Picture,
    /// The sandbox with all devices.
    full: Picture,
    /// Whether they are created there.
    is_created: bool,
}

impl<'a> Stage<'a> {
    fn new(host: &'a Host, devices: &Value) -> Self {
        host.ip(DEVICE);
        host.ip("link add dev1 type ifb\nlink set dev1 up");
        let (sandbox, other) = (host.sandbox("web"), host.sandbox("other"));
        let (order, others) = (Order::new(host, &sandbox, devices), Order::new(host, &other, devices));
        let before = host.settled();
        order.arrives();
        let full = sandbox.settled();
        order.comes_home();
        host.assert_same(&before);
        let is_created = devices[0].get(2).is_some();
        Self { host, sandbox, other, order, others, before, full, is_created }
    }

    fn disturbed(&self, verb: Verb, number: usize, fault: Fault) -> Traced {
        let input = match verb {
            Verb::Attach => self.order.input("attach"),
            Verb::Detach => {
                self.order.arrives();
                self.order.input("detach")
            }
        };
        run_with_fault(Order::start(), &input, number, fault)
    }

    /// The next actor comes, and the devices are complete where they are; in the end they are home.
    fn follow(&self, next: Next, case: &str) {
        match next {
            Next::Detach => {}
            Next::SamePod => {
                succeeds(&self.order.run("attach"), case);
                let differences = self.sandbox.run(|| self.full.differences_in_the_end());
                assert_eq!(differences, "", "{case}: the devices are complete in the sandbox");
            }
            Next::OtherPod => match self.others.attach() {
                Ok(_) => assert!(self.is_created || !self.host.has_link("dev0"), "{case}"),
                Err(error) => assert!(error.contains("it is held by pod default/web"), "{case}: {error}"),
            },
        }
        for order in [&self.order, &self.others] {
            succeeds(&order.run("detach"), case);
        }
        self.is_as_before(case, &[]);
        for name in ["dev0", "eth1", "dev1", "eth2"] {
            assert!(!self.sandbox.has_link(name) && !self.other.has_link(name), "{case}: a device is twice");
        }
    }

    /// The host is as it was, but for facts that have these words, and no record is left.
    fn is_as_before(&self, case: &str, but_for: &[&str]) {
        let differences = self.before.differences_in_the_end();
        let left: Vec<_> =
            differences.lines().filter(|line| !but_for.iter().any(|words| line.contains(words))).collect();
        assert!(left.is_empty(), "{case}: the host is not as it was: {left:#?}");
        let records = self.host.records();
        assert!(!records.iter().any(|name| name.ends_with(".json")), "{case}: {records:?}");
    }
}

#[track_caller]
fn succeeds(ending: &Ending, case: &str) {
    assert_eq!((ending.code, ending.line.as_str()), (Some(0), ""), "{case}");
}

fn kill_at_every_step(devices: &Value, verb: Verb) {
    on_host(|host| {
        let stage = Stage::new(host, devices);
        for number in 0.. {
            for (at, fault) in [Fault::KillBefore, Fault::KillAfter].into_iter().enumerate() {
                let next = NEXT[(number + at) % 3];
                let traced = stage.disturbed(verb, number, fault);
                let case = format!("{verb:?}, {fault:?} step {number} ({:?}), then {next:?}", traced.step);
                if let Some(ending) = &traced.ending {
                    assert_eq!(traced.step, None, "{case}");
                    succeeds(ending, &case);
                }
                stage.follow(next, &case);
                if traced.step.is_none() {
                    println!("{verb:?}: {number} steps");
                    return;
                }
            }
        }
    });
}

/// Lets every request to the kernel fail in turn, by two of these errors each.
fn fail_at_every_step(devices: &Value, verb: Verb) {
    const ERRORS: [Errno; 6] =
        [Errno::EEXIST, Errno::ENODEV, Errno::EPERM, Errno::ENOSPC, Errno::EBUSY, Errno::ENOBUFS];
    for at in 0.. {
        let (number, errno) = (at / 2, ERRORS[at % 6]);
        let mut ended = false;
        on_host(|host| {
            let stage = Stage::new(host, devices);
            let traced = stage.disturbed(verb, number, Fault::Fail(errno));
            let case = format!("{verb:?}, {errno:?} at step {number} ({:?})", traced.step);
            ended = traced.step.is_none();
            let ending = traced.ending.unwrap_or_else(|| panic!("{case}: it was killed"));
            // of a move it says that the index is taken: then the device gets another one
            let but_for: &[&str] = if errno == Errno::EBUSY { &["ifindex", "link_index"] } else { &[] };
            match (ending.code, verb) {
                // EEXIST of an address, route or neighbour says that it is there; here that is a lie
                (Some(0), Verb::Attach) if errno == Errno::EEXIST => drop(stage.order.detach()),
                (Some(0), Verb::Attach) => {
                    let differences = stage.sandbox.run(|| stage.full.differences_in_the_end());
                    let differs = |line: &&str| !but_for.iter().any(|words| line.contains(words));
                    let left: Vec<_> = differences.lines().filter(differs).collect();
                    // a copied neighbour or route may be left out; what was asked for may not
                    assert!(
                        left.iter().all(|line| line.contains("neigh") || line.contains("route")),
                        "{case}: {left:#?}"
                    );
                    stage.order.detach();
                }
                (Some(1), Verb::Attach) => stage.is_as_before(&case, but_for),
                (Some(0 | 1), Verb::Detach) => {}
                _ => panic!("{case}: {ending:?}"),
            }
            if ending.code == Some(1) {
                stage.follow(Next::SamePod, &case);
            }
        });
        if ended {
            println!("{verb:?}: {number} requests that fail");
            return;
        }
    }
}

#[test]
fn a_configured_device_survives_a_kill_at_every_step_of_its_attachment() {
    kill_at_every_step(&renamed(), Verb::Attach);
}

#[test]
fn a_configured_device_survives_a_kill_at_every_step_of_its_detachment() {
    kill_at_every_step(&renamed(), Verb::Detach);
}

#[test]
fn two_devices_of_a_sandbox_survive_a_kill_at_every_step_of_their_attachment() {
    kill_at_every_step(&two_devices(), Verb::Attach);
}

#[test]
fn two_devices_of_a_sandbox_survive_a_kill_at_every_step_of_their_detachment() {
    kill_at_every_step(&two_devices(), Verb::Detach);
}

#[test]
fn the_attachment_of_a_configured_device_survives_an_error_of_every_request() {
    fail_at_every_step(&renamed(), Verb::Attach);
}

#[test]
fn the_attachment_of_two_devices_survives_an_error_of_every_request() {
    fail_at_every_step(&two_devices(), Verb::Attach);
}

#[test]
fn the_detachment_of_a_configured_device_survives_an_error_of_every_request() {
    fail_at_every_step(&renamed(), Verb::Detach);
}

#[test]
fn a_created_device_survives_a_kill_at_every_step_of_its_attachment() {
    kill_at_every_step(&created(), Verb::Attach);
}

#[test]
fn a_created_device_survives_a_kill_at_every_step_of_its_detachment() {
    kill_at_every_step(&created(), Verb::Detach);
}

#[test]
fn the_attachment_of_a_created_device_survives_an_error_of_every_request() {
    fail_at_every_step(&created(), Verb::Attach);
}

#[test]
fn the_detachment_of_a_created_device_survives_an_error_of_every_request() {
    fail_at_every_step(&created(), Verb::Detach);
}
