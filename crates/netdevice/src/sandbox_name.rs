//! Interface names for the inside of a sandbox.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    encoded_name,
    name::{InterfaceName, InterfaceNameError},
};

/// A name that an interface can have in a sandbox: not a template, and not a name that each namespace has already (`all` and
/// `default` in `/proc/sys/net/ipv4/conf`, the link `lo`). In JSON it is [encoded](encoded_name).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "EncodedName", into = "EncodedName")]
pub struct SandboxInterfaceName(InterfaceName);

#[derive(Serialize, Deserialize)]
struct EncodedName(#[serde(with = "encoded_name::json")] InterfaceName);

impl TryFrom<EncodedName> for SandboxInterfaceName {
    type Error = InterfaceNameError;

    fn try_from(EncodedName(name): EncodedName) -> Result<Self, Self::Error> {
        Self::try_from(name)
    }
}

impl From<SandboxInterfaceName> for EncodedName {
    fn from(SandboxInterfaceName(name): SandboxInterfaceName) -> Self {
        Self(name)
    }
}

impl SandboxInterfaceName {
    /// The name as the kernel knows it.
    pub fn as_interface_name(&self) -> &InterfaceName {
        &self.0
    }
}

impl TryFrom<InterfaceName> for SandboxInterfaceName {
    type Error = InterfaceNameError;

    fn try_from(name: InterfaceName) -> Result<Self, Self::Error> {
        let reason = match name.as_bytes() {
            b"all" | b"default" => "the kernel keeps settings under that name",
            b"lo" => "it is the loopback interface",
            bytes if bytes.contains(&b'%') => "the kernel reads % as a template",
            _ => return Ok(Self(name)),
        };
        Err(InterfaceNameError::Reserved(name.to_string(), reason))
    }
}

impl fmt::Display for SandboxInterfaceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_name_is_no_template_and_collides_with_nothing() {
        for name in ["all", "default", "lo", "x%d"] {
            let name = InterfaceName::try_from(name).unwrap();
            assert!(SandboxInterfaceName::try_from(name).is_err());
        }
        assert!(SandboxInterfaceName::try_from(InterfaceName::try_from("eth0").unwrap()).is_ok());
    }
}
