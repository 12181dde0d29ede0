//! The plugin of one pool: its parts and their owner.

use std::{collections::BTreeSet, sync::Arc};

use netdevice::{ResourceName, View, cdi};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Paths},
    error::Error,
    folders::{Folders, Looks},
    memory::Memory,
    publisher::Publisher,
    recovery::Recovery,
    registrar::Registrar,
    service::Shared,
    socket::remove_stale,
    stats::Stats,
};

/// The resources that need a plugin: those of the pools, and those of devices that Pods still have from a pool that was
/// removed.
pub fn resources(view: &View) -> BTreeSet<ResourceName> {
    let pools = view.pools.iter().map(|pool| &pool.resource);
    let held = view.ledger.keys().filter_map(|id| view.devices().get(id)).map(|device| &device.resource);
    pools.chain(held).cloned().collect()
}

/// The device plugin of one pool.
#[derive(Debug)]
pub struct DevicePlugin {
    config: Config,
    view: watch::Receiver<Arc<View>>,
    shared: Arc<Shared>,
}

impl DevicePlugin {
    /// Prepares a plugin. The view must be complete: what it lacks is withdrawn from the kubelet.
    pub fn new(config: Config, view: watch::Receiver<Arc<View>>) -> Self {
        let shared = Arc::new(Shared {
            resource: config.resource.clone(),
            cdi_file: config.paths.cdi.join(cdi::file_name(&config.resource)),
            held_grace: config.timing.held_grace,
            record_check: config.record_check.clone(),
            reservations: config.reservations.clone(),
            stats: Arc::default(),
            published: watch::Sender::new(None),
            memory: watch::Sender::new(Memory::default()),
        });
        Self { config, view, shared }
    }

    /// What happens, for metrics.
    pub fn stats(&self) -> Arc<Stats> {
        self.shared.stats.clone()
    }

    /// Serves and registers until `shutdown`, whatever the kubelet, the folders and the disk do.
    ///
    /// At shutdown the CDI file stays, and the kubelet gets no shorter list: running Pods go on and their containers
    /// restart. When the pool is not in the view any more and no Pod has a device of it, the kubelet gets the empty
    /// list, the CDI file goes and the plugin ends by itself.
    ///
    /// # Errors
    ///
    /// [`Error::TaskFailed`] when a part of the plugin broke, [`Error::TimerFailed`] when the process has no file
    /// descriptor left at the start; nothing else ends it.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { config, view, shared } = self;
        remove_stale(&config.paths.device_plugins).await;
        let stop = shutdown.child_token();
        let ((sockets, look_at_sockets), (file, look_at_file)) = (watch::channel(()), watch::channel(()));
        let (others, look_at_others) = watch::channel(());
        let Paths { device_plugins, cdi_spec_dirs, .. } = &config.paths;
        let folders = Folders::new(device_plugins, &shared.cdi_file, cdi_spec_dirs, config.timing.poll);
        let publisher = Publisher {
            config: config.clone(),
            shared: shared.clone(),
            view: view.clone(),
            look: look_at_file,
            look_at_others,
        };
        let look = look_at_sockets;
        let recovery =
            Recovery { config: config.clone(), shared: shared.clone(), view: view.clone(), look: look.clone() };
        let registrar = Registrar { config, shared, view, look, stop: stop.clone() };

        let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
        tasks.spawn(folders.run(Looks { sockets, file, others }, stop.clone()));
        tasks.spawn(publisher.run(stop.clone()));
        tasks.spawn(recovery.run(stop.clone()));
        tasks.spawn(registrar.run());
        let mut first = Ok(());
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended.map_err(Error::from).flatten() {
                stop.cancel();
                first = first.and(Err(error));
            }
        }
        first
    }
}
