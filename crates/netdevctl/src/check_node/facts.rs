//! What was found on a node.

use std::collections::BTreeSet;

use clap::ValueEnum;
use netdevice::acquisition::{ChildKind, IpvlanMode, MacvlanMode, VlanId};
use serde::Serialize;

/// A way to give a device to a Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WayIn {
    /// Requested as an extended resource: device plugin, CDI and hook
    ExtendedResource,
    /// Requested by an annotation: NRI
    Annotation,
    /// Added to a running Pod with if-inject
    Command,
    /// CNI networks by an annotation, in running Pods too; not in this version
    NetworksAnnotation,
    /// Requested by a ResourceClaim (DRA)
    Claims,
}

impl WayIn {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ExtendedResource => "extended resource",
            Self::Annotation => "annotation",
            Self::Command => "command",
            Self::NetworksAnnotation => "networks annotation",
            Self::Claims => "claims",
        }
    }
}

/// All that was found. A reason is in the words of what failed.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) view: View,
    pub(crate) kernel: Kernel,
    /// The effective capabilities of this process, a bit for each; none when they cannot be read.
    pub(crate) capabilities: Option<u64>,
    /// The container runtime, or why there is none.
    pub(crate) runtime: Result<Runtime, String>,
    pub(crate) nri: Socket,
    pub(crate) device_plugins: Socket,
    pub(crate) pod_resources: Socket,
    /// Whether the kubelet has its directory for plugins.
    pub(crate) has_plugins_registry: bool,
    /// Whether our driver for claims has a socket there.
    pub(crate) has_driver: bool,
    pub(crate) cni: Cni,
    pub(crate) hook: Hook,
    /// Whether an agent runs.
    pub(crate) has_agent: bool,
    /// Whether a program that serves annotations runs.
    pub(crate) has_injector: bool,
}

/// Whose files are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum View {
    /// Those of the node's first process.
    Node,
    /// Those of this process alone, and why.
    Own(String),
}

/// What the kernel has.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// As `uname -r` prints it.
    pub(crate) release: String,
    /// Whether a network namespace has a cookie.
    pub(crate) cookie: Result<(), String>,
    /// Whether the end of a network namespace is reported.
    pub(crate) namespace_events: Result<(), String>,
    /// Whether it has each of [`kinds`].
    pub(crate) kinds: Result<Vec<bool>, String>,
}

/// The kinds of links that can be created on a parent.
pub(crate) fn kinds() -> Vec<ChildKind> {
    let vlan = VlanId::try_from(1).ok().map(|id| ChildKind::Vlan { id });
    let others = [ChildKind::Macvlan { mode: MacvlanMode::Bridge }, ChildKind::Ipvlan { mode: IpvlanMode::L2 }];
    others.into_iter().chain(vlan).collect()
}

/// A container runtime that answers.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) endpoint: String,
    /// What it says of itself, or why it does not.
    pub(crate) state: Result<RuntimeState, String>,
}

/// What a runtime says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RuntimeState {
    /// What it lacks.
    pub(crate) not_ready: Vec<String>,
    /// Whether its configuration switches CDI on; none when it does not say.
    pub(crate) cdi: Option<bool>,
    /// The directories in which it reads CDI files; none when it does not say.
    pub(crate) cdi_directories: Option<Vec<String>>,
}

/// A unix socket that some program should listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Socket {
    /// A program accepts connections.
    Accepts,
    /// There is no such file.
    Absent,
    /// No program accepts a connection, or not this process'.
    Refuses(String),
}

/// The CNI plugins and networks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cni {
    /// Of [`PLUGINS`] those that are there.
    pub(crate) plugins: BTreeSet<&'static str>,
    /// Files with networks, by name.
    pub(crate) networks: BTreeSet<String>,
}

/// The CNI plugins that netdevice is tested with; first those that make an interface.
pub(crate) const PLUGINS: [&str; 8] =
    ["bridge", "host-device", "macvlan", "ptp", "host-local", "portmap", "static", "tuning"];
/// How many of [`PLUGINS`] make an interface.
pub(crate) const INTERFACE_PLUGINS: usize = 4;

/// The hook on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hook {
    /// It can be started.
    Installed,
    /// There is no such file.
    Absent,
    /// It cannot be started, and why.
    Unusable(&'static str),
}

/// What a runtime's verbose status says of CDI. containerd has its configuration under `config`, CRI-O under `config` and
/// there `crio`.
pub(crate) fn read_runtime_state(state: cri::RuntimeState) -> RuntimeState {
    let config = state.info.get("config").and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let config = config.unwrap_or_default();
    let directories = config.get("cdiSpecDirs").or_else(|| config.get("crio")?.get("CDISpecDirs"));
    let directories = directories.and_then(|value| value.as_array()).map(|values| {
        let texts = values.iter().filter_map(|value| value.as_str());
        texts.map(str::to_owned).collect()
    });
    let cdi = config.get("enableCDI").and_then(serde_json::Value::as_bool);
    RuntimeState { not_ready: state.not_ready, cdi, cdi_directories: directories }
}

/// The effective capabilities in the text of `/proc/self/status`.
pub(crate) fn read_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Whether a command line, its words separated by NUL as in `/proc/PID/cmdline`, is that of a program that serves
/// annotations.
pub(crate) fn is_injector(command_line: &[u8]) -> bool {
    let mut words = command_line.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    let program = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    program.ends_with(b"network-device-injector")
        || program.ends_with(b"netdevice-agent") && words.any(|word| matches!(word, b"-nri" | b"--nri"))
}
