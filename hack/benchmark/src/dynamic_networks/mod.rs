//! Rows of the controller of dynamic networks, on a real cluster with real CNI plugins: how soon an edit of the annotation
//! shows in the Pod, what the API server is asked, the memory with many Pods, and what many such nodes would ask.

mod cluster;
mod edits;
mod fleet;
mod idle;
mod lives;

use anyhow::Result;

use crate::{
    api::{audit, proxy, watcher},
    bench::Bench,
    row::Row,
};

/// All of them, on one cluster.
pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let cluster = cluster::Cluster::start(bench)?;
    let (mut rows, edit) = edits::edits(&cluster)?;
    let (more, lives) = lives::lives(&cluster)?;
    rows.extend(more);
    let (more, idle) = idle::idle(&cluster)?;
    rows.extend(more);
    rows.extend(fleet::rows(&fleet::Measured { edit, lives, idle }));
    Ok(rows)
}
