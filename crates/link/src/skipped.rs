//! What of a device cannot be in a namespace and was left out, for reports.

use std::fmt;

/// Something of a device that cannot be in this namespace, and was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// What it is: `route 10.9.0.0/16 via 10.0.0.1 table 254`.
    pub what: String,
    /// Why not.
    pub reason: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} is left out: {}", self.what, self.reason)
    }
}
