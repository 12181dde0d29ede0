//! netdevice-agent on a node.

use std::io::ErrorKind;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use rustix::process::Signal;

use crate::node::Node;
use crate::process::Process;
use crate::wait::wait_for;

/// The CDI file of `networking.k8s.io/netdevice`, as the agent writes it.
pub const CDI_FILE: &str = "/run/cdi/networking.k8s.io-netdevice.json";

/// The journal of the hooks.
pub const HOOK_LOG: &str = "/run/netdevice/hook.log";

/// A running agent; it is killed when this is dropped.
#[derive(Debug)]
pub struct Agent<'n> {
    node: &'n Node,
    process: Process,
    admin_port: u16,
}

/// What the part of the agent that gives devices by annotation is called where it runs alone.
pub const INJECTOR: &str = "network-device-injector";

/// What the admin endpoint answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// 200, 503, ...; 0 when nobody listens.
    pub status: u16,
    /// The text.
    pub body: String,
}

impl Node {
    /// Starts the agent.
    pub fn agent(&self, args: &[&str]) -> Agent<'_> {
        let program = crate::program("netdevice-agent");
        self.start_agent(&program, 9780, args)
    }

    /// Starts the agent as the injector of devices by annotation, and nothing else.
    pub fn injector(&self, args: &[&str]) -> Agent<'_> {
        self.start_agent(&injector_program(), 9781, args)
    }

    fn start_agent(&self, program: &Path, admin_port: u16, args: &[&str]) -> Agent<'_> {
        self.start_agent_with(&[], program, admin_port, args)
    }

    /// Starts the agent with environment variables (`NAME=VALUE`).
    pub(crate) fn start_agent_with(
        &self,
        environment: &[&str],
        program: &Path,
        admin_port: u16,
        args: &[&str],
    ) -> Agent<'_> {
        let program = program.to_string_lossy();
        let environment = if environment.is_empty() { Vec::new() } else { [&["env"], environment].concat() };
        Agent { node: self, process: self.spawn([&environment[..], &[&*program], args].concat()), admin_port }
    }

    /// A GET of the node's own address.
    #[must_use]
    pub fn http(&self, port: u16, path: &str) -> Answer {
        let script = r#"exec 3<>"/dev/tcp/127.0.0.1/$0" && printf 'GET %s HTTP/1.0\r\n\r\n' "$1" >&3 && cat <&3"#;
        let said = self.run(["bash", "-c", script, &port.to_string(), path]);
        let (head, body) = said.stdout.split_once("\r\n\r\n").unwrap_or((&said.stdout, ""));
        let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
        Answer { status: status.unwrap_or(0), body: body.to_owned() }
    }
}

/// The injector: the agent under another name.
///
/// # Panics
/// When the agent is not built, or cannot be linked to.
#[must_use]
#[track_caller]
pub fn injector_program() -> PathBuf {
    agent_as(INJECTOR)
}

/// The agent under another name.
#[track_caller]
pub(crate) fn agent_as(name: &str) -> PathBuf {
    let agent = crate::program("netdevice-agent");
    let link = agent.with_file_name(name);
    match symlink("netdevice-agent", &link) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => panic!("{}: {error}", link.display()),
        _ => link,
    }
}

impl Agent<'_> {
    /// Asks the admin endpoint at its default address.
    #[must_use]
    pub fn get(&self, path: &str) -> Answer {
        self.node.http(self.admin_port, path)
    }

    /// Waits until the runtime reports sandboxes to it.
    ///
    /// # Panics
    /// When it does not within 30 seconds, with the agent's log.
    #[track_caller]
    pub fn wait_until_connected(&self) {
        let connected = || (self.metric("netdevice_nri_connected"), self.process.output());
        wait_for("the runtime takes the plugin", connected, |(connected, _)| *connected == Some(1));
    }

    /// The value of a metric by its line's beginning, such as `netdevice_devices{resource="a.b/c",state="healthy"}`.
    #[must_use]
    pub fn metric(&self, series: &str) -> Option<i64> {
        let text = self.get("/metrics").body;
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// Waits until containers can be started with all these devices, named by their ids.
    ///
    /// # Panics
    /// When they cannot within 30 seconds, with the agent's log.
    #[track_caller]
    pub fn wait_until_offered(&self, ids: &[&str]) {
        let file = self.node.path(CDI_FILE);
        let named = || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let cdi: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let devices = cdi["devices"].as_array().cloned().unwrap_or_default();
            let missing = ids.iter().filter(|id| !devices.iter().any(|device| device["name"] == **id));
            (missing.copied().collect::<Vec<_>>(), self.process.output())
        };
        wait_for("the devices are in the CDI file", named, |(missing, _)| missing.is_empty());
    }

    /// Waits until the kubelet has taken the registration.
    ///
    /// # Panics
    /// When it has not within 30 seconds, with the agent's log.
    #[track_caller]
    pub fn wait_until_registered(&self) {
        self.process.wait_for_output("registered with the kubelet");
    }

    /// Ends it as a service manager does.
    ///
    /// # Panics
    /// When it does not end within 30 seconds.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait()
    }

    /// Ends it as a lack of memory does.
    ///
    /// # Panics
    /// When it is gone already.
    #[track_caller]
    pub fn kill(mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait();
    }
}

impl Deref for Agent<'_> {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Agent<'_> {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}
