//! The figures of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use e2e::{HOOK_LOG, Node};

use crate::agents::Deeds;

/// What was done, and what came of it.
pub(crate) struct Tally {
    began: Instant,
    pub(crate) rounds: u32,
    pub(crate) pods: usize,
    pub(crate) containers: usize,
    pub(crate) faults: BTreeMap<&'static str, u32>,
    /// Faults that came too late to strike.
    pub(crate) missed: BTreeMap<&'static str, u32>,
    /// Starts that were refused because of a fault.
    pub(crate) refused: usize,
    /// Filled in at the end. Shims that containerd forgot.
    pub(crate) shims: usize,
    pub(crate) agents: u32,
    pub(crate) deeds: Deeds,
    pub(crate) hooks: BTreeMap<String, usize>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            rounds: 0,
            pods: 0,
            containers: 0,
            faults: BTreeMap::new(),
            missed: BTreeMap::new(),
            refused: 0,
            shims: 0,
            agents: 0,
            deeds: Deeds::default(),
            hooks: BTreeMap::new(),
        }
    }

    fn lost_by_hooks(&self) -> usize {
        self.hooks.iter().filter(|(what, _)| what.ends_with(" lost")).map(|(_, count)| count).sum()
    }

    /// Adds up what the hooks' journal has.
    pub(crate) fn read_journal(&mut self, node: &Node) {
        for file in [HOOK_LOG.to_owned(), format!("{HOOK_LOG}.1")] {
            let text = std::fs::read_to_string(node.path(&file)).unwrap_or_default();
            for line in text.lines() {
                let entry: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
                let word = |key: &str| entry[key].as_str().unwrap_or("?").to_owned();
                *self.hooks.entry(format!("{} {}", word("action"), word("outcome"))).or_default() += 1;
            }
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, pods, containers, refused, shims, agents, deeds, .. } = self;
        writeln!(
            out,
            "{pods} cycles ({rounds} rounds, {containers} containers), {} s",
            self.began.elapsed().as_secs()
        )?;
        writeln!(out, "agents begun: {agents}; devices that they brought home: {}", deeds.repaired)?;
        writeln!(out, "under another name: {}; not at the first try: {}", deeds.renamed, deeds.failed)?;
        writeln!(out, "starts refused because of a fault: {refused}")?;
        writeln!(out, "devices lost: {} as agents say, {} as hooks say", deeds.lost, self.lost_by_hooks())?;
        writeln!(out, "shims that containerd forgot: {shims}")?;
        self.hooks.iter().try_for_each(|(what, count)| writeln!(out, "hooks: {what}: {count}"))?;
        self.faults.iter().try_for_each(|(what, count)| {
            let missed = self.missed.get(what).map_or_else(String::new, |missed| format!(" (missed {missed})"));
            writeln!(out, "{what}: {count}{missed}")
        })
    }
}
