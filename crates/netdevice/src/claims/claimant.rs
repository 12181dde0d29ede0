//! The Pod for which a claim is prepared: whether its containers name the claim.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::claim::{Allocation, Claim};

/// What matters of a Pod for its claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimant {
    /// UID.
    pub uid: String,
    /// Whether it has no network namespace of its own.
    pub is_host_network: bool,
    /// What its containers name: by the Pod's name of a claim, the request or all of them.
    named: BTreeSet<(String, Option<String>)>,
    /// The Pod's names of claims and the claims' names.
    names: BTreeSet<(String, String)>,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Deserialize)]
struct Metadata {
    uid: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    host_network: Option<bool>,
    #[serde(default)]
    resource_claims: Option<Vec<PodClaim>>,
    #[serde(default)]
    containers: Option<Vec<Container>>,
    #[serde(default)]
    init_containers: Option<Vec<Container>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodClaim {
    name: String,
    #[serde(default)]
    resource_claim_name: Option<String>,
}

#[derive(Deserialize)]
struct Container {
    #[serde(default)]
    resources: Option<Resources>,
}

#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    claims: Option<Vec<Named>>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(default)]
    request: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    resource_claim_statuses: Option<Vec<PodClaim>>,
}

impl Claimant {
    /// Reads a Pod as the API server returns it.
    ///
    /// # Errors
    ///
    /// When it is no Pod.
    pub fn read(text: &[u8]) -> serde_json::Result<Self> {
        let Object { metadata, spec, status } = serde_json::from_str(&String::from_utf8_lossy(text))?;
        let containers = [spec.containers, spec.init_containers].into_iter().flatten().flatten();
        let named = containers.filter_map(|container| container.resources?.claims).flatten();
        let statuses = status.unwrap_or_default().resource_claim_statuses;
        let claims = [spec.resource_claims, statuses].into_iter().flatten().flatten();
        Ok(Self {
            uid: metadata.uid,
            is_host_network: spec.host_network == Some(true),
            named: named.map(|named| (named.name, named.request.filter(|request| !request.is_empty()))).collect(),
            names: claims.filter_map(|claim| Some((claim.name, claim.resource_claim_name?))).collect(),
        })
    }

    /// Whether the Pod has this claim as one of its own. If not, it was read before the claim was made for it.
    pub fn knows(&self, claim: &Claim) -> bool {
        claim.is_extended_resource || self.names.iter().any(|(_, name)| *name == claim.name)
    }

    /// Whether a container names the request of the claim, so that it does not start without the device.
    pub fn names(&self, claim: &Claim, allocation: &Allocation) -> bool {
        let mut names = self.names.iter().filter(|(_, name)| *name == claim.name);
        let is_named =
            |request: Option<&str>, name: &String| self.named.contains(&(name.clone(), request.map(str::to_owned)));
        claim.is_extended_resource
            || names.any(|(name, _)| is_named(None, name) || is_named(Some(allocation.main_request()), name))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_is_named_by_a_container_or_only_by_the_pod() {
        let pod = json!({
            "metadata": {"uid": "p1"},
            "spec": {
                "resourceClaims": [
                    {"name": "fast", "resourceClaimTemplateName": "t"},
                    {"name": "own", "resourceClaimName": "claim"},
                ],
                "containers": [{"resources": {"claims": [{"name": "fast", "request": "nic"}]}}, {}],
                "initContainers": [{"resources": {"claims": [{"name": "own"}]}}],
            },
            "status": {"resourceClaimStatuses": [{"name": "fast", "resourceClaimName": "web-fast-1"}]},
        });
        let claimant = Claimant::read(pod.to_string().as_bytes()).unwrap();
        assert!(!claimant.is_host_network);
        let is_named = |name: &str, request: &str, is_extended_resource| {
            let claim = Claim {
                uid: "c".into(),
                namespace: "default".into(),
                name: name.into(),
                pod_claim_name: None,
                is_of_one_pod: false,
                is_extended_resource,
                reserved_for: Vec::new(),
                allocations: Vec::new(),
            };
            let allocation = Allocation {
                request: request.into(),
                device: "eth1".into(),
                share_id: None,
                is_admin: false,
                parameters: Vec::new(),
            };
            claimant.names(&claim, &allocation)
        };
        assert!(is_named("web-fast-1", "nic", false) && is_named("web-fast-1", "nic/vf", false));
        assert!(is_named("claim", "any", false) && is_named("extended", "container-0-request-0", true));
        assert!(!is_named("web-fast-1", "other", false) && !is_named("another", "nic", false));
        let host = json!({"metadata": {"uid": "p"}, "spec": {"hostNetwork": true, "containers": null}});
        assert!(Claimant::read(host.to_string().as_bytes()).unwrap().is_host_network);
        assert!(Claimant::read(b"[]").is_err());
    }
}
