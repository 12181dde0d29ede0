//! Interface names as the kernel has them: bytes, not text.

use std::{fmt, str::FromStr};

/// Longest interface name in bytes: `IFNAMSIZ` less its final NUL (`include/uapi/linux/if.h`).
pub const MAX_NAME_LEN: usize = 15;

/// The name of a host interface: 1 to 15 bytes that `dev_valid_name` in `net/core/dev.c` accepts.
///
/// No `/`, `:`, NUL or white space (the kernel's `isspace`, so byte 0xA0 too), and neither `.` nor `..`. Every other
/// byte is legal, so a name need not be UTF-8: [`Display`](fmt::Display) writes other bytes as `\xNN`.
///
/// It has no allocation: snapshots copy maps with thousands of names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName {
    /// Filled with zeros. No name contains a zero, so names are in the order of their bytes.
    bytes: [u8; MAX_NAME_LEN],
    length: u8,
}

/// The rule that an invalid interface name breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InterfaceNameError {
    /// No bytes.
    #[error("empty interface name")]
    Empty,
    /// More than [`MAX_NAME_LEN`] bytes.
    #[error("interface name {0:?} has {1} bytes: the limit is 15")]
    TooLong(String, usize),
    /// `.` or `..`, which are directories for the kernel.
    #[error("invalid interface name {0:?}")]
    Dots(String),
    /// A byte that the kernel does not allow.
    #[error("interface name {0:?} contains the byte 0x{1:02x}, which the kernel does not allow")]
    Byte(String, u8),
    /// A name that means something else in every namespace, or that is a template.
    #[error("interface name {0:?} is not allowed in a sandbox: {1}")]
    Reserved(String, &'static str),
}

impl InterfaceName {
    /// Takes the bytes of a name, as in `IFLA_IFNAME` without the final NUL.
    ///
    /// # Errors
    ///
    /// The first rule of `dev_valid_name` that the bytes break.
    pub fn new(bytes: &[u8]) -> Result<Self, InterfaceNameError> {
        let text = || bytes.escape_ascii().to_string();
        if bytes.is_empty() {
            return Err(InterfaceNameError::Empty);
        }
        if bytes.len() > MAX_NAME_LEN {
            return Err(InterfaceNameError::TooLong(text(), bytes.len()));
        }
        if bytes == b"." || bytes == b".." {
            return Err(InterfaceNameError::Dots(text()));
        }
        if let Some(byte) = bytes.iter().find(|byte| is_forbidden(**byte)) {
            return Err(InterfaceNameError::Byte(text(), *byte));
        }
        let too_long = |_| InterfaceNameError::TooLong(text(), bytes.len());
        let mut name = Self { bytes: [0; MAX_NAME_LEN], length: u8::try_from(bytes.len()).map_err(too_long)? };
        name.bytes[..bytes.len()].copy_from_slice(bytes);
        Ok(name)
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The name as text, if it is UTF-8.
    pub fn to_str(&self) -> Option<&str> {
        std::str::from_utf8(self.as_bytes()).ok()
    }
}

/// `isspace` of `lib/ctype.c` (Latin-1: the no-break space counts), the path and alias separators, and the end mark.
fn is_forbidden(byte: u8) -> bool {
    matches!(byte, b'/' | b':' | 0 | b'\t'..=b'\r' | b' ' | 0xa0)
}

/// Bytes as text: UTF-8 as it is, everything else as `\xNN`.
pub(crate) fn write_bytes(out: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        out.write_str(chunk.valid())?;
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_bytes(out, self.as_bytes())
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{self}\"")
    }
}

impl FromStr for InterfaceName {
    type Err = InterfaceNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text.as_bytes())
    }
}

impl TryFrom<&str> for InterfaceName {
    type Error = InterfaceNameError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_that_the_kernel_allows_is_accepted() {
        for name in [&b"eth0.100"[..], b"-a", b"a_", b"0", b"\xc3\xa9", b"\xff\xfe", b"a,b", b"123456789012345", b"..."]
        {
            assert!(InterfaceName::new(name).is_ok(), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_refused_with_the_rule() {
        let refused = [
            (&b""[..], "empty interface name"),
            (b"1234567890123456", "interface name \"1234567890123456\" has 16 bytes: the limit is 15"),
            (b"..", "invalid interface name \"..\""),
            (b"a/b", "interface name \"a/b\" contains the byte 0x2f, which the kernel does not allow"),
            (b"a:b", "interface name \"a:b\" contains the byte 0x3a, which the kernel does not allow"),
            (b"\xc3\xa0", "interface name \"\\\\xc3\\\\xa0\" contains the byte 0xa0, which the kernel does not allow"),
        ];
        for (name, message) in refused {
            assert_eq!(InterfaceName::new(name).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn names_that_are_not_utf8_are_shown_escaped() {
        assert_eq!(InterfaceName::new(b"a\xffb").unwrap().to_string(), "a\\xffb");
        assert_eq!(InterfaceName::new("é".as_bytes()).unwrap().to_string(), "é");
    }
}
