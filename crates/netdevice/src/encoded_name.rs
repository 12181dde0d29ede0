//! Interface names as text that CDI and JSON take, and back, exactly.
//!
//! A name that CDI takes is not changed. Any other name becomes `x:` and its bytes; each byte that CDI does not take is
//! `:` and two hexadecimal digits. No interface name contains `:`, so the two forms are never equal.

use crate::name::{InterfaceName, InterfaceNameError};

/// How a text begins that is not the name itself.
pub(crate) const ENCODED: &str = "x:";

/// The rule that an invalid encoded name breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodedNameError {
    /// Not what [`encode`] makes of any name.
    #[error("{0:?} does not encode an interface name")]
    Encoding(String),
    /// The encoding is right, the name in it is invalid.
    #[error("{0:?} does not encode an interface name: {1}")]
    Name(String, InterfaceNameError),
}

/// The text of a name; at most 47 bytes of ASCII.
pub fn encode(name: &InterfaceName) -> String {
    let bytes = name.as_bytes();
    if let (Some(text), true) = (name.to_str(), is_plain(bytes)) {
        return text.into();
    }
    let mut encoded = String::from(ENCODED);
    for (at, byte) in bytes.iter().enumerate() {
        let last = at + 1 == bytes.len();
        if byte.is_ascii_alphanumeric() || (!last && matches!(byte, b'_' | b'-' | b'.')) {
            encoded.push(char::from(*byte));
        } else {
            encoded.push_str(&format!(":{byte:02x}"));
        }
    }
    encoded
}

/// The name in a text that [`encode`] wrote.
///
/// # Errors
///
/// When [`encode`] makes this text of no name.
pub fn decode(text: &str) -> Result<InterfaceName, EncodedNameError> {
    let encoding = || EncodedNameError::Encoding(text.into());
    let bytes = to_bytes(text).ok_or_else(encoding)?;
    let name = InterfaceName::new(&bytes).map_err(|rule| EncodedNameError::Name(text.into(), rule))?;
    // each name has one encoding
    if encode(&name) == text { Ok(name) } else { Err(encoding()) }
}

/// For `#[serde(with)]`: an interface name, encoded.
pub(crate) mod json {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::InterfaceName;

    pub(crate) fn serialize<S: Serializer>(name: &InterfaceName, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&super::encode(name))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<InterfaceName, D::Error> {
        super::decode(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// For `#[serde(with)]`: an interface name, encoded, or nothing.
pub(crate) mod optional_json {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::InterfaceName;

    #[derive(Serialize, Deserialize)]
    struct Name(#[serde(with = "super::json")] InterfaceName);

    pub(crate) fn serialize<S: Serializer>(name: &Option<InterfaceName>, out: S) -> Result<S::Ok, S::Error> {
        name.clone().map(Name).serialize(out)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<InterfaceName>, D::Error> {
        Ok(Option::<Name>::deserialize(from)?.map(|Name(name)| name))
    }
}

/// Whether CDI takes the name as device name: alphanumeric at both ends; also `_`, `-` and `.` between.
fn is_plain(name: &[u8]) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    ends(name.first())
        && ends(name.last())
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(byte))
}

fn to_bytes(text: &str) -> Option<Vec<u8>> {
    let Some(encoded) = text.strip_prefix(ENCODED) else {
        return Some(text.as_bytes().to_vec());
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_encoded_as_the_design_says() {
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
        for (name, encoded) in table {
            if let Ok(name) = InterfaceName::try_from(name) {
                assert_eq!(encode(&name), encoded);
            }
        }
    }

    #[test]
    fn what_no_name_encodes_to_is_refused() {
        for text in ["", "x:", "-a", "a_", "x:eth0", "x:a:5", "x:a:5F", "x:-:61", "a:b", "x:\u{e9}", "x:a:+f"] {
            assert!(decode(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_name_is_encoded_in_one_way_and_decoded_exactly(bytes in prop::collection::vec(any::<u8>(), 1..=15)) {
            if let Ok(name) = InterfaceName::new(&bytes) {
                let text = encode(&name);
                prop_assert!(text.len() <= 47);
                prop_assert_eq!(decode(&text).unwrap(), name);
            }
        }

        #[test]
        fn any_text_is_decoded_or_refused(text in "\\PC*") {
            if let Ok(name) = decode(&text) {
                prop_assert_eq!(encode(&name), text);
            }
        }
    }
}
