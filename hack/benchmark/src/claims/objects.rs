//! Claims that are allocated by hand to Pods which no kubelet starts: so only the benchmark prepares them.

use anyhow::{Context, Result};
use e2e::{BUSYBOX_IMAGE, ClaimSpec, DRIVER, device_configuration};
use proto::dra;
use serde_json::{Value, json};

use super::cluster::Cluster;

/// A Node without a kubelet, on which the Pods are.
const ELSEWHERE: &str = "elsewhere";

/// A claim, and the Pod that it is for.
pub(super) struct PreparedPod {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) claim: dra::Claim,
}

/// Makes a Pod and a claim with the same name, and gives it the device; `configuration` are fields of a DeviceConfiguration.
pub(super) fn pod_with_claim(
    cluster: &Cluster<'_>,
    name: &str,
    device: &str,
    configuration: Option<Value>,
) -> Result<PreparedPod> {
    let node = &cluster.node;
    let elsewhere = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": ELSEWHERE}});
    node.apply(&elsewhere.to_string());
    let spec = ClaimSpec::device(device);
    let spec = configuration.clone().map_or_else(|| spec.clone(), |fields| spec.clone().configure(fields));
    node.apply(&spec.claim(name));
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": ELSEWHERE, "tolerations": [{"operator": "Exists"}],
            "resourceClaims": [{"name": "nic", "resourceClaimName": name}],
            "containers": [{"name": "c", "image": BUSYBOX_IMAGE, "resources": {"claims": [{"name": "nic"}]}}]}});
    node.apply(&pod.to_string());
    let uid = |kind: &str| -> Result<String> {
        let object = node.get(&[kind, name]);
        Ok(object["metadata"]["uid"].as_str().with_context(|| format!("{kind} {name} has no uid"))?.to_owned())
    };
    let (pod, claim) = (uid("pod")?, uid("resourceclaim")?);
    let config: Vec<Value> = configuration
        .into_iter()
        .map(|fields| {
            json!({"source": "FromClaim", "requests": [],
                "opaque": {"driver": DRIVER, "parameters": device_configuration(fields)}})
        })
        .collect();
    let results = json!([{"request": "nic", "driver": DRIVER, "pool": node.name(), "device": device}]);
    let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node.name()]}]});
    let status = json!({"status": {
        "allocation": {"devices": {"results": results, "config": config}, "nodeSelector": {"nodeSelectorTerms": [term]}},
        "reservedFor": [{"resource": "pods", "name": name, "uid": pod}],
    }});
    let path = format!("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/{name}/status");
    cluster.proxy.patch(&path, &status)?;
    // as a claim that was made by a template is: it cannot be another Pod's too
    let metadata = json!({"metadata": {"annotations": {"resource.kubernetes.io/pod-claim-name": "nic"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod, "controller": true}]}});
    cluster.proxy.patch(path.trim_end_matches("/status"), &metadata)?;
    let claim = dra::Claim { namespace: "default".into(), uid: claim, name: name.into() };
    Ok(PreparedPod { name: name.into(), uid: pod, claim })
}
