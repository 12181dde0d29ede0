//! A network of type `host-device`: its device is an offered device of this node, attached as in every other way, subject to
//! the same selection, exclusion and reservation. The plugin itself does not run.

use std::{
    fmt,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use cni::{NetworkList, NodeDevice};
use link::{
    AttachRequest, ChooseError, ChooseRequest, Chooser, Ended, OpenSandbox, Repair, attach_all, choose_and_reserve,
    repair,
};
use netdevice::{
    Acquisition, Attachment, DeviceId, DeviceRequest, InterfaceName, Owner, Pod, SandboxConfiguration, View, Wanted,
    annotation, choice::Allocated, networks::NetworkSelection, owner::Request,
};
use serde_json::{Map, Value, json};
use store::Records;
use tokio::sync::watch;

/// The plugin whose work is done here.
pub(crate) const HOST_DEVICE: &str = "host-device";
/// What the status says of a device of the node, beyond the specification: keys of others are reverse DNS.
const OWN_KEY: &str = "networking.k8s.io/netdevice";
/// How long the work on one device may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How often the lock of a device is tried.
const POLL: Duration = Duration::from_millis(2);

/// The devices of the node, as the agent knows them.
pub trait Devices: fmt::Debug + Send + Sync {
    /// What is offered, and where it is.
    fn view(&self) -> Arc<View>;

    /// The same, with its changes.
    fn changes(&self) -> watch::Receiver<Arc<View>>;

    /// The devices that the kubelet has allocated. Blocks.
    ///
    /// # Errors
    ///
    /// When there is a kubelet and it does not answer.
    fn allocated(&self) -> Result<Allocated, String>;

    /// A device has returned to the host.
    fn returned(&self, name: InterfaceName);
}

/// A device that a network names, and how it is to be in the Pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wish {
    pub(crate) name: InterfaceName,
    fields: Map<String, Value>,
}

impl Wish {
    /// The device of a network whose plugin takes one of the node; none if no plugin does.
    ///
    /// # Errors
    ///
    /// When it is not a network that this program can serve, or the node has not that one device.
    pub(crate) fn of(
        list: &NetworkList,
        devices: &[NodeDevice],
        selection: &NetworkSelection,
        view: &View,
        sysfs: &std::path::Path,
    ) -> Result<Option<Self>, String> {
        let Some(device) = devices.first() else { return Ok(None) };
        let [plugin] = list.plugins() else {
            return Err(format!(
                "plugin {} takes a device of the node and must be the only plugin of its network",
                device.plugin
            ));
        };
        if plugin.kind() != HOST_DEVICE {
            let (plugin, text) = (&device.plugin, device.selector.as_str());
            return Err(format!(
                "plugin {plugin} would take {text} away from the node: only {HOST_DEVICE} can be used for that"
            ));
        }
        let attached = view.ledger.values().map(|record| record.device.to_name());
        let of_record = attached.into_iter().find(|name| name.to_string() == device.selector.as_str());
        let mut found: Vec<InterfaceName> = networks::find_links(&view.snapshot, &device.selector, sysfs);
        found.extend(of_record.filter(|name| !found.contains(name)));
        let name = match &found[..] {
            [name] => name.clone(),
            [] => return Err(format!("this node has no device {}", device.selector.as_str())),
            _ => return Err(format!("several devices of this node match {}", device.selector.as_str())),
        };
        let mut fields = Map::new();
        let (mut addresses, routes) = addresses(plugin.object().get("ipam"))?;
        addresses.extend(selection.ips.iter().cloned().map(Value::from));
        fields.insert("addresses".into(), addresses.into());
        fields.insert("routes".into(), routes.into());
        fields.insert("mac".into(), selection.mac.clone().into());
        Ok(Some(Self { name, fields }))
    }

    /// The request for it under a name in the Pod.
    pub(crate) fn request(&self, interface: &InterfaceName) -> Result<DeviceRequest, String> {
        let (device, configuration) = (Wanted::Name(self.name.clone()), self.configuration(interface)?);
        Ok(DeviceRequest { device, acquisition: Acquisition::Move, configuration })
    }

    /// The configuration under a name in the Pod.
    pub(crate) fn configuration(&self, interface: &InterfaceName) -> Result<SandboxConfiguration, String> {
        let mut fields = self.fields.clone();
        if *interface != self.name {
            fields.insert("new_name".into(), interface.to_string().into());
        }
        annotation::configuration(&fields.into()).map_err(|problem| problem.to_string())
    }
}

