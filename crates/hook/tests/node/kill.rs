//! The hook is killed before and after every system call that changes something; then the next actor runs. The device is
//! completely in a sandbox or completely at home, never half, lost or twice.

use std::{
    io::{self, Write},
    process::Child,
};

use nix::errno::Errno;

use crate::support::{
    Host, Sandbox, ended_state, on_host,
    picture::Picture,
    trace::{Fault, run_with_fault},
};

/// A device, and what happens to it and around it while it is inside.
struct Shape {
    name: &'static str,
    host: &'static str,
    sandbox: &'static str,
    /// What the container does.
    inside: &'static str,
}

const SHAPES: [Shape; 5] = [
    Shape { name: "bare", host: "link add dev0 type ifb\nlink set dev0 up", sandbox: "", inside: "" },
    Shape {
        name: "down",
        host: "link add dev0 type ifb\naddr add 10.1.0.5/24 dev dev0\nlink set dev0 mtu 1000 alias sleepy",
        sandbox: "",
        inside: "",
    },
    Shape { name: "rich", host: RICH, sandbox: "", inside: "" },
    Shape {
        name: "index taken inside",
        host: RICH,
        sandbox: "link add eth0 index 3 type veth peer name p\nlink set eth0 up\nlink set p up",
        inside: "",
    },
    Shape {
        name: "changed by the container",
        host: RICH,
        sandbox: "link add br0 type bridge",
        inside: "link set dev0 down
             link set dev0 name evil address 02:00:00:00:00:99 mtu 900 alias evil txqueuelen 3
             link property add dev evil altname wire
             link set evil master br0
             link add dev0 type veth peer name q",
    },
];

/// Its index is 3.
const RICH: &str = "link add dev0 type veth peer name wire
     link set wire up addrgenmode none
     link set dev0 up mtu 1400 txqueuelen 77 alias a-nic
     link property add dev dev0 altname fast-nic
     addr add 10.1.0.5/24 dev dev0
     addr add 2001:db8::5/64 dev dev0
     route add 10.50.0.0/16 via 10.1.0.1
     route add 2001:db8:9::/48 via 2001:db8::1
     neigh add 10.1.0.77 lladdr 02:00:00:00:00:77 dev dev0 nud permanent";

/// Who comes after the killed hook.
#[derive(Debug, Clone, Copy)]
enum Next {
    SamePod,
    OtherPod,
    Detach,
}

const NEXT: [Next; 3] = [Next::SamePod, Next::OtherPod, Next::Detach];

/// A host with a device of that shape and two sandboxes, and what they look like.
struct Stage<'a> {
    host: &'a Host,
    shape: &'a Shape,
    sandbox: Sandbox,
    other: Sandbox,
    before: Picture,
    /// The sandbox with the device.
    full: Picture,
}

impl<'a> Stage<'a> {
    fn new(host: &'a Host, shape: &'a Shape) -> Self {
        host.ip(shape.host);
        if host.has_link("wire") {
            host.write("/proc/sys/net/ipv4/conf/dev0/rp_filter", "2");
            host.write("/proc/sys/net/ipv6/conf/dev0/hop_limit", "33");
            host.write("/proc/sys/net/ipv4/neigh/dev0/gc_stale_time", "33");
        }
        let (sandbox, other) = (host.sandbox("web"), host.sandbox("other"));
        sandbox.ip(shape.sandbox);
        other.ip(shape.sandbox);
        let before = host.settled();
        host.attach(&sandbox, "c0", "dev0").succeeds();
        let full = sandbox.settled();
        host.detach("c0", "dev0").succeeds();
        host.assert_same(&before);
        Self { host, shape, sandbox, other, before, full }
    }

    fn attaching(&self) -> Child {
        self.host.command("attach", &["dev0"]).spawn().unwrap()
    }

    fn detaching(&self) -> Child {
        self.host.command("detach", &["dev0"]).spawn().unwrap()
    }

    /// The container's deeds; then what it made besides is taken away again by `tidy`.
    fn deeds(&self) {
        self.sandbox.ip(self.shape.inside);
    }

    fn tidy(&self) {
        if !self.shape.inside.is_empty() && self.sandbox.has_link("q") {
            self.sandbox.ip("link delete q");
        }
    }

