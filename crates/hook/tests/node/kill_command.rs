//! The same as in `kill`, of a command that adds a device to a Pod or takes it back: it is killed before and after every step.

use netdevctl::inject::device::DeviceRequestArguments;

use crate::{
    kill_configured::DEVICE,
    support::{
        Host, Sandbox,
        command::{PodCommand, device},
        on_host,
        picture::Picture,
        trace::{Fault, Traced, run_with_fault},
    },
};

/// What comes after the command that was killed.
#[derive(Debug, Clone, Copy)]
enum Next {
    Repeat,
    OtherPod,
    Collect,
    PodEnds,
}

const NEXT: [Next; 4] = [Next::Repeat, Next::OtherPod, Next::Collect, Next::PodEnds];

struct Stage<'a> {
    host: &'a Host,
    sandbox: Sandbox,
    other: Sandbox,
    request: DeviceRequestArguments,
    before: Picture,
    /// The sandbox with the device.
    full: Picture,
}

impl<'a> Stage<'a> {
    fn new(host: &'a Host) -> Self {
        host.ip(DEVICE);
        let request = device("dev0", |flags| {
            flags.name = Some("eth1".into());
            flags.ips = vec!["192.168.2.2/24".into(), "2001:db8:2::2/64".into()];
            flags.mtu = Some("1300".into());
            flags.routes = vec!["10.9.0.0/16 via 192.168.2.1".into()];
        });
        let (before, sandbox, other) = (host.settled(), host.sandbox("web"), host.sandbox("other"));
        let command = PodCommand::new(host, &sandbox);
        command.adds(&request);
        let full = sandbox.settled();
        command.del("dev0").unwrap();
        host.assert_same(&before);
        Self { host, sandbox, other, request, before, full }
    }

    fn disturbed(&self, verb: &str, number: usize, fault: Fault) -> Traced {
        let command = PodCommand::new(self.host, &self.sandbox);
        if verb == "del" {
            command.adds(&self.request);
        }
        run_with_fault(PodCommand::start(), &command.input(verb, &self.sandbox, &self.request), number, fault)
    }

    /// What comes next puts everything right; in the end the device is on the host as it was.
    fn follow(&mut self, verb: &str, next: Next, case: &str) {
        let host = self.host;
        let run = |verb: &str, sandbox: &Sandbox| {
            let ending = PodCommand::new(host, sandbox).run(verb, sandbox, &self.request);
            assert_eq!((ending.code, ending.line.as_str()), (Some(0), ""), "{case}: {verb}");
        };
        match next {
            Next::Repeat => {
                run(verb, &self.sandbox);
                if verb == "add" {
                    let differences = self.sandbox.run(|| self.full.differences_in_the_end());
                    assert_eq!(differences, "", "{case}: the device is complete in the sandbox");
                    run("del", &self.sandbox);
                }
            }
            Next::OtherPod => {
                let ending = PodCommand::new(host, &self.other).run("add", &self.other, &self.request);
                if ending.code == Some(0) {
                    assert!(self.other.has_link("eth1") && !host.has_link("dev0"), "{case}");
                    run("del", &self.other);
                } else {
                    assert!(ending.line.contains("it is held by pod default/web"), "{case}: {ending:?}");
                    run("del", &self.sandbox);
                }
            }
            // what is complete stays in the Pod, which runs
            Next::Collect => {
                run("gc", &self.sandbox);
                assert_ne!(host.has_link("dev0"), self.sandbox.has_link("eth1"), "{case}");
                run("del", &self.sandbox);
            }
            Next::PodEnds => {
                self.sandbox = host.sandbox("web");
                run("gc", &self.sandbox);
            }
        }
        let differences = self.before.differences_in_the_end();
        assert_eq!(differences, "", "{case}: the host is not as it was");
        assert!(!self.sandbox.has_link("eth1") && !self.other.has_link("eth1"), "{case}: the device is twice");
        run("gc", &self.sandbox);
        assert_eq!(host.records(), Vec::<String>::new(), "{case}");
    }
}

fn kill_at_every_step(verb: &str) {
    on_host(|host| {
        let mut stage = Stage::new(host);
        for number in 0.. {
            let faults = [Fault::KillBefore, Fault::KillAfter].into_iter();
            for (fault, next) in faults.flat_map(|fault| NEXT.map(|next| (fault, next))) {
                let traced = stage.disturbed(verb, number, fault);
                let case = format!("{verb}, {fault:?} step {number} ({:?}), then {next:?}", traced.step);
                if let Some(ending) = &traced.ending {
                    assert_eq!((traced.step.as_ref(), ending.code), (None, Some(0)), "{case}: {ending:?}");
                }
                stage.follow(verb, next, &case);
                if traced.step.is_none() {
                    println!("{verb}: {number} steps");
                    return;
                }
            }
        }
    });
}

#[test]
fn a_device_survives_a_kill_at_every_step_of_the_command_that_adds_it() {
    kill_at_every_step("add");
}

#[test]
fn a_device_survives_a_kill_at_every_step_of_the_command_that_takes_it_back() {
    kill_at_every_step("del");
}
