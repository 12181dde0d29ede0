//! netdevice-hook: a container runtime starts it with the OCI state on standard input, at `createRuntime` to attach
//! devices to the container's network namespace and at `poststop` to detach them.
//!
//! Exit status 0 means that each device is where it should be. Otherwise one line on standard error says what failed,
//! on which device, and what to do; the same line is in the journal, since not every runtime passes it on.

mod arguments;

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use arguments::{Arguments, Device, Invocation};
use link::{AttachRequest, DetachRequest, Detached, Ended, OpenSandbox, Skipped};
use netdevice::{
    Acquisition, DeviceId, Owner, Reservation, Sandbox, SandboxConfiguration,
    acquisition::ChildKind,
    exclusion::UplinkParents,
    oci::{Config, MAX_STATE, State},
};
use store::{
    Records,
    journal::{self, Action, Entry, Outcome},
};

/// musl's own allocator maps and unmaps a page for each few objects, some 60 system calls in a life of milliseconds.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Longest `config.json` that is looked into.
const MAX_CONFIG: usize = 16 << 20;

fn main() -> ExitCode {
    let invocation = match arguments::parse(std::env::args_os().skip(1)) {
        Ok(invocation) => invocation,
        Err(error) => return fail(&format!("netdevice-hook: {error}"), 2),
    };
    let arguments = match invocation {
        Invocation::Print(text) => return print(text),
        Invocation::Run(arguments) => arguments,
    };
    match Hook::new(&arguments).and_then(|hook| hook.run(&arguments.devices)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => fail(&line, 1),
    }
}

/// A runtime may have closed our output. That is not an error.
fn print(text: &str) -> ExitCode {
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn fail(line: &str, status: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "{line}");
    ExitCode::from(status)
}

/// One run of the hook: for one container, with one thing to do.
struct Hook<'a> {
    action: Action,
    /// UID of the claim that devices are attached for.
    claim: Option<&'a str>,
    /// What is created.
    create: Option<ChildKind>,
    /// Whether it may be created on a link that the node is connected by.
    uplink_parents: UplinkParents,
    records: Records,
    container: String,
    sandbox: Sandbox,
    owner: Owner,
}

impl<'a> Hook<'a> {
    fn new(arguments: &'a Arguments) -> Result<Self, String> {
        let records = Records::new(&arguments.state_dir);
        let action = arguments.action;
        match read_state() {
            Ok(state) => {
                let path = match action {
                    Action::Attach => network_namespace(&state),
                    Action::Detach => None,
                };
                let sandbox = Sandbox::from_oci(&state, path);
                let (claim, owner) = (arguments.claim.as_deref(), sandbox.container(&state.id));
                let (create, uplink_parents) = (arguments.create, arguments.uplink_parents);
                Ok(Self { action, claim, create, uplink_parents, records, owner, container: state.id, sandbox })
            }
            Err(error) => {
                // for whom it was is not known; for which devices is
                let names = arguments.devices.iter().map(|device| device.id.to_string()).collect::<Vec<_>>().join(" ");
                let line = describe(action, &names, &error.to_string());
                write_journal(&records, action, &names, None, Noted::failed(&error));
                Err(line)
            }
        }
    }

    fn run(&self, devices: &[Device]) -> Result<(), String> {
        match self.action {
            Action::Attach => self.attach_all(devices),
            Action::Detach => self.detach_all(devices),
        }
    }

    /// Attaches all devices or none.
    fn attach_all(&self, devices: &[Device]) -> Result<(), String> {
        let sandbox = OpenSandbox::open(&self.sandbox).map_err(|error| error.to_string());
        for device in devices {
            let attached = sandbox.as_ref().map_err(Clone::clone).and_then(|sandbox| match self.claim {
                None => self.attach(device, sandbox, &self.owner, None),
                Some(claim) => self.attach_claimed(device, sandbox, claim),
            });
            if let Err(error) = attached {
                self.note(&device.id, Noted::failed(&error));
                self.give_back();
                return Err(describe(self.action, device.id.as_str(), &error));
            }
        }
        Ok(())
    }

    /// Attaches what Prepare reserved for a claim. It stays in the sandbox when the container ends.
    fn attach_claimed(&self, device: &Device, sandbox: &OpenSandbox, claim: &str) -> Result<(), String> {
        let reservation = self.records.reservation(&device.id).filter(|found| found.owner.is_claim(claim));
        let Some(reservation) = reservation else {
            return Err(format!(
                "it is not reserved for claim {claim} on this node: delete the pod and create it anew"
            ));
        };
        let owner = self.sandbox.claim(&reservation.owner).ok_or("the container is not in a sandbox of Kubernetes")?;
        self.attach(device, sandbox, &owner, Some(&reservation))
    }

