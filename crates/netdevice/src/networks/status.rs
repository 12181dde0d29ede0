//! The status annotation: its entries, from the results of CNI, and its text.

use std::net::IpAddr;

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Map, Value, json, ser::PrettyFormatter};

/// The keys of an entry in the order in which Multus writes them.
const KEYS: [&str; 9] = ["name", "interface", "ips", "mac", "mtu", "default", "dns", "device-info", "gateway"];

/// The entries of a status annotation. A text that cannot be read has none.
pub fn read_status(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap_or_default()
}

/// The entries for a CNI result of version 1.1.0, the one of `interface` first.
///
/// With several interfaces each one that is in a sandbox has an entry; an address is in the entry of its interface, and one
/// without an interface in the last entry. A single interface has all addresses; its name, address and MTU are there only if
/// it is in a sandbox.
pub fn entries_of_result(network: &str, interface: &str, result: &Value) -> Vec<Value> {
    let list = |key: &str| result.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let (interfaces, ips) = (list("interfaces"), list("ips"));
    let in_sandbox = |link: &Value| !text(link, "sandbox").is_empty();
    let sandboxed: Vec<usize> = (0..interfaces.len()).filter(|at| in_sandbox(&interfaces[*at])).collect();
    let common = Common { network, dns: dns(result), gateways: gateways(list("routes")) };

    if interfaces.len() < 2 || sandboxed.is_empty() {
        let link = sandboxed.first().map(|at| &interfaces[*at]);
        return vec![common.entry(interface, link, ips.iter().collect())];
    }
    let last = sandboxed.last().copied();
    let of = |at: usize| {
        let is_here = |ip: &&Value| match ip.get("interface").and_then(Value::as_u64) {
            Some(index) => usize::try_from(index) == Ok(at),
            None => Some(at) == last,
        };
        common.entry(interface, Some(&interfaces[at]), ips.iter().filter(is_here).collect())
    };
    let mut entries: Vec<Value> = sandboxed.iter().map(|at| of(*at)).collect();
    entries.sort_by_key(|entry| text(entry, "interface") != interface);
    entries
}

/// What all entries of a result have.
struct Common<'a> {
    network: &'a str,
    dns: Value,
    gateways: Vec<&'a str>,
}

impl Common<'_> {
    fn entry(&self, interface: &str, link: Option<&Value>, ips: Vec<&Value>) -> Value {
        let address = |ip: &&Value| text(ip, "address").split('/').next().unwrap_or_default().to_owned();
        let ips: Vec<String> = ips.iter().map(address).filter(|ip| !ip.is_empty()).collect();
        let mut entry = Map::new();
        entry.insert("name".into(), self.network.into());
        let name = link.map_or(interface, |link| text(link, "name"));
        entry.insert("interface".into(), name.into());
        if !ips.is_empty() {
            entry.insert("ips".into(), ips.into());
        }
        if let Some(mac) = link.map(|link| text(link, "mac")).filter(|mac| !mac.is_empty()) {
            entry.insert("mac".into(), mac.into());
        }
        if let Some(mtu) = link.and_then(|link| link.get("mtu")).and_then(Value::as_u64).filter(|mtu| *mtu != 0) {
            entry.insert("mtu".into(), mtu.into());
        }
        entry.insert("dns".into(), self.dns.clone());
        if !self.gateways.is_empty() {
            entry.insert("gateway".into(), self.gateways.clone().into());
        }
        Value::Object(entry)
    }
}

/// A string of an object, or an empty one.
fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The object `dns` with the keys that have a value.
fn dns(result: &Value) -> Value {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    let mut dns = result.get("dns").filter(|dns| dns.is_object()).cloned().unwrap_or_else(|| json!({}));
    if let Some(keys) = dns.as_object_mut() {
        keys.retain(|_, value| !is_empty(value));
    }
    dns
}

/// The gateways of the default routes. A default route without one is left out; Multus writes `<nil>`.
fn gateways(routes: &[Value]) -> Vec<&str> {
    let is_default = |route: &&Value| {
        let (address, length) = text(route, "dst").split_once('/').unwrap_or_default();
        length == "0" && address.parse().is_ok_and(|address: IpAddr| address.is_unspecified())
    };
    routes.iter().filter(is_default).map(|route| text(route, "gw")).filter(|gateway| !gateway.is_empty()).collect()
}

/// The new entries: those that are there, without the removed ones, with the present ones replaced where they are or added at
/// the end. Entries of other writers stay as they are, and so does each entry of the default network.
///
/// `removed` are networks with interfaces, `present` the [entries](entries_of_result) of each of our interfaces. What is in both is
/// present.
pub fn merge_status(now: &[Value], removed: &[(String, String)], present: &[Vec<Value>]) -> Vec<Value> {
    let mut ours: Vec<Option<&Value>> = present.iter().flatten().map(Some).collect();
    let keys: Vec<_> = present.iter().flatten().map(key).collect();
    let mut merged = Vec::new();
    for entry in now {
        let key = self::key(entry);
        if entry.get("default") == Some(&Value::Bool(true)) {
            merged.push(entry.clone());
        } else if let Some(at) = keys.iter().position(|ours| *ours == key) {
            merged.extend(ours[at].take().cloned());
        } else if !removed.iter().any(|(network, interface)| (network.as_str(), interface.as_str()) == key) {
            merged.push(entry.clone());
        }
    }
    merged.extend(ours.into_iter().flatten().cloned());
    merged
}

/// The network and the interface of an entry.
fn key(entry: &Value) -> (&str, &str) {
    (text(entry, "name"), text(entry, "interface"))
}

/// The text of a status annotation in the form of Multus: each entry with an indentation of 4 spaces, separated by commas.
pub fn write_status(entries: &[Value]) -> String {
    let entries: Vec<String> = entries.iter().map(|entry| pretty(&Ordered(entry))).collect();
    format!("[{}]", entries.join(","))
}

fn pretty(value: &impl Serialize) -> String {
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    "));
    value.serialize(&mut serializer).expect("a JSON value has string keys, and memory takes all bytes");
    String::from_utf8(text).expect("serde_json writes UTF-8")
}

/// An entry with its keys in the order of Multus, and other keys after them.
struct Ordered<'a>(&'a Value);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let Some(entry) = self.0.as_object() else { return self.0.serialize(out) };
        let mut map = out.serialize_map(Some(entry.len()))?;
        let known = KEYS.iter().filter_map(|key| entry.get_key_value(*key));
        for (key, value) in known.chain(entry.iter().filter(|(key, _)| !KEYS.contains(&key.as_str()))) {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}
