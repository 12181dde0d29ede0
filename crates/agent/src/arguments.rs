//! Arguments. Every path has a flag, and none is needed on a node with the usual ones.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    net::{AddrParseError, IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::{ArgGroup, CommandFactory, Parser, ValueEnum};
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

    /// Addresses that the node is known by, with commas: the interface that has one is never offered. Those of
    /// connections to the kubelet and the API server are found without
    #[arg(long, value_name = "ADDRESSES", env = "NODE_IP", default_value = "", hide_default_value = true)]
    pub(crate) node_ip: NodeAddresses,

    /// Log level, as in klog: 0 is for operators, 2 tells each change, 5 each step
    #[arg(long = "v", short = 'v', value_name = "N", default_value_t = 0)]
    pub(crate) verbosity: u8,

    /// Form of the log on standard error
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub(crate) log_format: LogFormat,

    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9780")]
    pub(crate) admin_address: SocketAddr,

    /// Folder of kubelet.sock and of the device plugins' sockets
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet/device-plugins")]
    pub(crate) device_plugin_dir: PathBuf,

    /// The kubelet's PodResources socket
    #[arg(long, value_name = "SOCKET", default_value = "/var/lib/kubelet/pod-resources/kubelet.sock")]
    pub(crate) pod_resources_socket: PathBuf,

    /// Folder that the container runtime reads CDI files from
    #[arg(long, value_name = "DIR", default_value = "/var/run/cdi")]
    pub(crate) cdi_dir: PathBuf,

    /// Folder of the records of attached devices, in memory (lost at a reboot, as it must be)
    #[arg(long, value_name = "DIR", default_value = link::DEFAULT_STATE_DIR)]
    pub(crate) state_dir: PathBuf,

    /// Where the hook is installed; the container runtime must find it at the same path
    #[arg(long, value_name = "FILE", default_value = "/var/lib/netdevice/netdevice-hook", value_parser = absolute)]
    pub(crate) hook_path: String,

    /// The hook to install [default: netdevice-hook beside this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) hook_source: Option<PathBuf>,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

/// Addresses, with commas between them; the downward API gives nothing while a node has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeAddresses(pub(crate) BTreeSet<IpAddr>);

impl FromStr for NodeAddresses {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// Where connections of a container to the API server go to: Kubernetes says it in the environment of each.
fn api_server() -> Option<SocketAddr> {
    let port = env::var("KUBERNETES_SERVICE_PORT").ok()?.parse().ok()?;
    Some(SocketAddr::new(env::var("KUBERNETES_SERVICE_HOST").ok()?.parse().ok()?, port))
}

/// A path that CDI takes.
fn absolute(path: &str) -> Result<String, String> {
    if path.starts_with('/') { Ok(path.to_owned()) } else { Err("an absolute path is needed (CDI)".into()) }
}

/// A flag with one dash that is none of ours, with two: the parser then names it whole, and not its first letter.
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
    /// The arguments of this process; wrong ones end it with a line that says what is wrong, and status 2.
    pub(crate) fn read() -> Self {
        let command = Self::command();
        let long_flags = command.get_arguments().filter_map(|argument| {
            let name = argument.get_long().filter(|name| name.len() > 1)?;
            Some(if argument.get_action().takes_values() { Flag::Valued(name) } else { Flag::Switch(name) })
        });
        let flags: Vec<Flag<'_>> = long_flags.chain([Flag::Switch("help"), Flag::Switch("version")]).collect();
        Self::parse_from(rewrite(std::env::args_os(), &flags).into_iter().map(named_whole))
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
        let error = Arguments::try_parse_from(["netdevice-agent", &whole[0]]).unwrap_err().to_string();
        assert!(error.starts_with("error: unexpected argument '--bogus' found\n"), "{error}");
    }
}