/// The addresses and routes of a static `ipam`.
fn addresses(ipam: Option<&Value>) -> Result<(Vec<Value>, Vec<Value>), String> {
    let Some(ipam) = ipam.and_then(Value::as_object).filter(|ipam| !ipam.is_empty()) else {
        return Ok((Vec::new(), Vec::new()));
    };
    let kind = ipam.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind != "static" {
        return Err(format!("ipam of type {kind:?} is not supported for a device of the node: use static, or none"));
    }
    let list = |key: &str| ipam.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let addresses = list("addresses").iter().filter_map(|entry| entry.get("address").cloned()).collect();
    let route = |entry: &Value| Some(json!({"to": entry.get("dst")?, "via": entry.get("gw")}));
    let routes = list("routes").iter().filter_map(route).collect();
    Ok((addresses, routes))
}

/// The owner of a device that an element of the annotation requests.
pub(crate) fn owner(sandbox: &str, pod: &Pod, network: &str, interface: &InterfaceName) -> Owner {
    let by = Request::Networks { network: network.to_owned(), interface: interface.to_string() };
    Owner::Sandbox { id: sandbox.to_owned(), pod: Some(pod.clone()), by }
}

/// Why a device is not attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeviceError {
    /// The Pod cannot have it at this moment; nothing was done.
    #[error("{0}")]
    Refused(String),
    /// The node, or the attachment.
    #[error("{0}")]
    Failed(String),
}

/// The devices that a sandbox has by its networks: the network, the name that was requested, the record.
pub(crate) fn attached(records: &Records, sandbox: &str) -> Result<Vec<(String, InterfaceName, Attachment)>, String> {
    let (ledger, _) = records.list().map_err(|error| format!("cannot read the records of this node: {error}"))?;
    let of_sandbox = ledger.values().filter(|record| record.owner.id() == sandbox);
    Ok(of_sandbox
        .filter_map(|record| match record.owner.request() {
            Some(request @ Request::Networks { network, interface }) if !request.is_attach() => {
                Some((network.clone(), interface.parse().ok()?, (**record).clone()))
            }
            _ => None,
        })
        .collect())
}

/// Attaches the first one of the requested devices to a sandbox, and returns which it is. The others are its owner's already.
pub(crate) fn attach(
    records: &Records,
    devices: &dyn Devices,
    sandbox: &OpenSandbox,
    owner: &Owner,
    requests: &[DeviceRequest],
) -> Result<DeviceId, DeviceError> {
    let failed = |error: &dyn fmt::Display| DeviceError::Failed(error.to_string());
    let pod = owner.pod().ok_or_else(|| failed(&"the pod is not known"))?;
    let limit = Instant::now() + LIMIT;
    let lock =
        records.lock_sandbox(owner.id(), limit).map_err(|error| failed(&format_args!("cannot lock: {error}")))?;
    let _lock = lock.ok_or_else(|| failed(&"another program works on this pod"))?;
    let request = ChooseRequest { owner, pod, devices: requests, limit };
    let chosen = choose_and_reserve(records, &Choosing(devices), request).map_err(|error| match error {
        ChooseError::Chooser(error) => DeviceError::Failed(error),
        error @ (ChooseError::Choice(_) | ChooseError::Reserve(_)) => DeviceError::Refused(error.to_string()),
        other => failed(&other),
    })?;
    let (choices, reserved) = chosen;
    let first = choices.first().zip(requests.first());
    let (choice, request) = first.ok_or_else(|| failed(&"no device is requested"))?;
    let attach = AttachRequest {
        device: &choice.device,
        resource: Some(&choice.resource),
        sandbox,
        owner,
        acquisition: choice.acquisition,
        uplink_parents: choice.uplink_parents,
        configuration: Some(&request.configuration),
    };
    let attached = attach_all(records, &[attach], reserved, &|| false, &|_, _| {});
    attached.map(|_| choice.device.clone()).map_err(|error| failed(&error))
}

/// Returns a device to the host.
pub(crate) fn detach(
    records: &Records,
    devices: &dyn Devices,
    sandbox: &OpenSandbox,
    device: &DeviceId,
    owner: &Owner,
) -> Result<(), String> {
    let limit = Instant::now() + LIMIT;
    let lock = records.lock_sandbox(owner.id(), limit).map_err(|error| format!("cannot lock: {error}"))?;
    let _lock = lock.ok_or("another program works on this pod")?;
    loop {
        match repair(records, device, Some(sandbox.namespace()), |record, _| record.owner == *owner) {
            Ok(Repair::Busy) if Instant::now() < limit => sleep(POLL),
            Ok(Repair::Busy) => return Err(format!("another program works on device {device}")),
            Ok(Repair::Done(Ended::OutOfReach)) => return Err(format!("device {device} is not on the node yet")),
            Ok(Repair::Done(Ended::Returned { .. })) => {
                devices.returned(device.to_name());
                return Ok(());
            }
            Ok(_) => return Ok(()),
            Err(error) => return Err(format!("device {device} was not returned: {error}")),
        }
    }
}

