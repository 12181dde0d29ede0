//! The parameters of our driver in a claim or a DeviceClass: a `DeviceConfiguration` object. Its fields and rules are those of
//! the annotation.

use serde_json::Value;

pub use crate::configuration::DeviceConfiguration;
use crate::{
    acquisition::Acquisition,
    configuration::{
        SandboxConfiguration,
        fields::{Field, FieldError, Key, Spelling},
        read,
    },
    json::{self, UniqueError},
};

/// `apiVersion` of the object.
pub const API_VERSION: &str = "netdevice.networking.k8s.io/v1alpha1";
/// `kind` of the object.
pub const KIND: &str = "DeviceConfiguration";

/// Longest parameters in bytes (`resource.k8s.io`, `OpaqueMaxLength`).
pub const MAX_PARAMETERS: usize = 10 << 10;

/// Why parameters cannot be used. One line, without a value of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// A text longer than the limit.
    #[error("too long: {0} bytes, the limit is {MAX_PARAMETERS}")]
    TooLong(usize),
    /// Not JSON.
    #[error("invalid JSON at line {line}, column {column}")]
    Json {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// A field.
    #[error(transparent)]
    Field(#[from] FieldError),
}

const API_VERSION_FIELD: Key = Key::new("apiVersion");
const KIND_FIELD: Key = Key::new("kind");

/// Reads the parameters. Bytes that are not UTF-8 are read as U+FFFD: the API server accepts them.
///
/// # Errors
///
/// The first problem, with its place.
pub fn parse(text: &[u8]) -> Result<DeviceConfiguration, ParameterError> {
    if text.len() > MAX_PARAMETERS {
        return Err(ParameterError::TooLong(text.len()));
    }
    let value: Value = json::unique(&String::from_utf8_lossy(text)).map_err(|error| match error {
        UniqueError::Json(error) => ParameterError::Json { line: error.line(), column: error.column() },
        UniqueError::Twice(path) => FieldError { path, rule: "set twice: remove one".into() }.into(),
    })?;
    let known: Vec<Key> = [API_VERSION_FIELD, KIND_FIELD].into_iter().chain(read::CONFIGURATION).collect();
    let whole = Field::whole(&value, Spelling::Claim);
    // of another version, fields may be others
    if value.is_object() {
        let must_be = |key: Key, expected: &str| match value.get(key.claim).and_then(Value::as_str) {
            Some(there) if there == expected => Ok(()),
            _ => Err(FieldError { path: key.claim.into(), rule: format!("must be {expected}") }),
        };
        must_be(API_VERSION_FIELD, API_VERSION)?;
        must_be(KIND_FIELD, KIND)?;
    }
    Ok(read::configuration(&whole.mapping(&known)?, Spelling::Claim)?)
}

impl DeviceConfiguration {
    /// How the device comes into the Pod, and how it is there.
    ///
    /// # Errors
    ///
    /// When fields contradict each other, which may be from different texts.
    pub fn resolve(self) -> Result<(Acquisition, SandboxConfiguration), ParameterError> {
        Ok(self.resolve_as(Spelling::Claim)?)
    }
}
