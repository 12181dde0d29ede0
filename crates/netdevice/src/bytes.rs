//! Hardware addresses, and strings of the kernel, which need not be UTF-8.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A link-layer address: 6 bytes for Ethernet, 20 for InfiniBand, at most 32 (`MAX_ADDR_LEN`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HardwareAddress(Box<[u8]>);

impl HardwareAddress {
    /// Takes the bytes of `IFLA_ADDRESS`; a link without an address has none.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (1..=32).contains(&bytes.len()).then(|| Self(bytes.into()))
    }

    /// The bytes, in their order.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for HardwareAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            write!(out, "{}{byte:02x}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for HardwareAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// A text that is not a hardware address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid hardware address {0:?}: write pairs of hex digits separated by colons")]
pub struct HardwareAddressError(String);

impl FromStr for HardwareAddress {
    type Err = HardwareAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pair = |pair: &str| {
            let digits = pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
            digits.then(|| u8::from_str_radix(pair, 16).ok()).flatten()
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(pair).collect();
        bytes.and_then(|bytes| Self::new(&bytes)).ok_or_else(|| HardwareAddressError(text.into()))
    }
}

impl Serialize for HardwareAddress {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HardwareAddress {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// A string of the kernel (alias, altname, label): mostly text, but any bytes are possible.
///
/// In JSON, text is a string and anything else is a list of numbers, so that the same bytes are read back.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelString(Box<[u8]>);

impl KernelString {
    /// Takes the bytes without their final NUL.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes without a final NUL.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for KernelString {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::name::write_bytes(out, &self.0)
    }
}

impl fmt::Debug for KernelString {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{self}\"")
    }
}

impl Serialize for KernelString {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => out.serialize_str(text),
            Err(_) => out.collect_seq(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for KernelString {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Bytes(Vec<u8>),
        }
        Ok(match Form::deserialize(from)? {
            Form::Text(text) => Self::new(text.as_bytes()),
            Form::Bytes(bytes) => Self::new(&bytes),
        })
    }
}

/// Serialises bytes as hex digits, for `#[serde(with = "hex")]`.
pub(crate) mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        // most of a record is hex digits, so without a formatter
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]).map(|digit| DIGITS[usize::from(digit)]);
        let digits: Vec<u8> = digits.collect();
        out.serialize_str(str::from_utf8(&digits).expect("digits are ASCII"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let byte = |pair: &[u8]| u8::try_from(digit(pair[0])? * 16 + digit(*pair.get(1)?)?).ok();
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        bytes.ok_or_else(|| D::Error::custom(format!("{text:?} is not hexadecimal")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hardware_addresses_are_read_as_they_are_written() {
        let address: HardwareAddress = "02:FC:00:00:00:01".parse().unwrap();
        assert_eq!(address.to_string(), "02:fc:00:00:00:01");
        for wrong in ["", "0", "02:", "02-fc", "+1:02", "zz:00"] {
            assert!(wrong.parse::<HardwareAddress>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn kernel_strings_survive_json(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let string = KernelString::new(&bytes);
            let text = serde_json::to_string(&string).unwrap();
            prop_assert_eq!(serde_json::from_str::<KernelString>(&text).unwrap(), string);
        }
    }
}
