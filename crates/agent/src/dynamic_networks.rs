//! The networks of running Pods: the configuration of the controller, and its connection with the rest of the agent.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use ::dynamic_networks::{Devices, Inquiries, Report, Reporter, Settings, multus};
use anyhow::{Context, bail};
use cni::{Cache, Environment, Limits, Plugins, Runtime};
use cri::{Candidates, Endpoint};
use kubelet::PodResources;
use netdevice::{InterfaceName, View, choice::Allocated};
use networks::{Boot, Networks};
use serde::Deserialize;
use store::Records;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    api_server::ApiServer,
    arguments::{Arguments, Program},
    config::NetworkPaths,
    events::{Events, Occurrence},
    injector::{KUBELET_TIMEOUT, allocated},
    metrics::Metrics,
    view::Views,
};

/// The configuration of the controller.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) node: String,
    pub(crate) runtime: Candidates,
    /// Multus' daemon, if it runs the plugins.
    pub(crate) multus: Option<PathBuf>,
    pub(crate) multus_cache: PathBuf,
    pub(crate) configuration_dir: PathBuf,
    pub(crate) is_isolated: bool,
    pub(crate) global_namespaces: Vec<String>,
}

/// The configuration file of `dynamic-networks-controller`: a JSON object.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    cri_socket_path: Option<String>,
    /// Absent: where Multus 4 listens. Empty: no Multus.
    multus_socket_path: Option<String>,
}

impl Config {
    /// That of these arguments; none if they do not request the controller.
    ///
    /// # Errors
    ///
    /// When the file or a flag cannot be used, or the Node's name is not known.
    pub(crate) fn from_arguments(arguments: &Arguments) -> anyhow::Result<Option<Self>> {
        if !arguments.dynamic_networks {
            return Ok(None);
        }
        let Some(node) = arguments.node_name() else {
            bail!("-dynamic-networks needs the name of the Node: set NODE_NAME (downward API) or -node-name")
        };
        let file = match (arguments.program, &arguments.config) {
            (Program::DynamicNetworks, Some(path)) => File::read(path)?,
            _ => File { cri_socket_path: None, multus_socket_path: Some(String::new()) },
        };
        let socket =
            arguments.cri_socket.clone().or(file.cri_socket_path.map(on_node)).filter(|socket| !socket.is_empty());
        let endpoint = socket.map(|socket| endpoint(&socket)).transpose()?;
        let by_file =
            || file.multus_socket_path.map_or_else(|| multus::DEFAULT_SOCKET.into(), |path| on_node(path).into());
        let multus = arguments.multus_socket.clone().unwrap_or_else(by_file);
        Ok(Some(Self {
            node,
            runtime: Candidates::find(endpoint.as_ref(), std::env::var_os(cri::ENVIRONMENT).as_deref())?,
            multus: Some(multus).filter(|socket| !socket.as_os_str().is_empty()),
            multus_cache: arguments.multus_cache_dir.clone(),
            configuration_dir: arguments.network_config_dir.clone(),
            is_isolated: arguments.namespace_isolation,
            global_namespaces: arguments.global_namespaces.clone(),
        }))
    }
}

impl File {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("-config: {} does not exist", path.display())
            }
            text => text.with_context(|| format!("-config: cannot read {}", path.display()))?,
        };
        serde_json::from_slice(&text).with_context(|| format!("-config: {} is not valid", path.display()))
    }
}

/// The path on the node of a path in the container of the program that this one replaces, which mounts the node below `/host`.
fn on_node(path: String) -> String {
    path.strip_prefix("/host/").map_or(path.clone(), |rest| format!("/{rest}"))
}

/// A socket, as a path or as a URL.
fn endpoint(socket: &str) -> anyhow::Result<Endpoint> {
    let url = if socket.starts_with('/') { format!("unix://{socket}") } else { socket.to_owned() };
    url.parse().with_context(|| format!("{socket:?} is not the socket of a container runtime"))
}

/// What the controller uses of the agent.
pub(crate) struct Parts {
    pub(crate) paths: NetworkPaths,
    pub(crate) records: Records,
    pub(crate) views: Views,
    /// The socket on which the kubelet lists the devices that it allocated.
    pub(crate) pod_resources: PathBuf,
    /// Receives the names of devices that have returned to the host.
    pub(crate) restored: mpsc::UnboundedSender<InterfaceName>,
    pub(crate) events: Events,
    pub(crate) metrics: Arc<Metrics>,
}

