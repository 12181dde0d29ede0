//! The arguments. Every path has a flag, and no flag is needed on a node with the usual paths.

use std::{
    collections::BTreeSet,
    env,
    ffi::{OsStr, OsString},
    net::{AddrParseError, IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::{ArgGroup, Command, CommandFactory, FromArgMatches, Parser, ValueEnum};
use netdevice::{
    go_flags::{Flag, rewrite},
    selector::Pattern,
};

/// Offers network interfaces of this node to Pods as an extended resource
///
/// Flags may be written with one dash or two: -interfaces dummy is --interfaces=dummy.
#[derive(Debug, Clone, Parser)]
#[command(name = "netdevice-agent", version, max_term_width = 100)]
#[command(group(ArgGroup::new("selection").required(true).args(["interfaces", "config"])))]
pub(crate) struct Arguments {
    /// Offer the interfaces whose name matches this regular expression (unanchored) as networking.k8s.io/netdevice
    #[arg(long, value_name = "REGEX")]
    pub(crate) interfaces: Option<Pattern>,

    /// Offer the pools of this YAML file; it is read again when it changes
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Addresses of the node, separated by commas: an interface that has one of them is never offered. Those of
    /// connections to the kubelet and the API server are found without this flag
    #[arg(long, value_name = "ADDRESSES", env = "NODE_IP", default_value = "", hide_default_value = true)]
    pub(crate) node_ip: NodeAddresses,

    /// Log level, as in klog: 0 for operators, 2 for each change, 5 for each step
    #[arg(long = "v", short = 'v', value_name = "N", default_value_t = 0)]
    pub(crate) verbosity: u8,

    /// Format of the log on standard error
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub(crate) log_format: LogFormat,

    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9780")]
    pub(crate) admin_address: SocketAddr,

    /// Directory of kubelet.sock and of the device plugins' sockets
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet/device-plugins")]
    pub(crate) device_plugin_dir: PathBuf,

    /// The kubelet's PodResources socket
    #[arg(long, value_name = "SOCKET", default_value = kubelet::POD_RESOURCES_SOCKET)]
    pub(crate) pod_resources_socket: PathBuf,

    /// Directory that the container runtime reads CDI files from
    #[arg(long, value_name = "DIR", default_value = "/var/run/cdi")]
    pub(crate) cdi_dir: PathBuf,

    /// CDI directories that the container runtime reads, separated by commas, the last one has priority; searched for
    /// files of other programs that name the same devices
    #[arg(long, value_name = "DIRS", default_value = "/etc/cdi,/var/run/cdi", value_delimiter = ',')]
    pub(crate) cdi_spec_dirs: Vec<PathBuf>,

    /// Directory of the records of attached devices, in memory (a reboot must clear it)
    #[arg(long, value_name = "DIR", default_value = store::DEFAULT_STATE_DIR)]
    pub(crate) state_dir: PathBuf,

    /// Where the hook is installed; the container runtime must find it at the same path
    #[arg(long, value_name = "FILE", default_value = "/var/lib/netdevice/netdevice-hook", value_parser = absolute)]
    pub(crate) hook_path: String,

    /// The hook to install [default: netdevice-hook beside this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) hook_source: Option<PathBuf>,

    /// Whether to post Events for Pods and the Node: auto posts them if there is a service account
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub(crate) events: EventMode,

    /// Name of the Node, for Events about the Node and for -dra
    #[arg(long, value_name = "NAME", env = "NODE_NAME", default_value = "", hide_default_value = true)]
    node_name: String,

    /// Directories of the CNI plugins on the node, separated by colons: what if-inject added is deleted by them when its Pod
    /// has ended
    #[arg(long, value_name = "DIRS", env = "CNI_PATH", default_value = cni::DEFAULT_PLUGIN_DIR, hide_env_values = true)]
    pub(crate) cni_path: String,

    /// Directory of the results of CNI plugins on the node
    #[arg(long, value_name = "DIR", default_value = cni::DEFAULT_CACHE_DIR)]
    pub(crate) cni_cache_dir: PathBuf,

    /// Also attach interfaces by the Pod annotation netdevices.nri.containerd.io, as a plugin of the runtime (NRI)
    #[arg(long)]
    pub(crate) nri: bool,

    /// Also add and remove interfaces of running Pods when the Pod annotation k8s.v1.cni.cncf.io/networks changes
    #[arg(long)]
    pub(crate) dynamic_networks: bool,

    /// Also give devices by ResourceClaim, as a driver for Dynamic Resource Allocation (DRA); those of -interfaces are then
    /// offered by claims only
    #[arg(long)]
    pub(crate) dra: bool,

    /// The kubelet's directory, in which -dra finds plugins_registry and plugins
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    pub(crate) kubelet_dir: PathBuf,

    /// UID of this Pod: two instances of -dra serve side by side during an update
    #[arg(long, value_name = "UID", env = "POD_UID", default_value = "", hide_default_value = true)]
    pub(crate) pod_uid: String,

    /// Socket of Multus' thick daemon, which then runs the CNI plugins for -dynamic-networks; without it this agent does
    #[arg(long, value_name = "SOCKET")]
    pub(crate) multus_socket: Option<PathBuf>,

    /// Directory of Multus' results
    #[arg(long, value_name = "DIR", default_value = dynamic_networks::multus::DEFAULT_CACHE_DIR)]
    pub(crate) multus_cache_dir: PathBuf,

    /// The container runtime's CRI socket [default: the first known one that answers]
    #[arg(long, value_name = "SOCKET")]
    pub(crate) cri_socket: Option<String>,

    /// Directory of the configuration of NetworkAttachmentDefinitions with an empty spec
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/multus/net.d")]
    pub(crate) network_config_dir: PathBuf,

    /// Let Pods use only NetworkAttachmentDefinitions of their own namespace, and of the global namespaces
    #[arg(long)]
    pub(crate) namespace_isolation: bool,

    /// Namespaces whose NetworkAttachmentDefinitions every Pod may use, separated by commas
    #[arg(long, value_name = "NAMESPACES", default_value = "default", value_delimiter = ',')]
    pub(crate) global_namespaces: Vec<String>,

    /// The runtime's NRI socket
    #[arg(long, value_name = "SOCKET", default_value = nri::DEFAULT_SOCKET)]
    pub(crate) nri_socket: PathBuf,

    /// Index of the NRI plugin, two digits: the runtime calls its plugins in this order [default: 10]
    #[arg(long, value_name = "NN", value_parser = plugin_index)]
    idx: Option<String>,

    /// Name of the NRI plugin
    #[arg(long, value_name = "NAME", default_value = "netdevice", value_parser = plugin_name)]
    name: String,

    #[arg(skip)]
    pub(crate) program: Program,
}

/// The program, by the name that the process was started with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Program {
    /// `netdevice-agent`: everything.
    #[default]
    Agent,
    /// `network-device-injector`: devices by annotation only.
    Injector,
    /// `dynamic-networks-controller`: networks of running Pods only.
    DynamicNetworks,
}

/// The injector's index among the runtime's plugins, by default.
const DEFAULT_INDEX: &str = "10";
/// What the injector does.
const INJECTS: &str =
    "Attaches network interfaces of this node to Pods by the Pod annotation netdevices.nri.containerd.io";
/// The injector's name.
const INJECTOR: &str = "network-device-injector";
/// The name of the controller of networks.
const CONTROLLER: &str = "dynamic-networks-controller";
/// What the controller of networks does.
const CONTROLS: &str =
    "Adds and removes interfaces of running Pods when the Pod annotation k8s.v1.cni.cncf.io/networks changes";
/// Where its configuration is by default, as in the program that it replaces.
const CONTROLLER_CONFIG: &str = "/etc/cni/net.d/multus.d/daemon-config.json";

impl Program {
    /// The program of that name. A runtime that starts its plugins itself names them `NN-NAME`, with their index first.
    fn of(name: &OsStr) -> (Self, Option<&str>) {
        let name = Path::new(name).file_name().and_then(OsStr::to_str).unwrap_or_default();
        let (index, rest) = match name.split_once('-') {
            Some((index, rest)) if index.len() == 2 && index.bytes().all(|byte| byte.is_ascii_digit()) => {
                (Some(index), rest)
            }
            _ => (None, name),
        };
        match rest {
            INJECTOR => (Self::Injector, index),
            CONTROLLER => (Self::DynamicNetworks, None),
            _ => (Self::Agent, None),
        }
    }

    /// Its name in the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Agent => "netdevice-agent",
            Self::Injector => INJECTOR,
            Self::DynamicNetworks => CONTROLLER,
        }
    }

    /// The command line of the program.
    fn command(self) -> Command {
        let command = Arguments::command();
        match self {
            Self::Agent => return command,
            Self::DynamicNetworks => return controller_command(command),
            Self::Injector => {}
        }
        let of_the_agent = [
            "nri",
            "dra",
            "kubelet_dir",
            "pod_uid",
            "device_plugin_dir",
            "cdi_dir",
            "cdi_spec_dirs",
            "hook_path",
            "hook_source",
        ];
        let command = of_the_agent.into_iter().fold(command, |command, id| command.mut_arg(id, |arg| arg.hide(true)));
        command
            .name(INJECTOR)
            .bin_name(INJECTOR)
            .about(INJECTS)
            .long_about(format!("{INJECTS}\n\nFlags may be written with one dash or two: -idx 10 is --idx=10."))
            .mut_group("selection", |group| group.required(false))
            .mut_arg("interfaces", |arg| arg.help("Attach only interfaces whose name matches this regular expression (unanchored)"))
            .mut_arg("config", |arg| {
                arg.help("Attach the interfaces of the pools of this YAML file that have `annotations`; read again when it changes")
            })
            .mut_arg("name", |arg| arg.default_value(INJECTOR))
            .mut_arg("admin_address", |arg| arg.default_value("127.0.0.1:9781"))
    }
}

