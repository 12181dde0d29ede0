//! The sections of the benchmark, each a process of its own in namespaces of its own.

use std::path::PathBuf;

use anyhow::Result;

use crate::{calls, files, hook, injections, node, rig, row::Row, storm};

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

/// What every section needs.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) programs: Programs,
    pub(crate) quick: bool,
}

impl Context {
    /// How many runs of something.
    pub(crate) fn runs(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

/// Where a section runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a network namespace that ends with it.
    OwnNamespaces,
    /// On this machine; it starts nodes of the rig, or touches no network.
    Machine,
}

/// A section.
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    /// Not part of a quick run.
    pub(crate) is_slow: bool,
    pub(crate) run: fn(&Context) -> Result<Vec<Row>>,
}

const fn here(name: &'static str, run: fn(&Context) -> Result<Vec<Row>>) -> Section {
    Section { name, place: Place::OwnNamespaces, is_slow: false, run }
}

/// All of them, in the order of the table.
pub(crate) const SECTIONS: &[Section] = &[
    here("moves", hook::moves),
    here("bursts", hook::bursts),
    here("injections", injections::injections),
    here("links-10", node::few),
    here("links-1000", node::thousand),
    here("links-10000", node::ten_thousand),
    here("storm", storm::storm),
    here("allocations", calls::allocations),
    here("restarts", calls::restarts),
    here("instructions", files::instructions),
    Section { name: "sizes", place: Place::Machine, is_slow: false, run: files::sizes },
    Section { name: "containers", place: Place::Machine, is_slow: true, run: rig::containers },
    Section { name: "kubelet", place: Place::Machine, is_slow: true, run: rig::kubelet },
];
