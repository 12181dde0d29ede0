//! One element of the annotation.

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::name::InterfaceName;

/// One element of the annotation. Addresses are in their usual form: `2001:db8::1/64`, `02:00:00:00:00:0a`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NetworkSelection {
    /// The namespace of the NetworkAttachmentDefinition.
    pub namespace: String,
    /// The name of the NetworkAttachmentDefinition.
    pub name: String,
    /// The name of the interface in the Pod, where the element has one.
    pub interface: Option<InterfaceName>,
    /// IP addresses with or without a prefix length.
    pub ips: Vec<String>,
    /// A hardware address of 6, 8 or 20 bytes.
    pub mac: Option<String>,
    /// An InfiniBand GUID, 8 bytes.
    pub infiniband_guid: Option<String>,
    /// An object with those of ingressRate, ingressBurst, egressRate and egressBurst (bit/s and bits) that are not 0.
    pub bandwidth: Option<Value>,
    /// A list of objects with hostPort, containerPort, protocol and perhaps hostIP.
    pub port_mappings: Option<Value>,
    /// The gateways of the Pod's default route, at most one of each family. An empty list keeps the plugin's own.
    pub default_route: Option<Vec<IpAddr>>,
    /// Is merged into `args.cni` of every plugin of the chain.
    pub cni_args: Option<Map<String, Value>>,
    /// The name of an IPAMClaim in the Pod's namespace.
    pub ipam_claim_reference: Option<String>,
    /// The id of a device of a device plugin.
    pub device_id: Option<String>,
}

impl NetworkSelection {
    /// An element that names a NetworkAttachmentDefinition and nothing else.
    pub fn of(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into(), ..Self::default() }
    }

    /// `namespace/name`, as the status annotation has it.
    pub fn network(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The values for `runtimeConfig`, by capability: those that the element has.
    pub fn capabilities(&self) -> Map<String, Value> {
        let mut capabilities = Map::new();
        if !self.ips.is_empty() {
            capabilities.insert("ips".into(), self.ips.clone().into());
        }
        let text = |text: &Option<String>| text.clone().map(Value::from);
        let others = [
            ("mac", text(&self.mac)),
            ("bandwidth", self.bandwidth.clone()),
            ("portMappings", self.port_mappings.clone()),
            ("infinibandGUID", text(&self.infiniband_guid)),
            ("deviceID", text(&self.device_id)),
        ];
        capabilities.extend(others.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        capabilities
    }

    /// The pairs for `CNI_ARGS`: `IP` with all addresses, and `MAC`.
    pub fn arguments(&self) -> Vec<(String, String)> {
        let ips = (!self.ips.is_empty()).then(|| ("IP".to_owned(), self.ips.join(",")));
        let mac = self.mac.clone().map(|mac| ("MAC".to_owned(), mac));
        ips.into_iter().chain(mac).collect()
    }

    /// All that the element requests, without the name of the interface, as a JSON object with the keys of the annotation.
    /// Two elements that request the same have equal values, in whatever form they were written.
    pub fn to_request(&self) -> Value {
        let text = |text: &Option<String>| text.clone().map(Value::from);
        let gateways = |gateways: &Vec<IpAddr>| Value::from_iter(gateways.iter().map(IpAddr::to_string));
        let cni_args = self.cni_args.as_ref().filter(|arguments| !arguments.is_empty());
        let pairs = [
            ("namespace", Some(self.namespace.clone().into())),
            ("name", Some(self.name.clone().into())),
            ("ips", (!self.ips.is_empty()).then(|| self.ips.clone().into())),
            ("mac", text(&self.mac)),
            ("infiniband-guid", text(&self.infiniband_guid)),
            ("bandwidth", self.bandwidth.clone()),
            ("portMappings", self.port_mappings.clone()),
            ("default-route", self.default_route.as_ref().map(gateways)),
            ("cni-args", cni_args.cloned().map(Value::from)),
            ("ipam-claim-reference", text(&self.ipam_claim_reference)),
            ("deviceID", text(&self.device_id)),
        ];
        Value::Object(pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
    }
}
