//! Flags that say which node is read: its directories and its pools.

use std::path::PathBuf;

use clap::Args;
use netdevice::selector::Pattern;

/// The directories to read, and the pools to apply.
#[derive(Debug, Clone, Args)]
pub struct NodeArguments {
    /// One pool of all interfaces whose name matches this regular expression, as for the agent
    #[arg(long, value_name = "REGEX", conflicts_with = "config")]
    pub interfaces: Option<Pattern>,
    /// File that defines the pools, as for the agent. Without it and -interfaces: the pools that the agent uses
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of the records
    #[arg(long, value_name = "DIR", default_value = store::DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
    /// Where sysfs is mounted
    #[arg(long, value_name = "DIR", default_value = inventory::SYSFS)]
    pub sysfs: PathBuf,
}
