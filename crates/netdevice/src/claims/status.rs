//! What a claim's status says of our devices (`status.devices`, Kubernetes 1.33): the interface in the Pod, its addresses, and the
//! condition `Ready`.
//!
//! Level-triggered: what is wanted is derived from reservations and records, and compared with what the claim has. A claim whose
//! status needs nothing gets no request. Entries of other drivers stay as they are.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::{Map, Value, json};

use crate::{
    acquisition::{Acquired, ChildKind},
    bytes::HardwareAddress,
    claims::DRIVER,
    configuration::IpPrefix,
    id::DeviceId,
    owner::Owner,
    record::{Attachment, Phase, Reservation},
    state::{Address, SCOPE_UNIVERSE},
};

/// Most addresses of an entry.
const MAX_ADDRESSES: usize = 16;
/// Longest message of a condition, in bytes, that we write.
const MAX_MESSAGE: usize = 1024;
/// The condition.
const READY: &str = "Ready";

/// What the status is to say of one device of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceStatus {
    /// The request, `request` or `request/subrequest`; none for every device of the claim of which nothing else is known.
    pub request: Option<String>,
    /// The device; none as above.
    pub device: Option<DeviceId>,
    /// What to say.
    pub state: DeviceState,
}

/// The state of a device for its claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceState {
    /// It is in the Pod.
    Attached {
        /// The Pod, `namespace/name`.
        pod: String,
        /// The interface there.
        network: NetworkData,
    },
    /// It was not attached or prepared, for this reason.
    Failed(String),
    /// It is reserved, and in no sandbox. Worth writing only where the status says that it is attached.
    Reserved,
    /// It is being attached or detached: what the status says stays.
    Changing,
}

/// An interface in a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkData {
    /// Its name.
    pub interface_name: String,
    /// Its addresses.
    pub ips: Vec<IpPrefix>,
    /// Its hardware address, where it is known.
    pub hardware_address: Option<HardwareAddress>,
}

impl NetworkData {
    /// The interface of a record: as it was configured, and with `inherit`, or without any configuration, also with the
    /// addresses that the device has on the host.
    pub fn of(record: &Attachment) -> Self {
        let configuration = record.configuration.as_ref();
        let mut ips: Vec<IpPrefix> = configuration.into_iter().flat_map(|it| it.addresses.iter().copied()).collect();
        if configuration.is_none_or(|it| it.inherit) {
            let host = record.host().into_iter().flat_map(|host| &host.addresses);
            let is_brought = |address: &&Address| {
                address.scope == SCOPE_UNIVERSE && !address.is_ipv6_link_local() && !address.is_temporary()
            };
            let brought = host.filter(is_brought);
            ips.extend(brought.filter_map(|address| IpPrefix::new(address.local, address.prefix_len).ok()));
        }
        // the API server takes each once, and no IPv4 address in the form of an IPv6 one
        let mut seen = BTreeSet::new();
        let is_mapped =
            |ip: &IpPrefix| matches!(ip.address(), IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
        ips.retain(|ip| !is_mapped(ip) && seen.insert(*ip));
        ips.truncate(MAX_ADDRESSES);
        Self {
            interface_name: record.sandbox.name.to_string(),
            ips,
            hardware_address: configuration.and_then(|it| it.mac.clone()).or_else(|| host_mac(record)),
        }
    }

    fn to_json(&self) -> Value {
        let mut data = Map::from_iter([("interfaceName".to_owned(), json!(self.interface_name))]);
        if !self.ips.is_empty() {
            let ips: Vec<String> = self.ips.iter().map(ToString::to_string).collect();
            data.insert("ips".into(), json!(ips));
        }
        if let Some(mac) = &self.hardware_address {
            data.insert("hardwareAddress".into(), json!(mac.to_string()));
        }
        Value::Object(data)
    }
}

/// The hardware address that a device has without a configuration. The kernel chooses that of a macvlan.
fn host_mac(record: &Attachment) -> Option<HardwareAddress> {
    match &record.acquired {
        Acquired::Moved(moved) => moved.host.mac.clone(),
        Acquired::Created(created) => match created.kind {
            ChildKind::Macvlan { .. } | ChildKind::Ipvlan { .. } | ChildKind::Vlan { .. } => None,
        },
    }
}

/// A device of a claim that could not be prepared or attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The device; none if it concerns each device of the claim.
    pub device: Option<DeviceId>,
    /// Why.
    pub message: String,
}

