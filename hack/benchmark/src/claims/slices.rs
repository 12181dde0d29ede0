//! A link's change until a watch shows it in a ResourceSlice, when nothing was written in the last seconds; beside the same write
//! without an agent; and what the API server is asked for it.
//!
//! The time begins when the kernel reports the change (RTM_NEWLINK), and ends with the event of a watch through `kubectl proxy`.

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rtnl::message::kind;
use serde_json::{Value, json};

use super::cluster::{Cluster, DEVICES, SELECTED, SLICES};
use crate::{
    api::{
        agent::RunningAgent,
        audit::Requests,
        proxy::WHOLE,
        watcher::{Traffic, Watcher},
    },
    listener::LinkEvent,
    process::ms,
    row::{Budget, Row},
    samples::Samples,
};

/// The device whose MTU changes.
const CHANGED: &str = "d7";
/// So long nothing is written before a change: a write sooner after another one is delayed.
const QUIET: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);
/// The driver of the slice that is written without an agent.
const OTHER: &str = "bench.example.com";

/// What slices cost the API server.
#[derive(Debug)]
pub(super) struct Slices {
    /// For a start of the agent, with no slice there.
    pub(super) start: Requests,
    /// For a change of a link.
    pub(super) change: Requests,
    pub(super) watched: Traffic,
    /// In a minute without a change.
    pub(super) idle: Requests,
    /// How long each of the agent's watches lasts, in seconds.
    pub(super) watches: Vec<f64>,
    /// Size of all slices of the node, as JSON.
    pub(super) bytes: f64,
}

pub(super) fn rows(cluster: &Cluster<'_>) -> Result<(Vec<Row>, Slices)> {
    cluster.node.kubectl(&["delete", "resourceslices", "--all"]).text();
    let position = cluster.audit.position()?;
    let agent = cluster.start_publishing(DEVICES, &[SELECTED])?;
    cluster.audit.settle()?;
    let start = cluster.audit.since(position)?;
    let bytes = cluster.proxy.get(&cluster.slices(), WHOLE)?.len() as f64;

    let position = cluster.audit.position()?;
    let time = Duration::from_secs(cluster.bench.runs(300, 30) as u64);
    std::thread::sleep(time);
    let (idle, minutes) = (cluster.audit.since(position)?, time.as_secs_f64() / 60.0);

    let watcher = Watcher::start(&cluster.proxy, &format!("{}&watch=true", cluster.slices()), WHOLE)?;
    std::thread::sleep(QUIET);
    let (position, before) = (cluster.audit.position()?, watcher.traffic());
    let runs = cluster.bench.runs(40, 6);
    let times = changes(cluster, runs)?;
    cluster.audit.settle()?;
    let (change, watched) = (cluster.audit.since(position)?, watcher.traffic().since(before));
    ensure!(change.of("update resourceslices") > 0.0, "nothing was counted: {}", change.describe());
    let change = change.per(runs as f64);
    let rss = agent.memory()?[0];
    agent.stop();
    let written = bare_writes(cluster, runs)?;
    let slices = Slices {
        watches: start.timeouts.clone(),
        watched: watched.per(runs as f64),
        idle: idle.per(minutes),
        start,
        change,
        bytes,
    };
    let text = |what: &str, requests: &Requests| format!("API requests {what}: {}", requests.describe());
    let rows = vec![
        Row::new("link event → slice seen by a watch, 100 devices", "ms", &times)
            .beside("the same PUT by hand", &written)
            .budget(Budget::P99(50.0)),
        Row::one("memory, RSS, with -dra, 100 devices", "MB", rss),
        Row::one(text("for a start with -dra, 100 devices", &slices.start), "", slices.start.sum()),
        Row::one(text("for a link event", &slices.change), "", slices.change.sum()),
        Row::one("API events for a link event, to each watcher of the slice", "", slices.watched.events),
        Row::one("the same, as JSON", "kB", slices.watched.bytes / 1e3),
        Row::one(
            text(&format!("in a minute without an event, of {}", time.as_secs()), &slices.idle),
            "",
            slices.idle.sum(),
        ),
    ];
    Ok((rows, slices))
}

