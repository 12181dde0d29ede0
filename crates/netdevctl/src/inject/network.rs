//! Interfaces that CNI plugins make.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use cni::{
    Cache, CacheEntry, ContainerId, Environment, ForeignFiles, Limits, LoadError, NetworkList, Phase, Plugins, Runtime,
};
use networks::{AddRequest, Boot, Deleted, Networks, Place};
use serde::Serialize;
use serde_json::{Value, json};
use store::Records;

use super::{
    IF_INJECT, RunningPod,
    arguments::InjectArguments,
    capabilities::{capabilities, cni_arguments},
    device::{ListedDevice, PodName},
    logger::Logger,
    print_json, signals,
};

/// Multus keeps its results below libcni's directory.
const MULTUS: &str = "multus";

/// Adds an interface, and prints the result of the plugins.
pub(super) fn add(arguments: &InjectArguments, pod: &RunningPod, log: Logger) -> Result<()> {
    let list = load(arguments)?.context("add needs -spec")?;
    let (capabilities, own) = (capabilities(arguments)?, cni_arguments(arguments)?);
    let networks = networks(arguments, log)?;
    let interface = arguments.network.interface.clone();
    log.info(1, "CNI ADD", json!({"network": list.name().to_string(), "interface": interface.to_string()}));
    let request =
        AddRequest { list: &list, interface, arguments: own, capabilities, requested: None, gateways: Vec::new() };
    let node = || {
        let addresses = crate::node::node_addresses(&arguments.node).map_err(|error| format!("{error:#}"))?;
        Ok(inventory::read_once(&arguments.node.sysfs, addresses)?)
    };
    let (addition, version) = networks.add(&place(arguments, pod)?, request, &node)?;
    print_json(&addition.in_version(version))
}

/// Compares an interface with what was added.
pub(super) fn check(arguments: &InjectArguments, pod: &RunningPod, log: Logger) -> Result<()> {
    let list = load(arguments)?.context("check needs -spec")?;
    let networks = networks(arguments, log)?;
    if !networks.check(&place(arguments, pod)?, &list, &arguments.network.interface)? {
        log.warn("not checked: the network has disableCheck", Value::Null);
    }
    Ok(())
}

/// Asks the plugins whether they are ready.
pub(super) fn status(arguments: &InjectArguments, log: Logger) -> Result<()> {
    let list = load(arguments)?.context("status needs -spec")?;
    Ok(networks(arguments, log)?.runtime.status(&list)?)
}

/// Deletes an interface, also of a Pod that has ended.
pub(super) fn delete(
    arguments: &InjectArguments,
    name: PodName<'_>,
    pod: Option<&RunningPod>,
    log: Logger,
) -> Result<()> {
    let list = match load(arguments) {
        Err(error) if is_missing(&error) => {
            log.info(1, "the configuration of the ADD is used", json!({"reason": format!("{error:#}")}));
            None
        }
        list => list?,
    };
    let (networks, interface) = (networks(arguments, log)?, &arguments.network.interface);
    let place = pod.map(|pod| place(arguments, pod)).transpose()?;
    let deleted = match &place {
        Some(place) => networks.delete(place, list.as_ref(), interface),
        None => networks.delete_of_ended(name.namespace, name.name, list.as_ref(), interface),
    };
    let deleted = match deleted {
        Err(error) if arguments.network.force => {
            log.warn("the plugins failed, the attachment is forgotten", json!({"reason": error.to_string()}));
            networks.forget((name.namespace, name.name), place.as_ref(), interface)
        }
        deleted => deleted,
    };
    match deleted? {
        Deleted::Attachment => log.info(1, "deleted", json!({"interface": interface.to_string()})),
        Deleted::Nothing => log.info(1, "nothing to delete", json!({"interface": interface.to_string()})),
    }
    Ok(())
}

/// What was attached to a Pod, for people.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    pub(super) devices: Vec<ListedDevice>,
    pub(super) networks: Vec<ListedNetwork>,
}

/// An attachment, for people.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListedNetwork {
    interface: String,
    network: String,
    container_id: String,
    netns: String,
    /// `adding` or `deleting` if that runs, was interrupted, or failed.
    phase: Phase,
    /// The program that made it; `other` if it is none of ours.
    by: String,
    /// When: seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
}

impl From<CacheEntry> for ListedNetwork {
    fn from(entry: CacheEntry) -> Self {
        Self {
            interface: entry.interface().into(),
            network: entry.network().into(),
            container_id: entry.container().into(),
            netns: entry.namespace().into(),
            phase: entry.marker().map_or(Phase::Added, |marker| marker.phase),
            by: entry.marker().map_or_else(|| "other".into(), |marker| marker.by.clone()),
            since: entry.marker().map(|marker| marker.since),
            result: entry.result().cloned(),
        }
    }
}

/// The attachments of a Pod.
pub(super) fn list(
    arguments: &InjectArguments,
    name: PodName<'_>,
    pod: Option<&RunningPod>,
    log: Logger,
) -> Result<Vec<ListedNetwork>> {
    let listed = networks(arguments, log)?.list(name.namespace, name.name, pod.map(|pod| pod.found.id()))?;
    Ok(listed.into_iter().map(Into::into).collect())
}