    /// The next actor comes, and the device is complete where it is; in the end it is home.
    fn follow(&self, next: Next, case: &str) {
        let host = self.host;
        match next {
            Next::Detach => {}
            Next::SamePod => {
                self.tidy();
                host.attach(&self.sandbox, "c2", "dev0").succeeds();
                if self.shape.inside.is_empty() {
                    let differences = self.sandbox.run(|| self.full.differences_in_the_end());
                    assert_eq!(differences, "", "{case}: the device is complete in the sandbox");
                }
            }
            Next::OtherPod => {
                let ending = host.attach(&self.other, "c3", "dev0");
                if ending.code == Some(0) {
                    assert!(self.other.has_link("dev0") && !host.has_link("dev0"), "{case}");
                } else {
                    // the killed hook had done its work, or had not begun
                    ending.fails_with("it is held by pod default/web");
                    assert!(!host.has_link("dev0"), "{case}");
                }
            }
        }
        for container in ["c1", "c2", "c3"] {
            host.detach(container, "dev0").succeeds();
        }
        self.tidy();
        let differences = self.before.differences_in_the_end();
        assert_eq!(differences, "", "{case}: the host is not as it was\n{}", host.journal());
        assert_eq!(host.records().iter().filter(|name| name.ends_with(".json")).count(), 0, "{case}: a record is left");
        for name in ["dev0", "evil"] {
            assert!(!self.sandbox.has_link(name) && !self.other.has_link(name), "{case}: the device is twice");
        }
    }
}

/// Says past the test harness, which shows nothing of a test that passes, how much was tried: hack/test adds it up.
fn tell(count: u32, what: &str) {
    io::stdout().write_all(format!("kill harness: {count} cases ({what})\n").as_bytes()).unwrap();
}

/// Kills at every step of one direction, and says how many cases there were.
fn kill_at_every_step(shape: &Shape, cases: fn(usize) -> Vec<(Fault, Next)>, direction: &str) {
    on_host(|host| {
        let stage = Stage::new(host, shape);
        let mut count = 0;
        for number in 0.. {
            let mut ended = false;
            for (fault, next) in cases(number) {
                let traced = if direction == "attach" {
                    run_with_fault(stage.attaching(), &stage.sandbox.state("c1"), number, fault)
                } else {
                    host.attach(&stage.sandbox, "c1", "dev0").succeeds();
                    stage.deeds();
                    run_with_fault(stage.detaching(), &ended_state("c1"), number, fault)
                };
                let case =
                    format!("{} {direction}, {fault:?} step {number} ({:?}), then {next:?}", shape.name, traced.step);
                ended = traced.step.is_none();
                if let Some(ending) = traced.ending {
                    assert!(ended, "{case}");
                    ending.succeeds();
                }
                stage.follow(next, &case);
                if ended {
                    break;
                }
                count += 1;
            }
            if ended {
                tell(count, &format!("{}, {direction}, a kill at {number} steps", shape.name));
                break;
            }
        }
    });
}

