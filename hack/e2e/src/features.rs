//! Which features the Kubernetes of a node's cluster has: `NETDEVICE_KUBERNETES` chooses its version, and
//! `NETDEVICE_FEATURE_GATES` switches what is off there by default.

use std::io::Write as _;

use crate::node::Node;

/// A feature that a test is about: its gate, and the first minor version that has it on by default.
#[derive(Debug, Clone, Copy)]
pub struct Feature(pub &'static str, pub u32);

/// A DeviceClass can have the name of an extended resource.
pub const EXTENDED_RESOURCE: Feature = Feature("DRAExtendedResource", 36);
/// Devices in ResourceSlices have taints.
pub const DEVICE_TAINTS: Feature = Feature("DRADeviceTaints", 36);
/// The kubelet shows in a Pod's status whether its devices are healthy.
pub const RESOURCE_HEALTH: Feature = Feature("ResourceHealthStatus", 36);
/// A device can be allocated to several claims.
pub const CONSUMABLE_CAPACITY: Feature = Feature("DRAConsumableCapacity", 36);

impl Node {
    /// The minor version of the API server.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    #[track_caller]
    pub fn kubernetes_minor(&self) -> u32 {
        let version = self.kubectl(&["get", "--raw=/version"]).json();
        let minor = version["minor"].as_str().unwrap_or_default();
        minor.parse().unwrap_or_else(|_| panic!("{version} has no minor version"))
    }

    /// Whether the API server has this feature gate, and it is on.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    #[track_caller]
    pub fn has_feature(&self, gate: &str) -> bool {
        let metrics = self.kubectl(&["get", "--raw=/metrics"]);
        let own = format!("kubernetes_feature_enabled{{name=\"{gate}\",");
        let line = metrics.text().lines().find(|line| line.starts_with(&own));
        line.is_some_and(|line| line.ends_with(" 1"))
    }

    /// Whether the cluster has these features. If not, that is said, also where the output of tests is not shown.
    ///
    /// # Panics
    /// When a feature is off in a version that has it on by default.
    #[must_use]
    #[track_caller]
    pub fn can_test(&self, what: &str, features: &[Feature]) -> bool {
        let off: Vec<&Feature> = features.iter().filter(|feature| !self.has_feature(feature.0)).collect();
        let Some(Feature(gate, since)) = off.first() else { return true };
        let minor = self.kubernetes_minor();
        assert!(minor < *since, "{gate} is off in Kubernetes 1.{minor}");
        // not by a macro: what those write, a test that passes does not show
        let line = format!("NOT TESTED: Kubernetes 1.{minor} has {gate} off: {what}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
        false
    }
}
