//! Pods that start and end, with a claim and without: what the API server is asked for them by the agent.

use anyhow::Result;
use e2e::{ClaimPod, ClaimSpec, Level};
use serde_json::json;

use super::cluster::{Cluster, DEVICES, SELECTED};
use crate::{api::audit::Requests, row::Row};

/// Pods of each kind.
const PODS: usize = 5;

/// What the life of a Pod costs the API server, from its start until it is gone.
#[derive(Debug)]
pub(super) struct Lives {
    pub(super) plain: Requests,
    pub(super) claiming: Requests,
}

pub(super) fn rows(cluster: &Cluster<'_>) -> Result<(Vec<Row>, Lives)> {
    let agent = cluster.start_publishing(DEVICES, &[SELECTED])?;
    let node = &cluster.node;
    node.apply(&ClaimSpec::device("d2").configure(json!({"name": "net1"})).template("bench"));
    let sleep = "trap exit TERM; sleep 1000000 & wait";
    let plain = live(cluster, &|name| ClaimPod::empty(name).container("c", sleep, &[]))?;
    let claiming = live(cluster, &|name| ClaimPod::of_template(name, "bench", Level::Container))?;
    node.delete(&["resourceclaimtemplate/bench"]);
    agent.stop();
    let row = |what: &str, requests: &Requests| {
        Row::one(format!("API requests for a Pod {what}, start to end: {}", requests.describe()), "", requests.sum())
    };
    Ok((vec![row("without a claim", &plain), row("with a claim", &claiming)], Lives { plain, claiming }))
}

/// Pods one after the other.
fn live(cluster: &Cluster<'_>, pod: &dyn Fn(&str) -> ClaimPod) -> Result<Requests> {
    let node = &cluster.node;
    cluster.audit.settle()?;
    let position = cluster.audit.position()?;
    for number in 0..PODS {
        let name = format!("life{number}");
        node.apply(&pod(&name).manifest());
        node.wait_long_until_ready(&name);
        node.delete(&[&format!("pod/{name}")]);
    }
    // a claim's status is put right some seconds after its Pod's end
    std::thread::sleep(std::time::Duration::from_secs(10));
    cluster.audit.settle()?;
    Ok(cluster.audit.since(position)?.per(PODS as f64))
}
