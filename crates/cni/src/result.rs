//! The result of an ADD, in every version of the specification.
//!
//! Inside it has the form of version 1.1.0. Keys that no version knows are kept.

use std::net::IpAddr;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};

use crate::version::{Version, VersionError};

/// What an attachment is.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Addition {
    /// Interfaces that the plugins made, on the host too.
    #[serde(default, deserialize_with = "or_default")]
    pub interfaces: Vec<Interface>,
    /// Addresses.
    #[serde(default, deserialize_with = "or_default")]
    pub ips: Vec<Ip>,
    /// Routes, each an object with `dst`.
    #[serde(default, deserialize_with = "or_default")]
    pub routes: Vec<Map<String, Value>>,
    /// `nameservers`, `domain`, `search`, `options`.
    #[serde(default, deserialize_with = "or_default")]
    pub dns: Map<String, Value>,
    /// Keys that the specification does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An interface of a result.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// MTU; since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Value>,
    /// Path of the network namespace that it is in; none on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// Socket of a vhost-user device; since 1.1.0.
    #[serde(default, rename = "socketPath", skip_serializing_if = "Option::is_none")]
    pub socket_path: Option<Value>,
    /// PCI address; since 1.1.0.
    #[serde(default, rename = "pciID", skip_serializing_if = "Option::is_none")]
    pub pci_id: Option<Value>,
    /// Keys that the specification does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An address of a result.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ip {
    /// `4` or `6`; up to version 0.4.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// Index into [`Addition::interfaces`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// Address with prefix length.
    pub address: String,
    /// Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Keys that the specification does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An address of versions 0.1.0 and 0.2.0, with its routes.
#[derive(Debug, Default, Deserialize)]
struct LegacyIp {
    ip: String,
    #[serde(default)]
    gateway: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    routes: Vec<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
struct Legacy {
    #[serde(default)]
    ip4: Option<LegacyIp>,
    #[serde(default)]
    ip6: Option<LegacyIp>,
    #[serde(default, deserialize_with = "or_default")]
    dns: Map<String, Value>,
}

/// Why a result cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResultError {
    /// Nothing.
    #[error("empty result")]
    Empty,
    /// Not JSON of that form.
    #[error("invalid result: {0}")]
    Json(String),
    /// Its version.
    #[error("result: {0}")]
    Version(#[from] VersionError),
    /// An address.
    #[error("result: invalid address {0:?}")]
    Address(String),
}

/// `null` as the empty list or object.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Addition {
    /// Reads a result. Without a version it is of the version of the configuration.
    ///
    /// # Errors
    ///
    /// When it has not the form of its version.
    pub fn from_json(text: &[u8], of_configuration: Version) -> Result<Self, ResultError> {
        if text.iter().all(u8::is_ascii_whitespace) {
            return Err(ResultError::Empty);
        }
        let value = serde_json::from_slice(text).map_err(json)?;
        Self::from_value(value, of_configuration)
    }

    /// [`Addition::from_json`] for a value.
    ///
    /// # Errors
    ///
    /// Those of [`Addition::from_json`].
    pub fn from_value(mut value: Value, of_configuration: Version) -> Result<Self, ResultError> {
        let object = value.as_object_mut().ok_or_else(|| ResultError::Json("it must be a JSON object".into()))?;
        let version = match object.remove("cniVersion") {
            None | Some(Value::Null) => of_configuration,
            Some(Value::String(version)) if version.is_empty() => of_configuration,
            Some(Value::String(version)) => version.parse()?,
            Some(_) => return Err(ResultError::Json("\"cniVersion\" must be a string".into())),
        };
        if version >= Version::V0_3_0 {
            // of versions 0.1.0 and 0.2.0, which say it in other words
            object.remove("ip4");
            object.remove("ip6");
        }
        let mut addition = if version < Version::V0_3_0 {
            Self::from_legacy(serde_json::from_value(value).map_err(json)?)
        } else {
            serde_json::from_value(value).map_err(json)?
        };
        for ip in &mut addition.ips {
            check_address(&ip.address)?;
            ip.version = None;
        }
        Ok(addition)
    }

    fn from_legacy(legacy: Legacy) -> Self {
        let mut addition = Self { dns: legacy.dns, ..Self::default() };
        for LegacyIp { ip, gateway, routes } in [legacy.ip4, legacy.ip6].into_iter().flatten() {
            addition.ips.push(Ip { address: ip, gateway, ..Ip::default() });
            addition.routes.extend(routes);
        }
        addition
    }

