//! The agent with claims on a node with 10,000 links: its memory, and a change of one among 10,000 devices.

use std::time::Instant;

use anyhow::Result;

use super::{
    cluster::{Cluster, DEVICES, SELECTED},
    slices::{changes, resting},
};
use crate::{
    process::ms,
    row::{Budget, Row},
};

const LINKS: usize = 10_000;
/// Device group of the links that fill the node.
const CROWD: u32 = 77;

pub(super) fn rows(cluster: &Cluster<'_>) -> Result<Vec<Row>> {
    let kernel = cluster.kernel()?;
    let pairs = (LINKS - DEVICES) / 2;
    kernel.add_veths((0..pairs).map(|number| (format!("xa{number}"), format!("xb{number}"))), CROWD)?;
    let agent = cluster.start_publishing(DEVICES, &[SELECTED])?;
    let few = resting(&agent)?;
    agent.stop();
    // the slices that are there have the first of them
    let began = Instant::now();
    let agent = cluster.start_publishing(2 * pairs + DEVICES, &["-interfaces=^(d[0-9]|x[ab])"])?;
    let published = ms(began.elapsed()) / 1e3;
    let all = resting(&agent)?;
    let runs = cluster.bench.runs(20, 4);
    let before = agent.cpu()?;
    let times = changes(cluster, runs)?;
    // one more puts the MTU back
    let cpu = ms(agent.cpu()?.saturating_sub(before)) / (runs + 1) as f64;
    let later = agent.memory()?;
    agent.stop();
    kernel.delete_group(CROWD)?;
    cluster.node.kubectl(&["delete", "resourceslices", "--all"]).text();
    let mut rows = Vec::new();
    for (what, [rss, anonymous], most) in [
        ("10,000 links, 100 of them devices", few, Some(24.0)),
        ("10,000 links, all of them devices", all, None),
        ("the same after changes of links", later, None),
    ] {
        let row = Row::one(format!("memory, RSS, with -dra, {what}"), "MB", rss);
        rows.push(match most {
            Some(most) => row.budget(Budget::Most(most)),
            None => row,
        });
        rows.push(Row::one(format!("memory, anonymous, with -dra, {what}"), "MB", anonymous));
    }
    rows.push(Row::one("start → all 10,000 devices in slices", "s", published));
    rows.push(Row::new("link event → slice seen by a watch, 10,000 devices", "ms", &times).budget(Budget::P99(50.0)));
    rows.push(Row::one("CPU of the agent for a link event, 10,000 devices in slices", "ms", cpu));
    Ok(rows)
}
