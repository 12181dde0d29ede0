//! ResourceClaims, and Pods that use them.

use serde_json::{Value, json};

use crate::BUSYBOX_IMAGE;
use crate::claims::DRIVER;

/// How a Pod's container and a claim belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The container names the claim: it gets the claim's CDI devices.
    Container,
    /// Only the Pod names the claim.
    Pod,
}

/// A DeviceConfiguration with these fields.
#[must_use]
pub fn device_configuration(fields: Value) -> Value {
    let mut parameters = json!({"apiVersion": format!("{DRIVER}/v1alpha1"), "kind": "DeviceConfiguration"});
    for (key, value) in fields.as_object().into_iter().flatten() {
        parameters[key] = value.clone();
    }
    parameters
}

/// The specification of a claim.
#[derive(Debug, Clone, Default)]
pub struct ClaimSpec {
    requests: Vec<Value>,
    config: Vec<Value>,
}

impl ClaimSpec {
    /// One request `nic` for the device of that name on the host.
    #[must_use]
    pub fn device(interface: &str) -> ClaimSpec {
        ClaimSpec::default().request("nic", &by_name(interface))
    }

    /// One more request, for a device for which the CEL expression holds.
    #[must_use]
    pub fn request(self, name: &str, expression: &str) -> ClaimSpec {
        let exactly = json!({"deviceClassName": DRIVER, "selectors": [{"cel": {"expression": expression}}]});
        self.raw_request(json!({"name": name, "exactly": exactly}))
    }

    /// One more request, as it is.
    #[must_use]
    pub fn raw_request(mut self, request: Value) -> ClaimSpec {
        self.requests.push(request);
        self
    }

    /// One more DeviceConfiguration, for all requests.
    #[must_use]
    pub fn configure(self, fields: Value) -> ClaimSpec {
        self.parameters(&[], device_configuration(fields))
    }

    /// One more DeviceConfiguration, for one request.
    #[must_use]
    pub fn configure_request(self, request: &str, fields: Value) -> ClaimSpec {
        self.parameters(&[request], device_configuration(fields))
    }

    /// Parameters as they are.
    #[must_use]
    pub fn parameters(mut self, requests: &[&str], parameters: Value) -> ClaimSpec {
        self.config.push(json!({"requests": requests, "opaque": {"driver": DRIVER, "parameters": parameters}}));
        self
    }

    fn spec(&self) -> Value {
        json!({"devices": {"requests": self.requests, "config": self.config}})
    }

    /// A ResourceClaim.
    #[must_use]
    pub fn claim(&self, name: &str) -> String {
        let object = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name},
            "spec": self.spec()});
        format!("{object}\n---\n")
    }

    /// A ResourceClaimTemplate.
    #[must_use]
    pub fn template(&self, name: &str) -> String {
        let object = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
            "metadata": {"name": name}, "spec": {"spec": self.spec()}});
        format!("{object}\n---\n")
    }
}

/// The CEL expression for a device by its name on the host.
#[must_use]
pub fn by_name(interface: &str) -> String {
    format!("device.attributes[\"{DRIVER}\"].ifName == \"{interface}\"")
}

/// A Pod that uses claims.
#[derive(Debug, Clone)]
pub struct ClaimPod {
    name: String,
    claims: Vec<Value>,
    containers: Vec<Value>,
    more: Value,
}

/// Lists the interfaces first, and then sleeps until it gets a signal.
const LIST_AND_SLEEP: &str = "ip address; trap exit TERM; sleep 1000000 & wait";

impl ClaimPod {
    /// A Pod with one container `c`, whose claim `nic` is the ResourceClaim of that name.
    #[must_use]
    pub fn new(name: &str, claim: &str, level: Level) -> ClaimPod {
        ClaimPod::empty(name).claim("nic", claim).container(
            "c",
            LIST_AND_SLEEP,
            if level == Level::Container { &["nic"] } else { &[] },
        )
    }

    /// A Pod with one container `c`, whose claim `nic` is made of the ResourceClaimTemplate of that name.
    #[must_use]
    pub fn of_template(name: &str, template: &str, level: Level) -> ClaimPod {
        ClaimPod::empty(name).template("nic", template).container(
            "c",
            LIST_AND_SLEEP,
            if level == Level::Container { &["nic"] } else { &[] },
        )
    }

    /// A Pod without containers and claims.
    #[must_use]
    pub fn empty(name: &str) -> ClaimPod {
        ClaimPod { name: name.to_owned(), claims: Vec::new(), containers: Vec::new(), more: json!({}) }
    }

    /// One more claim.
    #[must_use]
    pub fn claim(mut self, name: &str, claim: &str) -> ClaimPod {
        self.claims.push(json!({"name": name, "resourceClaimName": claim}));
        self
    }

    /// One more claim, of a template.
    #[must_use]
    pub fn template(mut self, name: &str, template: &str) -> ClaimPod {
        self.claims.push(json!({"name": name, "resourceClaimTemplateName": template}));
        self
    }

    /// One more container, and the claims that it names.
    #[must_use]
    pub fn container(mut self, name: &str, script: &str, claims: &[&str]) -> ClaimPod {
        let claims: Vec<Value> = claims.iter().map(|claim| json!({"name": claim})).collect();
        self.containers.push(json!({"name": name, "image": BUSYBOX_IMAGE, "command": ["sh", "-c", script],
            "resources": {"claims": claims}}));
        self
    }

    /// One more container with an extended resource.
    #[must_use]
    pub fn limited_container(mut self, name: &str, resource: &str, count: u32) -> ClaimPod {
        let limits = json!({resource: count.to_string()});
        self.containers.push(json!({"name": name, "image": BUSYBOX_IMAGE, "command": ["sh", "-c", LIST_AND_SLEEP],
            "resources": {"limits": limits}}));
        self
    }

    /// One more field of the Pod's specification.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> ClaimPod {
        self.more[field] = value;
        self
    }

    /// The Pod as text.
    #[must_use]
    pub fn manifest(&self) -> String {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name},
            "spec": {"terminationGracePeriodSeconds": 1, "resourceClaims": self.claims, "containers": self.containers}});
        for (key, value) in self.more.as_object().into_iter().flatten() {
            pod["spec"][key] = value.clone();
        }
        format!("{pod}\n---\n")
    }
}
