//! What is counted, and the problems in it.

use std::{collections::BTreeMap, sync::Arc};

use device_plugin::CdiReport;
use netdevice::ResourceName;
use tokio::sync::watch;

use crate::{
    problem::{Kind, Problem},
    view::Views,
};

/// The values of all metrics.
#[derive(Debug, Default)]
pub(super) struct Values {
    pub(super) inventory: Option<Arc<inventory::Stats>>,
    pub(super) plugins: BTreeMap<ResourceName, Arc<device_plugin::Stats>>,
    /// What is offered; none until it is known.
    pub(super) views: Option<Views>,
    pub(super) hooks: BTreeMap<(&'static str, &'static str), u64>,
    pub(super) reloads: BTreeMap<&'static str, u64>,
    pub(super) repairs: BTreeMap<&'static str, u64>,
    pub(super) runtime: Option<watch::Receiver<nri::ConnectionState>>,
    pub(super) injections: BTreeMap<&'static str, u64>,
    pub(super) releases: BTreeMap<&'static str, u64>,
    pub(super) network_changes: BTreeMap<(&'static str, &'static str), u64>,
    pub(super) network_deletions: BTreeMap<&'static str, u64>,
    /// Whether the kubelet uses the driver of claims; none without -dra.
    pub(super) claims: Option<watch::Receiver<dra::RegistrationState>>,
    /// The ResourceSlices of the node; none without -dra.
    pub(super) slices: Option<Arc<dra::slices::Stats>>,
    pub(super) claim_changes: BTreeMap<(&'static str, &'static str), u64>,
    /// None while no Events are posted.
    pub(super) events: Option<BTreeMap<EventResult, u64>>,
    pub(super) records: usize,
    pub(super) unreadable_records: usize,
    pub(super) records_quarantined: usize,
    pub(super) problems: BTreeMap<Kind, Vec<String>>,
}

/// What was done with the report of an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum EventResult {
    /// The API server accepted it.
    Ok,
    /// The same was posted a moment ago: the next count includes this one.
    Joined,
    /// The API server did not answer, or refused it.
    Failed,
    /// The queue was full, or too many were posted.
    Dropped,
}

impl EventResult {
    pub(super) const ALL: [(Self, &'static str); 4] =
        [(Self::Ok, "ok"), (Self::Joined, "joined"), (Self::Failed, "failed"), (Self::Dropped, "dropped")];
}

/// Results of what hooks and the injector do.
pub(super) const RESULTS: [&str; 4] = ["ok", "nothing", "failed", "lost"];

impl Values {
    /// All problems, in no order.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let of = |kind| move |text| Problem { kind, text };
        let view = self.views.is_none().then(|| "the interfaces of the node have not been read yet".to_owned());
        let unregistered = self.plugins.iter().filter(|(_, stats)| !stats.is_registered()).map(|(resource, stats)| {
            let why = stats.last_error().map_or_else(String::new, |error| format!(": {error}"));
            format!("{resource} is not registered with the kubelet{why}")
        });
        let claims = self.claims.as_ref().and_then(|state| match &*state.borrow() {
            dra::RegistrationState::Registered => None,
            dra::RegistrationState::Pending => Some("claims: the driver is not registered with the kubelet".to_owned()),
            dra::RegistrationState::Refused(why) => Some(format!("claims: the kubelet refused the driver: {why}")),
        });
        let cdi: Vec<CdiReport> = self.plugins.values().map(|stats| stats.cdi_report()).collect();
        let conflicts = cdi.iter().flat_map(|report| report.conflicts.clone());
        let ignored = cdi.iter().flat_map(|report| report.ignored.clone());
        let runtime = self.runtime.as_ref().and_then(|runtime| match &*runtime.borrow() {
            nri::ConnectionState::Active(_) => None,
            nri::ConnectionState::Starting | nri::ConnectionState::Registering => {
                Some("not connected to the runtime yet".to_owned())
            }
            nri::ConnectionState::Disconnected(why) => {
                Some(format!("not connected to the runtime: {why}{}", is_nri_off(why)))
            }
        });
        let reported = self.problems.iter().flat_map(|(kind, texts)| texts.iter().cloned().map(of(*kind)));
        let found = view.into_iter().map(of(Kind::Starting));
        found
            .chain(unregistered.chain(claims).map(of(Kind::Registration)))
            .chain(conflicts.map(of(Kind::CdiConflict)))
            .chain(ignored.map(of(Kind::CdiIgnored)))
            .chain(runtime.into_iter().map(of(Kind::Runtime)))
            .chain(reported)
            .collect()
    }
}

/// The most likely reason for a missing socket.
fn is_nri_off(why: &str) -> &'static str {
    if why.contains("No such file") {
        ": check that NRI is enabled in the runtime (containerd 1.7: disable = false under io.containerd.nri.v1.nri) and that -nri-socket is its socket"
    } else {
        ""
    }
}
