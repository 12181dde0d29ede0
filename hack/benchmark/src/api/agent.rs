//! An agent on the node of a cluster.

use std::time::Duration;

use anyhow::{Context, Result};
use e2e::Process;

use crate::process::{cpu_of, memory_of};

/// A running agent.
pub(crate) struct RunningAgent(pub(crate) Process);

impl RunningAgent {
    /// RSS and anonymous memory in MB.
    pub(crate) fn memory(&self) -> Result<[f64; 2]> {
        let [rss, _, anonymous] = memory_of(self.pid()?)?;
        Ok([rss, anonymous])
    }

    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.pid()?)
    }

    fn pid(&self) -> Result<u32> {
        u32::try_from(self.0.pid()).context("a pid is positive")
    }

    /// Ends it as a kubelet does.
    pub(crate) fn stop(mut self) {
        self.0.signal(e2e::Signal::TERM);
        self.0.wait();
    }
}
