//! A NetworkAttachmentDefinition: the CNI configuration that an element of the annotation names.

use std::{collections::BTreeMap, net::IpAddr, path::Path, sync::Arc};

use cni::NetworkList;
use netdevice::networks::{NetworkSelection, configuration_text};
use serde_json::{Map, Value};

use crate::device::{HOST_DEVICE, Wish};

/// The definitions of the cluster, by `namespace/name`: the text of `spec.config`.
pub(crate) type Definitions = BTreeMap<String, Arc<str>>;

/// Plugins that take an interface's hardware address from `CNI_ARGS`, without the capability.
const TAKE_MAC: [&str; 2] = ["macvlan", "bridge"];
/// What a device of the node is given here.
const OF_DEVICE: [&str; 2] = ["ips", "mac"];
/// What says which device it is, if the plugin takes it.
const DEVICE_ID: &str = "deviceID";
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
    let mut checked = capabilities.clone();
    let takes_mac = list.plugins().iter().any(|plugin| plugin.takes("mac") || TAKE_MAC.contains(&plugin.kind()));
    if takes_mac && !list.plugins().iter().any(|plugin| plugin.takes("mac")) {
        // in CNI_ARGS; Multus makes these of the attribute
        checked.remove("mac");
        if !uses_multus {
            capabilities.remove("mac");
        }
    }
    let gateways = selection.default_route.clone().unwrap_or_default();
    match list.plugins() {
        [plugin] if plugin.kind() == HOST_DEVICE => {
            let is_refused = |key: &&str| !OF_DEVICE.contains(key) && (*key != DEVICE_ID || !plugin.takes(key));
            let route = (!gateways.is_empty()).then_some("default-route");
            if let Some(key) = checked.keys().map(String::as_str).chain(route).find(is_refused) {
                return Err(format!(
                    "{key:?} cannot be requested of network {network}: a device of the node gets ips and mac only"
                ));
            }
        }
        _ => cni::check_capabilities(&list, &checked).map_err(|error| error.to_string())?,
    }
    Ok(Prepared { list, capabilities, arguments: selection.arguments(), gateways, device: None })
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MACVLAN: &str = r#"{"cniVersion":"1.0.0","plugins":[{"type":"macvlan","args":{"cni":{"a":1,"b":1}}}]}"#;

    fn prepared(element: &Value, config: &str, uses_multus: bool) -> Result<Prepared, String> {
        let selection = netdevice::networks::parse(&json!([element]).to_string(), "default").unwrap().remove(0);
        let definitions = Definitions::from([("default/n".to_owned(), Arc::from(config))]);
        prepare(&selection, &definitions, Path::new("/nonexistent"), uses_multus)
    }

    #[test]
    fn a_definition_is_named_in_every_error() {
        for (element, config, error) in [
            (json!({"name": "m"}), MACVLAN, "found no NetworkAttachmentDefinition default/m"),
            (json!({"name": "n"}), "{", "NetworkAttachmentDefinition default/n"),
            (json!({"name": "n"}), "", "NetworkAttachmentDefinition default/n"),
            (json!({"name": "n", "ips": ["10.0.0.1/8"]}), MACVLAN, "no plugin of network n has the capability \"ips\""),
        ] {
            let refused = prepared(&element, config, false).map(drop).unwrap_err();
            assert!(refused.starts_with(error), "{refused}");
        }
    }

    #[test]
    fn macvlan_takes_a_mac_from_the_arguments() {
        let element = json!({"name": "n", "mac": "02:00:00:00:00:0a"});
        let prepared = prepared(&element, MACVLAN, false).unwrap();
        assert!(prepared.capabilities.is_empty());
        assert_eq!(prepared.arguments, [("MAC".to_owned(), "02:00:00:00:00:0a".to_owned())]);
    }

    #[test]
    fn the_elements_arguments_win_over_the_definitions() {
        let prepared = prepared(&json!({"name": "n", "cni-args": {"b": 2, "c": 3}}), MACVLAN, false).unwrap();
        assert_eq!(prepared.list.plugins()[0].object()["args"]["cni"], json!({"a": 1, "b": 2, "c": 3}));
    }

    #[test]
    fn what_a_device_is_not_given_is_refused() {
        let config = r#"{"type":"host-device","device":"eth9","capabilities":{"bandwidth":true}}"#;
        for (key, value) in [
            ("bandwidth", json!({"ingressRate": 1000})),
            ("portMappings", json!([{"hostPort": 80, "containerPort": 80}])),
            ("infiniband-guid", json!("02:00:00:00:00:00:00:01")),
            ("deviceID", json!("0000:01:00.1")),
            ("default-route", json!(["10.0.0.1"])),
        ] {
            let mut element = json!({"name": "n", "ips": ["10.0.0.2/24"], "mac": "02:00:00:00:00:0a"});
            assert!(prepared(&element, config, false).is_ok());
            element[key] = value;
            let refused = prepared(&element, config, false).map(drop).unwrap_err();
            assert!(refused.ends_with("a device of the node gets ips and mac only"), "{key}: {refused}");
        }
        let config = r#"{"type":"host-device","capabilities":{"deviceID":true}}"#;
        assert!(prepared(&json!({"name": "n", "deviceID": "0000:01:00.1"}), config, false).is_ok());
    }

    #[test]
    fn what_multus_does_not_pass_on_is_refused() {
        let config = r#"{"plugins":[{"type":"p","capabilities":{"bandwidth":true,"ips":true}}]}"#;
        let element = json!({"name": "n", "bandwidth": {"ingressRate": 1000}});
        assert!(prepared(&element, config, false).is_ok());
        assert!(prepared(&element, config, true).map(drop).unwrap_err().contains("\"bandwidth\""));
        assert!(prepared(&json!({"name": "n", "ips": ["10.0.0.1/8"]}), config, true).is_ok());
        let element = json!({"name": "n", "default-route": ["10.0.0.1"]});
        assert!(prepared(&element, config, false).is_ok());
        assert!(prepared(&element, config, true).map(drop).unwrap_err().contains("default-route"));
    }
}