    /// The result in one version. What that version does not know is left out.
    pub fn in_version(&self, version: Version) -> impl Serialize + '_ {
        InVersion { addition: self, version }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "a function for map_err")]
fn json(error: serde_json::Error) -> ResultError {
    ResultError::Json(error.to_string())
}

fn check_address(text: &str) -> Result<(), ResultError> {
    let is_valid = || {
        let (address, length) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let length: u8 = length.parse().ok()?;
        Some(length <= if address.is_ipv4() { 32 } else { 128 })
    };
    if is_valid() == Some(true) { Ok(()) } else { Err(ResultError::Address(text.chars().take(80).collect())) }
}

fn is_ipv4(text: &str) -> bool {
    !text.contains(':')
}

struct InVersion<'a> {
    addition: &'a Addition,
    version: Version,
}

impl Serialize for InVersion<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { addition, version } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("cniVersion", version)?;
        if *version < Version::V0_3_0 {
            for (key, is_wanted) in [("ip4", true), ("ip6", false)] {
                let of_family = |text: &str| is_ipv4(text) == is_wanted;
                if let Some(ip) = addition.ips.iter().find(|ip| of_family(&ip.address)) {
                    map.serialize_entry(key, &legacy(ip, &addition.routes, of_family))?;
                }
            }
        } else {
            if !addition.interfaces.is_empty() {
                map.serialize_entry("interfaces", &interfaces(&addition.interfaces, *version))?;
            }
            if !addition.ips.is_empty() {
                map.serialize_entry("ips", &ips(&addition.ips, *version))?;
            }
            if !addition.routes.is_empty() {
                map.serialize_entry("routes", &routes(&addition.routes, *version))?;
            }
        }
        // as libcni writes it
        if *version < Version::V1_0_0 || !addition.dns.is_empty() {
            map.serialize_entry("dns", &addition.dns)?;
        }
        for (key, value) in &addition.other {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

fn legacy(ip: &Ip, routes: &[Map<String, Value>], of_family: impl Fn(&str) -> bool) -> Map<String, Value> {
    let mut object = Map::from_iter([("ip".to_owned(), Value::from(ip.address.clone()))]);
    object.extend(ip.gateway.clone().map(|gateway| ("gateway".to_owned(), gateway.into())));
    let is_route = |route: &&Map<String, Value>| route.get("dst").and_then(Value::as_str).is_some_and(&of_family);
    let routes: Vec<Value> =
        routes.iter().filter(is_route).map(|route| Value::Object(route_before_1_1(route))).collect();
    if !routes.is_empty() {
        object.insert("routes".into(), routes.into());
    }
    object
}

fn interfaces(interfaces: &[Interface], version: Version) -> Vec<Interface> {
    let convert = |interface: &Interface| match version {
        Version::V1_1_0 => interface.clone(),
        _ => Interface { mtu: None, socket_path: None, pci_id: None, ..interface.clone() },
    };
    interfaces.iter().map(convert).collect()
}

fn ips(ips: &[Ip], version: Version) -> Vec<Ip> {
    let family = |ip: &Ip| if is_ipv4(&ip.address) { "4".to_owned() } else { "6".to_owned() };
    let convert = |ip: &Ip| Ip { version: (version < Version::V1_0_0).then(|| family(ip)), ..ip.clone() };
    ips.iter().map(convert).collect()
}

fn routes(routes: &[Map<String, Value>], version: Version) -> Vec<Map<String, Value>> {
    routes.iter().map(|route| if version < Version::V1_1_0 { route_before_1_1(route) } else { route.clone() }).collect()
}

fn route_before_1_1(route: &Map<String, Value>) -> Map<String, Value> {
    let is_new = |key: &str| ["mtu", "advmss", "priority", "table", "scope"].contains(&key);
    route.iter().filter(|(key, _)| !is_new(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEWEST: &str = r#"{"cniVersion":"1.1.0","interfaces":[{"name":"net1","mac":"02:00:00:00:00:01","mtu":1400,"sandbox":"/run/netns/a"}],"ips":[{"interface":0,"address":"10.0.0.2/24","gateway":"10.0.0.1"},{"address":"fd00::2/64"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1","priority":5}],"dns":{"nameservers":["10.0.0.1"]}}"#;

    fn read(text: &str) -> Result<Addition, ResultError> {
        Addition::from_json(text.as_bytes(), Version::V0_4_0)
    }

    fn written(addition: &Addition, version: Version) -> String {
        serde_json::to_string(&addition.in_version(version)).unwrap()
    }

    #[test]
    fn a_result_is_written_in_every_version() {
        let addition = read(NEWEST).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&written(&addition, Version::V1_1_0)).unwrap(),
            serde_json::from_str::<Value>(NEWEST).unwrap()
        );
        let older = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"net1","mac":"02:00:00:00:00:01","sandbox":"/run/netns/a"}],"ips":[{"interface":0,"address":"10.0.0.2/24","gateway":"10.0.0.1"},{"address":"fd00::2/64"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"}],"dns":{"nameservers":["10.0.0.1"]}}"#;
        assert_eq!(written(&addition, Version::V1_0_0), older);
        let with_family = older.replace("1.0.0", "0.3.1").replace(r#"{"interface""#, r#"{"version":"4","interface""#);
        let with_family = with_family.replace(r#"{"address":"fd"#, r#"{"version":"6","address":"fd"#);
        assert_eq!(written(&addition, Version::V0_3_1), with_family);
        let legacy = r#"{"cniVersion":"0.2.0","ip4":{"gateway":"10.0.0.1","ip":"10.0.0.2/24","routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"}]},"ip6":{"ip":"fd00::2/64"},"dns":{"nameservers":["10.0.0.1"]}}"#;
        assert_eq!(written(&addition, Version::V0_2_0), legacy);
        assert_eq!(read(&with_family).unwrap(), read(older).unwrap());
        let back = read(legacy).unwrap();
        assert_eq!((back.ips.len(), back.routes.len(), back.interfaces.len()), (2, 1, 0));
    }

    #[test]
    fn keys_that_nobody_knows_are_kept() {
        let text = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"a","queue":3}],"ips":[{"address":"10.0.0.2/24","z":1}],"x":{"y":1}}"#;
        assert_eq!(written(&read(text).unwrap(), Version::V1_0_0), text);
    }

    #[test]
    fn an_empty_result_and_nulls_are_results() {
        for text in ["{}", r#"{"cniVersion":"","interfaces":null,"ips":null,"routes":null,"dns":null}"#] {
            assert_eq!(written(&read(text).unwrap(), Version::V1_0_0), r#"{"cniVersion":"1.0.0"}"#);
            assert_eq!(written(&read(text).unwrap(), Version::V0_4_0), r#"{"cniVersion":"0.4.0","dns":{}}"#);
        }
    }

    #[test]
    fn malformed_results_are_refused() {
        let table = [
            ("", "empty result"),
            (" \n", "empty result"),
            ("[]", "invalid result: it must be a JSON object"),
            (r#"{"cniVersion":"7.0.0"}"#, "result: CNI version 7.0.0 is not supported: supported are 0.1.0 to 1.1.0"),
            (r#"{"cniVersion":1}"#, r#"invalid result: "cniVersion" must be a string"#),
            (r#"{"ips":[{"address":"10.0.0.2"}]}"#, r#"result: invalid address "10.0.0.2""#),
            (r#"{"ips":[{"address":"10.0.0.2/33"}]}"#, r#"result: invalid address "10.0.0.2/33""#),
            (r#"{"cniVersion":"0.2.0","ip4":{"ip":"x/1"}}"#, r#"result: invalid address "x/1""#),
        ];
        for (text, expected) in table {
            assert_eq!(read(text).unwrap_err().to_string(), expected, "{text}");
        }
        for text in ["{", "hello", r#"{"ips":{}}"#, r#"{"ips":[{}]}"#, r#"{"interfaces":[{"name":1}]}"#] {
            assert!(matches!(read(text), Err(ResultError::Json(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(text in "[\\[\\]{}\":,a-z0-9 ]{0,200}") {
            let _ = read(&text);
        }

        #[test]
        fn what_was_written_is_read_again(addresses in prop::collection::vec("[1-9][0-9]?\\.0\\.0\\.[1-9]/(8|24|32)", 0..4), mtu in proptest::option::of(68_u32..9000)) {
            let ips = addresses.into_iter().map(|address| Ip { address, ..Ip::default() }).collect();
            let interfaces = vec![Interface { name: "net1".into(), mtu: mtu.map(Value::from), ..Interface::default() }];
            let addition = Addition { ips, interfaces, ..Addition::default() };
            for version in [Version::V0_3_0, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0] {
                let read = read(&written(&addition, version)).unwrap();
                prop_assert_eq!(&read.ips, &addition.ips);
            }
            prop_assert_eq!(read(&written(&addition, Version::V1_1_0)).unwrap(), addition);
        }
    }
}
