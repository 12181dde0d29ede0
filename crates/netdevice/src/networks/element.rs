//! Reads one element of the annotation.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::{NetworkSelection, NetworksError, address};
use crate::{name::InterfaceName, name::MAX_NAME_LEN, sandbox_name::SandboxInterfaceName};

/// The rule of a namespace, and of a name in a comma list.
pub(super) const LABEL: &str = "must be a DNS label: lower case letters, digits and \"-\"";
const SUBDOMAIN: &str = "must be a DNS subdomain: lower case letters, digits, \"-\" and \".\"";

/// Longest id of a device in bytes: a PCI address has 12, the path of an auxiliary device some 100.
const MAX_DEVICE_ID: usize = 253;

/// Reads the element at `position`, from 1.
pub(super) fn read(
    position: usize,
    keys: &Map<String, Value>,
    pod_namespace: &str,
) -> Result<NetworkSelection, NetworksError> {
    let element = Element { position, keys };
    let namespace = element.checked("namespace", LABEL, is_label)?.unwrap_or(pod_namespace);
    let Some(name) = element.checked("name", SUBDOMAIN, is_subdomain)? else {
        return Err(element.error("name", "is required"));
    };
    let selection = NetworkSelection {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        interface: element.interface()?,
        ips: element.ips()?,
        mac: element.hardware("mac", &[6, 8, 20], "must be a hardware address: 02:00:00:00:00:01")?,
        infiniband_guid: element.hardware("infiniband-guid", &[8], "must be 8 bytes: 02:00:00:00:00:00:00:01")?,
        bandwidth: element.bandwidth()?,
        port_mappings: element.port_mappings()?,
        default_route: element.default_route()?,
        cni_args: element.object("cni-args")?.cloned(),
        ipam_claim_reference: element.checked("ipam-claim-reference", SUBDOMAIN, is_subdomain)?.map(str::to_owned),
        device_id: element
            .checked("deviceID", "must have at most 253 bytes", |id| id.len() <= MAX_DEVICE_ID)?
            .map(str::to_owned),
    };
    if selection.ipam_claim_reference.is_some() && !selection.ips.is_empty() {
        return Err(element.error("ipam-claim-reference", "cannot be used together with ips"));
    }
    Ok(selection)
}

/// The keys of an element, or of an object in it. `null` is the same as no key, as in Go.
struct Element<'a> {
    position: usize,
    keys: &'a Map<String, Value>,
}

impl<'a> Element<'a> {
    fn error(&self, key: &'static str, problem: &'static str) -> NetworksError {
        NetworksError::Key { element: self.position, key, problem }
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    /// A string; the empty one is the same as no key.
    fn text(&self, key: &'static str) -> Result<Option<&'a str>, NetworksError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| self.error(key, "must be a string"))?;
        Ok((!text.is_empty()).then_some(text))
    }

    fn list(&self, key: &'static str) -> Result<Option<&'a Vec<Value>>, NetworksError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_array().map(Some).ok_or_else(|| self.error(key, "must be a list"))
    }

    fn object(&self, key: &'static str) -> Result<Option<&'a Map<String, Value>>, NetworksError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_object().map(Some).ok_or_else(|| self.error(key, "must be an object"))
    }