/// The command line of `dynamic-networks-controller`.
fn controller_command(command: Command) -> Command {
    let of_the_agent = [
        "dynamic_networks",
        "nri",
        "dra",
        "kubelet_dir",
        "pod_uid",
        "nri_socket",
        "idx",
        "name",
        "device_plugin_dir",
        "cdi_dir",
        "cdi_spec_dirs",
        "hook_path",
        "hook_source",
        "interfaces",
    ];
    let command = of_the_agent.into_iter().fold(command, |command, id| command.mut_arg(id, |arg| arg.hide(true)));
    command
        .name(CONTROLLER)
        .bin_name(CONTROLLER)
        .about(CONTROLS)
        .long_about(format!("{CONTROLS}\n\nFlags may be written with one dash or two: -v 5 is --v=5."))
        .mut_group("selection", |group| group.required(false).multiple(true))
        .mut_arg("config", |arg| {
            arg.help("JSON file with criSocketPath, criType and multusSocketPath").default_value(CONTROLLER_CONFIG)
        })
        .mut_arg("admin_address", |arg| arg.default_value("127.0.0.1:9782"))
}

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object per line
    Json,
}

/// Whether Events are posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EventMode {
    /// If there is a service account
    Auto,
    /// Never
    Off,
}

/// Addresses, separated by commas; empty while a node has none (downward API).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeAddresses(pub(crate) BTreeSet<IpAddr>);

