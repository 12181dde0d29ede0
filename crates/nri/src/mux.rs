//! Frames of the multiplexer: two logical connections on one socket.
//!
//! A frame is an id and a length, both of four bytes, big-endian, and a payload. There is nothing else: no opening, no
//! closing, no flow control. A logical connection is a stream of bytes; where frames begin and end in it does not
//! matter here, but it does to the other side, see [`encode`].
//! Source: containerd/nri, pkg/net/multiplex/mux.go, and measurements with its versions 0.8 and 0.12.

use crate::error::Error;

/// Bytes of a frame's header.
const HEADER: usize = 8;
/// Longest payload that is written here.
const LONGEST_WRITTEN: usize = 4096;
/// Longest payload that the runtime writes: a whole message of ttrpc with its header.
pub(crate) const LONGEST_READ: u32 = 10 + (4 << 20);

/// A logical connection that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connection {
    /// The runtime calls, the plugin serves.
    Plugin,
    /// The plugin calls, the runtime serves.
    Runtime,
}

impl Connection {
    /// Its number in frames.
    pub(crate) fn id(self) -> u32 {
        match self {
            Self::Plugin => 1,
            Self::Runtime => 2,
        }
    }

    fn of(id: u32) -> Option<Self> {
        [Self::Plugin, Self::Runtime].into_iter().find(|connection| connection.id() == id)
    }
}

/// One message in frames of its own, none longer than 4096 bytes.
///
/// The reader of the Go runtimes looks for a message's header with a buffer of 4096 bytes, and loses what of a frame
/// does not fit: the connection ends, and a Pod that was being created continues without the plugin. So no frame is longer,
/// and none has bytes of two messages.
pub(crate) fn encode(connection: Connection, message: &[u8]) -> Vec<u8> {
    let frames = message.len().div_ceil(LONGEST_WRITTEN);
    let mut bytes = Vec::with_capacity(message.len() + frames * HEADER);
    for payload in message.chunks(LONGEST_WRITTEN) {
        push(connection, payload, &mut bytes);
    }
    bytes
}

/// One message as a runtime writes it: the beginning in a frame, all the rest in another.
#[cfg(feature = "stand-in")]
pub(crate) fn encode_as_runtime(connection: Connection, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (beginning, rest) = message.split_at(message.len().min(LONGEST_WRITTEN));
    for payload in [beginning, rest].into_iter().filter(|payload| !payload.is_empty()) {
        push(connection, payload, &mut bytes);
    }
    bytes
}

fn push(connection: Connection, payload: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend(connection.id().to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
}

/// Splits the socket's bytes into payloads, which are passed on as they arrive and not kept.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    header: [u8; HEADER],
    /// How much of the header has arrived.
    filled: usize,
    /// How much of the payload is still to come.
    left: usize,
    connection: Option<Connection>,
}

impl Decoder {
    /// Passes on what `bytes` has for each connection. Frames of other connections are skipped, as in the runtime.
    ///
    /// # Errors
    ///
    /// [`Error::FrameTooLong`]: nothing after it can be understood.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut take: impl FnMut(Connection, &[u8])) -> Result<(), Error> {
        while !bytes.is_empty() {
            if self.left == 0 {
                bytes = self.feed_header(bytes)?;
                continue;
            }
            let (payload, rest) = bytes.split_at(self.left.min(bytes.len()));
            self.left -= payload.len();
            bytes = rest;
            if let Some(connection) = self.connection {
                take(connection, payload);
            }
        }
        Ok(())
    }

    fn feed_header<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
        let (part, rest) = bytes.split_at((HEADER - self.filled).min(bytes.len()));
        self.header[self.filled..][..part.len()].copy_from_slice(part);
        self.filled += part.len();
        if self.filled == HEADER {
            self.filled = 0;
            let [a, b, c, d, e, f, g, h] = self.header;
            let length = u32::from_be_bytes([e, f, g, h]);
            if length > LONGEST_READ {
                return Err(Error::FrameTooLong(length));
            }
            self.left = length as usize;
            self.connection = Connection::of(u32::from_be_bytes([a, b, c, d]));
        }
        Ok(rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn frame(id: u32, payload: &[u8]) -> Vec<u8> {
        [&id.to_be_bytes()[..], &(payload.len() as u32).to_be_bytes(), payload].concat()
    }

    /// What came on connections 1 and 2 when the bytes come in these pieces.
    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<[Vec<u8>; 2], Error> {
        let (mut decoder, mut streams) = (Decoder::default(), [Vec::new(), Vec::new()]);
        for piece in pieces {
            decoder.feed(piece, |connection, bytes| streams[connection.id() as usize - 1].extend(bytes))?;
        }
        Ok(streams)
    }

    #[test]
    fn frames_without_payload_and_frames_of_other_connections_are_skipped() {
        let bytes = [
            frame(1, b""),
            frame(0, b"zero"),
            frame(1, b"a"),
            frame(3, b"three"),
            frame(u32::MAX, b""),
            frame(2, b"b"),
        ];
        assert_eq!(decode([&bytes.concat()[..]]).unwrap(), [b"a".to_vec(), b"b".to_vec()]);
    }

    #[test]
    fn the_longest_frame_of_a_runtime_is_taken_and_one_byte_more_is_not() {
        let longest = vec![7; LONGEST_READ as usize];
        assert_eq!(decode([&frame(1, &longest)[..]]).unwrap()[0].len(), longest.len());
        let header = [1u32.to_be_bytes(), (LONGEST_READ + 1).to_be_bytes()].concat();
        assert!(matches!(decode([&header[..]]), Err(Error::FrameTooLong(4_194_315))));
        // also on a connection that is not used: it would be skipped for hours
        let header = [9u32.to_be_bytes(), u32::MAX.to_be_bytes()].concat();
        assert!(matches!(decode([&header[..]]), Err(Error::FrameTooLong(u32::MAX))));
    }

    #[test]
    fn a_message_is_written_in_frames_of_at_most_4096_bytes() {
        let bytes = encode(Connection::Plugin, &[7; 10_000]);
        let lengths = [4096, 4096, 1808].map(|length| frame(1, &vec![7; length]));
        assert_eq!(bytes, lengths.concat());
    }

    proptest! {
        #[test]
        fn streams_come_whole_however_they_are_cut(
            frames in vec((0u32..4, vec(any::<u8>(), 0..40)), 0..20),
            cut in 1usize..50,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(id, payload)| frame(*id, payload)).collect();
            let expected = [1, 2].map(|wanted| {
                frames.iter().filter(|(id, _)| *id == wanted).flat_map(|(_, payload)| payload.clone()).collect::<Vec<u8>>()
            });
            prop_assert_eq!(decode(bytes.chunks(cut)).unwrap(), expected);
        }

        #[test]
        fn what_is_encoded_is_decoded(message in vec(any::<u8>(), 0..20_000), cut in 1usize..9000) {
            let bytes = encode(Connection::Runtime, &message);
            prop_assert_eq!(decode(bytes.chunks(cut)).unwrap(), [Vec::new(), message]);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..2000), cut in 1usize..100) {
            let _ = decode(bytes.chunks(cut));
        }
    }
}
