//! What the agent counts, and the text that Prometheus reads. Most values are read when the text is requested.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use device_plugin::CdiReport;
use netdevice::{DeviceState, ResourceName, View};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::Registry,
};
use store::journal::{Action, Outcome};
use tokio::sync::{Notify, watch};

use crate::{
    problem::{Kind, Problem},
    view::Views,
};

/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    state: Mutex<Values>,
    /// Woken when a problem was reported, here or in a device plugin.
    reported: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Values {
    inventory: Option<Arc<inventory::Stats>>,
    plugins: BTreeMap<ResourceName, Arc<device_plugin::Stats>>,
    /// What is offered; none until it is known.
    views: Option<Views>,
    hooks: BTreeMap<(&'static str, &'static str), u64>,
    reloads: BTreeMap<&'static str, u64>,
    repairs: BTreeMap<&'static str, u64>,
    runtime: Option<watch::Receiver<nri::State>>,
    injections: BTreeMap<&'static str, u64>,
    releases: BTreeMap<&'static str, u64>,
    /// None while no Events are posted.
    events: Option<BTreeMap<EventResult, u64>>,
    records: usize,
    unreadable_records: usize,
    records_quarantined: usize,
    problems: BTreeMap<Kind, Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceState {
    resource: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Resource {
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceResult {
    resource: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProblemKind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallResult {
    result: &'static str,
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
    const ALL: [(Self, &'static str); 4] =
        [(Self::Ok, "ok"), (Self::Joined, "joined"), (Self::Failed, "failed"), (Self::Dropped, "dropped")];
}

/// States of a device. Each is reported even when no device has it.
const STATES: [&str; 3] = ["healthy", "unhealthy", "attached"];
const RESULTS: [&str; 4] = ["ok", "nothing", "failed", "lost"];

impl Metrics {
    fn with<T>(&self, work: impl FnOnce(&mut Values) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_inventory(&self, stats: Arc<inventory::Stats>) {
        self.with(|state| state.inventory = Some(stats));
    }

    pub(crate) fn add_plugin(&self, resource: ResourceName, stats: Arc<device_plugin::Stats>) {
        self.with(|state| state.plugins.insert(resource, stats));
    }

    pub(crate) fn remove_plugin(&self, resource: &ResourceName) {
        self.with(|state| state.plugins.remove(resource));
    }

    /// Reports what is offered, from now on.
    pub(crate) fn set_views(&self, views: Views) {
        self.with(|state| state.views = Some(views));
    }

    pub(crate) fn set_records(&self, records: usize, unreadable: usize, quarantined: usize) {
        self.with(|state| {
            (state.records, state.unreadable_records, state.records_quarantined) = (records, unreadable, quarantined);
        });
    }

    pub(crate) fn count_reload(&self, taken: bool) {
        self.with(|state| *state.reloads.entry(if taken { "ok" } else { "failed" }).or_default() += 1);
    }

    pub(crate) fn count_repair(&self, result: &'static str) {
        self.with(|state| *state.repairs.entry(result).or_default() += 1);
    }

    /// Reports the injector, from now on.
    pub(crate) fn set_runtime(&self, state: watch::Receiver<nri::State>) {
        self.with(|it| it.runtime = Some(state));
    }

    pub(crate) fn count_injected(&self, devices: usize) {
        let devices = u64::try_from(devices).unwrap_or(u64::MAX);
        self.with(|state| *state.injections.entry(RESULTS[0]).or_default() += devices);
    }

    pub(crate) fn count_injection_failure(&self) {
        self.with(|state| *state.injections.entry(RESULTS[2]).or_default() += 1);
    }

    pub(crate) fn count_release(&self, result: &'static str) {
        self.with(|state| *state.releases.entry(result).or_default() += 1);
    }

    /// Reports Events, from now on.
    pub(crate) fn set_events(&self) {
        self.with(|state| state.events = Some(BTreeMap::new()));
    }

    pub(crate) fn count_event(&self, result: EventResult) {
        self.with(|state| *state.events.get_or_insert_default().entry(result).or_default() += 1);
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
        self.with(|state| *state.hooks.entry((action, outcome)).or_default() += 1);
    }

    /// Sets the problems of a kind. Returns whether they differ from the previous ones.
    pub(crate) fn report(&self, kind: Kind, texts: Vec<String>) -> bool {
        let is_new = self.with(|state| {
            let known = state.problems.entry(kind).or_default();
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
        self.with(|state| state.views.as_ref().map_or(0, |views| views.borrow().devices().len()))
    }

    /// All problems, obstacles first.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.with(|state| state.problems());
        problems.sort_by_key(|problem| (!problem.kind.is_obstacle(), problem.kind));
        problems
    }

    /// The OpenMetrics text.
    pub(crate) fn text(&self) -> String {
        let registry = self.with(|state| state.registry());
        let mut text = String::new();
        // writing to a string does not fail
        let _ = encode(&mut text, &registry);
        text
    }
}

impl Values {
    fn problems(&self) -> Vec<Problem> {
        let of = |kind| move |text| Problem { kind, text };
        let view = self.views.is_none().then(|| "the interfaces of the node have not been read yet".to_owned());
        let unregistered = self.plugins.iter().filter(|(_, stats)| !stats.is_registered()).map(|(resource, stats)| {
            let why = stats.last_error().map_or_else(String::new, |error| format!(": {error}"));
            format!("{resource} is not registered with the kubelet{why}")
        });
        let cdi: Vec<CdiReport> = self.plugins.values().map(|stats| stats.cdi_report()).collect();
        let conflicts = cdi.iter().flat_map(|report| report.conflicts.clone());
        let ignored = cdi.iter().flat_map(|report| report.ignored.clone());
        let runtime = self.runtime.as_ref().and_then(|runtime| match &*runtime.borrow() {
            nri::State::Active(_) => None,
            nri::State::Starting | nri::State::Registering => Some("not connected to the runtime yet".to_owned()),
            nri::State::Disconnected(why) => Some(format!("not connected to the runtime: {why}{}", is_nri_off(why))),
        });
        let reported = self.problems.iter().flat_map(|(kind, texts)| texts.iter().cloned().map(of(*kind)));
        let found = view.into_iter().map(of(Kind::Starting));
        found
            .chain(unregistered.map(of(Kind::Registration)))
            .chain(conflicts.map(of(Kind::CdiConflict)))
            .chain(ignored.map(of(Kind::CdiIgnored)))
            .chain(runtime.into_iter().map(of(Kind::Runtime)))
            .chain(reported)
            .collect()
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("netdevice");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the running agent", build);

        let devices = Family::<ResourceState, Gauge>::default();
        let view = self.views.as_ref().map(|views| views.borrow().clone());
        for ((resource, state), count) in view.as_deref().map(count_devices).unwrap_or_default() {
            devices.get_or_create(&ResourceState { resource: resource.to_string(), state }).set(count);
        }
        registry.register(
            "devices",
            "Devices by resource and state: healthy or unhealthy on the node, or attached to a Pod",
            devices,
        );

        let (registered, registrations) =
            (Family::<Resource, Gauge>::default(), Family::<Resource, Counter>::default());
        let allocations = Family::<ResourceResult, Counter>::default();
        let cdi_errors = Family::<Resource, Counter>::default();
        let cdi_conflicts = Family::<Resource, Gauge>::default();
        for (resource, stats) in &self.plugins {
            let resource = resource.to_string();
            let label = Resource { resource: resource.clone() };
            registered.get_or_create(&label).set(i64::from(stats.is_registered()));
            registrations.get_or_create(&label).inc_by(stats.registrations());
            cdi_errors.get_or_create(&label).inc_by(stats.cdi_write_errors());
            let in_conflict = i64::try_from(stats.cdi_report().devices).unwrap_or(i64::MAX);
            cdi_conflicts.get_or_create(&label).set(in_conflict);
            for (result, count) in [("ok", stats.allocations()), ("failed", stats.failed_allocations())] {
                allocations.get_or_create(&ResourceResult { resource: resource.clone(), result }).inc_by(count);
            }
        }
        registry.register("registered", "Whether the resource is registered with the kubelet", registered);
        registry.register("registrations", "Registrations that the kubelet accepted", registrations);
        registry.register("allocations", "Allocate calls of the kubelet, by result", allocations);
        let help = "Devices that another CDI file also names: Pods with them do not start";
        registry.register("cdi_conflicts", help, cdi_conflicts);
        registry.register("cdi_write_errors", "Attempts to write a CDI file that failed", cdi_errors);

        for (action, help) in [
            ("attach", "Devices that hooks attached"),
            (
                "detach",
                "Devices that hooks returned to the host, or the agent where the runtime runs hooks late (CRI-O)",
            ),
        ] {
            let runs = Family::<CallResult, Counter>::default();
            for result in RESULTS {
                runs.get_or_create(&CallResult { result })
                    .inc_by(self.hooks.get(&(action, result)).copied().unwrap_or(0));
            }
            registry.register(action, format!("{help}, by result, since this agent started"), runs);
        }

        let by_result = |counts: &BTreeMap<&'static str, u64>, results: &[&'static str]| {
            let family = Family::<CallResult, Counter>::default();
            for result in results {
                family.get_or_create(&CallResult { result }).inc_by(counts.get(result).copied().unwrap_or(0));
            }
            family
        };
        let reloads = by_result(&self.reloads, &["ok", "failed"]);
        registry.register("config_reloads", "Reloads of the configuration file, by result", reloads);
        let repairs = by_result(&self.repairs, &["ok", "failed", "lost"]);
        registry.register(
            "repairs",
            "Devices that the agent returned to the host after a hook or sandbox was killed",
            repairs,
        );

        if let Some(runtime) = &self.runtime {
            let connected = Gauge::<i64>::default();
            connected.set(i64::from(runtime.borrow().runtime().is_some()));
            registry.register("nri_connected", "Whether the injector is connected to the runtime", connected);
            let injections = by_result(&self.injections, &[RESULTS[0], RESULTS[2]]);
            let help = "Devices that were attached by annotation, and Pods that were refused, by result";
            registry.register("injections", help, injections);
            let releases = by_result(&self.releases, &RESULTS);
            registry.register(
                "releases",
                "Devices of ended sandboxes that were returned to the host, by result",
                releases,
            );
        }

        if let Some(events) = &self.events {
            let family = Family::<CallResult, Counter>::default();
            for (key, result) in EventResult::ALL {
                family.get_or_create(&CallResult { result }).inc_by(events.get(&key).copied().unwrap_or(0));
            }
            registry.register("events", "Events for Pods and the Node, by result", family);
        }

        let problems = Family::<ProblemKind, Gauge>::default();
        let present = self.problems();
        for (kind, name) in Kind::ALL {
            let count = present.iter().filter(|problem| problem.kind == kind).count();
            problems.get_or_create(&ProblemKind { kind: name }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        registry.register(
            "problems",
            "Problems, by kind, that prevent or may prevent Pods from getting devices; /readyz has the texts",
            problems,
        );

        if let Some(stats) = &self.inventory {
            for (name, help, value) in [
                (
                    "inventory_resyncs",
                    "Times that notifications were lost, so that all links were listed again",
                    stats.resyncs(),
                ),
                ("inventory_events", "Notifications of the kernel that were read", stats.events()),
                ("inventory_snapshots", "Changes of the inventory that were published", stats.publishes()),
            ] {
                let counter = Counter::<u64>::default();
                counter.inc_by(value);
                registry.register(name, help, counter);
            }
        }
        for (name, help, value) in [
            ("records", "Records of attached devices", self.records),
            ("unreadable_records", "Records that this version cannot read, left unchanged", self.unreadable_records),
            (
                "records_quarantined",
                "Invalid records in quarantine; their devices are not offered until the files are removed",
                self.records_quarantined,
            ),
        ] {
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        }
        registry
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

/// Devices by resource and state.
fn count_devices(view: &View) -> BTreeMap<(&ResourceName, &'static str), i64> {
    let mut counts = BTreeMap::new();
    for pool in view.pools.iter() {
        STATES.iter().for_each(|name| _ = counts.insert((&pool.resource, *name), 0));
    }
    for device in view.devices().values() {
        let name = match device.state {
            DeviceState::Offered { healthy: true, .. } => STATES[0],
            DeviceState::Offered { healthy: false, .. } => STATES[1],
            DeviceState::Held(..) => STATES[2],
        };
        *counts.entry((&device.resource, name)).or_default() += 1;
    }
    counts
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
