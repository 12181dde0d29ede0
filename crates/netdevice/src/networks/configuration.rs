//! The CNI configuration of a NetworkAttachmentDefinition.

use serde_json::{Map, Value};

use super::NetworksError;

/// The text of the CNI configuration from `spec.config`, or `None` if that is empty: then it is the file of the configuration
/// directory whose name is that of the NetworkAttachmentDefinition.
///
/// A configuration without a name, or with an empty one, gets the name of the NetworkAttachmentDefinition and is written anew;
/// any other is returned as it is.
///
/// # Errors
///
/// When `config` is not a JSON object.
pub fn configuration_text(nad_name: &str, config: &str) -> Result<Option<String>, NetworksError> {
    if config.trim().is_empty() {
        return Ok(None);
    }
    let invalid = |error: serde_json::Error| NetworksError::Configuration {
        nad: nad_name.to_owned(),
        line: error.line(),
        column: error.column(),
    };
    let Value::Object(mut keys) = serde_json::from_str::<Value>(config).map_err(invalid)? else {
        return Err(NetworksError::ConfigurationForm(nad_name.to_owned()));
    };
    let has_name = |keys: &Map<String, Value>| keys.get("name").is_some_and(|name| name.as_str() != Some(""));
    if has_name(&keys) {
        return Ok(Some(config.to_owned()));
    }
    keys.insert("name".into(), nad_name.into());
    Ok(Some(Value::Object(keys).to_string()))
}
