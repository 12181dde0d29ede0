//! Attributes: `struct nlattr`, one behind the other, padded to 4 bytes.

use std::net::IpAddr;

use crate::field::{align, number};

/// The flags in an attribute's kind: nested, and network byte order.
pub(crate) const KIND_MASK: u16 = 0x3fff;

/// One attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its kind without flags.
    pub kind: u16,
    /// Its kind as written.
    pub raw_kind: u16,
    /// Its value.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The value as a number of 4 bytes.
    pub fn u32(&self) -> Option<u32> {
        number(self.value, 0).map(u32::from_ne_bytes)
    }

    /// The value as a signed number of 4 bytes.
    pub fn i32(&self) -> Option<i32> {
        number(self.value, 0).map(i32::from_ne_bytes)
    }

    /// The value as a number of one byte.
    pub fn u8(&self) -> Option<u8> {
        self.value.first().copied()
    }

    /// The value up to its first NUL.
    pub fn string(&self) -> &'a [u8] {
        self.value.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// The value as an IPv4 or IPv6 address, by its length.
    pub fn address(&self) -> Option<IpAddr> {
        match self.value.len() {
            4 => number::<4>(self.value, 0).map(IpAddr::from),
            16 => number::<16>(self.value, 0).map(IpAddr::from),
            _ => None,
        }
    }

    /// The attributes inside.
    pub fn nested(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        attributes(self.value)
    }

    /// The value as a list of numbers of 4 bytes.
    pub fn numbers(&self) -> impl Iterator<Item = i32> + use<'a> {
        self.value.chunks_exact(4).filter_map(|chunk| number(chunk, 0).map(i32::from_ne_bytes))
    }

    /// A copy that outlives the message.
    pub fn to_owned(&self) -> netdevice::state::Attribute {
        netdevice::state::Attribute { kind: self.raw_kind, value: self.value.to_vec() }
    }
}

/// The attributes in these bytes; what is malformed ends the list.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(number(rest, 0)?));
        let raw_kind = u16::from_ne_bytes(number(rest, 2)?);
        let value = rest.get(4..length)?;
        rest = rest.get(align(length)..).unwrap_or_default();
        Some(Attribute { kind: raw_kind & KIND_MASK, raw_kind, value })
    })
}
