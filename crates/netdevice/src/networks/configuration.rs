//! The CNI configuration of a NetworkAttachmentDefinition.

use serde_json::Value;

use super::NetworksError;

/// The text of the CNI configuration from `spec.config`, or `None` if that is empty: then it is the file of the configuration
/// directory whose name is that of the NetworkAttachmentDefinition.
///
/// A configuration without a name gets that of the NetworkAttachmentDefinition as its first key, and the rest of its text stays as
/// it is. One whose name is empty or `null` is written anew.
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
    let name = Value::from(nad_name);
    match keys.get("name") {
        None => {
            let rest = config.trim_start().strip_prefix('{').unwrap_or_default();
            let comma = if keys.is_empty() { "" } else { "," };
            Ok(Some(format!("{{\"name\":{name}{comma}{rest}")))
        }
        Some(old) if old.is_null() || old.as_str() == Some("") => {
            keys.insert("name".into(), name);
            Ok(Some(Value::Object(keys).to_string()))
        }
        Some(_) => Ok(Some(config.to_owned())),
    }
}
