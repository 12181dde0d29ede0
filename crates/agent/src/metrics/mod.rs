//! What the agent counts, and the text that Prometheus reads. Most values are read when the text is requested.

mod openmetrics;
mod values;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use netdevice::ResourceName;
use prometheus_client::encoding::text::encode;
use store::journal::{Action, Outcome};
use tokio::sync::{Notify, watch};

use crate::{
    problem::{Kind, Problem},
    view::Views,
};
use openmetrics::build_registry;
pub(crate) use values::EventResult;
use values::{RESULTS, Values};

/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    values: Mutex<Values>,
    /// Woken when a problem was reported, here or in a device plugin.
    reported: Arc<Notify>,
}

impl Metrics {
    fn with<T>(&self, work: impl FnOnce(&mut Values) -> T) -> T {
        work(&mut self.values.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_inventory(&self, stats: Arc<inventory::Stats>) {
        self.with(|values| values.inventory = Some(stats));
    }

    pub(crate) fn add_plugin(&self, resource: ResourceName, stats: Arc<device_plugin::Stats>) {
        self.with(|values| values.plugins.insert(resource, stats));
    }

    pub(crate) fn remove_plugin(&self, resource: &ResourceName) {
        self.with(|values| values.plugins.remove(resource));
    }

    /// Reports what is offered, from now on.
    pub(crate) fn set_views(&self, views: Views) {
        self.with(|values| values.views = Some(views));
    }

    pub(crate) fn set_records(&self, records: usize, unreadable: usize, quarantined: usize) {
        self.with(|values| {
            (values.records, values.unreadable_records, values.records_quarantined) =
                (records, unreadable, quarantined);
        });
    }

    pub(crate) fn count_reload(&self, taken: bool) {
        self.with(|values| *values.reloads.entry(if taken { "ok" } else { "failed" }).or_default() += 1);
    }

    pub(crate) fn count_repair(&self, result: &'static str) {
        self.with(|values| *values.repairs.entry(result).or_default() += 1);
    }

    /// Reports the injector, from now on.
    pub(crate) fn set_runtime(&self, state: watch::Receiver<nri::ConnectionState>) {
        self.with(|values| values.runtime = Some(state));
    }

    pub(crate) fn count_injected(&self, devices: usize) {
        let devices = u64::try_from(devices).unwrap_or(u64::MAX);
        self.with(|values| *values.injections.entry(RESULTS[0]).or_default() += devices);
    }

    pub(crate) fn count_injection_failure(&self) {
        self.with(|values| *values.injections.entry(RESULTS[2]).or_default() += 1);
    }

    pub(crate) fn count_release(&self, result: &'static str) {
        self.with(|values| *values.releases.entry(result).or_default() += 1);
    }

    /// An interface of a running Pod was added or removed, or that failed.
    pub(crate) fn count_network_change(&self, change: &'static str, result: &'static str) {
        self.with(|values| *values.network_changes.entry((change, result)).or_default() += 1);
    }

    pub(crate) fn count_network_deletion(&self, is_deleted: bool) {
        self.with(|values| *values.network_deletions.entry(if is_deleted { "ok" } else { "failed" }).or_default() += 1);
    }

    /// Reports claims, from now on.
    pub(crate) fn set_claims(&self, state: watch::Receiver<dra::RegistrationState>) {
        self.with(|values| values.claims = Some(state));
    }

    /// Reports the ResourceSlices of the node, from now on.
    pub(crate) fn set_slices(&self, stats: Arc<dra::slices::Stats>) {
        self.with(|values| values.slices = Some(stats));
    }

    /// A claim was prepared or unprepared, or that failed.
    pub(crate) fn count_claim(&self, change: &'static str, result: &'static str) {
        self.with(|values| *values.claim_changes.entry((change, result)).or_default() += 1);
    }

    /// Reports Events, from now on.
    pub(crate) fn set_events(&self) {
        self.with(|values| values.events = Some(BTreeMap::new()));
    }

    pub(crate) fn count_event(&self, result: EventResult) {
        self.with(|values| *values.events.get_or_insert_default().entry(result).or_default() += 1);
    }

    pub(crate) fn count_hook(&self, action: Action, outcome: Outcome) {
        let action = match action {
            Action::Attach => "attach",
            Action::Detach => "detach",
        };
        let outcome = match outcome {
            Outcome::Ok => RESULTS[0],
            Outcome::Nothing => RESULTS[1],
            Outcome::Failed => RESULTS[2],
            Outcome::Lost => RESULTS[3],
        };
        self.with(|values| *values.hooks.entry((action, outcome)).or_default() += 1);
    }

    /// Sets the problems of a kind. Returns whether they differ from the previous ones.
    pub(crate) fn report(&self, kind: Kind, texts: Vec<String>) -> bool {
        let is_new = self.with(|values| {
            let known = values.problems.entry(kind).or_default();
            let is_new = *known != texts;
            *known = texts;
            is_new
        });
        if is_new {
            self.reported.notify_one();
        }
        is_new
    }

    /// Device plugins wake it when they have something to report.
    pub(crate) fn report_waker(&self) -> Arc<Notify> {
        self.reported.clone()
    }

    /// Waits until something is reported.
    pub(crate) async fn reported(&self) {
        self.reported.notified().await;
    }

    /// Devices that are offered or attached.
    pub(crate) fn devices(&self) -> usize {
        self.with(|values| values.views.as_ref().map_or(0, |views| views.borrow().devices().len()))
    }

    /// All problems, obstacles first.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.with(|values| values.problems());
        problems.sort_by_key(|problem| (!problem.kind.is_obstacle(), problem.kind));
        problems
    }

    /// The OpenMetrics text.
    pub(crate) fn text(&self) -> String {
        let registry = self.with(|values| build_registry(values));
        let mut text = String::new();
        // writing to a string does not fail
        let _ = encode(&mut text, &registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_there_from_the_start() {
        let metrics = Metrics::default();
        metrics.count_hook(Action::Attach, Outcome::Ok);
        let text = metrics.text();
        for line in [
            "netdevice_attach_total{result=\"ok\"} 1",
            "netdevice_detach_total{result=\"failed\"} 0",
            "netdevice_config_reloads_total{result=\"ok\"} 0",
            "netdevice_records 0",
            "netdevice_records_quarantined 0",
            "netdevice_problems{kind=\"starting\"} 1",
            "netdevice_problems{kind=\"cdi_conflict\"} 0",
            "netdevice_build_info{version=",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
