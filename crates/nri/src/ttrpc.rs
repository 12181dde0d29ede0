//! Messages of ttrpc: a header of ten bytes and the data.
//!
//! The header has the data's length, the stream's id (both of four bytes, big-endian), a type and flags. NRI has calls
//! with one request and one response only; each has a stream of its own, with an odd id.
//! Source: containerd/ttrpc, PROTOCOL.md.

use prost::Message as _;
use proto::ttrpc::{Request, Response, Status};

/// Bytes of a header.
const HEADER: usize = 10;
/// Longest data.
pub(crate) const LONGEST: usize = 4 << 20;

/// Codes of a status that are used here, as in gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
}

/// A status with this code.
pub(crate) fn status(code: Code, message: impl Into<String>) -> Status {
    Status { code: code as i32, message: message.into() }
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response,
    /// Of a stream, or of a later version.
    Other(u8),
}

impl Kind {
    fn of(byte: u8) -> Self {
        match byte {
            1 => Self::Request,
            2 => Self::Response,
            other => Self::Other(other),
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Other(byte) => byte,
        }
    }
}

/// A message as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) stream: u32,
    pub(crate) kind: Kind,
    pub(crate) body: Body,
}

/// Its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// All of it.
    Whole(Vec<u8>),
    /// It had this many bytes, more than the protocol allows; they were skipped.
    TooLong(usize),
}

/// A request in bytes.
pub(crate) fn encode_request(stream: u32, request: &Request) -> Vec<u8> {
    encode(stream, Kind::Request, &request.encode_to_vec())
}

/// A response in bytes.
pub(crate) fn encode_response(stream: u32, answer: Result<Vec<u8>, Status>) -> Vec<u8> {
    let response = match answer {
        Ok(payload) => Response { status: None, payload },
        Err(status) => Response { status: Some(status), payload: Vec::new() },
    };
    encode(stream, Kind::Response, &response.encode_to_vec())
}

fn encode(stream: u32, kind: Kind, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + data.len());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend([kind.byte(), 0]);
    bytes.extend(data);
    bytes
}

/// Splits the bytes of one logical connection into messages. Keeps at most one.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The header, and after it the data if it is not too long.
    bytes: Vec<u8>,
    /// How much of data that is too long is still to come.
    skipping: usize,
}

impl Decoder {
    /// Passes on each message that is complete with these bytes.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut take: impl FnMut(Message)) {
        while !bytes.is_empty() {
            if self.skipping > 0 {
                let skipped = self.skipping.min(bytes.len());
                self.skipping -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let wanted = HEADER + self.header().map_or(0, |(length, ..)| length);
            let (part, rest) = bytes.split_at((wanted - self.bytes.len()).min(bytes.len()));
            self.bytes.extend(part);
            bytes = rest;
            if let Some(message) = self.complete() {
                take(message);
            }
        }
    }

    /// Length, stream and kind, when the header is there.
    fn header(&self) -> Option<(usize, u32, Kind)> {
        let &[a, b, c, d, e, f, g, h, kind, _flags] = self.bytes.first_chunk::<HEADER>()?;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        Some((length, u32::from_be_bytes([e, f, g, h]), Kind::of(kind)))
    }

    fn complete(&mut self) -> Option<Message> {
        let (length, stream, kind) = self.header()?;
        let body = if length > LONGEST {
            self.skipping = length;
            self.bytes.clear();
            Body::TooLong(length)
        } else if self.bytes.len() == HEADER + length {
            Body::Whole(std::mem::take(&mut self.bytes).split_off(HEADER))
        } else {
            return None;
        };
        Some(Message { stream, kind, body })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Message> {
        let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
        for piece in pieces {
            decoder.feed(piece, |message| messages.push(message));
        }
        messages
    }

    fn response(stream: u32, data: &[u8]) -> Message {
        Message { stream, kind: Kind::Response, body: Body::Whole(data.to_vec()) }
    }

    #[test]
    fn a_header_is_length_stream_type_and_flags() {
        assert_eq!(encode(3, Kind::Request, b"ab"), [0, 0, 0, 2, 0, 0, 0, 3, 1, 0, b'a', b'b']);
    }

    #[test]
    fn success_has_no_status() {
        assert_eq!(encode_response(1, Ok(Vec::new())).len(), HEADER);
        let refused = decode([&encode_response(1, Err(status(Code::Unknown, "no")))[..]]);
        let Body::Whole(data) = &refused[0].body else { panic!("{refused:?}") };
        assert_eq!(Response::decode(&data[..]).unwrap().status, Some(Status { code: 2, message: "no".into() }));
    }

    #[test]
    fn data_that_is_too_long_is_told_at_once_and_skipped() {
        let mut decoder = Decoder::default();
        let mut messages = Vec::new();
        let header = [&(LONGEST as u32 + 1).to_be_bytes()[..], &[0, 0, 0, 5, 1, 0]].concat();
        decoder.feed(&header, |message| messages.push(message));
        assert_eq!(messages, [Message { stream: 5, kind: Kind::Request, body: Body::TooLong(LONGEST + 1) }]);
        let rest = [vec![1; LONGEST + 1], encode(7, Kind::Response, b"next")].concat();
        for piece in rest.chunks(100_000) {
            decoder.feed(piece, |message| messages.push(message));
            assert!(decoder.bytes.capacity() < 1000, "nothing of it is kept");
        }
        assert_eq!(messages[1..], [response(7, b"next")]);
    }

    #[test]
    fn the_longest_data_is_taken() {
        let messages = decode(encode(1, Kind::Response, &vec![7; LONGEST]).chunks(4096));
        assert_eq!(messages, [response(1, &vec![7; LONGEST])]);
    }

    proptest! {
        #[test]
        fn messages_come_whole_however_they_are_cut(
            messages in vec((any::<u32>(), vec(any::<u8>(), 0..40)), 0..20),
            cut in 1usize..60,
        ) {
            let bytes: Vec<u8> = messages.iter().flat_map(|(stream, data)| encode(*stream, Kind::Response, data)).collect();
            let expected: Vec<Message> = messages.iter().map(|(stream, data)| response(*stream, data)).collect();
            prop_assert_eq!(decode(bytes.chunks(cut)), expected);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..2000), cut in 1usize..100) {
            decode(bytes.chunks(cut));
        }
    }
}
