//! `if-inject` with a device, as a function and as a program that can be killed.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Child,
};

use netdevctl::{
    NodeArguments,
    inject::device::{
        self, AddedDevice, DeviceRequestArguments, ListedDevice, Outcome, Place, PodName, ReturnedDevice,
    },
};
use netdevice::Pod;
use serde_json::json;

use super::{
    Ending, Host, Sandbox, finish,
    inject::{input_of, start_as},
};

/// A command for one Pod.
pub(crate) struct PodCommand {
    pub(crate) place: Place,
    pod: String,
    /// None once the runtime no longer knows it.
    pub(crate) sandbox: Option<netdevice::Sandbox>,
}

/// The node of a test: every device whose name begins so may be taken.
fn place(state_dir: &Path) -> Place {
    Place {
        node: NodeArguments {
            interfaces: Some("^dev".parse().unwrap()),
            config: None,
            state_dir: state_dir.to_owned(),
            sysfs: inventory::SYSFS.into(),
        },
        pod_resources: state_dir.join("no-kubelet.sock"),
    }
}

/// A sandbox as the runtime describes it: containerd with the pid of its first process, CRI-O without.
fn of_cri(id: &str, pod: &str, path: &Path, pid: Option<u32>) -> netdevice::Sandbox {
    let pod = Pod { namespace: "default".into(), name: pod.into(), uid: format!("uid-{pod}") };
    let info = json!({"pid": pid, "runtimeSpec": {"linux": {"namespaces": [{"type": "network", "path": path}]}}});
    netdevice::Sandbox::from_cri(id, pod, &info.to_string()).unwrap()
}

/// `-device dev0`, and other flags.
pub(crate) fn device(name: &str, edit: impl FnOnce(&mut DeviceRequestArguments)) -> DeviceRequestArguments {
    let mut arguments = DeviceRequestArguments { device: name.into(), ..DeviceRequestArguments::default() };
    edit(&mut arguments);
    arguments
}

impl PodCommand {
    /// For a Pod whose sandbox has a process, as containerd makes them.
    pub(crate) fn new(host: &Host, sandbox: &Sandbox) -> Self {
        let described = of_cri(&sandbox.id, &sandbox.pod, &sandbox.path, Some(sandbox.pid()));
        Self { place: place(&host.state_dir()), pod: sandbox.pod.clone(), sandbox: Some(described) }
    }

    /// For a Pod whose sandbox is a mount, as CRI-O makes them.
    pub(crate) fn of_mount(host: &Host, pod: &str, path: &Path) -> Self {
        let described = of_cri(&format!("sandbox-{pod}"), pod, path, None);
        Self { place: place(&host.state_dir()), pod: pod.into(), sandbox: Some(described) }
    }

    fn pod(&self) -> PodName<'_> {
        PodName { namespace: "default", name: &self.pod }
    }

    pub(crate) fn add(&self, arguments: &DeviceRequestArguments) -> Result<AddedDevice, String> {
        device::add(&self.place, self.sandbox.as_ref().unwrap(), arguments).map_err(|error| format!("{error:#}"))
    }

    /// Adds a device, and it works.
    #[track_caller]
    pub(crate) fn adds(&self, arguments: &DeviceRequestArguments) -> AddedDevice {
        self.add(arguments).unwrap()
    }

    /// Adds a device, and it fails with these words.
    #[track_caller]
    pub(crate) fn refuses(&self, arguments: &DeviceRequestArguments, words: &str) {
        let error = self.add(arguments).unwrap_err();
        assert!(error.contains(words) && error.len() < 1000 && !error.contains('\n'), "{error:?} has no {words:?}");
    }

    pub(crate) fn del(&self, device: &str) -> Result<ReturnedDevice, String> {
        device::del(&self.place, self.pod(), self.sandbox.as_ref(), device).map_err(|error| format!("{error:#}"))
    }

    /// Takes a device back, with that outcome.
    #[track_caller]
    pub(crate) fn dels(&self, device: &str, outcome: Outcome) {
        let returned = self.del(device).unwrap();
        assert!(returned.outcome == outcome && returned.renamed.is_none(), "{returned:?}");
        assert_eq!(returned.skipped, Vec::<String>::new());
    }

    pub(crate) fn list(&self) -> Vec<ListedDevice> {
        device::list(&self.place, Some(self.pod())).unwrap()
    }

    /// What `gc` returned, by device.
    pub(crate) fn gc(&self) -> Vec<(String, Outcome)> {
        let returned = device::gc(&self.place).unwrap();
        returned.into_iter().map(|returned| (returned.device, returned.outcome)).collect()
    }

    /// The command as a program of its own, which waits for its input ([`PodCommand::input`]).
    pub(crate) fn start() -> Child {
        start_as(PROGRAM, ARGUMENTS)
    }

    /// What the program is to do: `add`, `del` or `gc`.
    pub(crate) fn input(&self, verb: &str, sandbox: &Sandbox, arguments: &DeviceRequestArguments) -> String {
        let DeviceRequestArguments { device, name, ips, mtu, mac, routes, inherit } = arguments;
        json!({"verb": verb, "state_dir": self.place.node.state_dir, "path": sandbox.path, "pid": sandbox.pid(),
            "id": sandbox.id, "pod": self.pod, "flags": [device, name, ips, mtu, mac, routes, inherit]})
        .to_string()
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, verb: &str, sandbox: &Sandbox, arguments: &DeviceRequestArguments) -> Ending {
        finish(Self::start(), &self.input(verb, sandbox, arguments))
    }
}

/// Set for that program.
const PROGRAM: &str = "NETDEVICE_TEST_COMMAND";
/// What this program is started with to be that program.
const ARGUMENTS: [&str; 4] =
    ["support::command::the_command_that_other_tests_start", "--exact", "--test-threads=1", "--nocapture"];
/// Not a test: this program once more, as the command that its input says.
#[test]
fn the_command_that_other_tests_start() {
    let Some(input) = input_of(PROGRAM) else { return };
    let word = |key: &str| input[key].as_str().unwrap();
    let pid = input["pid"].as_u64().map(|pid| u32::try_from(pid).unwrap());
    let command = PodCommand {
        place: place(&PathBuf::from(word("state_dir"))),
        pod: word("pod").into(),
        sandbox: Some(of_cri(word("id"), word("pod"), Path::new(word("path")), pid)),
    };
    let flags = &input["flags"];
    let text = |at: usize| flags[at].as_str().map(str::to_owned);
    let texts = |at: usize| serde_json::from_value(flags[at].clone()).unwrap();
    let arguments = DeviceRequestArguments {
        device: text(0).unwrap(),
        name: text(1),
        ips: texts(2),
        mtu: text(3),
        mac: text(4),
        routes: texts(5),
        inherit: flags[6].as_bool().unwrap(),
    };
    let error = match word("verb") {
        "add" => command.add(&arguments).err(),
        "del" => command.del(&arguments.device).err(),
        _ => {
            let failed = command.gc().into_iter().find(|(_, outcome)| *outcome == Outcome::Failed);
            failed.map(|(device, _)| format!("{device} was not returned"))
        }
    };
    let _ = std::io::stderr().write_all(error.clone().unwrap_or_default().as_bytes());
    std::process::exit(i32::from(error.is_some()));
}
