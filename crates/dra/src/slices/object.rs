//! A ResourceSlice of `resource.k8s.io/v1`, with only what is used of it.
//!
//! Of a slice that is read, not the devices are kept but their fingerprints: the watch has them all.

use std::{borrow::Cow, fmt};

use k8s_openapi::ClusterResourceScope;
use kube::{Resource, core::ObjectMeta};
use netdevice::claims::{
    DRIVER,
    slice::{Content, DeviceName, Fingerprint, Members, SliceDevice},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, json};

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
    /// Null of an empty slice, in Kubernetes 1.34.
    devices: Option<Vec<Device>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Pool {
    name: String,
    generation: i64,
    resource_slice_count: i64,
}

/// A device of a slice that is read, without most of its attributes.
struct Device {
    name: Option<DeviceName>,
    fingerprint: Fingerprint,
    speed: Option<u32>,
    taints: Vec<Value>,
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DeviceReader)
    }
}

struct DeviceReader;

impl<'de> Visitor<'de> for DeviceReader {
    type Value = Device;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a device")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<Device, A::Error> {
        let (mut members, mut name, mut speed, mut taints) = (Members::default(), None, None, Vec::new());
        while let Some(key) = values.next_key::<String>()? {
            let fingerprint = match key.as_str() {
                "name" => {
                    let value: Value = values.next_value()?;
                    name = value.as_str().and_then(|name| name.parse().ok());
                    Fingerprint::of(&value)
                }
                "attributes" => {
                    let attributes: Attributes = values.next_value()?;
                    speed = attributes.speed;
                    attributes.fingerprint
                }
                "taints" => {
                    let value: Value = values.next_value()?;
                    let fingerprint = Fingerprint::of(&value);
                    taints = if let Value::Array(taints) = value { taints } else { Vec::new() };
                    fingerprint
                }
                _ => values.next_value()?,
            };
            members.add(&key, fingerprint);
        }
        Ok(Device { name, fingerprint: members.fingerprint(), speed, taints })
    }
}

struct Attributes {
    fingerprint: Fingerprint,
    speed: Option<u32>,
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AttributesReader)
    }
}

struct AttributesReader;

impl<'de> Visitor<'de> for AttributesReader {
    type Value = Attributes;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("attributes")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<Attributes, A::Error> {
        let (mut members, mut speed) = (Members::default(), None);
        while let Some(key) = values.next_key::<String>()? {
            let fingerprint = if key == "speed" {
                let value: Value = values.next_value()?;
                speed = value["int"].as_u64().and_then(|speed| u32::try_from(speed).ok()).filter(|speed| *speed > 0);
                Fingerprint::of(&value)
            } else {
                values.next_value()?
            };
            members.add(&key, fingerprint);
        }
        Ok(Attributes { fingerprint: members.fingerprint(), speed })
    }
}

impl From<Read> for Slice {
    fn from(Read { mut metadata, spec }: Read) -> Self {
        metadata.managed_fields = None;
        let Pool { name: pool, generation, resource_slice_count: count } = spec.pool;
        let read = spec.devices.unwrap_or_default();
        let (mut devices, mut speeds, mut taints) = (Vec::with_capacity(read.len()), Vec::new(), Vec::new());
        for Device { name, fingerprint, speed, taints: of_device } in read {
            if let Some(name) = &name {
                speeds.extend(speed.map(|speed| (name.clone(), speed)));
                taints.extend(of_device.into_iter().map(|mut taint| {
                    let text = |key: &str| taint[key].as_str().unwrap_or_default().to_owned();
                    let (key, value) = (text("key"), text("value"));
                    let added = taint.get_mut("timeAdded").map(Value::take).unwrap_or_default();
                    TaintTime { device: name.clone(), taint: (key, value), added }
                }));
            }
            devices.push((name, fingerprint));
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) uid: String,
}

/// A device to write.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Written {
    /// As it is.
    Published(Box<SliceDevice>),
    /// In the form of the API, with what the API server has added.
    Completed(Value),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Object<'a> {
    api_version: String,
    kind: &'a str,
    metadata: Value,
    spec: SpecToWrite<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpecToWrite<'a> {
    driver: &'a str,
    node_name: &'a str,
    pool: Value,
    devices: &'a [Written],
}

/// A slice to write, as text. `devices` are those of the content.
pub(super) fn body(
    name: &str,
    version: Option<&str>,
    node: &Node,
    content: &Content,
    devices: &[Written],
) -> serde_json::Result<Vec<u8>> {
    // One empty entry: the API server keeps no fields of managers for the slice, which would take a seventh of the time of an update.
    // Not when it is created, where that has no effect.
    let managed_fields = version.map(|_| [json!({})]);
    let metadata = json!({
        "name": name,
        "resourceVersion": version,
        "managedFields": managed_fields,
        "ownerReferences": [{
            "apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid, "controller": true,
        }],
    });
    let pool = json!({"name": node.name, "generation": content.generation, "resourceSliceCount": content.count});
    serde_json::to_vec(&Object {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: "ResourceSlice",
        metadata,
        spec: SpecToWrite { driver: DRIVER, node_name: &node.name, pool, devices },
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
    fn a_slice_without_devices_is_read_as_each_version_writes_it() {
        for devices in [json!({"devices": null}), json!({"devices": []}), json!({})] {
            let mut spec = json!({"nodeName": "n", "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1}});
            spec.as_object_mut().unwrap().extend(devices.as_object().unwrap().clone());
            let slice: Slice = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            assert!(slice.devices.is_empty());
        }
    }

    #[test]
    fn a_slice_is_read_as_it_was_written() {
        let node = Node { name: "node-1".into(), uid: "u".into() };
        let content = Content { generation: 3, count: 2, devices: vec!["eth0".parse().unwrap()] };
        let device = json!({"name": "eth0", "attributes": {"speed": {"int": 1000}}, "taints": [{"key": "a/b", "effect": "NoSchedule"}]});
        let devices = [device.clone(), json!({"name": "No!"})].map(Written::Completed);
        let written = body("x", Some("7"), &node, &content, &devices).unwrap();
        let mut written: Value = serde_json::from_slice(&written).unwrap();
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
