//! Resource names: what a Pod writes in its limits, and the CDI kind of the same pool.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The name of an extended resource, which is also a CDI kind: `vendor/class`, as in `networking.k8s.io/netdevice`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceName(Arc<str>);

/// The rule that a resource name breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid resource name {name:?}: {rule}")]
pub struct ResourceNameError {
    name: String,
    rule: &'static str,
}

/// The resource of `-interfaces`.
pub const DEFAULT_RESOURCE: &str = "networking.k8s.io/netdevice";

impl ResourceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the slash: a DNS subdomain.
    pub fn vendor(&self) -> &str {
        self.0.split_once('/').map_or("", |(vendor, _)| vendor)
    }

    /// The part after the slash.
    pub fn class(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, class)| class)
    }

    /// The environment variable that lists a container's devices of this resource: in upper case, with `_` for every
    /// character that is not a letter or digit, as in `NETWORKING_K8S_IO_NETDEVICE`.
    pub fn environment_variable(&self) -> String {
        let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
        self.0.chars().map(letter).collect()
    }
}

impl Default for ResourceName {
    fn default() -> Self {
        Self(DEFAULT_RESOURCE.into())
    }
}

/// The kubelet's rules (`IsExtendedResourceName` in `k8s.io/component-helpers`) and CDI's (`ValidateVendorName`,
/// `ValidateClassName`), which are narrower: both ends of the vendor and the class begin with a letter.
fn broken_rule(name: &str) -> Option<&'static str> {
    let Some((vendor, class)) = name.split_once('/') else {
        return Some("write a domain and a name, as in example.com/nic");
    };
    let label = |label: &str| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if vendor.len() > 253 || !vendor.split('.').all(label) {
        return Some("the part before the slash must be a DNS subdomain in lower case");
    }
    if !vendor.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return Some("the part before the slash must begin with a letter (CDI)");
    }
    if vendor.len() < 2 || class.len() < 2 {
        // CDI libraries up to 1.0 slice a name of one character out of bounds: containerd 2.1.9 ends with a panic as
        // soon as such a file is in its directory
        return Some("each part needs at least two characters (CDI)");
    }
    if vendor.ends_with("kubernetes.io") || vendor.starts_with("requests.") {
        return Some("kubernetes.io and requests. are reserved for Kubernetes");
    }
    let ends = |end: Option<&u8>, what: fn(&u8) -> bool| end.is_some_and(what);
    let bytes = class.as_bytes();
    let middle = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
    if bytes.len() > 63
        || !ends(bytes.first(), u8::is_ascii_alphabetic)
        || !ends(bytes.last(), u8::is_ascii_alphanumeric)
        || !bytes.iter().all(middle)
    {
        return Some(
            "the part after the slash must have at most 63 letters, digits, _, - or ., begin with a letter and end with \
             a letter or digit",
        );
    }
    None
}

impl FromStr for ResourceName {
    type Err = ResourceNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match broken_rule(name) {
            None => Ok(Self(name.into())),
            Some(rule) => Err(ResourceNameError { name: name.into(), rule }),
        }
    }
}

impl TryFrom<String> for ResourceName {
    type Error = ResourceNameError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl From<ResourceName> for String {
    fn from(name: ResourceName) -> Self {
        name.as_str().into()
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_names_that_kubelet_and_cdi_take_are_taken() {
        for name in [DEFAULT_RESOURCE, "example.com/fast.nic_1", "ab/cd"] {
            assert!(name.parse::<ResourceName>().is_ok(), "{name}");
        }
        assert_eq!(ResourceName::default().environment_variable(), "NETWORKING_K8S_IO_NETDEVICE");
    }

    #[test]
    fn others_are_refused_with_the_rule() {
        let long = format!("aa/b{}", "c".repeat(63));
        for name in [
            "",
            "netdevice",
            "/a",
            "a/",
            "Aa/bb",
            "0a/bb",
            "aa..b/cc",
            "aa/0b",
            "aa/b_",
            "node.kubernetes.io/xx",
            "requests.aa/bb",
            "aa/bb/cc",
            "a/bb",
            "aa/b",
            &long,
        ] {
            assert!(name.parse::<ResourceName>().is_err(), "{name}");
        }
    }
}