impl FromStr for NodeAddresses {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// The address of the API server for containers: Kubernetes puts it into the environment of each.
fn api_server() -> Option<SocketAddr> {
    let port = env::var("KUBERNETES_SERVICE_PORT").ok()?.parse().ok()?;
    Some(SocketAddr::new(env::var("KUBERNETES_SERVICE_HOST").ok()?.parse().ok()?, port))
}

fn plugin_index(text: &str) -> Result<String, nri::Error> {
    nri::PluginIndex::try_from(text).map(|index| index.to_string())
}

fn plugin_name(text: &str) -> Result<String, nri::Error> {
    nri::PluginName::try_from(text).map(|name| name.to_string())
}

/// A path that CDI accepts.
fn absolute(path: &str) -> Result<String, String> {
    if path.starts_with('/') { Ok(path.to_owned()) } else { Err("must be an absolute path".into()) }
}

/// Adds a dash to an unknown flag with one dash: the parser then reports the whole flag, not its first letter.
fn named_whole(argument: OsString) -> OsString {
    match argument.as_encoded_bytes() {
        // -v4, -h, -V are short flags
        [b'-', first, _, ..] if first.is_ascii_alphabetic() && !b"vhV".contains(first) => {
            let mut whole = OsString::from("-");
            whole.push(&argument);
            whole
        }
        _ => argument,
    }
}

impl Arguments {
    /// The arguments of this process; invalid ones end it with an error and status 2.
    pub(crate) fn read() -> Self {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        Self::parse(arguments).unwrap_or_else(|error| error.exit())
    }

    fn parse(arguments: Vec<OsString>) -> Result<Self, clap::Error> {
        let called = arguments.first().cloned().unwrap_or_default();
        let (program, index) = Program::of(&called);
        let mut command = program.command();
        let long_flags = command.get_arguments().filter_map(|argument| {
            let name = argument.get_long().filter(|name| name.len() > 1)?;
            Some(if argument.get_action().takes_values() { Flag::Valued(name) } else { Flag::Switch(name) })
        });
        let flags: Vec<Flag<'_>> = long_flags.chain([Flag::Switch("help"), Flag::Switch("version")]).collect();
        let rewritten: Vec<OsString> = rewrite(arguments, &flags).into_iter().map(named_whole).collect();
        let matches = command.try_get_matches_from_mut(rewritten)?;
        let read = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        let idx = read.idx.or_else(|| index.map(str::to_owned));
        Ok(Self {
            program,
            nri: read.nri || program == Program::Injector,
            dynamic_networks: read.dynamic_networks || program == Program::DynamicNetworks,
            idx,
            ..read
        })
    }

