//! The reasons and texts of events, as multus-dynamic-networks-controller has them.

use std::fmt::Write as _;

use serde_json::Value;

use super::NetworkSelection;

/// What happened to an interface of a Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventVerb {
    /// It was added.
    Added,
    /// It could not be added.
    FailedAdding,
    /// It was removed.
    Removed,
    /// It could not be removed.
    FailedRemoving,
}

impl EventVerb {
    /// The reason of the event.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Added => "AddedInterface",
            Self::FailedAdding => "FailedAddingInterface",
            Self::Removed => "RemovedInterface",
            Self::FailedRemoving => "FailedRemovingInterface",
        }
    }

    /// Whether the event's type is Warning. Otherwise it is Normal.
    pub fn is_warning(self) -> bool {
        matches!(self, Self::FailedAdding | Self::FailedRemoving)
    }

    fn phrases(self) -> (&'static str, &'static str) {
        match self {
            Self::Added => ("added", "to"),
            Self::FailedAdding => ("failed adding", "to"),
            Self::Removed => ("removed", "from"),
            Self::FailedRemoving => ("failed removing", "from"),
        }
    }
}

/// The reason of the event for a Pod in the host's network that has the annotation. Its type is Warning.
pub const REJECTED_HOST_NETWORK: &str = "InterfaceAddRejected";

/// The text of the event for a Pod in the host's network that has the annotation.
pub fn rejected_host_network(pod_namespace: &str, pod_name: &str) -> String {
    format!("pod [{pod_namespace}/{pod_name}]: will not add interface to host networked pod")
}

/// The text of an event. `network_name` is the name of the NetworkAttachmentDefinition, without its namespace. With a
/// selection that has ips, mac or cni-args, these follow in brackets.
pub fn event_text(
    verb: EventVerb,
    pod_namespace: &str,
    pod_name: &str,
    interface: &str,
    network_name: &str,
    selection: Option<&NetworkSelection>,
) -> String {
    let (verb, preposition) = verb.phrases();
    let attributes = selection.map(attributes).unwrap_or_default();
    format!(
        "pod [{pod_namespace}/{pod_name}]: {verb} interface {interface} {preposition} network: {network_name}{attributes}"
    )
}

/// The attributes in brackets, or nothing.
fn attributes(selection: &NetworkSelection) -> String {
    let ips = (!selection.ips.is_empty()).then(|| format!("ips: [{}]", selection.ips.join(" ")));
    let mac = selection.mac.as_ref().map(|mac| format!("mac: {mac}"));
    let cni_args = selection.cni_args.as_ref().map(|arguments| {
        let mut text = "cni-args: &".to_owned();
        write_go(&mut text, &Value::Object(arguments.clone()));
        text
    });
    let parts: Vec<String> = [ips, mac, cni_args].into_iter().flatten().collect();
    if parts.is_empty() { String::new() } else { format!("({})", parts.join(", ")) }
}

/// A value as Go's `%v` prints it after `encoding/json` read it.
fn write_go(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => out.push_str(text),
        Value::Array(list) => {
            out.push('[');
            for (at, item) in list.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { " " });
                write_go(out, item);
            }
            out.push(']');
        }
        Value::Object(keys) => {
            let mut pairs: Vec<_> = keys.iter().collect();
            pairs.sort_by_key(|(key, _)| *key);
            out.push_str("map[");
            for (at, (key, value)) in pairs.into_iter().enumerate() {
                let space = if at == 0 { "" } else { " " };
                let _ = write!(out, "{space}{key}:");
                write_go(out, value);
            }
            out.push(']');
        }
    }
}
