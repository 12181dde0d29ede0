//! A ResourceSlice of `resource.k8s.io/v1`, with only what is used of it.
//!
//! Of a slice that is read, not the devices are kept but their fingerprints: the watch has them all.

use std::borrow::Cow;

use k8s_openapi::ClusterResourceScope;
use kube::{Resource, core::ObjectMeta};
use netdevice::claims::{
    DRIVER,
    slice::{Content, DeviceName, Fingerprint},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub(super) const GROUP: &str = "resource.k8s.io";
pub(super) const VERSION: &str = "v1";
pub(super) const PLURAL: &str = "resourceslices";

/// A slice as it was read.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Read")]
pub(super) struct Slice {
    pub(super) metadata: ObjectMeta,
    pub(super) node: Option<String>,
    pub(super) pool: String,
    pub(super) generation: i64,
    pub(super) count: i64,
    pub(super) devices: Vec<(Option<DeviceName>, Fingerprint)>,
    /// Of devices with a known speed.
    pub(super) speeds: Vec<(DeviceName, u32)>,
    pub(super) taints: Vec<TaintTime>,
}

/// Since when a device has a taint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TaintTime {
    pub(super) device: DeviceName,
    /// Its key and value.
    pub(super) taint: (String, String),
    pub(super) added: Value,
}

#[derive(Deserialize)]
struct Read {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: Option<String>,
    pool: Pool,
    devices: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Pool {
    name: String,
    generation: i64,
    resource_slice_count: i64,
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

impl From<Read> for Slice {
    fn from(Read { mut metadata, spec }: Read) -> Self {
        metadata.managed_fields = None;
        let Pool { name: pool, generation, resource_slice_count: count } = spec.pool;
        let (mut devices, mut speeds, mut taints) = (Vec::with_capacity(spec.devices.len()), Vec::new(), Vec::new());
        for device in &spec.devices {
            let name: Option<DeviceName> =
                device.get("name").and_then(Value::as_str).and_then(|name| name.parse().ok());
            if let Some(name) = &name {
                let speed = device.pointer("/attributes/speed/int").and_then(Value::as_u64);
                let speed = speed.and_then(|speed| u32::try_from(speed).ok()).filter(|speed| *speed > 0);
                speeds.extend(speed.map(|speed| (name.clone(), speed)));
                let of_device = device.get("taints").and_then(Value::as_array).into_iter().flatten();
                taints.extend(of_device.filter_map(Value::as_object).map(|taint| TaintTime {
                    device: name.clone(),
                    taint: (text(taint, "key").into(), text(taint, "value").into()),
                    added: taint.get("timeAdded").cloned().unwrap_or_default(),
                }));
            }
            devices.push((name, Fingerprint::of(device)));
        }
        Self { metadata, node: spec.node_name, pool, generation, count, devices, speeds, taints }
    }
}

impl Resource for Slice {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "ResourceSlice".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The Node that owns the slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) uid: String,
}

/// A slice to write. `devices` are those of the content, in the form of the API.
pub(super) fn body(name: &str, version: Option<&str>, node: &Node, content: &Content, devices: Vec<Value>) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "ResourceSlice",
        "metadata": {
            "name": name,
            "resourceVersion": version,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid, "controller": true,
            }],
        },
        "spec": {
            "driver": DRIVER,
            "nodeName": node.name,
            "pool": {"name": node.name, "generation": content.generation, "resourceSliceCount": content.count},
            "devices": devices,
        },
    })
}

/// Longest name of an object (a DNS subdomain).
const MAX_NAME: usize = 253;

/// A new name for the slice at this position. The scheduler takes slices by name. Never one that existed: the API server deletes a
/// collection by name, also what was made anew meanwhile.
pub(super) fn new_name(node: &str, position: usize, random: u64) -> String {
    let head = format!("{position:05x}-{DRIVER}-");
    let tail = format!("-{:08x}", random & 0xffff_ffff);
    let room = MAX_NAME - head.len() - tail.len();
    let node = node.get(..room).unwrap_or(node).trim_end_matches(['-', '.']);
    format!("{head}{node}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_and_no_longer_than_an_object_may_have() {
        let names: Vec<String> = [0, 1, 15, 16, 300].map(|position| new_name("node-1", position, 7)).into();
        assert_eq!(names[0], "00000-netdevice.networking.k8s.io-node-1-00000007");
        assert!(names.is_sorted());
        let long = new_name(&"a.".repeat(126), 1, u64::MAX);
        assert!(long.len() <= MAX_NAME && long.ends_with("a-ffffffff"), "{long}");
    }

    #[test]
    fn a_slice_is_read_as_it_was_written() {
        let node = Node { name: "node-1".into(), uid: "u".into() };
        let content = Content { generation: 3, count: 2, devices: vec!["eth0".parse().unwrap()] };
        let device = json!({"name": "eth0", "attributes": {"speed": {"int": 1000}}, "taints": [{"key": "a/b", "effect": "NoSchedule"}]});
        let mut written = body("x", Some("7"), &node, &content, vec![device.clone(), json!({"name": "No!"})]);
        written["spec"]["devices"][0]["taints"][0]["timeAdded"] = "2026-11-29T10:00:00Z".into();
        let slice: Slice = serde_json::from_value(written).unwrap();
        assert_eq!((slice.node.as_deref(), slice.pool.as_str()), (Some("node-1"), "node-1"));
        assert_eq!((slice.generation, slice.count), (3, 2));
        let name: DeviceName = "eth0".parse().unwrap();
        assert_eq!(slice.devices[0], (Some(name.clone()), Fingerprint::of(&device)));
        assert_eq!(slice.devices[1].0, None);
        assert_eq!(slice.speeds, [(name.clone(), 1000)]);
        let since =
            TaintTime { device: name, taint: ("a/b".into(), String::new()), added: "2026-11-29T10:00:00Z".into() };
        assert_eq!(slice.taints, [since]);
    }
}
