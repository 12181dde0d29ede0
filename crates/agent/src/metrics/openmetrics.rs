//! The OpenMetrics text of the values.

use std::collections::BTreeMap;

use netdevice::{DeviceState, ResourceName, View};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::Registry,
};

use super::values::{EventResult, RESULTS, Values};
use crate::problem::Kind;

/// States of a device. Each is reported even when no device has it.
const STATES: [&str; 3] = ["healthy", "unhealthy", "attached"];

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

/// All metrics, with their values now.
pub(super) fn build_registry(values: &Values) -> Registry {
    let mut registry = Registry::with_prefix("netdevice");
    let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "Version of the running agent", build);
    let parts = [
        add_devices,
        add_plugins,
        add_hooks,
        add_reloads_and_repairs,
        add_runtime,
        add_events,
        add_problems,
        add_inventory,
        add_records,
    ];
    parts.into_iter().for_each(|add| add(values, &mut registry));
    registry
}

/// Devices of all resources.
fn add_devices(values: &Values, registry: &mut Registry) {
    let devices = Family::<ResourceState, Gauge>::default();
    let view = values.views.as_ref().map(|views| views.borrow().clone());
    for ((resource, state), count) in view.as_deref().map(count_devices).unwrap_or_default() {
        devices.get_or_create(&ResourceState { resource: resource.to_string(), state }).set(count);
    }
    registry.register(
        "devices",
        "Devices by resource and state: healthy or unhealthy on the node, or attached to a Pod",
        devices,
    );
}

