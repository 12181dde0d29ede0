//! Devices for a whole sandbox, as a plugin of the runtime asks for them: by the namespace's path, without a container or
//! process, each with a configuration.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use link::{AttachRequest, Attached, Detached, Ended, OpenSandbox};
use netdevice::{
    Acquisition, DeviceId, Owner, Pod, SandboxConfiguration, acquisition::ChildKind, exclusion::UplinkParents,
    owner::Request,
};
use serde_json::{Value, json};
use store::Records;

use super::{Ending, Host, Sandbox, finish};

/// Who asks for which devices, each with its configuration, as the record keeps it, and with the kind of a device that is to be
/// created.
pub(crate) struct Order {
    state_dir: PathBuf,
    pub(crate) path: PathBuf,
    owner: Owner,
    devices: Vec<(DeviceId, SandboxConfiguration, Option<ChildKind>)>,
    pub(crate) uplink_parents: UplinkParents,
    pub(crate) is_stopped: bool,
}

impl Order {
    /// What a sandbox asks for.
    pub(crate) fn new(host: &Host, sandbox: &Sandbox, devices: &Value) -> Self {
        Self::from_json(&host.state_dir(), &sandbox.path, &sandbox.pod, &sandbox.id, devices)
    }

    fn from_json(state_dir: &Path, path: &Path, pod: &str, id: &str, devices: &Value) -> Self {
        let device = |entry: &Value| {
            let kind = entry.get(2).map(|kind| serde_json::from_value(kind.clone()).unwrap());
            (entry[0].as_str().unwrap().parse().unwrap(), serde_json::from_value(entry[1].clone()).unwrap(), kind)
        };
        let pod = Pod { namespace: "default".into(), name: pod.into(), uid: format!("uid-{pod}") };
        Self {
            state_dir: state_dir.to_owned(),
            path: path.to_owned(),
            owner: Owner::Sandbox { id: id.into(), pod: Some(pod), by: Request::Annotation },
            devices: devices.as_array().unwrap().iter().map(device).collect(),
            uplink_parents: UplinkParents::Refused,
            is_stopped: false,
        }
    }

    /// Attaches all or none.
    pub(crate) fn attach(&self) -> Result<Vec<Attached>, String> {
        self.attach_by(&Records::new(&self.state_dir))
    }