    /// The plugin of the runtime, if one is requested. It is already connected if the runtime started this process.
    pub(crate) fn plugin(&self) -> Result<Option<nri::Config>, nri::Error> {
        if !self.nri {
            return Ok(None);
        }
        if let Some(started) = nri::Config::pre_launched(|name| std::env::var_os(name))? {
            return Ok(Some(started));
        }
        let index = self.idx.as_deref().unwrap_or(DEFAULT_INDEX);
        nri::Config::external(&self.name, index, self.nri_socket.clone()).map(Some)
    }

    /// The log file of a process that the runtime started: it has no standard error.
    pub(crate) fn log_file(&self) -> Option<PathBuf> {
        (self.nri && std::env::var_os("NRI_PLUGIN_SOCKET").is_some()).then(|| self.state_dir.join("injector.log"))
    }

    /// The Node's name, if it is known.
    pub(crate) fn node_name(&self) -> Option<String> {
        Some(self.node_name.clone()).filter(|name| !name.is_empty())
    }

    /// How the kernel is followed.
    pub(crate) fn inventory(&self) -> inventory::Config {
        inventory::Config {
            node_addresses: self.node_ip.0.clone(),
            api_server: api_server(),
            ..inventory::Config::default()
        }
    }

    /// The hook to install.
    pub(crate) fn hook_source(&self) -> PathBuf {
        let beside = || std::env::current_exe().ok().map(|program| program.with_file_name("netdevice-hook"));
        self.hook_source.clone().or_else(beside).unwrap_or_else(|| "/netdevice-hook".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_node_are_read_with_commas_and_none_is_none() {
        let read = |text: &str| text.parse::<NodeAddresses>().map(|addresses| addresses.0.len());
        assert_eq!(read(""), Ok(0));
        assert_eq!(read("10.0.0.5"), Ok(1));
        assert_eq!(read("10.0.0.5, 2001:db8::5,10.0.0.5,"), Ok(2));
        assert!(read("node-1").is_err());
    }

    #[test]
    fn an_unknown_flag_with_one_dash_is_named_whole() {
        let flags = ["-bogus", "-bogus=x", "--bogus", "-v4", "-v", "-h", "-", "x", "-4x"];
        let whole = flags.map(|flag| named_whole(flag.into()).into_string().unwrap());
        assert_eq!(whole, ["--bogus", "--bogus=x", "--bogus", "-v4", "-v", "-h", "-", "x", "-4x"]);
        let error = parse(&["netdevice-agent", "-bogus"]).unwrap_err().to_string();
        assert!(error.starts_with("error: unexpected argument '--bogus' found\n"), "{error}");
    }

    fn parse(arguments: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::parse(arguments.iter().map(OsString::from).collect())
    }

    #[test]
    fn the_injector_is_known_by_the_name_that_it_is_called() {
        let read = parse(&["/opt/network-device-injector", "-idx", "07", "-interfaces", "dummy"]).unwrap();
        assert_eq!((read.program, read.nri, read.idx.as_deref()), (Program::Injector, true, Some("07")));
        assert_eq!((read.name.as_str(), read.admin_address.port()), ("network-device-injector", 9781));
        let started = parse(&["/opt/nri/plugins/42-network-device-injector"]).unwrap();
        assert_eq!((started.program, started.idx.as_deref()), (Program::Injector, Some("42")));
        for name in ["netdevice-agent", "network-device-injector2", "4-network-device-injector"] {
            let read = parse(&[name, "-interfaces", "x"]).unwrap();
            assert_eq!((read.program, read.nri), (Program::Agent, false), "{name}");
        }
        assert!(parse(&["netdevice-agent", "-nri"]).is_err(), "the agent needs a selection");
        for wrong in [["-idx", "1"], ["-idx", "100"], ["-name", "a/b"], ["-name", ""]] {
            let error = parse(&[&["network-device-injector"], &wrong[..]].concat()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong:?}: {error}");
        }
        let help = parse(&["network-device-injector", "--help"]).unwrap_err().to_string();
        assert!(help.starts_with(INJECTS) && !help.contains("--hook-path"), "{help}");
        assert!(parse(&["netdevice-agent", "-nri", "-interfaces=x"]).unwrap().nri);
    }
}
