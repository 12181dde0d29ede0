//! A NetworkAttachmentDefinition: the CNI configuration that an element of the annotation names.

use std::{collections::BTreeMap, net::IpAddr, path::Path, sync::Arc};

use crate::device::Wish;
use cni::NetworkList;
use netdevice::networks::{NetworkSelection, configuration_text};
use serde_json::{Map, Value};

/// The definitions of the cluster, by `namespace/name`: the text of `spec.config`.
pub(crate) type Definitions = BTreeMap<String, Arc<str>>;

/// Plugins that take an interface's hardware address from `CNI_ARGS`, without the capability.
const TAKE_MAC: [&str; 2] = ["macvlan", "bridge"];
/// What Multus' delegate API passes on.
const OF_MULTUS: [&str; 2] = ["ips", "mac"];

/// An interface that can be added.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) list: NetworkList,
    pub(crate) capabilities: Map<String, Value>,
    pub(crate) arguments: Vec<(String, String)>,
    pub(crate) gateways: Vec<IpAddr>,
    /// The device of the node, if it is a network of one.
    pub(crate) device: Option<Wish>,
}

/// Reads the configuration of a network, with what the element requests of it.
///
/// # Errors
///
/// What of the definition or of the element cannot be done. Nothing has run then.
pub(crate) fn prepare(
    selection: &NetworkSelection,
    definitions: &Definitions,
    directory: &Path,
    uses_multus: bool,
) -> Result<Prepared, String> {
    let network = selection.network();
    let config = definitions.get(&network).ok_or_else(|| {
        format!("found no NetworkAttachmentDefinition {network}: create it, or correct the annotation")
    })?;
    let invalid = |error: &dyn std::fmt::Display| format!("NetworkAttachmentDefinition {network}: {error}");
    let list = match configuration_text(&selection.name, config).map_err(|error| invalid(&error))? {
        Some(text) => NetworkList::from_json(text.as_bytes()).map_err(|error| invalid(&error))?,
        None => cni::load_by_name(directory, &selection.name).map_err(|error| invalid(&error))?,
    };
    let list = match &selection.cni_args {
        Some(arguments) => with_arguments(&list, arguments).map_err(|error| invalid(&error))?,
        None => list,
    };
    if uses_multus && selection.default_route.as_ref().is_some_and(|gateways| !gateways.is_empty()) {
        return Err(format!(
            "default-route cannot be requested of network {network} in a running pod: Multus takes ips and mac only"
        ));
    }
    let mut capabilities = selection.capabilities();
    if uses_multus && let Some(key) = capabilities.keys().find(|key| !OF_MULTUS.contains(&key.as_str())) {
        return Err(format!(
            "{key:?} cannot be requested of network {network} in a running pod: Multus takes ips and mac only"
        ));
    }
    let takes_mac = |list: &NetworkList| {
        let (takes, kinds) = (|key| list.plugins().iter().any(|plugin| plugin.takes(key)), list.plugins());
        !takes("mac") && kinds.iter().any(|plugin| TAKE_MAC.contains(&plugin.kind()))
    };
    if !uses_multus && takes_mac(&list) {
        capabilities.remove("mac");
    }
    let checked: Map<String, Value> = capabilities
        .iter()
        .filter(|(key, _)| !(*key == "mac" && takes_mac(&list)))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if !is_device(&list) {
        cni::check_capabilities(&list, &checked).map_err(|error| error.to_string())?;
    }
    let gateways = selection.default_route.clone().unwrap_or_default();
    Ok(Prepared { list, capabilities, arguments: selection.arguments(), gateways, device: None })
}

/// Whether it is a network of one device, which is configured here: addresses need no capability of a plugin.
fn is_device(list: &NetworkList) -> bool {
    matches!(list.plugins(), [plugin] if plugin.kind() == "host-device")
}

/// The list with `args.cni` of every plugin, where the element's win.
fn with_arguments(list: &NetworkList, arguments: &Map<String, Value>) -> Result<NetworkList, String> {
    let mut value: Value = serde_json::from_slice(list.text()).map_err(|error| error.to_string())?;
    for plugin in value.get_mut("plugins").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(plugin) = plugin.as_object_mut() else { continue };
        let all = plugin.entry("args").or_insert_with(|| Value::Object(Map::new()));
        let Some(all) = all.as_object_mut() else { return Err("args of a plugin is not an object".into()) };
        let of_cni = all.entry("cni").or_insert_with(|| Value::Object(Map::new()));
        let Some(of_cni) = of_cni.as_object_mut() else { return Err("args.cni of a plugin is not an object".into()) };
        of_cni.extend(arguments.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    NetworkList::from_json(value.to_string().as_bytes()).map_err(|error| error.to_string())
}
