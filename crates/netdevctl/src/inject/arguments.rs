//! The command line of `if-inject`. Flags may be before or after the command, as in the program that it replaces, and each
//! command takes only those that mean something for it.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Parser, ValueEnum, parser::ValueSource};
use cni::ContainerId;
use cri::Endpoint;
use netdevice::InterfaceName;

use crate::node_arguments::NodeArguments;

/// Adds, removes and checks network interfaces of Pods that run on this node.
#[derive(Debug, Parser)]
#[command(name = "if-inject", version, after_help = EXAMPLES)]
pub(crate) struct Program {
    #[command(flatten)]
    pub(crate) arguments: InjectArguments,
}

const EXAMPLES: &str = "\
Examples:
  if-inject netns -pod web
  if-inject add -pod web -interface net1 -spec ptp.json
  if-inject del -pod web -interface net1
  if-inject add -pod web -device eth2 -name net1 -ips 10.0.0.2/24";

/// The command and all flags.
#[derive(Debug, Args)]
pub(crate) struct InjectArguments {
    /// What to do
    pub(crate) command: Option<Verb>,
    /// Namespace of the Pod
    #[arg(long, value_name = "NAMESPACE", default_value = "default")]
    pub(crate) ns: String,
    /// Name of the Pod
    #[arg(long, value_name = "NAME")]
    pub(crate) pod: Option<String>,
    /// Socket of the container runtime (default: CONTAINER_RUNTIME_ENDPOINT, /etc/crictl.yaml, then the known ones)
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) runtime_endpoint: Option<Endpoint>,
    /// How much is logged, as JSON on standard error: 0 errors, 1 what is done, 2 how, 4 all
    #[arg(long, value_name = "LEVEL", default_value_t = 0)]
    pub(crate) loglevel: u8,
    #[command(flatten)]
    pub(crate) network: NetworkArguments,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
    #[command(flatten)]
    pub(crate) node: NodeArguments,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Verb {
    /// Prints the path of the Pod's network namespace
    Netns,
    /// Adds an interface: with CNI plugins (-spec), or a device of the node (-device)
    Add,
    /// Removes an interface that was added here
    Del,
    /// Compares an interface with what was added
    Check,
    /// Lists what was added to the Pod
    List,
    /// Asks the plugins of a network whether they are ready (CNI 1.1.0)
    Status,
    /// Removes what Pods that have ended left on the node
    Gc,
}

/// Interfaces that CNI plugins make.
#[derive(Debug, Args)]
#[command(next_help_heading = "CNI plugins")]
pub(crate) struct NetworkArguments {
    /// The configuration or list: a file, "-" for standard input, or the name of a network in -cni-conf-dir
    #[arg(long, value_name = "FILE")]
    pub(crate) spec: Option<String>,
    /// Name of the interface in the Pod
    #[arg(long, value_name = "NAME", default_value = "net1")]
    pub(crate) interface: InterfaceName,
    /// CNI_CONTAINERID (default: the id of the Pod's sandbox)
    #[arg(long, value_name = "ID")]
    pub(crate) containerid: Option<ContainerId>,
    /// Ports of the node, HOST:CONTAINER[/tcp|udp|sctp], with commas between them: the capability portMappings
    #[arg(long, value_name = "PORTS", action = ArgAction::Append)]
    pub(crate) portmap: Vec<String>,
    /// Limits in bit/s and bits, ingressRate=N,ingressBurst=N,egressRate=N,egressBurst=N: the capability bandwidth
    #[arg(long, value_name = "LIMITS")]
    pub(crate) bandwidth: Option<String>,
    /// Further CNI_ARGS: KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE", action = ArgAction::Append)]
    pub(crate) cni_args: Vec<String>,
    /// Directories of the plugins, with colons between them (default: CNI_PATH, else /opt/cni/bin)
    #[arg(long, value_name = "DIRS")]
    pub(crate) cni_path: Option<String>,
    /// Directory of the node's networks (default: NETCONFPATH, else /etc/cni/net.d)
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_conf_dir: Option<PathBuf>,
    /// Directory of the results
    #[arg(long, value_name = "DIR", default_value = cni::DEFAULT_CACHE_DIR)]
    pub(crate) cni_cache_dir: PathBuf,
    /// Forgets the interface although its plugins fail to delete it: addresses that they reserved stay reserved
    #[arg(long, conflicts_with = "device")]
    pub(crate) force: bool,
    /// How long a plugin may take: 500ms, 60s, 2m
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// Addresses, for plugins and for devices, and devices of the node.
#[derive(Debug, Args)]
#[command(next_help_heading = "Devices of the node")]
pub(crate) struct DeviceArguments {
    /// The device: its id, or the name or an alternative name of an interface
    #[arg(long, value_name = "DEVICE", conflicts_with = "spec")]
    pub(crate) device: Option<String>,
    /// Its name in the Pod (default: the name that it has)
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Addresses with their prefix lengths, with commas between them. With -spec: the capability ips
    #[arg(long, value_name = "ADDRESSES", action = ArgAction::Append)]
    pub(crate) ips: Vec<String>,
    /// MTU in the Pod
    #[arg(long, value_name = "BYTES")]
    pub(crate) mtu: Option<String>,
    /// Hardware address in the Pod. With -spec: the capability mac
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) mac: Option<String>,
    /// Routes, "TO [via GATEWAY] [metric NUMBER]", with commas between them
    #[arg(long, value_name = "ROUTES", action = ArgAction::Append)]
    pub(crate) routes: Vec<String>,
    /// Also keeps the addresses and routes that it has on the node
    #[arg(long)]
    pub(crate) inherit: bool,
    /// The socket on which the kubelet lists the devices that it allocated
    #[arg(long, value_name = "SOCKET", default_value = kubelet::POD_RESOURCES_SOCKET)]
    pub(crate) pod_resources_socket: PathBuf,
}