    /// The same by an actor that keeps its records in its own way.
    pub(crate) fn attach_by<'a>(&'a self, records: &Records) -> Result<Vec<Attached>, String> {
        let (id, pod) = (self.owner.id(), self.owner.pod().unwrap().clone());
        let sandbox = netdevice::Sandbox::from_nri(id, pod, Some(self.path.to_str().unwrap().into()), None);
        let sandbox = OpenSandbox::open(&sandbox).map_err(|error| error.to_string())?;
        let request = |(device, configuration, kind): &'a (_, _, Option<ChildKind>)| AttachRequest {
            device,
            resource: None,
            sandbox: &sandbox,
            owner: &self.owner,
            acquisition: kind.map_or(Acquisition::Move, Acquisition::Create),
            uplink_parents: self.uplink_parents,
            configuration: Some(configuration),
        };
        let requests: Vec<_> = self.devices.iter().map(request).collect();
        let reserve = || {
            let devices = requests.iter().map(|request| (request.device, request.resource, request.acquisition));
            link::Reserved::take(records, &self.owner, devices)
        };
        // a program that another test starts at this moment has the lock's descriptor until it is executed
        let latest = Instant::now() + Duration::from_secs(2);
        let mut reserved = reserve();
        while matches!(reserved, Err(link::ReserveError::Busy(_))) && Instant::now() < latest {
            sleep(Duration::from_millis(1));
            reserved = reserve();
        }
        let reserved = reserved.map_err(|error| error.to_string())?;
        let result = link::attach_all(records, &requests, reserved, &|| self.is_stopped, &|_, _| {});
        result.map_err(|error| {
            assert!(error.stranded.is_empty(), "{error}: {:?}", error.stranded);
            error.to_string()
        })
    }

    /// Brings home whatever the sandbox has, and tells what each device came to.
    pub(crate) fn detach(&self) -> Vec<(DeviceId, Result<Detached, String>)> {
        let records = Records::new(&self.state_dir);
        let (ledger, _) = records.list().unwrap();
        let all = link::detach_all(&records, &ledger, self.owner.id(), None);
        all.map(|(device, result)| (device, result.map_err(|error| error.to_string()))).collect()
    }

    /// Attaches, and it works.
    #[track_caller]
    pub(crate) fn arrives(&self) -> Vec<Attached> {
        self.attach().unwrap()
    }

    /// Attaches, and it fails with these words.
    #[track_caller]
    pub(crate) fn fails_with(&self, words: &str) {
        let error = self.attach().unwrap_err();
        assert!(error.contains(words) && error.len() < 1000 && !error.contains('\n'), "{error:?} has no {words:?}");
    }

    /// Detaches, and each device is complete on the host, or deleted if it was created.
    #[track_caller]
    pub(crate) fn comes_home(&self) {
        for (device, result) in self.detach() {
            let ended = match device.parent() {
                Some(_) => Ended::Deleted,
                None => Ended::Returned { renamed: None, skipped: Vec::new() },
            };
            assert_eq!(result.as_ref(), Ok(&Detached::Done(ended)), "{device}");
        }
    }

    /// The same in a program of its own, which waits for its input ([`Order::input`]).
    pub(crate) fn start() -> Child {
        start_as(PROGRAM, ARGUMENTS)
    }

    /// What the program is to do: `attach`, `attach as an agent` or `detach`.
    pub(crate) fn input(&self, verb: &str) -> String {
        let device = |(id, asked, kind): &(DeviceId, _, Option<ChildKind>)| match kind {
            Some(kind) => json!([id.to_string(), asked, kind]),
            None => json!([id.to_string(), asked]),
        };
        let devices: Vec<_> = self.devices.iter().map(device).collect();
        let pod = &self.owner.pod().unwrap().name;
        let order = json!({"verb": verb, "state_dir": self.state_dir, "path": self.path, "pod": pod,
            "id": self.owner.id(), "devices": devices});
        order.to_string()
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, verb: &str) -> Ending {
        finish(Self::start(), &self.input(verb))
    }
}

/// Set for that program.
pub(crate) const PROGRAM: &str = "NETDEVICE_TEST_PROGRAM";
/// What this program is started with to be that program.
pub(crate) const ARGUMENTS: [&str; 4] =
    ["support::inject::the_program_that_other_tests_start", "--exact", "--test-threads=1", "--nocapture"];
/// What such a program says when it waits for its input.
const READY: &[u8] = b"waits for its input";

/// Starts this program once more, as one that waits for its input ([`input_of`]).
pub(crate) fn start_as(program: &str, arguments: [&str; 4]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments);
    command.env(program, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // by then it has all its threads
    let mut text = Vec::new();
    while !text.ends_with(READY) {
        let mut byte = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        text.extend(byte);
    }
    child
}

/// In that program: its input. None in a run of the tests.
pub(crate) fn input_of(program: &str) -> Option<Value> {
    std::env::var_os(program)?;
    std::io::stdout().write_all(READY).unwrap();
    std::io::stdout().flush().unwrap();
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).unwrap();
    Some(serde_json::from_str(&text).unwrap())
}

/// Not a test: this program once more, as one that attaches or detaches what its input says.
#[test]
fn the_program_that_other_tests_start() {
    let Some(order) = input_of(PROGRAM) else { return };
    let word = |key: &str| order[key].as_str().unwrap();
    let (state_dir, path) = (Path::new(word("state_dir")), Path::new(word("path")));
    let devices = Order::from_json(state_dir, path, word("pod"), word("id"), &order["devices"]);
    let lines: Vec<String> = match word("verb") {
        "attach" => devices.attach().err().into_iter().collect(),
        "attach as an agent" => {
            let (records, obstacle) = Records::of_agent(state_dir);
            assert!(obstacle.is_none(), "{obstacle:?}");
            devices.attach_by(&records).err().into_iter().collect()
        }
        _ => devices.detach().into_iter().filter_map(|(_, result)| result.err()).collect(),
    };
    let _ = std::io::stderr().write_all(lines.join("\n").as_bytes());
    std::process::exit(i32::from(!lines.is_empty()));
}
