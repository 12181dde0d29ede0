//! The flags of `check-node`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::facts::WayIn;

#[derive(Debug, Args)]
pub(crate) struct CheckNodeArguments {
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: CheckNodeFormat,
    /// The ways that must be ready, separated by commas. Without it: all that this version has
    #[arg(long = "for", value_name = "WAY", value_delimiter = ',')]
    pub(crate) ways: Vec<WayIn>,
    /// The container runtime's socket. Without it: CONTAINER_RUNTIME_ENDPOINT, /etc/crictl.yaml, or where runtimes listen
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) runtime_endpoint: Option<cri::Endpoint>,
    /// Directories of the CNI plugins, separated by colons
    #[arg(long, value_name = "DIRS", env = "CNI_PATH", hide_env_values = true, value_delimiter = ':',
        default_value = cni::DEFAULT_PLUGIN_DIR)]
    pub(crate) cni_path: Vec<PathBuf>,
    /// Directory of the CNI networks
    #[arg(long, value_name = "DIR", default_value = cni::DEFAULT_CONFIGURATION_DIR)]
    pub(crate) cni_conf_dir: PathBuf,
    /// Directory of the kubelet
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    pub(crate) kubelet_dir: PathBuf,
    /// Directory of the agent's CDI file, as for the agent
    #[arg(long, value_name = "DIR", default_value = "/var/run/cdi")]
    pub(crate) cdi_dir: PathBuf,
    /// The runtime's NRI socket, as for the agent
    #[arg(long, value_name = "SOCKET", default_value = "/var/run/nri/nri.sock")]
    pub(crate) nri_socket: PathBuf,
    /// The hook on the node, as for the agent
    #[arg(long, value_name = "FILE", default_value = "/var/lib/netdevice/netdevice-hook")]
    pub(crate) hook_path: String,
    /// Directory of the records
    #[arg(long, value_name = "DIR", default_value = store::DEFAULT_STATE_DIR)]
    pub(crate) state_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckNodeFormat {
    /// Columns
    Table,
    /// JSON
    Json,
}
