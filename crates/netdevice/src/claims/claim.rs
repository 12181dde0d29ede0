//! What a ResourceClaim allocates of this node.

use serde::Deserialize;

use super::DRIVER;
use crate::json::AsWritten;

/// Longest claim that is read, in bytes. The API server stores at most 1.5 MiB.
pub const MAX_CLAIM: usize = 2 << 20;

/// A claim that is allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// UID: another claim may later have the same name.
    pub uid: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// What the Pod calls it, if it was made of a template.
    pub pod_claim_name: Option<String>,
    /// Whether it was made for one Pod, which owns it.
    pub is_of_one_pod: bool,
    /// Whether the scheduler made it for an extended resource. Then the kubelet gives its devices to the containers.
    pub is_extended_resource: bool,
    /// The Pods that may use it, the first one first.
    pub reserved_for: Vec<Consumer>,
    /// Our devices, in the order of the allocation.
    pub allocations: Vec<Allocation>,
}

/// A Pod that may use a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// Name, in the namespace of the claim.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// A device of ours in a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// The request, `request` or `request/subrequest`.
    pub request: String,
    /// Name in the ResourceSlice.
    pub device: String,
    /// Which of several allocations of a shared device.
    pub share_id: Option<String>,
    /// Whether it is for administration: others keep the device, and it does not move.
    pub is_admin: bool,
    /// Our opaque parameters for the request, of the class first: a later one wins.
    pub parameters: Vec<Vec<u8>>,
}

impl Allocation {
    /// The request without the subrequest, as containers name it.
    pub fn main_request(&self) -> &str {
        main_request(&self.request)
    }
}

fn main_request(request: &str) -> &str {
    request.split_once('/').map_or(request, |(main, _)| main)
}

/// Why a claim cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Not a claim.
    #[error("invalid ResourceClaim: {0}")]
    Form(String),
    /// Longer than any claim.
    #[error("the ResourceClaim has {0} bytes: the limit is {MAX_CLAIM}")]
    TooLong(usize),
    /// It is allocated no more, or not yet.
    #[error("the claim is not allocated: wait for the scheduler, or create the claim and its pod anew")]
    NotAllocated,
    /// A device of ours of another node.
    #[error("device {device} is of the pool {pool}, and the pool of this node is {node}: create the pod anew")]
    OtherPool {
        /// The device.
        device: String,
        /// Its pool.
        pool: String,
        /// Ours.
        node: String,
    },
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
    #[serde(default)]
    annotations: Option<Annotations>,
    #[serde(default)]
    owner_references: Option<Vec<OwnerReference>>,
}

#[derive(Deserialize)]
struct OwnerReference {
    kind: String,
}

#[derive(Default, Deserialize)]
struct Annotations {
    #[serde(rename = "resource.kubernetes.io/pod-claim-name")]
    pod_claim_name: Option<String>,
    #[serde(rename = "resource.kubernetes.io/extended-resource-claim")]
    extended_resource_claim: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    allocation: Option<Allocated>,
    #[serde(default)]
    reserved_for: Option<Vec<Reference>>,
}

#[derive(Deserialize)]
struct Reference {
    #[serde(default)]
    resource: String,
    name: String,
    #[serde(default)]
    uid: String,
}

#[derive(Deserialize)]
struct Allocated {
    #[serde(default)]
    devices: Option<Devices>,
}

#[derive(Default, Deserialize)]
struct Devices {
    #[serde(default)]
    results: Option<Vec<DeviceResult>>,
    #[serde(default)]
    config: Option<Vec<DeviceConfig>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeviceResult {
    request: String,
    driver: String,
    pool: String,
    device: String,
    #[serde(default)]
    admin_access: Option<bool>,
    #[serde(default, rename = "shareID")]
    share_id: Option<String>,
}

#[derive(Deserialize)]
struct DeviceConfig {
    #[serde(default)]
    source: String,
    #[serde(default)]
    requests: Option<Vec<String>>,
    #[serde(default)]
    opaque: Option<Opaque>,
}

#[derive(Deserialize)]
struct Opaque {
    driver: String,
    /// As it is written: a key may be there twice.
    #[serde(default)]
    parameters: Option<AsWritten>,
}

impl DeviceConfig {
    /// A configuration for a request is also for its subrequests.
    fn is_for(&self, request: &str) -> bool {
        let requests = self.requests.as_deref().unwrap_or_default();
        requests.is_empty() || requests.iter().any(|name| name == request || name == main_request(request))
    }

