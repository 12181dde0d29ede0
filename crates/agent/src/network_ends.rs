//! Deletes what `if-inject` added to Pods by CNI plugins, when the Pods have ended: addresses that the plugins reserved would
//! stay reserved for ever. containerd deletes only what it added itself.
//!
//! Level, not edge: each time, all that was added here is compared with the network namespaces that exist.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use cni::{Cache, Environment, ForeignFiles, Limits, Plugins, Runtime};
use networks::{Boot, Collected, Networks};
use store::Records;
use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use wake::Directories;

use crate::metrics::Metrics;

/// Where the runtimes mount the network namespaces of Pods.
const NAMESPACES: &str = "/run/netns";
/// How often this is done without an event: a Pod whose namespace is named by a process ends without one here.
const POLL: Duration = Duration::from_secs(60);
/// How long after a Pod's end. CRI-O deletes what is in the cache itself, and others may be about to.
const GRACE: Duration = Duration::from_secs(1);

/// What is needed to delete attachments.
pub(crate) struct Config {
    /// Where plugins are.
    pub(crate) plugin_dirs: Vec<PathBuf>,
    /// The cache's directory.
    pub(crate) cache: PathBuf,
    /// Multus' own, if Multus runs plugins for the controller of networks.
    pub(crate) multus_cache: PathBuf,
    pub(crate) records: Records,
    pub(crate) metrics: Arc<Metrics>,
}

/// Deletes attachments of ended Pods until `shutdown`. `namespaces_ended` counts the network namespaces that ended.
pub(crate) async fn run(
    config: Config,
    mut namespaces_ended: watch::Receiver<u64>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Config { plugin_dirs, cache, multus_cache, records, metrics } = config;
    let mut runtime = Runtime::new(Plugins::new(plugin_dirs, Limits::default()), Cache::new(cache));
    runtime.plugins.environment = Environment::Clean;
    runtime.is_gone = Box::new(networks::is_without_link);
    let boot = Boot::current().context("cannot read which boot this is")?;
    let (by, sysfs) = ("netdevice-agent", PathBuf::from(inventory::SYSFS));
    let collector = Arc::new(Collector {
        networks: Networks { runtime, records, by, boot, sysfs, further_caches: vec![Cache::new(multus_cache)] },
        foreign: Mutex::default(),
    });
    let mut namespaces = Directories::new([NAMESPACES], POLL);
    let mut reported = BTreeSet::new();
    loop {
        let collector = collector.clone();
        tokio::select! {
            // a plugin that runs is killed with this process, and called again by the next one
            () = shutdown.cancelled() => return Ok(()),
            collected = spawn_blocking(move || collector.collect()) => {
                let collected = collected.context("the task that deletes attachments failed")?;
                report(collected, &mut reported, &metrics);
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = namespaces.changed() => {}
            changed = namespaces_ended.changed() => changed.context("the inventory has ended")?,
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = sleep(GRACE) => {}
        }
    }
}

struct Collector {
    networks: Networks,
    foreign: Mutex<ForeignFiles>,
}

impl Collector {
    /// In the mount namespace of the node: there are the plugins, the cache and the namespaces.
    fn collect(&self) -> Result<Collected, String> {
        let collect = || self.networks.collect(&mut self.foreign.lock().unwrap_or_else(PoisonError::into_inner));
        let collected = store::run_in_mounts_of_init(collect);
        let collected = collected.map_err(|error| format!("cannot enter the mount namespace of PID 1: {error}"))?;
        collected.map_err(|error| error.to_string())
    }
}

/// Reports what was deleted, and failures that are new.
fn report(collected: Result<Collected, String>, reported: &mut BTreeSet<String>, metrics: &Metrics) {
    let collected = match collected {
        Ok(collected) => collected,
        Err(error) => {
            let error = format!("cannot look for attachments of ended pods: {error}");
            if reported.insert(error.clone()) {
                warn!("{error}");
            }
            return;
        }
    };
    let mut failures = BTreeSet::new();
    for ended in &collected.ended {
        let pod = ended.pod.as_ref().map(ToString::to_string);
        let (network, interface) = (&ended.network, &ended.interface);
        metrics.count_network_deletion(ended.error.is_none());
        match &ended.error {
            None => info!(pod, network, interface, "deleted from the network: its pod has ended"),
            Some(error) => {
                let text = format!("not deleted from network {network}, trying again: {error}");
                let key = format!("{} {interface}: {text}", ended.sandbox);
                if !reported.contains(&key) {
                    warn!(pod, network, interface, "{text}");
                }
                failures.insert(key);
            }
        }
    }
    for error in &collected.unreadable {
        debug!("skipped: {error}");
    }
    *reported = failures;
}
