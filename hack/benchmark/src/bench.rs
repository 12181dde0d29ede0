//! What each section of the benchmark is given: the programs to measure, and how often.

use std::path::PathBuf;

/// What was built and is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Programs {
    /// netdevice-hook
    #[arg(long)]
    pub(crate) hook: PathBuf,
    /// bare-move
    #[arg(long)]
    pub(crate) bare_move: PathBuf,
    /// netdevice-agent
    #[arg(long)]
    pub(crate) agent: PathBuf,
    /// netdevctl
    #[arg(long)]
    pub(crate) netdevctl: PathBuf,
}

/// What each section is given.
#[derive(Debug, Clone)]
pub(crate) struct Bench {
    pub(crate) programs: Programs,
    pub(crate) quick: bool,
}

impl Bench {
    /// The number of runs of a measurement.
    pub(crate) fn runs(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}
