//! The plugin of one pool: its parts and their owner.

use std::sync::Arc;

use netdevice::{View, cdi};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    allocated::AllocatedDevices,
    config::{Config, Paths},
    directories::{Followed, Reports},
    error::Error,
    publisher::Publisher,
    recovery::Recovery,
    registrar::Registrar,
    shared::Shared,
    socket::remove_stale,
    stats::Stats,
};

/// The device plugin of one pool.
#[derive(Debug)]
pub struct DevicePlugin {
    config: Config,
    view: watch::Receiver<Arc<View>>,
    shared: Arc<Shared>,
}

impl DevicePlugin {
    /// Prepares a plugin. The view must be complete: a device that is not in it is withdrawn from the kubelet.
    pub fn new(config: Config, view: watch::Receiver<Arc<View>>) -> Self {
        let shared = Arc::new(Shared {
            resource: config.resource.clone(),
            cdi_file: config.paths.cdi.join(cdi::file_name(&config.resource)),
            held_grace: config.timing.held_grace,
            record_check: config.record_check.clone(),
            reservations: config.reservations.clone(),
            stats: Arc::default(),
            published: watch::Sender::new(None),
            allocated: watch::Sender::new(AllocatedDevices::default()),
        });
        Self { config, view, shared }
    }

    /// Counters and states, for metrics.
    pub fn stats(&self) -> Arc<Stats> {
        self.shared.stats.clone()
    }

    /// Serves and registers until `shutdown`. Failures of the kubelet, the directories and the disk do not end it.
    ///
    /// At shutdown the CDI file stays, and the kubelet gets no shorter list: running Pods continue and their containers
    /// can restart. When the pool is no longer in the view and no Pod has a device of it, the kubelet gets the empty
    /// list, the CDI file is removed and the plugin ends by itself.
    ///
    /// # Errors
    ///
    /// [`Error::TaskFailed`] when a part of the plugin panicked; nothing else ends it.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { config, view, shared } = self;
        remove_stale(&config.paths.device_plugins).await;
        let stop = shutdown.child_token();
        let ((sockets, sockets_changed), (file, file_changed)) = (watch::channel(()), watch::channel(()));
        let (others, others_changed) = watch::channel(());
        let Paths { device_plugins, cdi_spec_dirs, .. } = config.paths.clone();
        let poll = config.timing.poll;
        let followed =
            Followed { sockets: device_plugins, file: shared.cdi_file.clone(), cdi_directories: cdi_spec_dirs };
        let publisher = Publisher {
            config: config.clone(),
            shared: shared.clone(),
            view: view.clone(),
            file_changed,
            others_changed,
        };
        let recovery = Recovery {
            config: config.clone(),
            shared: shared.clone(),
            view: view.clone(),
            sockets_changed: sockets_changed.clone(),
        };
        let registrar = Registrar { config, shared, view, sockets_changed, stop: stop.clone() };

        let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
        tasks.spawn(followed.run(Reports { sockets, file, others }, poll, stop.clone()));
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
