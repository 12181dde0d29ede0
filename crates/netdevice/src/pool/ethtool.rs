//! What Pods may set of the driver: private flags and features of `ethtool`.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::Pool;
use crate::{configuration::SandboxConfiguration, resource::ResourceName};

/// Private flags and features of the driver that Pods may set on devices of a pool, in addition to the features that are
/// harmless. Some of them concern the whole card: a private flag can make a virtual function see the frames of others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EthtoolConsent {
    /// Names of private flags.
    pub private_flags: BTreeSet<String>,
    /// Names of features, as the Pod writes them.
    pub features: BTreeSet<String>,
}

/// A setting of the driver that the pool does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "pool {pool} does not allow pods to set the {kind} {name:?}: remove it, or add it to `ethtool.{key}` of the pool"
)]
pub struct NotAllowed {
    pool: ResourceName,
    kind: &'static str,
    name: String,
    key: &'static str,
}

/// Features that concern only the frames of the device itself, as `ethtool` abbreviates them or the kernel names them
/// (`net/ethtool/common.c`).
const HARMLESS: [&str; 26] = [
    "tso",
    "gso",
    "gro",
    "lro",
    "rx",
    "tx",
    "sg",
    "rxvlan",
    "txvlan",
    "ntuple",
    "rxhash",
    "tcp-segmentation-offload",
    "generic-segmentation-offload",
    "generic-receive-offload",
    "large-receive-offload",
    "rx-checksumming",
    "tx-checksumming",
    "scatter-gather",
    "rx-checksum",
    "rx-gro",
    "rx-lro",
    "rx-hashing",
    "receive-hashing",
    "ntuple-filters",
    "rx-ntuple-filter",
    "rx-gro-list",
];

/// Whether no pool has to allow the feature.
fn is_harmless(feature: &str) -> bool {
    let is_of_vlan = || {
        let direction = feature.strip_prefix("rx-vlan-").or_else(|| feature.strip_prefix("tx-vlan-"));
        // not the filter: without it the device sees other VLANs
        direction
            .is_some_and(|rest| ["offload", "hw-parse", "hw-insert", "stag-hw-parse", "stag-hw-insert"].contains(&rest))
    };
    let is_of_transmission = || {
        let is_list = ["tx-checksum-", "tx-scatter-gather"].iter().any(|start| feature.starts_with(start));
        is_list || (feature.starts_with("tx-") && feature.ends_with("-segmentation"))
    };
    let others = [
        "tx-generic-segmentation",
        "tx-gso-partial",
        "tx-gso-list",
        "tx-gso-robust",
        "rx-gro-hw",
        "rx-udp-gro-forwarding",
    ];
    HARMLESS.contains(&feature) || others.contains(&feature) || is_of_vlan() || is_of_transmission()
}

impl Pool {
    /// Checks that a Pod may set what it requests of the driver.
    ///
    /// # Errors
    ///
    /// The first private flag or feature that the pool does not allow.
    pub fn check_ethtool(&self, configuration: &SandboxConfiguration) -> Result<(), NotAllowed> {
        let refuse =
            |kind, name: &String, key| NotAllowed { pool: self.resource.clone(), kind, name: name.clone(), key };
        let mut flags = configuration.private_flags.keys();
        if let Some(flag) = flags.find(|flag| !self.ethtool.private_flags.contains(*flag)) {
            return Err(refuse("private flag", flag, "privateFlags"));
        }
        let mut features = configuration.features.keys();
        match features.find(|feature| !is_harmless(feature) && !self.ethtool.features.contains(*feature)) {
            Some(feature) => Err(refuse("feature", feature, "features")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pools;

    #[test]
    fn private_flags_and_features_that_concern_more_than_the_device_need_the_pool() {
        let yaml = "pools: [{resource: a.b/cc, select: {names: [x]}, \
                    ethtool: {privateFlags: [link-down-on-close], features: [hw-tc-offload]}}, \
                    {resource: a.b/dd, select: {names: [y]}}]";
        let pools = Pools::from_yaml(yaml).unwrap();
        let check = |at: usize, flag: Option<&str>, feature: Option<&str>| {
            let of = |name: Option<&str>| name.map(|name| (name.to_owned(), "on".to_owned())).into_iter().collect();
            let configuration =
                SandboxConfiguration { private_flags: of(flag), features: of(feature), ..Default::default() };
            pools.iter().nth(at).unwrap().check_ethtool(&configuration).map_err(|error| error.to_string())
        };
        for feature in
            ["tso", "rx-gro", "tx-tcp6-segmentation", "tx-checksum-ipv4", "rx-vlan-offload", "tx-vlan-hw-insert"]
        {
            assert_eq!(check(1, None, Some(feature)), Ok(()));
        }
        for feature in ["loopback", "rx-all", "rx-fcs", "hw-tc-offload", "rx-vlan-filter", "l2-fwd-offload", "tx-", "x"]
        {
            assert!(check(1, None, Some(feature)).is_err(), "{feature}");
        }
        assert_eq!(check(0, Some("link-down-on-close"), Some("hw-tc-offload")), Ok(()));
        let error = "pool a.b/dd does not allow pods to set the private flag \"disable-fw-lldp\": remove it, or add it to \
                     `ethtool.privateFlags` of the pool";
        assert_eq!(check(1, Some("disable-fw-lldp"), None), Err(error.into()));
        assert!(check(0, Some("disable-fw-lldp"), None).is_err());
    }
}