/// What the status of a claim is to say: `reservations` and `records` are those of the claim, `failure` is the last one since the
/// claim's devices were attached.
pub fn wanted<'a>(
    reservations: impl IntoIterator<Item = &'a Reservation>,
    records: impl IntoIterator<Item = &'a Attachment>,
    failure: Option<&Failure>,
) -> Vec<DeviceStatus> {
    let mut wanted: Vec<DeviceStatus> = Vec::new();
    for record in records {
        let state = match record.phase {
            Phase::Attached => {
                let pod = record.owner.pod().map_or_else(String::new, ToString::to_string);
                DeviceState::Attached { pod, network: NetworkData::of(record) }
            }
            Phase::Attaching | Phase::Detaching => DeviceState::Changing,
        };
        let (request, device) = (request_of(&record.owner), Some(record.device.clone()));
        wanted.push(DeviceStatus { request, device, state });
    }
    for reservation in reservations {
        if wanted.iter().any(|status| status.device.as_ref() == Some(&reservation.device)) {
            continue;
        }
        let is_of_device =
            |failure: &&Failure| failure.device.as_ref().is_none_or(|failed| *failed == reservation.device);
        let state = match failure.filter(is_of_device) {
            Some(failure) => DeviceState::Failed(failure.message.clone()),
            None => DeviceState::Reserved,
        };
        let (request, device) = (request_of(&reservation.owner), Some(reservation.device.clone()));
        wanted.push(DeviceStatus { request, device, state });
    }
    // what could not be prepared has no reservation
    if let Some(failure) = failure
        && wanted.is_empty()
    {
        let state = DeviceState::Failed(failure.message.clone());
        wanted.push(DeviceStatus { request: None, device: None, state });
    }
    wanted
}

fn request_of(owner: &Owner) -> Option<String> {
    match owner {
        Owner::Claim { request, .. } => Some(request.clone()),
        _ => None,
    }
}

/// What is to be done with a claim's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The claim is another one, or is not allocated any longer: the API server has dropped the entries.
    Gone,
    /// It says what it should.
    Nothing,
    /// This JSON merge patch of the subresource `status`. It has the claim's resource version: a list is replaced as a whole, and
    /// entries of other drivers are in it. Server-side apply and strategic merge patches are refused by API servers to 1.36 for
    /// parameters whose keys are not sorted.
    Patch(Value),
}

/// What [`decide`] needs besides the claim.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// UID of the claim.
    pub uid: &'a str,
    /// Our pool: the name of the Node.
    pub pool: &'a str,
    /// What the status is to say; nothing removes our entries.
    pub devices: &'a [DeviceStatus],
    /// The name of a device in our ResourceSlices.
    pub name_of: &'a (dyn Fn(&DeviceId) -> String + Sync),
    /// The time, in the form of RFC 3339.
    pub now: &'a str,
}

/// Compares a claim, as the API server returns it, with what its status is to say of our devices.
pub fn decide(claim: &Value, wanted: &Wanted<'_>) -> Decision {
    let Wanted { uid, pool, .. } = *wanted;
    let results = claim.pointer("/status/allocation/devices/results").and_then(Value::as_array);
    let Some(results) = results.filter(|_| claim["metadata"]["uid"] == uid) else { return Decision::Gone };
    let present = claim.pointer("/status/devices").and_then(Value::as_array).cloned().unwrap_or_default();
    let is_ours = |entry: &Value| entry["driver"] == DRIVER && entry["pool"] == pool;
    let mut devices: Vec<Value> = Vec::new();
    // in their order, so that nothing is written only because of another one
    for entry in &present {
        if !is_ours(entry) {
            devices.push(entry.clone());
            continue;
        }
        let at = results.iter().position(|result| is_of(entry, result));
        devices.extend(at.and_then(|at| entry_of(results, at, Some(entry), wanted)));
    }
    for (at, result) in results.iter().enumerate().filter(|(_, result)| is_ours(result)) {
        if !present.iter().any(|entry| is_of(entry, result)) {
            devices.extend(entry_of(results, at, None, wanted));
        }
    }
    if devices == present {
        return Decision::Nothing;
    }
    let devices = if devices.is_empty() { Value::Null } else { Value::Array(devices) };
    let metadata = json!({"uid": uid, "resourceVersion": claim["metadata"]["resourceVersion"]});
    Decision::Patch(json!({"metadata": metadata, "status": {"devices": devices}}))
}