    fn parameters(&self) -> Option<Vec<u8>> {
        let opaque = self.opaque.as_ref().filter(|opaque| opaque.driver == DRIVER)?;
        serde_json::to_vec(&opaque.parameters).ok()
    }
}

impl Claim {
    /// Reads a claim as the API server returns it, for the node of that name. Parameters may contain invalid UTF-8, which the
    /// API server takes and returns.
    ///
    /// # Errors
    ///
    /// When it is no claim, is not allocated, or has a device of ours that is of another node.
    pub fn read(text: &[u8], node: &str) -> Result<Self, ClaimError> {
        if text.len() > MAX_CLAIM {
            return Err(ClaimError::TooLong(text.len()));
        }
        let object: Object = serde_json::from_str(&String::from_utf8_lossy(text))
            .map_err(|error| ClaimError::Form(error.to_string()))?;
        let Object { metadata, status } = object;
        let Metadata { name, namespace, uid, annotations, owner_references } = metadata;
        let Status { allocation, reserved_for } = status.unwrap_or_default();
        let Devices { results, config } = allocation.ok_or(ClaimError::NotAllocated)?.devices.unwrap_or_default();
        let mut config = config.unwrap_or_default();
        // what is not of the class is of the claim
        config.sort_by_key(|config| config.source != "FromClass");
        let ours = results.unwrap_or_default().into_iter().filter(|result| result.driver == DRIVER);
        let allocations = ours.map(|DeviceResult { request, pool, device, admin_access, share_id, .. }| {
            if pool != node {
                return Err(ClaimError::OtherPool { device, pool, node: node.to_owned() });
            }
            let parameters = config.iter().filter(|config| config.is_for(&request));
            let parameters = parameters.filter_map(DeviceConfig::parameters).collect();
            Ok(Allocation { request, device, share_id, is_admin: admin_access == Some(true), parameters })
        });
        let pods = reserved_for.unwrap_or_default().into_iter().filter(|reference| reference.resource == "pods");
        let annotations = annotations.unwrap_or_default();
        Ok(Self {
            uid,
            namespace,
            name,
            is_of_one_pod: owner_references.unwrap_or_default().iter().any(|owner| owner.kind == "Pod"),
            pod_claim_name: annotations.pod_claim_name,
            is_extended_resource: annotations.extended_resource_claim.as_deref() == Some("true"),
            reserved_for: pods.map(|Reference { name, uid, .. }| Consumer { name, uid }).collect(),
            allocations: allocations.collect::<Result<_, _>>()?,
        })
    }

    /// Whether it was made for one Pod: from a template, or for an extended resource.
    pub fn is_of_its_pod(&self) -> bool {
        self.is_extended_resource || self.is_of_one_pod && self.pod_claim_name.is_some()
    }