/// Flags that are for some commands only, with those commands.
const OF_SOME: [(&str, &[Verb]); 15] = [
    ("pod", &[Verb::Netns, Verb::Add, Verb::Del, Verb::Check, Verb::List]),
    ("spec", &[Verb::Add, Verb::Del, Verb::Check, Verb::Status, Verb::Gc]),
    ("interface", &[Verb::Add, Verb::Del, Verb::Check]),
    ("containerid", &[Verb::Add, Verb::Del, Verb::Check]),
    ("portmap", &[Verb::Add]),
    ("bandwidth", &[Verb::Add]),
    ("cni_args", &[Verb::Add]),
    ("force", &[Verb::Del]),
    ("device", &[Verb::Add, Verb::Del]),
    ("name", &[Verb::Add]),
    ("ips", &[Verb::Add]),
    ("mtu", &[Verb::Add]),
    ("mac", &[Verb::Add]),
    ("routes", &[Verb::Add]),
    ("inherit", &[Verb::Add]),
];
/// Flags of `add` that mean something for a device only, or for plugins only.
const OF_DEVICES: [&str; 4] = ["name", "mtu", "routes", "inherit"];
const OF_PLUGINS: [&str; 5] = ["interface", "containerid", "portmap", "bandwidth", "cni_args"];

