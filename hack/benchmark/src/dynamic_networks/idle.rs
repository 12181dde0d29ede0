//! The agent on a node with many Pods and many definitions, of which nothing changes: its memory, and what it asks of the API
//! server when it starts and while it waits.
//!
//! The Pods are objects of a Node without a kubelet. Each requests networks and has a status, and none has a sandbox here: the
//! controller looks for it again and again, which needs no less memory than if it were there.

use std::time::Duration;

use anyhow::{Context, Result};
use e2e::{BUSYBOX_IMAGE, NETWORK_STATUS, NETWORKS};
use serde_json::{Value, json};

use super::{
    audit::Requests,
    cluster::{Cluster, RunningAgent, configuration, one},
    proxy::{METADATA_OF_LIST, WHOLE},
    watcher::{Traffic, Watcher},
};
use crate::row::Row;

/// The Node of the Pods.
const NODE: &str = "crowded";
const PODS: usize = 500;
const DEFINITIONS: usize = 100;
/// Until what a start leaves has been done.
const STARTED: Duration = Duration::from_secs(15);

/// What an agent costs the API server that has nothing to do.
#[derive(Debug)]
pub(super) struct Idle {
    /// For its start.
    pub(super) start: Requests,
    /// Size in bytes of the answers then, without compression, with one Pod and with one definition.
    pub(super) bytes_of_pod: f64,
    pub(super) bytes_of_definition: f64,
    /// How long each watch lasts, in seconds.
    pub(super) watches: Vec<f64>,
    /// In a minute, to its watch of the Pods.
    pub(super) watched: Traffic,
    /// For one change of a definition, to each agent.
    pub(super) definition: Traffic,
}

pub(super) fn idle(cluster: &Cluster<'_>) -> Result<(Vec<Row>, Idle)> {
    let without = resting(&cluster.start_agent(NODE, &[]))?;
    let few = resting(&cluster.start_controller(NODE)?)?;
    crowd(cluster)?;
    let position = cluster.audit.position()?;
    let agent = cluster.start_controller(NODE)?;
    let watcher = cluster.watch_pods(NODE)?;
    std::thread::sleep(STARTED);
    let start = cluster.audit.since(position)?;
    let (position, before) = (cluster.audit.position()?, watcher.traffic());
    // the API server is asked to end a watch after less than five minutes
    let time = Duration::from_secs(cluster.bench.runs(300, 30) as u64);
    std::thread::sleep(time);
    let minutes = time.as_secs_f64() / 60.0;
    let waiting = cluster.audit.since(position)?;
    let watched = watcher.traffic().since(before).per(minutes);
    let many = agent.memory()?;
    agent.stop();
    let idle = Idle {
        bytes_of_pod: size(cluster, &format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{NODE}"), METADATA_OF_LIST)?
            / PODS as f64,
        bytes_of_definition: size(cluster, &format!("{DEFINITIONS_PATH}?limit={DEFINITIONS}"), WHOLE)?
            / DEFINITIONS as f64,
        watches: start.timeouts.clone(),
        start,
        watched,
        definition: change_of_definition(cluster)?,
    };
    let mut rows = Vec::new();
    for (what, [rss, anonymous]) in [
        ("without -dynamic-networks", without),
        ("with it, no Pod, 1 definition", few),
        ("with it, 500 Pods, 100 definitions", many),
    ] {
        rows.push(Row::one(format!("memory, RSS, {what}"), "MB", rss));
        rows.push(Row::one(format!("memory, anonymous, {what}"), "MB", anonymous));
    }
    let at_start = format!("API requests for a start, 500 Pods, 100 definitions: {}", idle.start.describe());
    rows.push(Row::one(at_start, "", idle.start.sum()));
    let at_rest = format!("API requests in a minute without an event, of {}: {}", time.as_secs(), waiting.describe());
    rows.push(Row::one(at_rest, "", waiting.sum() / minutes));
    rows.push(Row::one("API events in a minute without a change (bookmarks)", "", watched.events));
    rows.push(Row::one("API events for a changed definition, to each agent", "", idle.definition.events));
    Ok((rows, idle))
}

const DEFINITIONS_PATH: &str = "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions";

fn resting(agent: &RunningAgent) -> Result<[f64; 2]> {
    std::thread::sleep(STARTED);
    agent.memory()
}

/// Size of an answer.
fn size(cluster: &Cluster<'_>, path: &str, accept: &str) -> Result<f64> {
    Ok(cluster.proxy.get(path, accept)?.len() as f64)
}

/// The Node, its Pods, and the definitions.
fn crowd(cluster: &Cluster<'_>) -> Result<()> {
    let list = |items: Vec<Value>| json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
    let definitions = (1..DEFINITIONS).map(|number| {
        json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": format!("crowd{number}"), "namespace": "default"},
            "spec": {"config": configuration().to_string()}})
    });
    create(cluster, &list(std::iter::once(node).chain(definitions).collect()))?;
    create(cluster, &list((0..PODS).map(pod).collect()))
}

fn create(cluster: &Cluster<'_>, objects: &str) -> Result<()> {
    let done = cluster.node.run_with(["kubectl", "create", "--filename=-"], objects);
    done.success().then_some(()).with_context(|| format!("{done}"))
}

/// Nobody but the scheduler gives a Pod its Node; no taint ends it.
fn pod(number: usize) -> Value {
    let networks = json!([one("net1")[0], one("net2")[0]]);
    let entry = |network: &str, interface: &str| {
        json!({"name": network, "interface": interface, "ips": [format!("10.66.{}.{}", number / 250, number % 250)],
            "mac": "02:00:00:00:00:01", "default": interface == "eth0", "dns": {}})
    };
    let status = json!([entry("cbr0", "eth0"), entry("default/bench", "net1"), entry("default/bench", "net2")]);
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("crowd{number}"), "namespace": "default",
            "labels": {"app.kubernetes.io/name": "crowd", "pod-template-hash": "6d5f8b9c7d"},
            "annotations": {NETWORKS: networks.to_string(), NETWORK_STATUS: status.to_string()}},
        "spec": {"nodeName": NODE, "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "c", "image": BUSYBOX_IMAGE}]}})
}

/// The events of one change of a definition.
fn change_of_definition(cluster: &Cluster<'_>) -> Result<Traffic> {
    let watcher = Watcher::start(&cluster.proxy, &format!("{DEFINITIONS_PATH}?watch=true"), WHOLE)?;
    std::thread::sleep(Duration::from_secs(2));
    let before = watcher.traffic();
    let path = "/apis/k8s.cni.cncf.io/v1/namespaces/default/network-attachment-definitions/crowd1";
    cluster.proxy.patch(path, &json!({"metadata": {"labels": {"changed": "once"}}}))?;
    let changed = || (watcher.traffic() != before).then_some(());
    e2e::eventually(Duration::from_secs(30), changed).context("the definition's change is watched")?;
    std::thread::sleep(Duration::from_secs(2));
    Ok(watcher.traffic().since(before))
}