    fn attach(
        &self,
        device: &Device,
        sandbox: &OpenSandbox,
        owner: &Owner,
        reservation: Option<&Reservation>,
    ) -> Result<(), String> {
        let reserved = reservation.and_then(|reservation| reservation.resource.as_ref());
        // of a pool of children
        let created = self.create.filter(|_| reservation.is_none());
        let own = created.map(|_| SandboxConfiguration::default().with_own_name(&device.id));
        let acquisition = match created {
            Some(kind) => Acquisition::Create(kind),
            None => reservation.map_or(Acquisition::Move, |reservation| reservation.acquisition),
        };
        let request = AttachRequest {
            device: &device.id,
            resource: device.resource.as_ref().or(reserved),
            sandbox,
            owner,
            acquisition,
            uplink_parents: match created {
                Some(_) => self.uplink_parents,
                None => reservation.map(|reservation| reservation.uplink_parents).unwrap_or_default(),
            },
            configuration: reservation.and_then(|reservation| reservation.configuration.as_ref()).or(own.as_ref()),
        };
        let attached = link::attach(&self.records, &request).map_err(|error| error.to_string())?;
        let outcome = if attached.was_there { Outcome::Nothing } else { Outcome::Ok };
        let noted = Noted::new(outcome, join(&attached.skipped));
        write_journal(&self.records, self.action, device.id.as_str(), Some(owner), noted);
        Ok(())
    }

    /// A runtime does not undo what other hooks of a container did before one failed, and may not call poststop.
    fn give_back(&self) {
        let Ok((ledger, _)) = self.records.list() else { return };
        for (id, _) in ledger.iter().filter(|(_, record)| record.owner.is_container(&self.container)) {
            let result = link::detach(&self.records, &DetachRequest { device: id, owner: &self.container });
            let noted = result.map_or_else(|error| Noted::failed(&error), report);
            write_journal(&self.records, Action::Detach, id.as_str(), Some(&self.owner), noted);
        }
    }

    /// Detaches all devices, also those after one that fails.
    fn detach_all(&self, devices: &[Device]) -> Result<(), String> {
        let mut first_error = Ok(());
        for device in devices {
            let request = DetachRequest { device: &device.id, owner: &self.container };
            match link::detach(&self.records, &request) {
                Ok(detached) => self.note(&device.id, report(detached)),
                Err(error) => {
                    self.note(&device.id, Noted::failed(&error));
                    first_error = first_error.and(Err(describe(self.action, device.id.as_str(), &error.to_string())));
                }
            }
        }
        first_error
    }

    fn note(&self, device: &DeviceId, noted: Noted) {
        write_journal(&self.records, self.action, device.as_str(), Some(&self.owner), noted);
    }
}

/// What the journal is to say of a device.
struct Noted {
    outcome: Outcome,
    message: String,
    renamed: Option<DeviceId>,
}

impl Noted {
    fn new(outcome: Outcome, message: String) -> Self {
        Self { outcome, message, renamed: None }
    }

    fn failed(error: &impl ToString) -> Self {
        Self::new(Outcome::Failed, error.to_string())
    }
}

fn read_state() -> Result<State, Box<dyn std::error::Error>> {
    let text = store::read_limited(io::stdin().lock(), 4 << 10, MAX_STATE)?;
    Ok(State::from_json(&text)?)
}

/// The path of the Pod's network namespace in the container's `config.json`.
fn network_namespace(state: &State) -> Option<String> {
    let config = File::open(Path::new(&state.bundle).join("config.json"));
    let config = config.and_then(|file| store::read_limited(file, 16 << 10, MAX_CONFIG));
    Config::network_namespace(&config.ok()?).ok().flatten()
}

fn describe(action: Action, device: &str, error: &str) -> String {
    let verb = match action {
        Action::Attach => "attach",
        Action::Detach => "detach",
    };
    format!("netdevice-hook {verb}: device {device}: {error}")
}

fn report(detached: Detached) -> Noted {
    match detached {
        Detached::NotAttached => Noted::new(Outcome::Nothing, String::new()),
        Detached::Done(Ended::Deleted) => Noted::new(Outcome::Ok, String::new()),
        Detached::TakenOver => Noted::new(Outcome::Nothing, "a later container has the device".into()),
        Detached::Done(Ended::Returned { renamed: None, skipped }) => Noted::new(Outcome::Ok, join(&skipped)),
        Detached::Done(Ended::Returned { renamed: Some(name), skipped }) => {
            let now = format!("its name is taken on the node: it is called {name} now");
            let message = if skipped.is_empty() { now } else { format!("{now}; {}", join(&skipped)) };
            Noted { renamed: Some(DeviceId::from(&name)), ..Noted::new(Outcome::Ok, message) }
        }
        Detached::Done(Ended::Lost) => Noted::new(
            Outcome::Lost,
            "the device is gone: it was deleted, unplugged or switched off while it was attached".into(),
        ),
        Detached::Done(Ended::OutOfReach) => Noted::new(
            Outcome::Failed,
            "the device is not on the node yet: the agent and the next hook look for it again".into(),
        ),
    }
}

fn join(skipped: &[Skipped]) -> String {
    skipped.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn write_journal(records: &Records, action: Action, device: &str, owner: Option<&Owner>, noted: Noted) {
    let Noted { outcome, message, renamed } = noted;
    let pod = owner.and_then(Owner::pod).cloned();
    let holder = owner.map_or_else(|| "unknown".to_owned(), ToString::to_string);
    let entry = Entry { time: journal::now(), action, device: device.into(), holder, pod, outcome, renamed, message };
    // The work is what counts; without the journal, standard error remains.
    let _ = journal::append(records, &entry);
}
