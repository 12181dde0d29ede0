//! The sections of the benchmark, each a process of its own in namespaces of its own.

use anyhow::Result;

use crate::{
    bench::Bench, calls, claims, dynamic_networks, files, hook, injections, networks, node, rig, row::Row, storm,
};

/// The namespaces that a section runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Namespaces {
    /// A network and a mount namespace that end with the section.
    Own,
    /// The machine's. The section starts nodes of the rig, or touches no network.
    Machine,
}

/// A section.
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) namespaces: Namespaces,
    /// Not part of a quick run.
    pub(crate) is_slow: bool,
    pub(crate) run: fn(&Bench) -> Result<Vec<Row>>,
}

const fn here(name: &'static str, run: fn(&Bench) -> Result<Vec<Row>>) -> Section {
    Section { name, namespaces: Namespaces::Own, is_slow: false, run }
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
    Section { name: "sizes", namespaces: Namespaces::Machine, is_slow: false, run: files::sizes },
    Section { name: "containers", namespaces: Namespaces::Machine, is_slow: true, run: rig::containers },
    Section { name: "networks", namespaces: Namespaces::Machine, is_slow: true, run: networks::networks },
    Section { name: "dynamic-networks", namespaces: Namespaces::Machine, is_slow: true, run: dynamic_networks::rows },
    Section { name: "claims", namespaces: Namespaces::Machine, is_slow: true, run: claims::rows },
    Section { name: "kubelet", namespaces: Namespaces::Machine, is_slow: true, run: rig::kubelet },
];