/// Deletes what Pods that have ended left. Returns that, and whether nothing is left of it.
pub(super) fn collect(networks: &Networks, log: Logger) -> Result<(Vec<Value>, bool)> {
    let collected = networks.collect(&mut ForeignFiles::default())?;
    for error in &collected.unreadable {
        log.warn(&error.to_string(), Value::Null);
    }
    let are_clean = collected.ended.iter().all(|ended| ended.error.is_none());
    let rows = collected.ended.iter().map(|ended| {
        let pod = ended.pod.as_ref().map(ToString::to_string);
        let mut row =
            json!({"network": ended.network, "interface": ended.interface, "sandbox": ended.sandbox, "pod": pod});
        if let Some(error) = &ended.error {
            row["error"] = error.to_string().into();
        }
        row
    });
    Ok((rows.collect(), are_clean))
}

/// Has the plugins of a network free what they keep for attachments that do not exist.
pub(super) fn collect_in_plugins(
    networks: &Networks,
    list: &NetworkList,
    arguments: &InjectArguments,
    log: Logger,
) -> Result<()> {
    let multus = Cache::new(arguments.network.cni_cache_dir.join(MULTUS));
    if !networks.collect_in_plugins(list, &[multus])? {
        log.warn("the plugins were not called: the network has disableGC", Value::Null);
    }
    Ok(())
}

fn place<'a>(arguments: &InjectArguments, pod: &'a RunningPod) -> Result<Place<'a>> {
    let container = match &arguments.network.containerid {
        Some(id) => id.clone(),
        None => pod.found.id().parse::<ContainerId>().context("the sandbox's id is no container id of CNI")?,
    };
    Ok(Place { pod: pod.found.pod(), sandbox: pod.found.id(), opened: &pod.opened, container })
}

/// The networks of this node, by the flags.
pub(super) fn networks(arguments: &InjectArguments, log: Logger) -> Result<Networks> {
    let flags = &arguments.network;
    let path = flags.cni_path.clone().or_else(|| env::var("CNI_PATH").ok().filter(|path| !path.is_empty()));
    let path = path.unwrap_or_else(|| cni::DEFAULT_PLUGIN_DIR.into());
    let plugin_dirs = path.split(':').filter(|part| !part.is_empty()).map(PathBuf::from).collect();
    let stop = signals::stop_on_signal().context("cannot handle signals")?;
    let limits = Limits { time: flags.timeout, stop: Some(stop) };
    let mut runtime = Runtime::new(Plugins::new(plugin_dirs, limits), Cache::new(&flags.cni_cache_dir));
    // a container's environment says nothing of the node
    runtime.plugins.environment = if is_moved() { Environment::Clean } else { Environment::Inherited };
    runtime.is_gone = Box::new(networks::is_without_link);
    runtime.plugins.notes = Box::new(move |plugin, verb, text| {
        log.info(1, "standard error of the plugin", json!({"plugin": plugin, "command": verb.as_str(), "text": text}));
    });
    Ok(Networks {
        runtime,
        records: Records::new(&arguments.node.state_dir),
        by: IF_INJECT,
        boot: Boot::current().context("cannot read which boot this is")?,
        sysfs: arguments.node.sysfs.clone(),
        further_caches: Vec::new(),
    })
}

/// Whether this thread is in another mount namespace than the one in which the program was started.
fn is_moved() -> bool {
    let namespace = |thread: &str| std::fs::read_link(format!("/proc/{thread}/ns/mnt")).ok();
    namespace("self") != namespace("thread-self")
}

/// The network of `-spec`: a file, standard input, or one of the node's networks by name. None without the flag.
pub(super) fn load(arguments: &InjectArguments) -> Result<Option<NetworkList>> {
    let Some(spec) = &arguments.network.spec else { return Ok(None) };
    let loaded = match spec.as_str() {
        "-" => {
            let text = cni::read_configuration(std::io::stdin().lock()).context("cannot read standard input")?;
            return NetworkList::from_json(&text).map(Some).context("standard input");
        }
        name if is_network_name(name) => {
            let named = arguments.network.cni_conf_dir.clone();
            let named = named.or_else(|| env::var_os("NETCONFPATH").filter(|path| !path.is_empty()).map(Into::into));
            let directory = named.unwrap_or_else(|| cni::DEFAULT_CONFIGURATION_DIR.into());
            cni::load_by_name(&directory, name)
        }
        file => cni::load_file(Path::new(file)),
    };
    loaded.map(Some).context("-spec")
}

/// Whether it is the name of a network, and not of a file: no such file exists, and it has no ending of one.
fn is_network_name(text: &str) -> bool {
    let has_ending = [".conf", ".conflist", ".json"].iter().any(|ending| text.ends_with(ending));
    !text.contains('/') && !has_ending && !Path::new(text).exists()
}

fn is_missing(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<LoadError>() {
        Some(LoadError::Unknown { .. }) => true,
        Some(LoadError::Read { error, .. }) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}
