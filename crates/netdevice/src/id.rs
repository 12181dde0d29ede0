//! Device ids: the name of a device for the kubelet and for CDI.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    encoded_name::{self, EncodedNameError},
    name::InterfaceName,
};

/// The id of a device, for the kubelet and as CDI device name: a host interface name, [encoded](encoded_name); at most 47
/// bytes of ASCII.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(Arc<str>);

/// The rule that an invalid device id breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid device id: {0}")]
pub struct DeviceIdError(EncodedNameError);

impl DeviceId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The interface name that this id was made from.
    pub fn to_name(&self) -> InterfaceName {
        encoded_name::decode(&self.0).expect("an id is checked when it is made")
    }
}

impl From<&InterfaceName> for DeviceId {
    fn from(name: &InterfaceName) -> Self {
        Self(encoded_name::encode(name).into())
    }
}

impl FromStr for DeviceId {
    type Err = DeviceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        encoded_name::decode(text).map_err(DeviceIdError)?;
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for DeviceId {
    type Error = DeviceIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.as_str().into()
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}
