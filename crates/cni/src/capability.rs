//! Capability arguments: what a runtime can ask of an attachment, if one of its plugins takes it.

use serde_json::{Map, Value};

use crate::configuration::NetworkList;

/// Values by the name of the capability, as in CONVENTIONS.md of the CNI project: `ips`, `mac`, `portMappings`, ...
pub type CapabilityArguments = Map<String, Value>;

/// An argument that no plugin takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no plugin of network {network} has the capability {capability:?}: set \"capabilities\": {{{capability:?}: true}} in the plugin that is to get it"
)]
pub struct CapabilityError {
    network: String,
    capability: String,
}

/// Checks that each argument is taken by a plugin: the specification of networks (section 4.1.2.1.10) demands that an
/// attachment fails otherwise.
///
/// # Errors
///
/// The first argument that no plugin takes.
pub fn check(list: &NetworkList, arguments: &CapabilityArguments) -> Result<(), CapabilityError> {
    let is_taken = |capability: &str| list.plugins.iter().any(|plugin| plugin.takes(capability));
    match arguments.keys().find(|capability| !is_taken(capability)) {
        None => Ok(()),
        Some(capability) => Err(CapabilityError { network: list.name().to_string(), capability: capability.clone() }),
    }
}