/// The controller, until `shutdown`.
///
/// # Errors
///
/// When there is no API server, or the kernel does not say which boot this is.
pub(crate) fn build(
    config: Config,
    parts: Parts,
    inquiries: Inquiries,
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static> {
    let api_server = ApiServer::in_cluster();
    let api_server = api_server
        .context("-dynamic-networks reads Pods from the API server, and this process has no service account")?;
    let client = api_server.client().context("cannot use the API server")?;
    let Parts { paths, records, views, pod_resources, restored, events, metrics } = parts;
    let devices = Arc::new(NodeDevices { views: views.clone(), pod_resources, restored });
    let mut runtime = Runtime::new(Plugins::new(paths.plugin_dirs, Limits::default()), Cache::new(paths.cache));
    runtime.plugins.environment = Environment::Clean;
    runtime.is_gone = Box::new(networks::is_without_link);
    runtime.delegate =
        config.multus.as_ref().map(|socket| Arc::new(multus::Multus::new(socket)) as Arc<dyn cni::Delegate>);
    let boot = Boot::current().context("cannot read which boot this is")?;
    let networks = Networks {
        runtime,
        records,
        by: ::dynamic_networks::NAME,
        boot,
        sysfs: inventory::SYSFS.into(),
        further_caches: Vec::new(),
    };
    let settings = Settings {
        node: config.node,
        runtime: config.runtime,
        networks,
        multus_cache: config.multus.map(|_| Cache::new(config.multus_cache)),
        configuration_dir: config.configuration_dir,
        devices,
        is_isolated: config.is_isolated,
        global_namespaces: config.global_namespaces.into_iter().collect(),
    };
    let reporter = Reporter::new(move |report| {
        count(&metrics, &report);
        events.report(Occurrence::Network(report));
    });
    let node = Arc::new(move || Ok(views.borrow().snapshot.clone()));
    Ok(async move {
        // it keeps the connections of its client
        let _api_server = api_server;
        match ::dynamic_networks::run(settings, client, reporter, node, inquiries, shutdown).await {
            Ok(()) => Ok(()),
        }
    })
}

/// The devices of this node.
#[derive(Debug)]
struct NodeDevices {
    views: Views,
    pod_resources: PathBuf,
    restored: mpsc::UnboundedSender<InterfaceName>,
}

impl Devices for NodeDevices {
    fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }

    fn changes(&self) -> watch::Receiver<Arc<View>> {
        self.views.clone()
    }

    fn allocated(&self) -> Result<Allocated, String> {
        let unknown = "cannot get the allocated devices from the kubelet";
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("{unknown}: {error}"))?;
        let pods =
            runtime.block_on(async { timeout(KUBELET_TIMEOUT, PodResources::new(&self.pod_resources).list()).await });
        match pods {
            Ok(Ok(pods)) => Ok(allocated(&pods.unwrap_or_default())),
            Ok(Err(error)) => Err(format!("{unknown}: {error}")),
            Err(_) => Err(format!("{unknown}: no answer within {KUBELET_TIMEOUT:?}")),
        }
    }

    fn returned(&self, name: InterfaceName) {
        // the receiver is gone only while the agent ends
        let _ = self.restored.send(name);
    }
}

fn count(metrics: &Metrics, report: &Report) {
    match report.reason {
        "AddedInterface" => metrics.count_network_change("add", "ok"),
        "FailedAddingInterface" => metrics.count_network_change("add", "failed"),
        "RemovedInterface" => metrics.count_network_change("remove", "ok"),
        "FailedRemovingInterface" => metrics.count_network_change("remove", "failed"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_program_that_this_one_replaces_is_read() {
        let read = |text: &str| serde_json::from_str::<File>(text).unwrap();
        let file =
            read(r#"{"criSocketPath": "/run/crio/crio.sock", "criType": "cri-o", "multusSocketPath": "/m.sock"}"#);
        assert_eq!(file.cri_socket_path.as_deref(), Some("/run/crio/crio.sock"));
        assert_eq!(file.multus_socket_path.as_deref(), Some("/m.sock"));
        assert_eq!(read("{}").multus_socket_path, None);
        assert_eq!(read(r#"{"multusSocketPath": ""}"#).multus_socket_path.as_deref(), Some(""));
        assert_eq!(on_node("/host/run/multus/multus.sock".into()), "/run/multus/multus.sock");
        assert!(serde_json::from_str::<File>("[]").is_ok_and(|file| file.cri_socket_path.is_none()));
    }

    #[test]
    fn a_runtime_is_named_by_its_path_or_by_a_url() {
        assert_eq!(endpoint("/run/a.sock").unwrap(), endpoint("unix:///run/a.sock").unwrap());
        assert!(endpoint("tcp://127.0.0.1:1").is_err());
    }
}
