//! The reasons and texts of events, as multus-dynamic-networks-controller has them.

use serde_json::{Map, Value};

use super::NetworkSelection;
use crate::owner::Pod;

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

/// Longest text of an event in bytes: the API server accepts a `note` of this length (`pkg/apis/core/validation/events.go`).
const MAX_TEXT: usize = 1024;

/// The text of an event. `network_name` is the name of the NetworkAttachmentDefinition, without its namespace.
///
/// For an addition with a selection that has ips, mac or cni-args, all three follow in brackets, as Go prints them. A text
/// of more than 1024 bytes is cut off and ends with `...`.
pub fn event_text(
    verb: EventVerb,
    pod_namespace: &str,
    pod_name: &str,
    interface: &str,
    network_name: &str,
    selection: Option<&NetworkSelection>,
) -> String {
    let is_addition = matches!(verb, EventVerb::Added | EventVerb::FailedAdding);
    let (verb, preposition) = verb.phrases();
    let attributes = selection.filter(|_| is_addition).map(attributes).unwrap_or_default();
    let pod = format!("pod [{pod_namespace}/{pod_name}]");
    cut(format!("{pod}: {verb} interface {interface} {preposition} network: {network_name}{attributes}"))
}

/// The text of the event for a device of the annotation [attach](crate::annotation::attach). `interface` is its name in the Pod,
/// `about` the device or the error.
pub fn device_event_text(verb: EventVerb, pod: &Pod, interface: &str, about: &str) -> String {
    cut(format!("pod [{pod}]: {} interface {interface}: {about}", verb.phrases().0))
}

/// The text if it is short enough, otherwise its beginning.
fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT - 3).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push_str("...");
    }
    text
}

/// The attributes in brackets, or nothing if the selection has none of them.
fn attributes(selection: &NetworkSelection) -> String {
    if selection.ips.is_empty() && selection.mac.is_none() && selection.cni_args.is_none() {
        return String::new();
    }
    let (ips, mac) = (selection.ips.join(" "), selection.mac.as_deref().unwrap_or_default());
    let mut text = format!("(ips: [{ips}], mac: {mac}, cni-args: ");
    match &selection.cni_args {
        // It is a pointer to a map there.
        Some(arguments) => {
            text.push('&');
            write_go_map(&mut text, arguments);
        }
        None => text.push_str("<nil>"),
    }
    text.push(')');
    text
}

/// A value as Go's `%v` prints it after `encoding/json` read it.
fn write_go(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => write_go_number(out, number.as_f64().unwrap_or_default()),
        Value::String(text) => out.push_str(text),
        Value::Array(list) => {
            out.push('[');
            for (at, item) in list.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { " " });
                write_go(out, item);
            }
            out.push(']');
        }
        Value::Object(keys) => write_go_map(out, keys),
    }
}

fn write_go_map(out: &mut String, keys: &Map<String, Value>) {
    let mut pairs: Vec<_> = keys.iter().collect();
    pairs.sort_by_key(|(key, _)| *key);
    out.push_str("map[");
    for (at, (key, value)) in pairs.into_iter().enumerate() {
        out.push_str(if at == 0 { "" } else { " " });
        out.push_str(key);
        out.push(':');
        write_go(out, value);
    }
    out.push(']');
}

/// Go reads each number as `float64` and prints it with `%g`: the shortest digits, with an exponent of at least two digits if
/// that is less than -4 or more than 5 (`formatDigits` in `strconv/ftoa.go`).
fn write_go_number(out: &mut String, number: f64) {
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        out.push_str(&number.to_string());
        return;
    }
    out.push_str(digits);
    out.push_str(if exponent < 0 { "e-" } else { "e+" });
    out.push_str(&format!("{:02}", exponent.unsigned_abs()));
}