/// Changes of the MTU, each after a quiet time, until they are seen.
pub(super) fn changes(cluster: &Cluster<'_>, runs: usize) -> Result<Samples> {
    let seen = follow(cluster, &cluster.slices())?;
    let kernel = cluster.kernel()?;
    let mut times = Samples::default();
    for run in 0..runs {
        let mtu = 1400 + u32::try_from(run % 2)?;
        std::thread::sleep(QUIET);
        let event = LinkEvent::begin(&cluster.network, kind::NEWLINK, CHANGED)?;
        kernel.set_mtu(CHANGED, mtu)?;
        let reported = event.wait()?;
        times.push(ms(wait_for_mtu(&seen, mtu)?.saturating_duration_since(reported)));
    }
    kernel.set_mtu(CHANGED, 1500)?;
    std::thread::sleep(QUIET);
    Ok(times)
}

/// The same content, written by hand into a slice of another driver: from sending it to the event.
fn bare_writes(cluster: &Cluster<'_>, runs: usize) -> Result<Samples> {
    let list: Value = serde_json::from_str(&cluster.proxy.get(&cluster.slices(), WHOLE)?)?;
    let has_it = |slice: &&Value| mtu_of(slice).is_some();
    let mut slice = list["items"].as_array().into_iter().flatten().find(has_it).context("a slice")?.clone();
    slice["apiVersion"] = "resource.k8s.io/v1".into();
    slice["kind"] = "ResourceSlice".into();
    slice["metadata"] = json!({"name": OTHER});
    slice["spec"]["driver"] = OTHER.into();
    slice["spec"]["pool"] = json!({"name": OTHER, "generation": 1, "resourceSliceCount": 1});
    cluster.node.apply(&slice.to_string());
    let seen = follow(cluster, &format!("{SLICES}?fieldSelector=spec.driver%3D{OTHER}"))?;
    let path = format!("{SLICES}/{OTHER}");
    let mut times = Samples::default();
    for run in 0..runs {
        let mtu = 1400 + u32::try_from(run % 2)?;
        let devices = slice["spec"]["devices"].as_array_mut().into_iter().flatten();
        devices.filter(|device| device["name"] == CHANGED).for_each(|device| {
            device["attributes"]["mtu"] = json!({"int": mtu});
        });
        std::thread::sleep(QUIET / 5);
        let sent = cluster.proxy.put(&path, &slice)?.sent;
        times.push(ms(wait_for_mtu(&seen, mtu)?.saturating_duration_since(sent)));
    }
    cluster.node.delete(&[&format!("resourceslice/{OTHER}")]);
    Ok(times)
}

/// The slices of a watch that begins now, each with the time of its event.
fn follow(cluster: &Cluster<'_>, list: &str) -> Result<Receiver<(Instant, Value)>> {
    let reader = cluster.proxy.watch(&format!("{list}&watch=true"), WHOLE)?;
    let (sender, seen) = channel();
    let read = move |reader: BufReader<TcpStream>| {
        for line in reader.lines().map_while(Result::ok) {
            let at = Instant::now();
            let Ok(mut event) = serde_json::from_str::<Value>(&line) else { return };
            if sender.send((at, event["object"].take())).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("slices".into()).spawn(move || read(reader))?;
    Ok(seen)
}

/// When a slice was seen in which the device has that MTU.
fn wait_for_mtu(seen: &Receiver<(Instant, Value)>, mtu: u32) -> Result<Instant> {
    let end = Instant::now() + PATIENCE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let (at, slice) = seen.recv_timeout(left).with_context(|| format!("no slice has MTU {mtu} of {CHANGED}"))?;
        if mtu_of(&slice) == Some(mtu.into()) {
            return Ok(at);
        }
    }
}

fn mtu_of(slice: &Value) -> Option<u64> {
    let devices = slice["spec"]["devices"].as_array()?;
    devices.iter().find(|device| device["name"] == CHANGED)?["attributes"]["mtu"]["int"].as_u64()
}

/// Memory of the agent once what a start leaves is done.
pub(super) fn resting(agent: &RunningAgent) -> Result<[f64; 2]> {
    std::thread::sleep(Duration::from_secs(15));
    agent.memory()
}
