//! One device plugin for each resource: it is started when a pool is added, and ends when the pool was removed.

use std::{collections::BTreeMap, sync::Arc};

use device_plugin::{Config, DevicePlugin, Error, Paths, RecordCheck, Reservations, Timing};
use netdevice::{Acquisition, DeviceId, Refusal, ResourceName};
use store::Records;
use tokio::{
    sync::watch,
    task::{Id, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{hook_file, metrics::Metrics, view::Views};

/// Files and directories that the plugins use.
pub(crate) struct Locations {
    pub(crate) paths: Paths,
    pub(crate) records: Records,
}

/// What plugins offer, and what they allocated.
pub(crate) struct Offered {
    pub(crate) views: Views,
    /// Nothing is offered until it is installed.
    pub(crate) hook: watch::Receiver<hook_file::HookState>,
    pub(crate) reservations: Arc<Reservations>,
}

/// Runs the plugins that the view requires, once the hook is installed.
pub(crate) async fn run(
    locations: Locations,
    offered: Offered,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Offered { mut views, mut hook, reservations } = offered;
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        installed = hook.wait_for(|state| *state == hook_file::HookState::Installed) => drop(installed?),
    }
    let mut running: JoinSet<Result<(), Error>> = JoinSet::new();
    let mut resources: BTreeMap<ResourceName, Id> = BTreeMap::new();
    loop {
        let wanted = device_plugin::resources(&views.borrow_and_update());
        for resource in wanted {
            resources.entry(resource).or_insert_with_key(|resource| {
                info!(%resource, "the device plugin starts");
                let plugin = DevicePlugin::new(config(&locations, resource, &reservations, &metrics), views.clone());
                metrics.add_plugin(resource.clone(), plugin.stats());
                running.spawn(plugin.run(shutdown.clone())).id()
            });
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            // the agent ends
            changed = views.changed() => if changed.is_err() { break },
            Some(ended) = running.join_next_with_id(), if !running.is_empty() => {
                let (id, result) = ended?;
                result?;
                resources.retain(|resource, plugin| {
                    let stays = *plugin != id;
                    if !stays {
                        info!(%resource, "the device plugin ends: its pool was removed");
                        metrics.remove_plugin(resource);
                    }
                    stays
                });
            }
        }
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

fn config(
    locations: &Locations,
    resource: &ResourceName,
    reservations: &Arc<Reservations>,
    metrics: &Metrics,
) -> Config {
    let records = locations.records.clone();
    Config {
        resource: resource.clone(),
        paths: locations.paths.clone(),
        timing: Timing::default(),
        record_check: record_check(records, resource.clone()),
        reservations: reservations.clone(),
        report_waker: metrics.report_waker(),
    }
}

/// Checks the record of a device that the kubelet allocates, and reserves it.
fn record_check(records: Records, resource: ResourceName) -> RecordCheck {
    let store = records.clone();
    let check = move |device: &DeviceId| match records.owner_before_kubelet(device) {
        Ok(None) => Ok(()),
        Ok(Some(owner)) => Err(Refusal::Held(owner.into())),
        Err(_) => Err(Refusal::Unknown),
    };
    let reserve = move |device: &DeviceId, how: Acquisition| match store.reserve_for_kubelet(device, &resource, how) {
        Ok(()) => Ok(()),
        Err(store::Error::Held(owner)) => Err(Refusal::Held(owner)),
        // the container's hook checks again, and fails if it cannot write either
        Err(error) => {
            warn!(%device, "cannot reserve it: {error}");
            Ok(())
        }
    };
    RecordCheck::new(check).reserving(reserve)
}
