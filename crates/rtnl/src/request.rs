//! Requests to the kernel, several to one send.

use crate::message::{align, flags};

const NESTED: u16 = 0x8000;

/// Requests that go to the kernel in one `sendmsg`. It works them off in order and answers each one, and a failure of
/// one does not keep it from the next.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

impl Batch {
    /// No request yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a request that the kernel acknowledges; `header` is what its kind begins with (`struct ifinfomsg`, …).
    pub fn push(&mut self, kind: u16, message_flags: u16, header: &[u8]) -> Request<'_> {
        self.count += 1;
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags::REQUEST | message_flags).to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(header);
        let mut request = Request { bytes: &mut self.bytes, start };
        request.pad();
        request
    }

    /// All requests, numbered from 1, after `offset` was added to each number.
    pub fn into_bytes(mut self, offset: u32) -> Vec<u8> {
        let mut at = 0;
        while let Some(length) = self.bytes.get(at..at + 4) {
            let length = u32::from_ne_bytes(length.try_into().expect("4 bytes were asked for"));
            let field = &mut self.bytes[at + 8..at + 12];
            let number = u32::from_ne_bytes((&*field).try_into().expect("4 bytes were asked for"));
            field.copy_from_slice(&number.wrapping_add(offset).to_ne_bytes());
            at += align(length as usize);
        }
        self.bytes
    }

    /// How many requests there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
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

    /// Pads to 4 bytes and keeps the message's length true.
    fn pad(&mut self) {
        self.bytes.resize(align(self.bytes.len()), 0);
        let length = u32::try_from(self.bytes.len() - self.start).expect("no request of ours has 4 GB");
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}
