//! Device ids: what the kubelet and CDI call a device.
//!
//! An id is made from the bytes of a host interface name and read back exactly. A name that CDI takes as it is stays as
//! it is; any other name becomes `x:` and its bytes, those that CDI does not take written as `:` and two hex digits.
//! No interface name has a `:`, so the two forms never meet.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::name::{InterfaceName, InterfaceNameError};

/// The id of a device, for the kubelet and as CDI device name; at most 47 bytes of ASCII.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(Arc<str>);

/// Why a text is no device id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceIdError {
    /// Not what [`DeviceId::from`] makes of any name.
    #[error("{0:?} is no device id")]
    Encoding(String),
    /// The encoding is right, the name in it is none.
    #[error("device id {0:?} stands for no interface")]
    Name(String, #[source] InterfaceNameError),
}

impl DeviceId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The interface name that this id was made from.
    pub fn to_name(&self) -> InterfaceName {
        InterfaceName::new(&decode(&self.0).expect("an id was checked when it was made")).expect("so was its name")
    }
}

impl From<&InterfaceName> for DeviceId {
    fn from(name: &InterfaceName) -> Self {
        let bytes = name.as_bytes();
        if let (Some(text), true) = (name.to_str(), is_plain(bytes)) {
            return Self(text.into());
        }
        let mut id = String::from("x:");
        for (at, byte) in bytes.iter().enumerate() {
            let last = at + 1 == bytes.len();
            if byte.is_ascii_alphanumeric() || (!last && matches!(byte, b'_' | b'-' | b'.')) {
                id.push(char::from(*byte));
            } else {
                id.push_str(&format!(":{byte:02x}"));
            }
        }
        Self(id.into())
    }
}

/// Whether CDI takes the name as device name: alphanumeric at both ends, `_`, `-`, `.` between.
fn is_plain(name: &[u8]) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    ends(name.first())
        && ends(name.last())
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(byte))
}

fn decode(id: &str) -> Option<Vec<u8>> {
    let Some(encoded) = id.strip_prefix("x:") else {
        return Some(id.as_bytes().to_vec());
    };
    let mut bytes = encoded.bytes();
    let mut name = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte == b':' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            name.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
        } else {
            name.push(byte);
        }
    }
    Some(name)
}

impl FromStr for DeviceId {
    type Err = DeviceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoding = || DeviceIdError::Encoding(text.into());
        let bytes = decode(text).ok_or_else(encoding)?;
        let name = InterfaceName::new(&bytes).map_err(|rule| DeviceIdError::Name(text.into(), rule))?;
        let id = Self::from(&name);
        // one name has one id: what would be written differently is none
        if id.as_str() == text { Ok(id) } else { Err(encoding()) }
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
    fn ids_are_encoded_as_the_design_says() {
        let table = [
            ("eth0", "eth0"),
            ("eth0.100", "eth0.100"),
            ("0a", "0a"),
            ("-a", "x:-a"),
            ("a_", "x:a:5f"),
            ("é", "x::c3:a9"),
            (".", "."),
            ("a.b,c", "x:a.b:2cc"),
        ];
        for (name, id) in table {
            if let Ok(name) = InterfaceName::try_from(name) {
                assert_eq!(DeviceId::from(&name).as_str(), id);
            }
        }
    }

    #[test]
    fn what_no_name_encodes_to_is_no_id() {
        for text in ["", "x:", "-a", "a_", "x:eth0", "x:a:5", "x:a:5F", "x:-:61", "a:b", "x:\u{e9}", "x:a:+f"] {
            assert!(text.parse::<DeviceId>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_name_has_its_own_id_that_leads_back(bytes in prop::collection::vec(any::<u8>(), 1..=15)) {
            if let Ok(name) = InterfaceName::new(&bytes) {
                let id = DeviceId::from(&name);
                prop_assert!(id.as_str().len() <= 47);
                prop_assert_eq!(&id.to_name(), &name);
                prop_assert_eq!(id.as_str().parse::<DeviceId>().unwrap(), id);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            let _ = text.parse::<DeviceId>();
        }
    }
}
