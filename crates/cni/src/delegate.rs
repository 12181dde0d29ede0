//! Another program that runs the plugins: Multus' daemon, which keeps results of its own.

use std::fmt;

use serde_json::Value;

use crate::{configuration::NetworkList, target::Target};

/// Runs the plugins of a network in place of [`crate::Runtime`].
pub trait Delegate: fmt::Debug + Send + Sync {
    /// ADD. Returns the result, as the plugins or the other program wrote it.
    ///
    /// # Errors
    ///
    /// When it is not added. What is left of it, DEL removes.
    fn add(&self, list: &NetworkList, target: &Target) -> Result<Value, DelegateError>;

    /// DEL.
    ///
    /// # Errors
    ///
    /// When it is not deleted.
    fn delete(&self, list: &NetworkList, target: &Target) -> Result<(), DelegateError>;
}

/// Why the other program did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DelegateError {
    /// It does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// It refused, or its plugins failed.
    #[error("{0}")]
    Failed(String),
    /// It no longer knows the Pod: the plugins are run here.
    #[error("{0}")]
    UnknownPod(String),
}