/// The device plugins.
fn add_plugins(values: &Values, registry: &mut Registry) {
    let (registered, registrations) = (Family::<Resource, Gauge>::default(), Family::<Resource, Counter>::default());
    let allocations = Family::<ResourceResult, Counter>::default();
    let cdi_errors = Family::<Resource, Counter>::default();
    let cdi_conflicts = Family::<Resource, Gauge>::default();
    for (resource, stats) in &values.plugins {
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
}

/// What hooks did.
fn add_hooks(values: &Values, registry: &mut Registry) {
    for (action, help) in [
        ("attach", "Devices that hooks attached"),
        ("detach", "Devices that hooks returned to the host, or the agent where the runtime runs hooks late (CRI-O)"),
    ] {
        let runs = Family::<CallResult, Counter>::default();
        for result in RESULTS {
            runs.get_or_create(&CallResult { result })
                .inc_by(values.hooks.get(&(action, result)).copied().unwrap_or(0));
        }
        registry.register(action, format!("{help}, by result, since this agent started"), runs);
    }
}

/// The configuration file, the reconciler, and CNI networks of ended Pods.
fn add_reloads_and_repairs(values: &Values, registry: &mut Registry) {
    let reloads = by_result(&values.reloads, &["ok", "failed"]);
    registry.register("config_reloads", "Reloads of the configuration file, by result", reloads);
    let repairs = by_result(&values.repairs, &["ok", "failed", "lost"]);
    registry.register(
        "repairs",
        "Devices that the agent returned to the host after a hook or sandbox was killed",
        repairs,
    );
    for (change, name, help) in [
        ("add", "network_additions", "Interfaces that were added to running Pods by annotation, by result"),
        ("remove", "network_removals", "Interfaces that were removed from running Pods by annotation, by result"),
    ] {
        let changes = values.network_changes.iter().filter(|((of, _), _)| *of == change);
        let changes: BTreeMap<&'static str, u64> = changes.map(|((_, result), count)| (*result, *count)).collect();
        registry.register(name, help, by_result(&changes, &["ok", "failed"]));
    }
    if let Some(state) = &values.claims {
        let registered = Gauge::<i64>::default();
        registered.set(i64::from(*state.borrow() == dra::RegistrationState::Registered));
        registry.register("claims_registered", "Whether the kubelet uses the driver of claims", registered);
        for (change, name, help) in [
            ("prepare", "claims_prepared", "Claims that the kubelet had prepared, by result"),
            ("unprepare", "claims_unprepared", "Claims that the kubelet had unprepared, by result"),
        ] {
            let changes = values.claim_changes.iter().filter(|((of, _), _)| *of == change);
            let changes: BTreeMap<&'static str, u64> = changes.map(|((_, result), count)| (*result, *count)).collect();
            registry.register(name, help, by_result(&changes, &["ok", "failed"]));
        }
    }
    if let Some(slices) = &values.slices {
        add_slices(slices, registry);
    }
    let deletions = by_result(&values.network_deletions, &["ok", "failed"]);
    let help = "Attachments of ended Pods to CNI networks that were deleted, by result";
    registry.register("network_deletions", help, deletions);
}

/// The ResourceSlices of the node.
fn add_slices(slices: &dra::slices::Stats, registry: &mut Registry) {
    let gauge = |number: usize| {
        let gauge = Gauge::<i64>::default();
        gauge.set(number.try_into().unwrap_or(i64::MAX));
        gauge
    };
    let counter = |number: u64| {
        let counter = Counter::<u64>::default();
        counter.inc_by(number);
        counter
    };
    registry.register("slices", "ResourceSlices of the node on the API server", gauge(slices.slices()));
    registry.register("slice_devices", "Devices in them", gauge(slices.devices()));
    let dropped = gauge(usize::from(slices.has_dropped_fields()));
    registry.register("slice_fields_dropped", "Whether the API server dropped fields: a feature is off there", dropped);
    let writes = BTreeMap::from([("ok", slices.writes()), ("failed", slices.failed_writes())]);
    let help = "Requests that created, changed or deleted a ResourceSlice, by result";
    registry.register("slice_writes", help, by_result(&writes, &["ok", "failed"]));
    let failures = counter(slices.failed_watches());
    registry.register("slice_watch_failures", "Lists and watches of ResourceSlices that failed", failures);
    let help = "Changes of ResourceSlices by others that were put right";
    registry.register("slice_repairs", help, counter(slices.repairs()));
}

/// The injector, if there is one. Without it, devices that a command had attached are returned, too.
fn add_runtime(values: &Values, registry: &mut Registry) {
    if values.runtime.is_some() || !values.releases.is_empty() {
        let releases = by_result(&values.releases, &RESULTS);
        registry.register("releases", "Devices of ended sandboxes that were returned to the host, by result", releases);
    }
    let Some(runtime) = &values.runtime else { return };
    let connected = Gauge::<i64>::default();
    connected.set(i64::from(runtime.borrow().runtime().is_some()));
    registry.register("nri_connected", "Whether the injector is connected to the runtime", connected);
    let injections = by_result(&values.injections, &[RESULTS[0], RESULTS[2]]);
    let help = "Devices that were attached by annotation, and Pods that were refused, by result";
    registry.register("injections", help, injections);
}

/// Events, if they are posted.
fn add_events(values: &Values, registry: &mut Registry) {
    let Some(events) = &values.events else { return };
    let family = Family::<CallResult, Counter>::default();
    for (key, result) in EventResult::ALL {
        family.get_or_create(&CallResult { result }).inc_by(events.get(&key).copied().unwrap_or(0));
    }
    registry.register("events", "Events for Pods and the Node, by result", family);
}

/// Problems by kind.
fn add_problems(values: &Values, registry: &mut Registry) {
    let problems = Family::<ProblemKind, Gauge>::default();
    let present = values.problems();
    for (kind, name) in Kind::ALL {
        let count = present.iter().filter(|problem| problem.kind == kind).count();
        problems.get_or_create(&ProblemKind { kind: name }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register(
        "problems",
        "Problems, by kind, that prevent or may prevent Pods from getting devices; /readyz has the texts",
        problems,
    );
}

/// The inventory.
fn add_inventory(values: &Values, registry: &mut Registry) {
    let Some(stats) = &values.inventory else { return };
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

/// Records on disk.
fn add_records(values: &Values, registry: &mut Registry) {
    for (name, help, value) in [
        ("records", "Records of attached devices", values.records),
        ("unreadable_records", "Records that this version cannot read, left unchanged", values.unreadable_records),
        (
            "records_quarantined",
            "Invalid records in quarantine; their devices are not offered until the files are removed",
            values.records_quarantined,
        ),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
}

/// A counter for each of `results`.
fn by_result(counts: &BTreeMap<&'static str, u64>, results: &[&'static str]) -> Family<CallResult, Counter> {
    let family = Family::<CallResult, Counter>::default();
    for result in results {
        family.get_or_create(&CallResult { result }).inc_by(counts.get(result).copied().unwrap_or(0));
    }
    family
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
