//! Pods that start and end, with networks from their start and without: what the API server is asked for them.

use anyhow::Result;

use super::{
    audit::Requests,
    cluster::{Cluster, one},
    watcher::Traffic,
};
use crate::row::Row;

/// Pods of each kind.
const PODS: usize = 5;

/// What the life of a Pod costs the API server, from its start until it is gone.
#[derive(Debug)]
pub(super) struct Lives {
    pub(super) plain: Life,
    pub(super) networked: Life,
}

/// That of one kind of Pods.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) requests: Requests,
    pub(super) watched: Traffic,
}

pub(super) fn lives(cluster: &Cluster<'_>) -> Result<(Vec<Row>, Lives)> {
    let agent = cluster.start_controller(cluster.node.name())?;
    let plain = live(cluster, "")?;
    let networked = live(cluster, &one("net1").to_string())?;
    agent.stop();
    let row = |what: &str, life: &Life| {
        Row::one(format!("API requests for a Pod {what}: {}", life.requests.describe()), "", life.requests.sum())
    };
    let rows = vec![
        row("without networks, start to end", &plain),
        row("with a network from its start, start to end", &networked),
        Row::one("API events for a Pod without networks, to each watcher of it", "", plain.watched.events),
        Row::one("API events for a Pod with a network from its start", "", networked.watched.events),
    ];
    Ok((rows, Lives { plain, networked }))
}

/// Pods one after the other.
fn live(cluster: &Cluster<'_>, networks: &str) -> Result<Life> {
    let watcher = cluster.watch_pods(cluster.node.name())?;
    cluster.audit.settle()?;
    let (position, before) = (cluster.audit.position()?, watcher.traffic());
    for number in 0..PODS {
        let name = format!("life{number}");
        let pod = cluster.node.networked_pod(&name, networks);
        if !networks.is_empty() {
            cluster.wait_for_status(&name, &["net1"])?;
        }
        pod.delete();
    }
    cluster.audit.settle()?;
    let (requests, watched) = (cluster.audit.since(position)?, watcher.traffic().since(before));
    Ok(Life { requests: requests.per(PODS as f64), watched: watched.per(PODS as f64) })
}
