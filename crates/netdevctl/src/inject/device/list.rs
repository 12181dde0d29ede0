//! The devices that a Pod has, however they were requested.

use anyhow::{Context, Result};
use netdevice::{Attachment, Phase};
use serde::Serialize;
use store::Records;

use super::{Place, PodName, Way};

/// A device of a Pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedDevice {
    /// Its id.
    pub device: String,
    /// Its name in the Pod.
    pub name: String,
    /// How it was requested.
    pub by: Way,
    /// Its owner, as in messages.
    pub owner: String,
    /// Id of the Pod's sandbox, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// The resource of its pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Whether it is there, or on its way.
    pub phase: Phase,
    /// When it was attached: seconds since 1970.
    pub since: u64,
}

impl From<&Attachment> for ListedDevice {
    fn from(record: &Attachment) -> Self {
        Self {
            device: record.device.to_string(),
            name: record.sandbox.name.to_string(),
            by: Way::of(&record.owner),
            owner: record.owner.to_string(),
            sandbox: record.owner.sandbox().map(str::to_owned),
            pool: record.resource.as_ref().map(ToString::to_string),
            phase: record.phase,
            since: record.since,
        }
    }
}

/// The devices of a Pod, by device; without a Pod those of all Pods.
///
/// # Errors
///
/// When the records cannot be read.
pub fn list(place: &Place, pod: Option<PodName<'_>>) -> Result<Vec<ListedDevice>> {
    let (ledger, _) = Records::new(&place.node.state_dir).list().context("cannot read the records of this node")?;
    let is_wanted = |record: &Attachment| pod.is_none_or(|pod| pod.is_of(&record.owner));
    Ok(ledger.values().filter(|record| is_wanted(record)).map(|record| (&**record).into()).collect())
}
