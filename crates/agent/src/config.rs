//! The valid configuration of this process, from its arguments. Nothing is opened yet, except for the socket that a runtime
//! passes to a plugin which it starts itself.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, bail};
use netdevice::Pools;

use crate::{
    arguments::{Arguments, EventMode, Program},
    claims, dynamic_networks,
};

/// A valid configuration.
pub(crate) struct Config {
    pub(crate) program: Program,
    pub(crate) selection: Selection,
    pub(crate) inventory: inventory::Config,
    /// The directory of the records.
    pub(crate) state_dir: PathBuf,
    /// The kubelet's PodResources socket.
    pub(crate) pod_resources: PathBuf,
    pub(crate) events: EventMode,
    /// The Node's name, if it is known.
    pub(crate) node_name: Option<String>,
    pub(crate) admin_address: SocketAddr,
    /// How attachments to CNI networks are deleted; none if they are not.
    pub(crate) networks: Option<NetworkPaths>,
    /// How interfaces are added to running Pods by annotation; none if they are not.
    pub(crate) dynamic_networks: Option<dynamic_networks::Config>,
    /// How devices are given by claim; none if they are not.
    pub(crate) claims: Option<claims::Config>,
    /// How devices are attached by annotation; none if they are not.
    pub(crate) runtime: Option<nri::Config>,
    /// How devices are offered as extended resources; none if they are not.
    pub(crate) offer: Option<Offer>,
}

/// What CNI plugins need, on the node.
#[derive(Debug, Clone)]
pub(crate) struct NetworkPaths {
    pub(crate) plugin_dirs: Vec<PathBuf>,
    pub(crate) cache: PathBuf,
    pub(crate) multus_cache: PathBuf,
}

/// Which interfaces are selected.
pub(crate) enum Selection {
    /// Those of `-interfaces`, and the equivalent YAML.
    Flag(Arc<Pools>, String),
    /// Those of the file of `-config`.
    File(PathBuf),
    /// Those that the runtime's configuration of its plugin selects: the injector's, without flags.
    Runtime,
}

/// How devices are offered as extended resources.
pub(crate) struct Offer {
    pub(crate) paths: device_plugin::Paths,
    /// The hook to install at the path that the CDI files name.
    pub(crate) hook_source: PathBuf,
}

impl TryFrom<Arguments> for Config {
    type Error = anyhow::Error;

    fn try_from(arguments: Arguments) -> anyhow::Result<Self> {
        // first: the runtime passes its socket as a descriptor number, which a file opened here might get
        let runtime = arguments.plugin().context("cannot start as a plugin of the container runtime")?;
        Ok(Self {
            program: arguments.program,
            selection: Selection::try_from(&arguments)?,
            inventory: arguments.inventory(),
            offer: (arguments.program == Program::Agent).then(|| Offer::from(&arguments)),
            claims: claims::Config::from_arguments(&arguments)?,
            dynamic_networks: dynamic_networks::Config::from_arguments(&arguments)?,
            networks: (arguments.program != Program::Injector).then(|| NetworkPaths::from(&arguments)),
            node_name: arguments.node_name(),
            events: arguments.events,
            admin_address: arguments.admin_address,
            state_dir: arguments.state_dir,
            pod_resources: arguments.pod_resources_socket,
            runtime,
        })
    }
}

impl TryFrom<&Arguments> for Selection {
    type Error = anyhow::Error;

    fn try_from(arguments: &Arguments) -> anyhow::Result<Self> {
        if arguments.program == Program::DynamicNetworks {
            // -config is the controller's own
            return Ok(Self::Flag(Arc::default(), String::new()));
        }
        match (&arguments.interfaces, &arguments.config) {
            (Some(pattern), None) => {
                let (mut pools, mut yaml) = (Pools::by_name(pattern.clone()), Pools::yaml_by_name(pattern));
                if arguments.nri {
                    pools = pools.with_annotations();
                    yaml.push_str("  annotations: true\n");
                }
                if arguments.dra {
                    pools = pools.offered_by_claims();
                    yaml.push_str("  offer: claims\n");
                }
                Ok(Self::Flag(Arc::new(pools), yaml))
            }
            (None, Some(file)) => Ok(Self::File(file.clone())),
            (None, None) if arguments.program == Program::Injector => Ok(Self::Runtime),
            _ => bail!("-interfaces or -config is required"),
        }
    }
}

impl From<&Arguments> for NetworkPaths {
    fn from(arguments: &Arguments) -> Self {
        let plugin_dirs = arguments.cni_path.split(':').filter(|part| !part.is_empty()).map(PathBuf::from).collect();
        let (cache, multus_cache) = (arguments.cni_cache_dir.clone(), arguments.multus_cache_dir.clone());
        Self { plugin_dirs, cache, multus_cache }
    }
}

impl From<&Arguments> for Offer {
    fn from(arguments: &Arguments) -> Self {
        let is_default = arguments.state_dir.as_os_str() == store::DEFAULT_STATE_DIR;
        let paths = device_plugin::Paths {
            device_plugins: arguments.device_plugin_dir.clone(),
            pod_resources: arguments.pod_resources_socket.clone(),
            cdi: arguments.cdi_dir.clone(),
            cdi_spec_dirs: arguments.cdi_spec_dirs.clone(),
            hook: arguments.hook_path.clone(),
            state_dir: (!is_default).then(|| arguments.state_dir.to_string_lossy().into_owned()),
        };
        Self { paths, hook_source: arguments.hook_source() }
    }
}
