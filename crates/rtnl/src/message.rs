//! The frame around each message: `struct nlmsghdr`, and the kernel's answers.

use crate::{
    attribute::attributes,
    field::{align, number},
};

/// Message kinds (`include/uapi/linux/rtnetlink.h`).
pub mod kind {
    /// A link is there, or changed.
    pub const NEWLINK: u16 = 16;
    /// A link is gone.
    pub const DELLINK: u16 = 17;
    /// Requests links.
    pub const GETLINK: u16 = 18;
    /// Changes a link.
    pub const SETLINK: u16 = 19;
    /// An address is there.
    pub const NEWADDR: u16 = 20;
    /// An address is gone.
    pub const DELADDR: u16 = 21;
    /// Requests addresses.
    pub const GETADDR: u16 = 22;
    /// A route is there.
    pub const NEWROUTE: u16 = 24;
    /// A route is gone.
    pub const DELROUTE: u16 = 25;
    /// Requests routes.
    pub const GETROUTE: u16 = 26;
    /// A neighbour is there.
    pub const NEWNEIGH: u16 = 28;
    /// A neighbour is gone.
    pub const DELNEIGH: u16 = 29;
    /// Requests neighbours.
    pub const GETNEIGH: u16 = 30;
    /// A routing rule is there.
    pub const NEWRULE: u16 = 32;
    /// A routing rule is gone.
    pub const DELRULE: u16 = 33;
    /// Requests routing rules.
    pub const GETRULE: u16 = 34;
    /// A queueing discipline is there.
    pub const NEWQDISC: u16 = 36;
    /// A queueing discipline is gone, and its filters with it.
    pub const DELQDISC: u16 = 37;
    /// Requests queueing disciplines.
    pub const GETQDISC: u16 = 38;
    /// A traffic control filter is there.
    pub const NEWTFILTER: u16 = 44;
    /// A traffic control filter is gone.
    pub const DELTFILTER: u16 = 45;
    /// Requests filters.
    pub const GETTFILTER: u16 = 46;
    /// Actions of filters are there.
    pub const NEWACTION: u16 = 48;
    /// Actions of filters are gone.
    pub const DELACTION: u16 = 49;
    /// Requests actions of filters, and is the answer.
    pub const GETACTION: u16 = 50;
    /// Settings of a neighbour table, or of a link in it.
    pub const NEWNEIGHTBL: u16 = 64;
    /// Requests settings of neighbour tables.
    pub const GETNEIGHTBL: u16 = 66;
    /// A namespace has an id here.
    pub const NEWNSID: u16 = 88;
    /// A namespace with an id here is gone.
    pub const DELNSID: u16 = 89;
    /// Requests the id of a namespace.
    pub const GETNSID: u16 = 90;
    /// A next-hop object is there.
    pub const NEWNEXTHOP: u16 = 104;
    /// A next-hop object is gone.
    pub const DELNEXTHOP: u16 = 105;
    /// Requests next-hop objects.
    pub const GETNEXTHOP: u16 = 106;
    /// Gives a link alternative names.
    pub const NEWLINKPROP: u16 = 108;
    /// Takes alternative names away.
    pub const DELLINKPROP: u16 = 109;

    /// `NLMSG_ERROR`: an acknowledgement, with 0 for success.
    pub const ERROR: u16 = 2;
    /// `NLMSG_DONE`: the end of a dump.
    pub const DONE: u16 = 3;
}

/// Message flags (`include/uapi/linux/netlink.h`).
pub mod flags {
    /// Every request has it.
    pub const REQUEST: u16 = 0x01;
    /// The kernel shall acknowledge.
    pub const ACK: u16 = 0x04;
    /// The notification of a change is sent to the program that made it, too.
    pub const ECHO: u16 = 0x08;
    /// Something changed during a dump: it may have holes.
    pub const DUMP_INTR: u16 = 0x10;
    /// All objects, not one.
    pub const DUMP: u16 = 0x300;
    /// Replace what is there.
    pub const REPLACE: u16 = 0x100;
    /// Fail if it is there.
    pub const EXCL: u16 = 0x200;
    /// Make it if it is not there.
    pub const CREATE: u16 = 0x400;
    /// Add behind what is there.
    pub const APPEND: u16 = 0x800;
}

const HEADER: usize = 16;
/// `NLM_F_CAPPED`: the answer does not repeat the request.
const CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: the answer has attributes.
const ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`.
const ERROR_TEXT: u16 = 1;

/// Bytes that are no netlink message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink message: {0}")]
pub struct Malformed(pub &'static str);

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// See [`kind`].
    pub kind: u16,
    /// See [`flags`].
    pub flags: u16,
    /// The sequence number of the request that it answers; 0 for a notification.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// What the kernel says to a request as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// 0, or a positive `errno`.
    pub errno: i32,
    /// The kernel's own words, if it has any (`NETLINK_EXT_ACK`).
    pub text: Option<&'a str>,
}

impl<'a> Message<'a> {
    /// The answer in an `NLMSG_ERROR` or `NLMSG_DONE` message; other messages are none.
    pub fn answer(&self) -> Option<Answer<'a>> {
        if self.kind != kind::ERROR && self.kind != kind::DONE {
            return None;
        }
        // the kernel leaves the number out at the end of some dumps
        let errno = number(self.payload, 0).map_or(0, |code| i32::from_ne_bytes(code).unsigned_abs().cast_signed());
        let text = || {
            let from = if self.kind == kind::DONE {
                4
            } else if self.flags & CAPPED != 0 {
                4 + HEADER
            } else {
                4 + align(usize::try_from(u32::from_ne_bytes(number(self.payload, 4)?)).ok()?)
            };
            let found = attributes(self.payload.get(from..)?).find(|attribute| attribute.kind == ERROR_TEXT)?;
            std::str::from_utf8(found.string()).ok()
        };
        Some(Answer { errno, text: if self.flags & ACK_TLVS != 0 { text() } else { None } })
    }
}

/// The messages in what one receive gave.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = split(rest);
        rest = match message {
            Ok((_, length)) => rest.get(align(length)..).unwrap_or_default(),
            Err(_) => &[],
        };
        Some(message.map(|(message, _)| message))
    })
}

fn split(bytes: &[u8]) -> Result<(Message<'_>, usize), Malformed> {
    let short = Malformed("shorter than its header");
    let length = number(bytes, 0).map(u32::from_ne_bytes).ok_or(short)?;
    let length = usize::try_from(length).map_err(|_| short)?;
    let kind = number(bytes, 4).map(u16::from_ne_bytes).ok_or(short)?;
    let flags = number(bytes, 6).map(u16::from_ne_bytes).ok_or(short)?;
    let sequence = number(bytes, 8).map(u32::from_ne_bytes).ok_or(short)?;
    let payload = bytes.get(HEADER..length).ok_or(Malformed("its length leads beyond its end"))?;
    Ok((Message { kind, flags, sequence, payload }, length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_acknowledgement_carries_the_kernels_words() {
        let mut bytes = vec![0; 4];
        bytes.extend(2u16.to_ne_bytes());
        bytes.extend((CAPPED | ACK_TLVS).to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend((-17i32).to_ne_bytes());
        bytes.extend([0; 16]);
        bytes.extend(11u16.to_ne_bytes());
        bytes.extend(1u16.to_ne_bytes());
        bytes.extend(b"exists\0\0");
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let message = messages(&bytes).next().unwrap().unwrap();
        assert_eq!(message.answer(), Some(Answer { errno: 17, text: Some("exists") }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_split_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes).flatten() {
                let _ = message.answer();
            }
        }
    }
}