/// Lets every step fail in turn, by each error: a hook that then says that it failed has left everything as it was, one
/// that says that it did its work has told what it left out.
fn fail_at_every_step(shape: &Shape, fault: fn(Errno) -> Fault, direction: &str) {
    const ERRORS: [Errno; 6] =
        [Errno::EEXIST, Errno::ENODEV, Errno::EPERM, Errno::ENOSPC, Errno::EBUSY, Errno::ENOBUFS];
    let (mut count, mut ended) = (0, false);
    for number in 0.. {
        // two errors for each step, all of them over the steps
        for at in [2 * number, 2 * number + 1] {
            on_host(|host| {
                let stage = Stage::new(host, shape);
                let errno = ERRORS[at % 6];
                let fault = fault(errno);
                let traced = if direction == "attach" {
                    run_with_fault(stage.attaching(), &stage.sandbox.state("c1"), number, fault)
                } else {
                    host.attach(&stage.sandbox, "c1", "dev0").succeeds();
                    run_with_fault(stage.detaching(), &ended_state("c1"), number, fault)
                };
                let case = format!("{} {direction}, {fault:?} step {number} ({:?})", shape.name, traced.step);
                ended = traced.step.is_none();
                let ending = traced.ending.unwrap_or_else(|| panic!("{case}: it was killed"));
                // EEXIST of an address, route or neighbour says that it is there; here that is a lie
                let lie = ["20", "24", "28"].iter().any(|kind| traced.step == Some(format!("netlink message {kind}")));
                let incomplete = host.journal().contains("is left out") || errno == Errno::EEXIST && lie;
                // EBUSY says of a move that the index is taken: then it gets another one
                let moved = |differences: String| -> Vec<String> {
                    let about_index = |line: &&str| line.contains("ifindex") || line.contains("link_index");
                    let others = differences.lines().filter(|line| errno != Errno::EBUSY || !about_index(line));
                    others.map(str::to_owned).collect()
                };
                match (ending.code, direction) {
                    (Some(0), "attach") => {
                        let look = || moved(stage.sandbox.run(|| stage.full.differences_in_the_end()));
                        let differences = if incomplete { Vec::new() } else { look() };
                        assert!(differences.is_empty(), "{case}: {differences:?}");
                        stage.follow(Next::OtherPod, &case);
                    }
                    (Some(0), _) => {
                        assert!(host.has_link("dev0"), "{case}: {}", host.journal());
                        let look = || moved(stage.before.differences_in_the_end());
                        let differences = if incomplete { Vec::new() } else { look() };
                        assert!(differences.is_empty(), "{case}: {differences:?}");
                    }
                    (Some(1), "attach") => {
                        assert_eq!(ending.line.lines().count(), 1, "{case}: {ending:?}");
                        let differences = moved(stage.before.differences_in_the_end());
                        assert!(differences.is_empty(), "{case}: {ending:?}\n{differences:?}\n{}", host.journal());
                        stage.follow(Next::OtherPod, &case);
                    }
                    (Some(1), _) => stage.follow(Next::Detach, &case),
                    _ => panic!("{case}: {ending:?}"),
                }
            });
            if ended {
                tell(count, &format!("{}, {direction}, an error at {number} steps", shape.name));
                return;
            }
            count += 1;
        }
    }
}

#[test]
fn an_attachment_survives_an_error_of_every_request_to_the_kernel() {
    fail_at_every_step(&SHAPES[2], Fault::Fail, "attach");
}

#[test]
fn a_detachment_survives_an_error_of_every_request_to_the_kernel() {
    fail_at_every_step(&SHAPES[2], Fault::Fail, "detach");
}

#[test]
fn an_attachment_survives_an_error_of_every_system_call() {
    fail_at_every_step(&SHAPES[0], Fault::FailCall, "attach");
}

#[test]
fn a_detachment_survives_an_error_of_every_system_call() {
    fail_at_every_step(&SHAPES[0], Fault::FailCall, "detach");
}

/// All actors after a kill before each step, and one after a kill behind it.
fn all(number: usize) -> Vec<(Fault, Next)> {
    let before = NEXT.into_iter().map(|next| (Fault::KillBefore, next));
    before.chain([(Fault::KillAfter, NEXT[number % 3])]).collect()
}

/// One actor after a kill before each step and another one after a kill behind it, in turns.
fn in_turns(number: usize) -> Vec<(Fault, Next)> {
    vec![(Fault::KillBefore, NEXT[number % 3]), (Fault::KillAfter, NEXT[(number + 1) % 3])]
}

#[test]
fn a_bare_device_survives_a_kill_at_every_step() {
    kill_at_every_step(&SHAPES[0], in_turns, "attach");
    kill_at_every_step(&SHAPES[0], in_turns, "detach");
}

#[test]
fn a_device_that_is_down_survives_a_kill_at_every_step() {
    kill_at_every_step(&SHAPES[1], in_turns, "attach");
    kill_at_every_step(&SHAPES[1], in_turns, "detach");
}

#[test]
fn a_device_with_all_kinds_of_state_survives_a_kill_at_every_step_of_its_attachment() {
    kill_at_every_step(&SHAPES[2], all, "attach");
}

#[test]
fn a_device_with_all_kinds_of_state_survives_a_kill_at_every_step_of_its_detachment() {
    kill_at_every_step(&SHAPES[2], all, "detach");
}

#[test]
fn a_device_whose_index_is_taken_inside_survives_a_kill_at_every_step() {
    kill_at_every_step(&SHAPES[3], in_turns, "attach");
    kill_at_every_step(&SHAPES[3], in_turns, "detach");
}

#[test]
fn a_device_that_its_container_changed_survives_a_kill_at_every_step() {
    kill_at_every_step(&SHAPES[4], in_turns, "detach");
}