impl InjectArguments {
    /// Checks that each flag means something for the command. Returns what is wrong with the command line.
    pub(crate) fn check(&self, matches: &clap::ArgMatches) -> Result<(), String> {
        let Some(verb) = self.command else { return Ok(()) };
        let is_given = |flag: &str| matches.value_source(flag) == Some(ValueSource::CommandLine);
        let shown = |flag: &str| format!("-{}", flag.replace('_', "-"));
        if !matches!(verb, Verb::Gc | Verb::Status) && self.pod.is_none() {
            return Err(format!("{verb} needs -pod"));
        }
        if let Some((flag, _)) = OF_SOME.iter().find(|(flag, verbs)| is_given(flag) && !verbs.contains(&verb)) {
            return Err(format!("{verb} has no flag {}", shown(flag)));
        }
        let (is_device, is_network) = (self.device.device.is_some(), self.network.spec.is_some());
        let other = |flags: &[&'static str]| flags.iter().find(|flag| is_given(flag)).copied();
        match (verb, is_device, is_network) {
            (Verb::Add, false, false) => Err("add needs -spec or -device".into()),
            (Verb::Check | Verb::Status, _, false) => Err(format!("{verb} needs -spec")),
            (Verb::Add | Verb::Del, true, _) => other(&OF_PLUGINS)
                .map_or(Ok(()), |flag| Err(format!("{} is for CNI plugins, not for -device", shown(flag)))),
            (Verb::Add, _, true) => other(&OF_DEVICES)
                .map_or(Ok(()), |flag| Err(format!("{} is for -device, not for CNI plugins", shown(flag)))),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Verb {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value();
        out.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// A time as Go writes it, with one unit.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| format!("invalid time {text:?}: write it as 500ms, 60s or 2m"))?;
    let time = match &text[digits.len()..] {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        _ => return Err(format!("invalid time {text:?}: write it as 500ms, 60s or 2m")),
    };
    let range = Duration::from_millis(1)..=Duration::from_secs(3600);
    if range.contains(&time) { Ok(time) } else { Err("must be between 1ms and 60m".into()) }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::{CommandFactory, FromArgMatches};

    use super::*;

    fn parse(arguments: &str) -> Result<InjectArguments, String> {
        let command = Program::command();
        let words = format!("if-inject {arguments}");
        let words = words.split_whitespace().map(OsString::from);
        let words = netdevice::go_flags::rewrite(words, &crate::arguments::long_flags(&command));
        let matches = command.try_get_matches_from(words).map_err(|error| error.to_string())?;
        let program = Program::from_arg_matches(&matches).map_err(|error| error.to_string())?;
        program.arguments.check(&matches)?;
        Ok(program.arguments)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Program::command().debug_assert();
        let flags =
            |names: &[&str]| names.iter().all(|name| Program::command().get_arguments().any(|it| it.get_id() == name));
        assert!(flags(&OF_SOME.map(|(flag, _)| flag)) && flags(&OF_DEVICES) && flags(&OF_PLUGINS));
    }

    #[test]
    fn flags_are_taken_before_and_after_the_command_with_one_dash_and_with_two() {
        let same = [
            "add -ns a -pod p -interface net2 -spec s.json -loglevel 2",
            "--loglevel=2 -ns=a add --pod p -interface=net2 -spec=s.json",
            "-ns a -pod p -spec s.json -interface net2 --loglevel 2 add",
        ];
        for arguments in same {
            let read = parse(arguments).unwrap();
            assert_eq!((read.command, read.ns.as_str(), read.pod.as_deref()), (Some(Verb::Add), "a", Some("p")));
            assert_eq!((read.network.interface.to_string().as_str(), read.loglevel), ("net2", 2));
            assert_eq!(read.network.spec.as_deref(), Some("s.json"));
        }
        let defaults = parse("netns -pod p").unwrap();
        assert_eq!((defaults.ns.as_str(), defaults.network.interface.to_string().as_str()), ("default", "net1"));
        assert_eq!(defaults.network.timeout, Duration::from_secs(60));
        assert_eq!(parse("").unwrap().command, None);
    }

    #[test]
    fn each_command_takes_its_own_flags_only() {
        let table = [
            ("netns", "netns needs -pod"),
            ("add -pod p", "add needs -spec or -device"),
            ("check -pod p", "check needs -spec"),
            ("status", "status needs -spec"),
            ("status -pod p -spec s", "status has no flag -pod"),
            ("netns -pod p -spec s", "netns has no flag -spec"),
            ("del -pod p -cni-args A=b", "del has no flag -cni-args"),
            ("gc -pod p", "gc has no flag -pod"),
            ("add -pod p -device eth2 -interface net1", "-interface is for CNI plugins, not for -device"),
            ("add -pod p -spec s -mtu 1400", "-mtu is for -device, not for CNI plugins"),
        ];
        for (arguments, expected) in table {
            assert_eq!(parse(arguments).unwrap_err(), expected, "{arguments}");
        }
        for wrong in [
            "plug -pod p",
            "add -pod p -spec s -device d",
            "add -pod p -spec s -interface a/b",
            "add -pod p -spec s -timeout 1h",
            "add -pod p -spec s -containerid ../x",
            "add -nonsense",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        for good in [
            "del -pod p",
            "del -pod p -device eth2",
            "add -pod p -spec s -ips 10.0.0.2/24 -mac 02:00:00:00:00:01",
            "gc",
            "gc -spec n",
            "list -pod p",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "60", "s", "1h", "0s", "-1s", "99999999999999999999s", "61m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