/// Whether an entry of the status is for an allocated device.
fn is_of(entry: &Value, result: &Value) -> bool {
    ["driver", "pool", "device", "shareID"].iter().all(|key| entry.get(key) == result.get(key))
}

/// The entry of the allocated device at a position of the results; none if there is nothing to say. A device that is allocated
/// several times for one request has as many that are created on it, in the order of their numbers.
fn entry_of(results: &[Value], at: usize, present: Option<&Value>, wanted: &Wanted<'_>) -> Option<Value> {
    let result = &results[at];
    let is_same = |other: &&Value| ["request", "device", "pool", "driver"].iter().all(|key| other[key] == result[key]);
    let earlier = results[..at].iter().filter(is_same).count();
    let is_wanted = |status: &&DeviceStatus| match (&status.request, &status.device) {
        (None, _) => true,
        (Some(request), device) => {
            // one that is created may be allocated as its parent
            let names = device.iter().cloned().chain(device.as_ref().and_then(DeviceId::parent));
            let mut names = names.map(|device| (wanted.name_of)(&device));
            result["request"] == **request && (device.is_none() || names.any(|name| result["device"] == *name))
        }
    };
    let mut fitting: Vec<&DeviceStatus> = wanted.devices.iter().filter(is_wanted).collect();
    fitting.sort_by_key(|status| status.device.as_ref().and_then(DeviceId::child));
    // what is said of every device has none
    let of_all = fitting.first().filter(|status| status.device.is_none());
    let status = fitting.get(earlier).or(of_all)?;
    let is_said_ready = || present.and_then(ready_of).is_some_and(|ready| ready["status"] == "True");
    let (is_ready, reason, message, network) = match &status.state {
        DeviceState::Changing => return present.cloned(),
        DeviceState::Reserved if !is_said_ready() => return present.cloned(),
        DeviceState::Reserved => (
            false,
            "NotAttached",
            "the sandbox of its pod has ended; the device is reserved for the claim".into(),
            None,
        ),
        DeviceState::Failed(message) => (false, "NotAttached", message.clone(), None),
        DeviceState::Attached { pod, network } => {
            let message = format!("attached to pod {pod} as {}", network.interface_name);
            (true, "Attached", message, Some(network))
        }
    };
    let mut entry = present.and_then(Value::as_object).cloned().unwrap_or_default();
    for key in ["driver", "pool", "device", "shareID"] {
        if let Some(value) = result.get(key) {
            entry.insert(key.into(), value.clone());
        }
    }
    let ready = condition(present.and_then(ready_of), is_ready, reason, shorten(message), wanted.now);
    let mut conditions = entry.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    match conditions.iter_mut().find(|condition| condition["type"] == READY) {
        Some(condition) => *condition = ready,
        None => conditions.push(ready),
    }
    entry.insert("conditions".into(), Value::Array(conditions));
    match network {
        Some(network) => drop(entry.insert("networkData".into(), network.to_json())),
        None => drop(entry.remove("networkData")),
    }
    Some(Value::Object(entry))
}

fn ready_of(entry: &Value) -> Option<&Value> {
    entry.get("conditions")?.as_array()?.iter().find(|condition| condition["type"] == READY)
}

/// The condition `Ready`. The one that is there stays if it says the same.
fn condition(present: Option<&Value>, is_ready: bool, reason: &str, message: String, now: &str) -> Value {
    let status = if is_ready { "True" } else { "False" };
    let since =
        present.filter(|present| present["status"] == status).map(|present| present["lastTransitionTime"].clone());
    let since = since.unwrap_or_else(|| json!(now));
    json!({"type": READY, "status": status, "reason": reason, "message": message, "lastTransitionTime": since})
}

fn shorten(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        message
            .truncate((0..=MAX_MESSAGE - '…'.len_utf8()).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0));
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests;
