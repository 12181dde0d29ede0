//! Device ids: the name of a device for the kubelet and for CDI.
//!
//! The id of an interface of the host is its [encoded name](encoded_name). A device that is created on an interface, its
//! parent, has the parent's id and a number: `eth0:1`, or `x:-a:_1` where the parent's id begins with `x:`. No encoded name
//! has such an end.

use std::{fmt, num::NonZeroU16, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    encoded_name::{self, ENCODED, EncodedNameError},
    name::{InterfaceName, MAX_NAME_LEN},
};

/// The id of a device, for the kubelet and as CDI device name; at most 54 bytes of ASCII, and 47 of an interface of the host.
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

    /// The interface of the host: the device itself, or its parent.
    pub fn to_name(&self) -> InterfaceName {
        let own = split(&self.0).map_or(&*self.0, |(parent, _)| parent);
        encoded_name::decode(own).expect("an id is checked when it is made")
    }

    /// The device with that number among those that are created on an interface.
    pub fn child_of(parent: &InterfaceName, number: NonZeroU16) -> Self {
        let parent = encoded_name::encode(parent);
        let separator = if parent.starts_with(ENCODED) { ":_" } else { ":" };
        Self([&parent, separator, &number.to_string()].concat().into())
    }

    /// The interface that the device is created on; none if it is an interface of the host itself.
    pub fn parent(&self) -> Option<Self> {
        split(&self.0).map(|(parent, _)| Self(parent.into()))
    }

    /// The name that it has in a Pod if nothing else is requested: that of the interface of the host, and of a device that a pool
    /// offers on it also the number, `eth1-3`. A long name of a parent is cut.
    pub fn default_name(&self) -> InterfaceName {
        let host = self.to_name();
        let Some(number) = self.child() else { return host };
        let end = format!("-{number}");
        let kept = host.as_bytes().len().min(MAX_NAME_LEN - end.len());
        InterfaceName::new(&[&host.as_bytes()[..kept], end.as_bytes()].concat()).unwrap_or(host)
    }

    /// The device's number among those that are created on its parent; none if it is an interface of the host itself.
    pub fn child(&self) -> Option<NonZeroU16> {
        split(&self.0).map(|(_, number)| number)
    }
}

/// The id of the parent and the number, if it is the id of a device that is created.
fn split(id: &str) -> Option<(&str, NonZeroU16)> {
    let (parent, number) = id.rsplit_once(':')?;
    let number = if parent.starts_with(ENCODED) { number.strip_prefix('_')? } else { number };
    // each number has one spelling
    let is_canonical = !number.starts_with(['0', '+']);
    number.parse().ok().filter(|_| is_canonical).map(|number| (parent, number))
}

impl From<&InterfaceName> for DeviceId {
    fn from(name: &InterfaceName) -> Self {
        Self(encoded_name::encode(name).into())
    }
}

impl FromStr for DeviceId {
    type Err = DeviceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let own = split(text).map_or(text, |(parent, _)| parent);
        encoded_name::decode(own).map_err(DeviceIdError)?;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_device_that_is_created_has_its_parents_id_and_a_number() {
        let number = |number| NonZeroU16::new(number).unwrap();
        for (parent, child, id) in
            [("eth0", 1, "eth0:1"), ("eth0.100", 12, "eth0.100:12"), ("-a", 65535, "x:-a:_65535"), ("x", 10, "x:10")]
        {
            let parent = InterfaceName::try_from(parent).unwrap();
            let made = DeviceId::child_of(&parent, number(child));
            assert_eq!((made.as_str(), &made.to_name(), made.child()), (id, &parent, Some(number(child))));
            assert_eq!(made.parent(), Some(DeviceId::from(&parent)));
            assert_eq!(id.parse::<DeviceId>().unwrap(), made);
        }
        for text in
            ["eth0:0", "eth0:01", "eth0:+1", "eth0:65536", "eth0:", ":1", "eth0:1:1", "x:-a:1", "x:a:_1", "x:-a:_0"]
        {
            assert!(text.parse::<DeviceId>().is_err(), "{text}");
        }
        assert_eq!("x:a:5f".parse::<DeviceId>().unwrap().parent(), None);
    }

    proptest! {
        #[test]
        fn every_child_has_its_own_id_that_leads_back(bytes in prop::collection::vec(any::<u8>(), 1..=15), number in 1..=u16::MAX) {
            if let Ok(name) = InterfaceName::new(&bytes) {
                let id = DeviceId::child_of(&name, NonZeroU16::new(number).unwrap());
                prop_assert!(id.as_str().len() <= 54);
                prop_assert_eq!(&id.to_name(), &name);
                prop_assert_eq!(id.as_str().parse::<DeviceId>().unwrap(), id);
                let own = DeviceId::from(&name);
                prop_assert_eq!((own.parent(), own.child()), (None, None));
            }
        }
    }
}
