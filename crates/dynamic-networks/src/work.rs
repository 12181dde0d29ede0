//! The work on one Pod. Blocking, on a thread of its own, in the mount namespace of the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as StdError,
    sync::Arc,
};

use cni::{CacheEntry, ContainerId, Requested, Version};
use cri::{Client, Deadlines, FoundSandbox};
use link::OpenSandbox;
use netdevice::{
    Attachment, DeviceId, InterfaceName, Phase, Pod,
    annotation::{self, attach},
    networks::{
        EventVerb, KEY, NetworkSelection, Plan, Present, entries_of_result, event_text, parse, plan, read_status,
    },
};
use networks::{AddRequest, PRIMARY, Place};
use serde_json::{Map, Value};

use crate::{
    NAME,
    attach::OfAnnotation,
    definition::{Definitions, Prepared, prepare},
    device::{self, Wish},
    outcome::{Done, WorkError, invalid_annotation},
    report::Report,
    settings::Settings,
    status_change::{StatusChange, is_default, key, of_devices, stale},
    watch::WatchedPod,
};

/// Compares what a Pod requests with what it has, and makes the difference. `is_patient`: waits for a status that lags behind
/// Multus.
pub(crate) fn work(
    settings: &Settings,
    definitions: &Definitions,
    watched: &WatchedPod,
    is_patient: bool,
    node: &networks::ReadNode<'_>,
) -> Result<Done, WorkError> {
    let found = find_sandbox(settings, watched)?;
    let opened = OpenSandbox::open(found.sandbox()).map_err(|error| WorkError::NoSandbox(error.to_string()))?;
    let container: ContainerId = found.id().parse().map_err(|error| WorkError::Node(format!("{error}")))?;
    let place = Place { pod: found.pod(), sandbox: found.id(), opened: &opened, container };
    let mut of_pod = OfPod { settings, definitions, watched, place, node, done: Done::default() };
    if is_patient && of_pod.is_status_behind()? {
        return Err(WorkError::Lagging);
    }
    of_pod.converge_all()?;
    Ok(Done { sandbox: Some(found.id().to_owned()), ..of_pod.done })
}

fn find_sandbox(settings: &Settings, watched: &WatchedPod) -> Result<FoundSandbox, WorkError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| WorkError::Node(format!("cannot start: {error}")))?;
    let found = runtime.block_on(async {
        let client = Client::connect(&settings.runtime, Deadlines::default()).await?;
        client.find_sandbox(&watched.pod.namespace, &watched.pod.name).await
    });
    match found {
        Ok(found) if found.pod().uid != watched.uid_on_node => {
            Err(WorkError::NoSandbox("the one that runs is of an earlier pod of that name".into()))
        }
        Ok(found) => Ok(found),
        Err(cri::Error::HostNetwork { .. }) => Err(WorkError::HostNetwork),
        Err(error @ (cri::Error::NoPod { .. } | cri::Error::NotRunning { .. })) => {
            Err(WorkError::NoSandbox(error.to_string()))
        }
        Err(error) => Err(WorkError::Node(error.to_string())),
    }
}

/// An interface that the Pod has.
struct Attached {
    present: Present,
    by: Maker,
}

/// Who made an interface.
enum Maker {
    /// CNI plugins, called by this program or, for it, by Multus.
    Plugins(Box<CacheEntry>),
    /// This program: a device of the node.
    Device(Box<Attachment>),
    /// Multus, when the Pod was created; or another program.
    Other,
}

struct OfPod<'a> {
    settings: &'a Settings,
    definitions: &'a Definitions,
    watched: &'a WatchedPod,
    place: Place<'a>,
    node: &'a networks::ReadNode<'a>,
    done: Done,
}

