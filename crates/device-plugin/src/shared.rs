//! What the parts of a plugin share.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use netdevice::{DeviceId, ResourceName};
use tokio::sync::watch;

use crate::{
    allocated::AllocatedDevices, config::RecordCheck, conflicts::Conflicts, offer::List, reservations::Reservations,
    stats::Stats,
};

/// The list for the kubelet, and the CDI names that resolve.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Published {
    pub(crate) list: List,
    pub(crate) written: Arc<BTreeSet<DeviceId>>,
    /// Conflicts with CDI files of others.
    pub(crate) conflicts: Arc<Conflicts>,
}

/// What the parts of a plugin share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) resource: ResourceName,
    pub(crate) cdi_file: PathBuf,
    pub(crate) held_grace: Duration,
    pub(crate) record_check: RecordCheck,
    pub(crate) reservations: Arc<Reservations>,
    pub(crate) stats: Arc<Stats>,
    /// None until the CDI file was checked once.
    pub(crate) published: watch::Sender<Option<Published>>,
    pub(crate) allocated: watch::Sender<AllocatedDevices>,
}
