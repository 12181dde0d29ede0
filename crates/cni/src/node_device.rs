//! Which devices of the node the plugins of a network take away from it.
//!
//! `host-device` moves an interface of the node into the container, as the SR-IOV plugins move virtual functions. Nobody but
//! the runtime keeps a user from naming the node's own uplink there. Plugins in Go read the keys of an object in any case,
//! so they are compared in any case here.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{capability::CapabilityArguments, configuration::NetworkList};

/// The plugin that moves any interface of the node.
const HOST_DEVICE: &str = "host-device";

/// A device of the node that a plugin takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDevice {
    /// The plugin's type.
    pub plugin: String,
    /// What says which device.
    pub selector: Selector,
}

/// How a configuration names a device of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// By its name, or an alternative name.
    Name(String),
    /// By its hardware address.
    HardwareAddress(String),
    /// By the path of its parent below `/sys/devices`.
    KernelPath(String),
    /// By the address of its parent on the PCI bus, or its name on the auxiliary bus.
    Device(String),
}

impl Selector {
    /// As text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Name(text) | Self::HardwareAddress(text) | Self::KernelPath(text) | Self::Device(text) => text,
        }
    }
}

/// Finds the devices that the plugins of a list take, in every object of their configurations: a plugin may delegate to
/// others. `file_of` returns a plugin's file, which may be a link to another one's.
pub(crate) fn find(
    list: &NetworkList,
    capabilities: &CapabilityArguments,
    file_of: impl Fn(&str) -> Option<String>,
) -> Vec<NodeDevice> {
    let mut found = Vec::new();
    for plugin in list.plugins() {
        visit(&plugin.kind, &plugin.object, &file_of, &mut found);
        for (key, value) in capabilities.iter().filter(|(key, _)| plugin.takes(key)) {
            if is_key(key, "deviceID") {
                push(&plugin.kind, Selector::Device, value, &mut found);
            }
        }
    }
    found
}

fn visit(
    plugin: &str,
    object: &Map<String, Value>,
    file_of: &impl Fn(&str) -> Option<String>,
    found: &mut Vec<NodeDevice>,
) {
    let named = object.iter().find(|(key, _)| is_key(key, "type")).and_then(|(_, value)| value.as_str());
    let plugin = named.unwrap_or(plugin);
    let is_host_device = is_host_device(plugin, file_of);
    for (key, value) in object {
        match () {
            () if is_key(key, "device") && is_host_device => push(plugin, Selector::Name, value, found),
            () if is_key(key, "hwaddr") && is_host_device => push(plugin, Selector::HardwareAddress, value, found),
            () if is_key(key, "kernelpath") && is_host_device => push(plugin, Selector::KernelPath, value, found),
            () if is_key(key, "pciBusID") || is_key(key, "deviceID") => push(plugin, Selector::Device, value, found),
            () => visit_value(plugin, value, file_of, found),
        }
    }
}

/// Whether a plugin is `host-device`, also under another name.
pub(crate) fn is_host_device(plugin: &str, file_of: &impl Fn(&str) -> Option<String>) -> bool {
    plugin == HOST_DEVICE || file_of(plugin).is_some_and(|file| file == HOST_DEVICE)
}

fn visit_value(plugin: &str, value: &Value, file_of: &impl Fn(&str) -> Option<String>, found: &mut Vec<NodeDevice>) {
    match value {
        Value::Object(object) => visit(plugin, object, file_of, found),
        Value::Array(values) => values.iter().for_each(|value| visit_value(plugin, value, file_of, found)),
        _ => {}
    }
}

fn push(plugin: &str, selector: fn(String) -> Selector, value: &Value, found: &mut Vec<NodeDevice>) {
    if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
        found.push(NodeDevice { plugin: plugin.into(), selector: selector(text.into()) });
    }
}

/// Whether a Go program takes a key for another one (`encoding/json`: simple folding, by which the long s and the Kelvin sign
/// are letters of ASCII).
fn is_key(key: &str, known: &str) -> bool {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    };
    key.chars().map(fold).eq(known.chars().map(fold))
}

/// The name of the file that a path leads to.
pub(crate) fn file_name_of(path: &Path) -> Option<String> {
    let path = std::fs::canonicalize(path).ok()?;
    Some(path.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(plugins: &str) -> Vec<String> {
        let text = format!(r#"{{"name":"n","plugins":[{plugins}]}}"#);
        let list = NetworkList::from_json(text.as_bytes()).unwrap();
        let capabilities = Map::from_iter([("deviceID".to_owned(), Value::from("0000:00:02.0"))]);
        let file_of = |plugin: &str| (plugin == "alias").then(|| HOST_DEVICE.to_owned());
        find(&list, &capabilities, file_of).iter().map(|device| format!("{:?}", device.selector)).collect()
    }

    #[test]
    fn devices_are_found_however_they_are_named() {
        let table = [
            (r#"{"type":"host-device","device":"eth0"}"#, &[r#"Name("eth0")"#][..]),
            (r#"{"type":"host-device","DEVICE":"eth0"}"#, &[r#"Name("eth0")"#]),
            (r#"{"type":"host-device","hwaddr":"02:00:00:00:00:01"}"#, &[r#"HardwareAddress("02:00:00:00:00:01")"#]),
            (r#"{"type":"host-device","KernelPath":"/sys/devices/x"}"#, &[r#"KernelPath("/sys/devices/x")"#]),
            (r#"{"type":"host-device","\u212Aernelpath":"/sys/devices/x"}"#, &[r#"KernelPath("/sys/devices/x")"#]),
            (r#"{"type":"host-device","pciBu\u017FID":"0000:00:01.0"}"#, &[r#"Device("0000:00:01.0")"#]),
            (r#"{"type":"sriov","deviceID":"0000:00:01.0"}"#, &[r#"Device("0000:00:01.0")"#]),
            (r#"{"type":"host-device","runtimeConfig":{"deviceID":"0000:00:01.0"}}"#, &[r#"Device("0000:00:01.0")"#]),
            (r#"{"type":"sriov","capabilities":{"deviceID":true}}"#, &[r#"Device("0000:00:02.0")"#]),
            (r#"{"type":"alias","device":"eth0"}"#, &[r#"Name("eth0")"#]),
            (
                r#"{"type":"multus","delegates":[{"plugins":[{"type":"host-device","device":"eth0"}]}]}"#,
                &[r#"Name("eth0")"#],
            ),
            (r#"{"type":"ptp"},{"type":"host-device","device":"eth1"}"#, &[r#"Name("eth1")"#]),
            (r#"{"type":"macvlan","master":"eth0"}"#, &[]),
            (r#"{"type":"other","device":"eth0"}"#, &[]),
            (r#"{"type":"host-device","device":""}"#, &[]),
        ];
        for (plugins, expected) in table {
            assert_eq!(found(plugins), expected, "{plugins}");
        }
    }
}