impl OfPod<'_> {
    /// Both annotations. One that is not valid changes nothing, and does not delay the other.
    fn converge_all(&mut self) -> Result<(), WorkError> {
        let watched = self.watched;
        let mut order = BTreeMap::new();
        match annotation::parse(&watched.devices) {
            Ok(wanted) => {
                let (links, mut done) = (self.links()?, std::mem::take(&mut self.done));
                let converged = self.devices_of_annotation().converge(&wanted, &links, &mut done);
                self.done = done;
                converged?;
                let names = wanted.iter().enumerate();
                order.extend(names.filter_map(|(at, element)| Some((element.interface()?.to_string(), at))));
            }
            Err(error) => self.done.invalid.push(invalid_annotation(&watched.pod, attach::KEY, &error)),
        }
        let removed = match parse(&watched.networks, &watched.pod.namespace) {
            Ok(wanted) => {
                let (removed, of_networks) = self.converge(&wanted)?;
                let after = of_networks.len();
                order.values_mut().for_each(|at| *at += after);
                order.extend(of_networks);
                removed
            }
            Err(error) => {
                self.done.invalid.push(invalid_annotation(&watched.pod, KEY, &error));
                Vec::new()
            }
        };
        self.finish(removed, &order)
    }

    fn devices_of_annotation(&self) -> OfAnnotation<'_> {
        OfAnnotation {
            records: &self.settings.networks.records,
            devices: &*self.settings.devices,
            place: &self.place,
            pod: &self.watched.pod,
        }
    }

    fn links(&self) -> Result<BTreeSet<InterfaceName>, WorkError> {
        link::link_names(self.place.opened.namespace()).map_err(|error| WorkError::Node(error.to_string()))
    }

    /// Returns the entries of the status that are no longer true, and the order of the others by their interfaces.
    fn converge(&mut self, wanted: &[NetworkSelection]) -> Result<(Entries, BTreeMap<String, usize>), WorkError> {
        let status = read_status(&self.watched.status);
        let mut links = self.links()?;
        let attached = self.attached(wanted, &status, &links)?;
        for attached in &attached {
            links.remove(&attached.present.interface);
        }
        let presents: Vec<Present> = attached.iter().map(|attached| attached.present.clone()).collect();
        let plan = plan(wanted, &presents, &links);
        let mut removed: Entries = stale(&status, wanted, &links, &presents);

        // what is plugged anew is unplugged only if the new configuration can be used
        let mut prepared: BTreeMap<usize, Result<Prepared, String>> = BTreeMap::new();
        for (index, _) in &plan.add {
            prepared.insert(*index, self.prepare(&wanted[*index]));
        }
        let is_blocked = |present: &Present| blocks(&plan, present, &prepared);
        let mut replaced = BTreeMap::new();
        for index in &plan.remove {
            let attached = &attached[*index];
            if is_blocked(&attached.present) {
                continue;
            }
            if self.remove(attached) {
                let key = (attached.present.network.clone(), attached.present.interface.to_string());
                removed.push(key);
                if let Maker::Plugins(entry) = &attached.by {
                    replaced.insert(attached.present.interface.clone(), entry.clone());
                }
            }
        }
        for (index, interface) in &plan.add {
            let selection = &wanted[*index];
            match prepared.remove(index) {
                Some(Ok(prepared)) => {
                    self.add(selection, interface, prepared, replaced.get(interface).map(|before| &**before))
                }
                Some(Err(error)) => self.fail(EventVerb::FailedAdding, interface, selection, &error),
                None => {}
            }
        }
        let order = plan.keep.iter().chain(&plan.add).map(|(index, interface)| (interface.to_string(), *index));
        Ok((removed, order.collect()))
    }

    fn prepare(&self, selection: &NetworkSelection) -> Result<Prepared, String> {
        let settings = self.settings;
        let is_foreign = selection.namespace != self.watched.pod.namespace;
        if settings.is_isolated && is_foreign && !settings.global_namespaces.contains(&selection.namespace) {
            let (network, namespace) = (selection.network(), &self.watched.pod.namespace);
            return Err(format!(
                "pods of namespace {namespace} may not use network {network}: namespace isolation is on, and {} is not a global namespace",
                selection.namespace
            ));
        }
        let prepared = prepare(selection, self.definitions, &settings.configuration_dir, settings.uses_multus())?;
        let devices = settings.networks.runtime.node_devices(&prepared.list, &prepared.capabilities);
        let view = settings.devices.view();
        let device = Wish::of(&prepared.list, &devices, selection, &view, &settings.networks.sysfs)?;
        Ok(Prepared { device, ..prepared })
    }

    /// What the Pod has: what this program plugged, and what Multus' status says it made, if it is there.
    fn attached(
        &self,
        wanted: &[NetworkSelection],
        status: &[Value],
        links: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<Attached>, WorkError> {
        let mut attached = Vec::new();
        let mut known = BTreeSet::new();
        for entry in self.own_entries()? {
            let Some(requested) = entry.marker().and_then(|marker| marker.requested.clone()) else { continue };
            let Ok(interface) = entry.interface().parse::<InterfaceName>() else { continue };
            let is_complete = !entry.is_unfinished() && links.contains(&interface);
            // what is not complete differs from every request, so that it is plugged anew, under the same name
            let request = if is_complete { requested.element } else { Value::Null };
            known.insert(interface.clone());
            let present = Present { network: requested.network, interface, request: Some(request) };
            attached.push(Attached { present, by: Maker::Plugins(Box::new(entry)) });
        }
        known.extend(self.devices_of_annotation().records()?.into_iter().map(|record| record.sandbox.name));
        for (network, interface, record) in self.devices()? {
            let request = self.request_of_device(wanted, &network, &interface, &record, links);
            known.insert(interface.clone());
            attached.push(Attached {
                present: Present { network, interface, request },
                by: Maker::Device(Box::new(record)),
            });
        }
        for entry in status.iter().filter(|entry| !is_default(entry)) {
            let Some((network, interface)) = key(entry) else { continue };
            let Ok(interface) = interface.parse::<InterfaceName>() else { continue };
            let is_there = links.contains(&interface) || entry.get("device-info").is_some();
            if is_there && interface.as_bytes() != PRIMARY && known.insert(interface.clone()) {
                let present = Present { network, interface, request: None };
                attached.push(Attached { present, by: Maker::Other });
            }
        }
        Ok(attached)
    }

    /// Whether Multus has made an interface, by its results, that neither the status nor this program knows.
    fn is_status_behind(&self) -> Result<bool, WorkError> {
        let Some(cache) = &self.settings.multus_cache else { return Ok(false) };
        let made = cache.list_of(&self.place.container).map_err(|error| WorkError::Node(error.to_string()))?;
        let (own, status) = (self.own_entries()?, read_status(&self.watched.status));
        Ok(made.iter().any(|entry| {
            let name = entry.interface();
            let is_own = own.iter().any(|own| own.interface() == name);
            let is_in_status =
                status.iter().any(|status| status.get("interface").and_then(Value::as_str) == Some(name));
            !is_own && !is_in_status
        }))
    }

    fn own_entries(&self) -> Result<Vec<CacheEntry>, WorkError> {
        let listed = self.settings.networks.runtime.cache.list_of(&self.place.container);
        let mut entries = listed.map_err(|error| WorkError::Node(error.to_string()))?;
        entries.retain(|entry| entry.marker().is_some_and(|marker| marker.by == NAME));
        Ok(entries)
    }

    /// The devices of the node that the Pod has by its networks.
    fn devices(&self) -> Result<Vec<(String, InterfaceName, Attachment)>, WorkError> {
        device::attached(&self.settings.networks.records, self.place.sandbox).map_err(WorkError::Node)
    }

    /// What a device was attached for: what is wanted, if its configuration is the same, or something else.
    fn request_of_device(
        &self,
        wanted: &[NetworkSelection],
        network: &str,
        interface: &InterfaceName,
        record: &Attachment,
        links: &BTreeSet<InterfaceName>,
    ) -> Option<Value> {
        let is_meant = |selection: &&NetworkSelection| {
            selection.network() == network && selection.interface.as_ref().is_none_or(|name| name == interface)
        };
        let selection = wanted.iter().find(is_meant)?;
        let wish = self.prepare(selection).ok()?.device?;
        let is_same = wish.configuration(interface).ok() == record.configuration
            && DeviceId::from(&wish.name) == record.device
            && record.phase == Phase::Attached
            && links.contains(interface);
        Some(if is_same { selection.to_request() } else { Value::Null })
    }

    /// Returns whether it is removed.
    fn remove(&mut self, attached: &Attached) -> bool {
        let Present { network, interface, .. } = &attached.present;
        let removed = match &attached.by {
            Maker::Plugins(_) => {
                self.settings.networks.delete(&self.place, None, interface).map(drop).map_err(|error| error.to_string())
            }
            Maker::Device(record) => device::detach(
                &self.settings.networks.records,
                &*self.settings.devices,
                self.place.opened,
                &record.device,
                &record.owner,
            ),
            Maker::Other if self.settings.uses_multus() => self.remove_of_multus(network, interface),
            Maker::Other => {
                // another program's; nothing here knows how it was made
                let note = format!("{interface} of network {network} was not plugged by this program: it stays");
                tracing::debug!(pod = %self.watched.pod, "{note}");
                return false;
            }
        };
        match removed {
            Ok(()) => {
                self.report(EventVerb::Removed, interface, network, None, None);
                true
            }
            Err(error) => {
                self.report(EventVerb::FailedRemoving, interface, network, None, Some(&error));
                self.done.failures.push(format!("cannot remove {interface} from network {network}: {error}"));
                false
            }
        }
    }

    /// What Multus made when the Pod was created: by the configuration that it was made with, or else by the present one.
    fn remove_of_multus(&self, network: &str, interface: &InterfaceName) -> Result<(), String> {
        let networks = &self.settings.networks;
        let delegate = networks.runtime.delegate.as_ref().ok_or("Multus is not used")?;
        let made = self.settings.multus_cache.as_ref().and_then(|cache| {
            let entries = cache.list_of(&self.place.container).ok()?;
            entries.into_iter().find(|entry| entry.interface() == interface.to_string())
        });
        let (list, target) = match made {
            Some(entry) => {
                (entry.list().map_err(|error| error.to_string())?, entry.target().map_err(|error| error.to_string())?)
            }
            None => {
                let (namespace, name) =
                    network.split_once('/').ok_or("its network is not of the form namespace/name")?;
                let selection = NetworkSelection::of(namespace, name);
                let prepared = prepare(&selection, self.definitions, &self.settings.configuration_dir, true)?;
                let path = self.place.opened.namespace().path().to_string_lossy().into_owned();
                (prepared.list, cni::Target::new(self.place.container.clone(), interface.clone(), path))
            }
        };
        let target = networks.target_of_pod(&self.place, target);
        delegate.delete(&list, &target).map_err(|error| error.to_string())
    }

    fn add(
        &mut self,
        selection: &NetworkSelection,
        interface: &InterfaceName,
        prepared: Prepared,
        before: Option<&CacheEntry>,
    ) {
        let requested =
            Requested { network: selection.network(), element: selection.to_request(), displaced: Vec::new() };
        match self.add_one(interface, prepared, requested) {
            Ok(()) => self.report(EventVerb::Added, interface, &selection.network(), Some(selection), None),
            Err(error) => {
                self.fail(EventVerb::FailedAdding, interface, selection, &error);
                if let Some(before) = before.filter(|before| !before.is_unfinished()) {
                    self.restore(interface, before);
                }
            }
        }
    }

    fn add_one(&self, interface: &InterfaceName, prepared: Prepared, requested: Requested) -> Result<(), String> {
        let Prepared { list, capabilities, arguments, gateways, device } = prepared;
        if let Some(wish) = device {
            let owner = device::owner(self.place.sandbox, self.place.pod, &requested.network, interface);
            let (records, devices) = (&self.settings.networks.records, &*self.settings.devices);
            let attached = device::attach(records, devices, self.place.opened, &owner, &[wish.request(interface)?]);
            return attached.map(drop).map_err(|error| error.to_string());
        }
        let interface = interface.clone();
        let request =
            AddRequest { list: &list, interface, arguments, capabilities, requested: Some(requested), gateways };
        self.settings.networks.add(&self.place, request, self.node).map(drop).map_err(|error| error.to_string())
    }

    /// Plugs an interface as it was: its new configuration failed.
    fn restore(&mut self, interface: &InterfaceName, before: &CacheEntry) {
        let restored = || {
            let (list, target) = (before.list().ok()?, before.target().ok()?);
            let requested = before.marker()?.requested.clone()?;
            let is_own = |(key, _): &(String, String)| !key.starts_with("K8S_POD_") && key != "IgnoreUnknown";
            let arguments = target.arguments.into_iter().filter(is_own).collect();
            let gateways =
                requested.element.get("default-route").and_then(|value| serde_json::from_value(value.clone()).ok());
            let gateways = gateways.unwrap_or_default();
            let requested = Requested { displaced: Vec::new(), ..requested };
            let prepared = Prepared { list, capabilities: target.capabilities, arguments, gateways, device: None };
            self.add_one(interface, prepared, requested).ok()
        };
        if restored().is_some() {
            self.done.is_restored = true;
            self.done.failures.push(format!("{interface} was plugged again as it was before"));
        }
    }

    /// The status, from what there is now, in the order of the annotation.
    fn finish(&mut self, mut removed: Entries, order: &BTreeMap<String, usize>) -> Result<(), WorkError> {
        let mut present = Vec::new();
        for entry in self.own_entries()?.iter().filter(|entry| !entry.is_unfinished()) {
            let Some(requested) = entry.marker().and_then(|marker| marker.requested.as_ref()) else { continue };
            let result = entry.result_in(Version::V1_1_0).unwrap_or(Value::Object(Map::new()));
            present.push(entries_of_result(&requested.network, entry.interface(), &result));
            removed.retain(|(network, interface)| *network != requested.network || interface != entry.interface());
        }
        for (network, interface, record) in
            self.devices()?.iter().filter(|(_, _, record)| record.phase == Phase::Attached)
        {
            present.push(vec![device::status_entry(network, interface, record)]);
            removed.retain(|(other, name)| other != network || *name != interface.to_string());
        }
        present.extend(self.devices_of_annotation().status_entries()?.into_iter().map(|entry| vec![entry]));
        removed.extend(of_devices(&read_status(&self.watched.status)));
        let place = |entries: &Vec<Value>| {
            let interface = entries.first().and_then(|entry| entry.get("interface")).and_then(Value::as_str);
            interface.and_then(|interface| order.get(interface)).copied().unwrap_or(usize::MAX)
        };
        present.sort_by_key(place);
        self.done.has_own = !present.is_empty();
        self.done.status = Some(StatusChange { removed, present });
        Ok(())
    }

    fn fail(&mut self, verb: EventVerb, interface: &InterfaceName, selection: &NetworkSelection, error: &str) {
        let network = selection.network();
        self.report(verb, interface, &network, Some(selection), Some(error));
        self.done.failures.push(format!("cannot add {interface} to network {network}: {error}"));
    }

    fn report(
        &mut self,
        verb: EventVerb,
        interface: &InterfaceName,
        network: &str,
        selection: Option<&NetworkSelection>,
        error: Option<&str>,
    ) {
        let Pod { namespace, name, .. } = &self.watched.pod;
        // the seed's events have the definition's name alone
        let short = network.rsplit('/').next().unwrap_or(network);
        let mut note = event_text(verb, namespace, name, &interface.to_string(), short, selection);
        if let Some(error) = error {
            note.push_str(": ");
            note.push_str(error);
        }
        let (pod, reason, is_warning) = (self.watched.pod.clone(), verb.reason(), verb.is_warning());
        self.done.reports.push(Report { pod, reason, is_warning, note });
    }
}

/// Networks and interfaces of entries in the status.
type Entries = Vec<(String, String)>;

/// Whether an interface that is to be removed makes room for one that cannot be added: it stays then.
fn blocks(plan: &Plan, present: &Present, prepared: &BTreeMap<usize, Result<Prepared, String>>) -> bool {
    let successor = plan.add.iter().find(|(_, interface)| *interface == present.interface);
    successor.is_some_and(|(index, _)| prepared.get(index).is_some_and(Result::is_err))
}

/// Reads the node's interfaces, for the guard of `networks`.
pub type NodeReader = Arc<dyn Fn() -> Result<netdevice::Snapshot, Box<dyn StdError + Send + Sync>> + Send + Sync>;
