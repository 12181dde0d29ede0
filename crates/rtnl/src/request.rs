//! Requests to the kernel, several to one send.

use crate::{field::align, message::flags};

pub(crate) const NESTED: u16 = 0x8000;

/// Requests that go to the kernel in one `sendmsg`. It processes them in order and answers each one; a failure of one
/// does not stop the next.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where each request begins.
    starts: Vec<usize>,
}

impl Batch {
    /// No request yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a request; `header` is what its kind begins with (`struct ifinfomsg`, …).
    pub fn push(&mut self, kind: u16, message_flags: u16, header: &[u8]) -> Request<'_> {
        let start = self.bytes.len();
        self.starts.push(start);
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags::REQUEST | message_flags).to_ne_bytes());
        self.bytes.extend([0; 8]);
        self.bytes.extend(header);
        let mut request = Request { bytes: &mut self.bytes, start };
        request.pad();
        request
    }

    /// All requests, numbered from 1, after `offset` was added to each number.
    pub fn into_bytes(mut self, offset: u32) -> Vec<u8> {
        for (number, start) in (1u32..).zip(&self.starts) {
            self.bytes[start + 8..start + 12].copy_from_slice(&number.wrapping_add(offset).to_ne_bytes());
        }
        self.bytes
    }

    /// Requests an acknowledgement of the last request only: the kernel processes them in order, and reports each
    /// failure anyway (`netlink_rcv_skb` in `net/netlink/af_netlink.c`).
    pub fn acknowledge_last(&mut self) {
        let Some((_, others)) = self.starts.split_last() else { return };
        for start in others {
            let field = &mut self.bytes[start + 6..start + 8];
            let asked = u16::from_ne_bytes([field[0], field[1]]);
            field.copy_from_slice(&(asked & !flags::ACK).to_ne_bytes());
        }
    }

    /// How many requests there are.
    pub fn count(&self) -> u32 {
        u32::try_from(self.starts.len()).expect("no batch of ours has 4 billion requests")
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }
}

/// A request under construction: attributes are added at its end.
#[derive(Debug)]
pub struct Request<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
}

impl Request<'_> {
    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(4 + value.len()).expect("no attribute of ours has 64 kB");
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
        self
    }

    /// Adds a number of 4 bytes.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Adds a string with its final NUL.
    pub fn string(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let mut value = value.to_vec();
        value.push(0);
        self.attribute(kind, &value)
    }

    /// Adds an attribute of attributes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Request<'_>)) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        fill(&mut Request { bytes: self.bytes, start: self.start });
        let length = u16::try_from(self.bytes.len() - at).expect("no attribute of ours has 64 kB");
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Pads to 4 bytes and updates the length of the message.
    fn pad(&mut self) {
        self.bytes.resize(align(self.bytes.len()), 0);
        let length = u32::try_from(self.bytes.len() - self.start).expect("no request of ours has 4 GB");
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::kind;

    #[test]
    fn only_the_last_request_is_acknowledged_and_each_has_its_number() {
        let mut batch = Batch::new();
        batch.push(kind::NEWROUTE, flags::ACK | flags::CREATE, &[1]);
        batch.push(kind::NEWADDR, flags::ACK, &[2; 5]);
        batch.push(kind::SETLINK, flags::ACK, &[3; 8]);
        batch.acknowledge_last();
        let bytes = batch.into_bytes(40);
        let read: Vec<_> = crate::messages(&bytes).map(|message| message.unwrap()).collect();
        let heads: Vec<_> = read.iter().map(|message| (message.kind, message.flags, message.sequence)).collect();
        let (first, rest) = (flags::REQUEST | flags::CREATE, flags::REQUEST);
        let expected = [(kind::NEWROUTE, first, 41), (kind::NEWADDR, rest, 42), (kind::SETLINK, rest | flags::ACK, 43)];
        assert_eq!(heads, expected);
    }
}
