//! Rows of devices by claim, on a real cluster: how soon a change of a link is in a ResourceSlice, what Prepare and the start of a
//! sandbox take, what the API server is asked, the memory with many links, and what many such nodes would ask.

mod cluster;
mod fleet;
mod links;
mod lives;
mod objects;
mod sandboxes;
mod slices;

use anyhow::Result;

use crate::{bench::Bench, row::Row};

/// All of them, on one cluster.
pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let cluster = cluster::Cluster::start(bench)?;
    let mut rows = sandboxes::rows(&cluster)?;
    let (more, slices) = slices::rows(&cluster)?;
    rows.extend(more);
    let (more, lives) = lives::rows(&cluster)?;
    rows.extend(more);
    rows.extend(links::rows(&cluster)?);
    rows.extend(fleet::rows(&slices, &lives));
    Ok(rows)
}