    /// Whether the Pod with that UID may use the claim.
    pub fn is_reserved_for(&self, pod: &str) -> bool {
        self.reserved_for.iter().any(|consumer| consumer.uid == pod)
    }
}

/// Whether a text can be a UID: it becomes part of file names and of CDI names.
pub fn is_uid(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric();
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| is_letter(byte) || byte == b'-')
        && text.bytes().next().is_some_and(is_letter)
        && text.bytes().last().is_some_and(is_letter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn claim(status: &Value) -> Vec<u8> {
        let text = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {
                "name": "web-fast-abcde", "namespace": "default", "uid": "0c1d",
                "annotations": {"resource.kubernetes.io/pod-claim-name": "fast"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "p1"}],
            },
            "spec": {"devices": {}},
            "status": status,
        });
        text.to_string().into_bytes()
    }

    fn result(request: &str, driver: &str, device: &str) -> Value {
        json!({"request": request, "driver": driver, "pool": "node-1", "device": device})
    }

    fn config(source: &str, requests: &[&str], driver: &str, name: &str) -> Value {
        json!({
            "source": source, "requests": requests,
            "opaque": {"driver": driver, "parameters": {"name": name}},
        })
    }

    #[test]
    fn our_devices_are_read_with_their_parameters_class_before_claim() {
        let mut shared = result("b/vf", DRIVER, "eth2");
        shared["shareID"] = "5a".into();
        let mut admin = result("c", DRIVER, "eth3");
        admin["adminAccess"] = true.into();
        let status = json!({
            "allocation": {"devices": {
                "results": [result("a", DRIVER, "eth1"), result("a", "gpu.example.com", "gpu0"), shared, admin],
                "config": [
                    config("FromClaim", &["a"], DRIVER, "claim-a"),
                    config("FromClaim", &[], "gpu.example.com", "other-driver"),
                    config("FromClass", &["a"], DRIVER, "class-a"),
                    config("FromClass", &["b/vf"], DRIVER, "class-b"),
                    config("FromClaim", &["b"], DRIVER, "claim-b"),
                    config("FromClaim", &[], DRIVER, "claim-all"),
                ],
            }},
            "reservedFor": [
                {"resource": "pods", "name": "web", "uid": "p1"},
                {"apiGroup": "scheduling.k8s.io", "resource": "podgroups", "name": "group", "uid": "g1"},
            ],
        });
        let claim = Claim::read(&claim(&status), "node-1").unwrap();
        assert_eq!((claim.uid.as_str(), claim.pod_claim_name.as_deref()), ("0c1d", Some("fast")));
        assert!(
            claim.is_of_its_pod()
                && !claim.is_extended_resource
                && claim.is_reserved_for("p1")
                && !claim.is_reserved_for("g1")
        );
        let names = |allocation: &Allocation| -> Vec<String> {
            let parsed = allocation.parameters.iter().map(|text| serde_json::from_slice::<Value>(text).unwrap());
            parsed.map(|value| value["name"].as_str().unwrap().to_owned()).collect()
        };
        let table: Vec<_> = claim
            .allocations
            .iter()
            .map(|it| (it.main_request(), it.device.as_str(), it.share_id.as_deref(), it.is_admin, names(it)))
            .collect();
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            table,
            [
                ("a", "eth1", None, false, texts(&["class-a", "claim-a", "claim-all"])),
                ("b", "eth2", Some("5a"), false, texts(&["class-b", "claim-b", "claim-all"])),
                ("c", "eth3", None, true, texts(&["claim-all"])),
            ]
        );
    }

    #[test]
    fn a_key_that_is_twice_in_the_parameters_is_still_there_twice() {
        let status = json!({"allocation": {"devices": {
            "results": [result("a", DRIVER, "eth1")],
            "config": [config("FromClaim", &[], DRIVER, "MARK")],
        }}});
        let text =
            String::from_utf8(claim(&status)).unwrap().replace(r#"{"name":"MARK"}"#, r#"{"name":"a","name":"b"}"#);
        let claim = Claim::read(text.as_bytes(), "node-1").unwrap();
        assert_eq!(claim.allocations[0].parameters, [br#"{"name":"a","name":"b"}"#]);
    }

    #[test]
    fn parameters_that_are_not_utf_8_are_read() {
        let status = json!({"allocation": {"devices": {
            "results": [result("a", DRIVER, "eth1")],
            "config": [config("FromClaim", &[], DRIVER, "MARK")],
        }}});
        let text = claim(&status);
        let at = text.windows(4).position(|window| window == b"MARK").unwrap();
        let mut text = text;
        text[at] = 0xff;
        let claim = Claim::read(&text, "node-1").unwrap();
        assert!(String::from_utf8_lossy(&claim.allocations[0].parameters[0]).contains("\u{fffd}ARK"));
    }

    #[test]
    fn a_claim_that_is_not_allocated_or_of_another_node_is_refused() {
        for status in [json!(null), json!({}), json!({"allocation": null})] {
            assert_eq!(Claim::read(&claim(&status), "node-1"), Err(ClaimError::NotAllocated));
        }
        let status = json!({"allocation": {"devices": {"results": [result("a", DRIVER, "eth1")]}}});
        let error = Claim::read(&claim(&status), "node-2").unwrap_err().to_string();
        assert_eq!(
            error,
            "device eth1 is of the pool node-1, and the pool of this node is node-2: create the pod anew"
        );
        assert!(Claim::read(&claim(&json!({"allocation": {}})), "node-1").unwrap().allocations.is_empty());
        assert!(matches!(Claim::read(&vec![b' '; MAX_CLAIM + 1], "node-1"), Err(ClaimError::TooLong(_))));
    }

    #[test]
    fn a_uid_is_safe_in_a_file_name() {
        assert!(is_uid("0c1d5b7e-0a0b-4c4d-8e8f-000000000000"));
        for text in ["", "-a", "a-", "../a", "a/b", &"a".repeat(65)] {
            assert!(!is_uid(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Claim::read(&text, "node-1");
        }
    }
}