    fn checked(
        &self,
        key: &'static str,
        problem: &'static str,
        is_valid: impl Fn(&str) -> bool,
    ) -> Result<Option<&'a str>, NetworksError> {
        match self.text(key)? {
            Some(text) if !is_valid(text) => Err(self.error(key, problem)),
            text => Ok(text),
        }
    }

    fn interface(&self) -> Result<Option<InterfaceName>, NetworksError> {
        let (key, name) = match self.text("interface")? {
            Some(name) => ("interface", Some(name)),
            None => ("interfaceRequest", self.text("interfaceRequest")?),
        };
        let Some(name) = name else { return Ok(None) };
        if name.len() > MAX_NAME_LEN {
            return Err(self.error(key, "must have at most 15 bytes"));
        }
        let of_sandbox = |name: InterfaceName| SandboxInterfaceName::try_from(name);
        let name = InterfaceName::try_from(name).and_then(of_sandbox);
        let invalid = |source| NetworksError::Interface { element: self.position, source };
        Ok(Some(name.map_err(invalid)?.as_interface_name().clone()))
    }

    fn ips(&self) -> Result<Vec<String>, NetworksError> {
        let Some(list) = self.list("ips")? else { return Ok(Vec::new()) };
        let read = |value: &Value| value.as_str().and_then(address::ip);
        match list.iter().map(read).collect::<Option<Vec<_>>>() {
            Some(ips) if ips.is_empty() => Err(self.error("ips", "must have at least one address")),
            Some(ips) => Ok(ips),
            None => Err(self.error("ips", "must be IP addresses with or without a prefix length: 10.1.0.2/24")),
        }
    }

    fn hardware(
        &self,
        key: &'static str,
        lengths: &[usize],
        problem: &'static str,
    ) -> Result<Option<String>, NetworksError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        address::hardware(text, lengths).map(Some).ok_or_else(|| self.error(key, problem))
    }

    /// Rates and bursts that are not 0.
    fn bandwidth(&self) -> Result<Option<Value>, NetworksError> {
        let Some(keys) = self.object("bandwidth")? else { return Ok(None) };
        let element = Element { position: self.position, keys };
        let mut limits = Map::new();
        for [rate, burst] in [["ingressRate", "ingressBurst"], ["egressRate", "egressBurst"]] {
            let (bits_per_second, bits) = (element.bits(rate)?, element.bits(burst)?);
            if bits_per_second.is_none() && bits.is_some() {
                return Err(self.error("bandwidth", "must have a rate for each burst"));
            }
            limits.extend(bits_per_second.map(|number| (rate.to_owned(), number.into())));
            limits.extend(bits.map(|number| (burst.to_owned(), number.into())));
        }
        Ok((!limits.is_empty()).then_some(Value::Object(limits)))
    }

    /// A number of bits that fits Go's `int`. 0 is the same as no key.
    fn bits(&self, key: &'static str) -> Result<Option<u64>, NetworksError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let bits = value.as_u64().filter(|bits| i64::try_from(*bits).is_ok());
        let bits = bits.ok_or_else(|| self.error("bandwidth", "must have whole numbers that are not negative"))?;
        Ok((bits != 0).then_some(bits))
    }

    fn port_mappings(&self) -> Result<Option<Value>, NetworksError> {
        let Some(list) = self.list("portMappings")? else { return Ok(None) };
        let read = |value: &Value| match value {
            Value::Object(keys) => Element { position: self.position, keys }.port_mapping(),
            _ => Err(self.error("portMappings", "must be a list of objects")),
        };
        let mappings = list.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok((!mappings.is_empty()).then_some(Value::Array(mappings)))
    }

    /// One mapping. The protocol is always there: portmap makes no rule for one without.
    fn port_mapping(&self) -> Result<Value, NetworksError> {
        let invalid = |problem| self.error("portMappings", problem);
        let mut mapping = Map::new();
        for key in ["hostPort", "containerPort"] {
            let port = self.value(key).and_then(Value::as_u64).filter(|port| (1..=65535).contains(port));
            let port = port.ok_or_else(|| invalid("must have a hostPort and a containerPort between 1 and 65535"))?;
            mapping.insert(key.into(), port.into());
        }
        let protocol = match self.value("protocol") {
            None => "tcp".to_owned(),
            Some(value) => value.as_str().unwrap_or("?").to_ascii_lowercase(),
        };
        if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
            return Err(invalid("must have the protocol tcp, udp or sctp"));
        }
        mapping.insert("protocol".into(), protocol.into());
        if let Some(value) = self.value("hostIP").filter(|value| value.as_str() != Some("")) {
            let address = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
            let address = address.ok_or_else(|| invalid("must have an IP address as hostIP"))?;
            mapping.insert("hostIP".into(), address.to_string().into());
        }
        Ok(Value::Object(mapping))
    }

    fn default_route(&self) -> Result<Option<Vec<IpAddr>>, NetworksError> {
        let Some(list) = self.list("default-route")? else { return Ok(None) };
        let read = |value: &Value| value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
        let gateways = list.iter().map(read).collect::<Option<Vec<_>>>();
        let gateways = gateways.ok_or_else(|| self.error("default-route", "must be a list of IP addresses"))?;
        let of_v4 = gateways.iter().filter(|gateway| gateway.is_ipv4()).count();
        if of_v4 > 1 || gateways.len() - of_v4 > 1 {
            return Err(self.error("default-route", "must have at most one gateway of each family"));
        }
        Ok(Some(gateways))
    }
}

/// A DNS label of RFC 1123, as Kubernetes checks names of namespaces.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// A DNS subdomain of RFC 1123, as Kubernetes checks names of objects: labels of any length, 253 bytes in all.
fn is_subdomain(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_part =
        |part: &str| !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-');
    text.len() <= 253 && text.split('.').all(is_part)
}