/// The last PCI address in a path below `/sys/devices`: `dddd:bb:dd.f`.
fn pci_address(path: &str) -> Option<&str> {
    let is_address = |part: &&str| {
        let bytes = part.as_bytes();
        let has_form = bytes.len() == 12 && (bytes[4], bytes[7], bytes[10]) == (b':', b':', b'.');
        has_form && bytes.iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte))
    };
    path.rsplit('/').find(is_address)
}

/// The entry of a device in the Pod's status.
pub(crate) fn status_entry(network: &str, interface: &InterfaceName, record: &Attachment) -> Value {
    let host = record.host();
    let configuration = record.configuration.as_ref();
    let addresses = configuration.into_iter().flat_map(|configuration| &configuration.addresses);
    let mac = configuration.and_then(|configuration| configuration.mac.as_ref()).or_else(|| host?.mac.as_ref());
    let mut entry = json!({"name": network, "interface": interface.to_string()});
    let addresses: Vec<String> = addresses.map(|address| address.address().to_string()).collect();
    if !addresses.is_empty() {
        entry["ips"] = addresses.into();
    }
    if let Some(mac) = mac {
        entry["mac"] = mac.to_string().into();
    }
    entry["dns"] = json!({});
    let hardware = host.and_then(|host| host.hardware.as_ref());
    let mut own = json!({"device": record.device.to_string()});
    if let Some(hardware) = hardware {
        if let Some(address) = pci_address(&hardware.path) {
            entry["device-info"] = json!({"type": "pci", "version": "1.1.0", "pci": {"pci-address": address}});
        }
        if let Some(node) = hardware.numa_node {
            own["numaNode"] = node.into();
        }
    }
    entry[OWN_KEY] = own;
    entry
}

/// What the agent knows, for the choice.
struct Choosing<'a>(&'a dyn Devices);

impl Chooser for Choosing<'_> {
    type Error = String;

    fn view(&self) -> Result<Arc<View>, String> {
        Ok(self.0.view())
    }

    fn allocated(&self) -> Result<Allocated, String> {
        self.0.allocated()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_the_last_pci_address_of_a_path() {
        let path = "/sys/devices/pci0000:00/0000:00:1c.0/0000:02:00.1/virtio3";
        assert_eq!(pci_address(path), Some("0000:02:00.1"));
        assert_eq!(pci_address("/sys/devices/platform/serial8250/net"), None);
    }

    #[test]
    fn the_status_has_the_device_its_pci_address_and_its_numa_node() {
        let mut record = netdevice::fixture::record("eth1");
        let interface = "fast0".parse().unwrap();
        let entry = status_entry("netdevice.networking.k8s.io/eth1", &interface, &record);
        assert_eq!(entry["networking.k8s.io/netdevice"], json!({"device": "eth1"}));
        let path = "/sys/devices/pci0000:00/0000:02:00.1".to_owned();
        record.host_mut().unwrap().hardware = Some(netdevice::state::HardwarePlace { path, numa_node: Some(1) });
        let entry = status_entry("netdevice.networking.k8s.io/eth1", &interface, &record);
        assert_eq!(entry["name"], "netdevice.networking.k8s.io/eth1");
        assert_eq!(entry["networking.k8s.io/netdevice"], json!({"device": "eth1", "numaNode": 1}));
        assert_eq!(entry["device-info"]["pci"], json!({"pci-address": "0000:02:00.1"}));
    }

    #[test]
    fn only_static_addresses_can_be_given_to_a_device() {
        let ipam = json!({"type": "static", "addresses": [{"address": "10.0.0.1/24", "gateway": "10.0.0.254"}],
            "routes": [{"dst": "192.0.2.0/24", "gw": "10.0.0.254"}]});
        let expected = (vec![json!("10.0.0.1/24")], vec![json!({"to": "192.0.2.0/24", "via": "10.0.0.254"})]);
        assert_eq!(addresses(Some(&ipam)), Ok(expected));
        assert_eq!(addresses(Some(&json!({}))), Ok((vec![], vec![])));
        assert!(addresses(Some(&json!({"type": "host-local"}))).unwrap_err().contains("\"host-local\""));
    }
}
