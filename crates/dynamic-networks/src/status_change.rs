//! How the entries of a Pod's status change: which are ours, and which are no longer true.

use std::collections::BTreeSet;

use netdevice::{
    InterfaceName,
    annotation::attach::is_status_name,
    networks::{NetworkSelection, Present, merge_status},
};
use serde_json::Value;

/// How a Pod's status changes. It is applied to the status at that moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StatusChange {
    /// Entries that are no longer true.
    pub(crate) removed: Vec<(String, String)>,
    /// The entries of each interface that this program plugged.
    pub(crate) present: Vec<Vec<Value>>,
}

impl StatusChange {
    pub(crate) fn apply(&self, now: &[Value]) -> Vec<Value> {
        merge_status(now, &self.removed, &self.present)
    }
}

/// Whether it is the entry of the cluster's default network.
pub(crate) fn is_default(entry: &Value) -> bool {
    entry.get("default").and_then(Value::as_bool).unwrap_or(false)
}

/// Network and interface of an entry; none if its network has no NetworkAttachmentDefinition.
pub(crate) fn key(entry: &Value) -> Option<(String, String)> {
    names(entry).filter(|(name, _)| name.contains('/') && !is_status_name(name))
}

fn names(entry: &Value) -> Option<(String, String)> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    Some((text("name")?, text("interface")?))
}

/// Entries of listed devices. Those that are not present are removed.
pub(crate) fn of_devices(status: &[Value]) -> Vec<(String, String)> {
    status.iter().filter_map(names).filter(|(name, _)| is_status_name(name)).collect()
}

/// Entries of interfaces that are neither there nor requested.
pub(crate) fn stale(
    status: &[Value],
    wanted: &[NetworkSelection],
    links: &BTreeSet<InterfaceName>,
    presents: &[Present],
) -> Vec<(String, String)> {
    let is_stale = |(network, interface): &(String, String)| {
        let is_wanted = wanted.iter().any(|selection| selection.network() == *network);
        let is_there = links.iter().any(|link| link.to_string() == *interface)
            || presents.iter().any(|present| present.interface.to_string() == *interface);
        !is_wanted && !is_there
    };
    status.iter().filter(|entry| !is_default(entry)).filter_map(key).filter(is_stale).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_neither_there_nor_requested_is_stale() {
        let status = [
            json!({"name": "cbr0", "interface": "eth0", "default": true}),
            json!({"name": "default/gone", "interface": "net1"}),
            json!({"name": "default/there", "interface": "net2"}),
            json!({"name": "default/ours", "interface": "net3"}),
            json!({"name": "default/wanted", "interface": "net4"}),
            json!({"name": "by-a-file", "interface": "net5"}),
            json!({"name": "netdevice.networking.k8s.io/eth1", "interface": "eth1"}),
        ];
        let wanted = [NetworkSelection::of("default", "wanted")];
        let links = BTreeSet::from(["net2".parse().unwrap()]);
        let ours = Present { network: "default/ours".into(), interface: "net3".parse().unwrap(), request: None };
        assert_eq!(stale(&status, &wanted, &links, &[ours]), [("default/gone".to_owned(), "net1".to_owned())]);
        let device = ("netdevice.networking.k8s.io/eth1".to_owned(), "eth1".to_owned());
        assert_eq!(of_devices(&status), [device]);
        assert_eq!(key(&status[6]), None, "it is not a network, and never Multus'");
    }
}
