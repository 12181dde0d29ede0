//! Makes the `:authority` of a kubelet's request readable.
//!
//! The kubelet's plugin manager dials the sockets in `plugins_registry` by their path and sets no authority, so that gRPC
//! in Go sends the path itself: percent-encoded since grpc-go 1.57, as it is before. Neither is an authority as
//! RFC 3986 defines one, and `h2` resets such a stream with PROTOCOL_ERROR before anything above it sees the request
//! (hyperium/h2#487, grpc/grpc-rust#243). In `device-plugins` the kubelet sends `localhost` (kubernetes#112597).
//!
//! [`ReadableAuthority`] reads the frames of HTTP/2 (RFC 9113) on their way in and replaces each `%` and `/` of an
//! authority by `-`. All three have 6 bits in the Huffman code of HPACK (RFC 7541, appendix B), and one byte without it: no
//! length changes, neither of the frame nor of the entry in the decoder's table, so that everything else stays as it was
//! sent. A header block in several frames is passed on unchanged; no gRPC client sends one of that size here.

use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Length of the preface that a client sends before the first frame, in bytes.
const PREFACE: usize = 24;
/// The head of a frame, in bytes.
const HEAD: usize = 9;
/// Longest frame that a client may send by default, without the head.
const MAX_FRAME: usize = 1 << 14;
/// Type of a frame with a header block, and its flags.
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Index of the name `:authority` in the table that HPACK begins with.
const AUTHORITY: usize = 1;

/// A connection of a kubelet, with readable authorities.
#[derive(Debug)]
pub struct ReadableAuthority<S> {
    stream: S,
    input: Input,
}

impl<S> ReadableAuthority<S> {
    /// Wraps a connection from which nothing was read yet.
    pub fn new(stream: S) -> Self {
        let state = State::Preface;
        Self { stream, input: Input { raw: Vec::new(), ready: Vec::new(), taken: 0, state } }
    }
}

impl<S> Connected for ReadableAuthority<S> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadableAuthority<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.input.give(buffer) {
                return Poll::Ready(Ok(()));
            }
            let mut chunk = [0; 4096];
            let mut chunk = ReadBuf::new(&mut chunk);
            match Pin::new(&mut self.stream).poll_read(context, &mut chunk) {
                Poll::Ready(Ok(())) if chunk.filled().is_empty() => {
                    self.input.end();
                    self.input.give(buffer);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(())) => self.input.take(chunk.filled()),
                other => return other,
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadableAuthority<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The input, frame by frame.
#[derive(Debug)]
struct Input {
    /// Less than a frame.
    raw: Vec<u8>,
    /// Bytes that may be read, and how many of them were.
    ready: Vec<u8>,
    taken: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The client's preface has not arrived.
    Preface,
    /// Frames.
    Frames,
    /// The stream has ended, or is invalid, which `h2` reports: passed on unchanged.
    Unchanged,
}

impl State {
    /// The length of what comes next; none while it is not complete.
    fn next_length(&mut self, rest: &[u8]) -> Option<usize> {
        let length = match self {
            Self::Preface => PREFACE,
            Self::Frames if rest.len() < HEAD => return None,
            Self::Frames => match usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]) {
                payload if payload <= MAX_FRAME => HEAD + payload,
                _ => {
                    *self = Self::Unchanged;
                    rest.len()
                }
            },
            Self::Unchanged => rest.len(),
        };
        (length > 0 && rest.len() >= length).then_some(length)
    }
}

impl Input {
    /// Copies bytes that may be read. Returns whether there were any.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let count = buffer.remaining().min(self.ready.len() - self.taken);
        buffer.put_slice(&self.ready[self.taken..self.taken + count]);
        self.taken += count;
        if self.taken == self.ready.len() {
            self.ready.clear();
            self.taken = 0;
        }
        count > 0
    }

    fn take(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
        let mut done = 0;
        while let Some(length) = self.state.next_length(&self.raw[done..]) {
            let piece = &mut self.raw[done..done + length];
            if self.state == State::Frames {
                make_readable(piece);
            } else if self.state == State::Preface {
                self.state = State::Frames;
            }
            done += length;
        }
        self.ready.extend(self.raw.drain(..done));
    }

    fn end(&mut self) {
        self.state = State::Unchanged;
        self.ready.append(&mut self.raw);
    }
}

/// Makes the authority in a frame readable, if there is one.
fn make_readable(frame: &mut [u8]) {
    let (head, payload) = frame.split_at_mut(HEAD);
    let (kind, flags) = (head[3], head[4]);
    if kind != HEADERS || flags & END_HEADERS == 0 {
        return;
    }
    let (mut start, mut end) = (0, payload.len());
    if flags & PADDED != 0 {
        let Some(padding) = payload.first() else { return };
        end = end.saturating_sub(usize::from(*padding));
        start += 1;
    }
    if flags & PRIORITY != 0 {
        start += 5;
    }
    if let Some(block) = payload.get_mut(start..end) {
        // `h2` refuses what is invalid
        for value in authorities(block).unwrap_or_default() {
            value.replace(block);
        }
    }
}

/// A string of HPACK.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Text {
    bytes: Range<usize>,
    is_huffman: bool,
}

/// Where the authorities are in a header block; none when the block is not HPACK.
fn authorities(block: &[u8]) -> Option<Vec<Text>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(first) = block.get(at) {
        let prefix = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let (index, next) = integer(block, at, prefix)?;
        at = next;
        // an entry of the table, or the table's size
        if matches!(prefix, 7 | 5) {
            continue;
        }
        if index == 0 {
            at = text(block, at)?.bytes.end;
        }
        let value = text(block, at)?;
        at = value.bytes.end;
        if index == AUTHORITY {
            found.push(value);
        }
    }
    Some(found)
}

fn text(block: &[u8], at: usize) -> Option<Text> {
    let is_huffman = block.get(at)? & 0x80 != 0;
    let (length, start) = integer(block, at, 7)?;
    let end = start.checked_add(length).filter(|end| *end <= block.len())?;
    Some(Text { bytes: start..end, is_huffman })
}

/// An integer whose first byte has so many bits of it, and what follows it (RFC 7541, section 5.1).
fn integer(block: &[u8], mut at: usize, prefix: u32) -> Option<(usize, usize)> {
    let most = (1 << prefix) - 1;
    let mut value = usize::from(*block.get(at)?) & most;
    at += 1;
    if value < most {
        return Some((value, at));
    }
    for shift in [0, 7, 14] {
        let byte = usize::from(*block.get(at)?);
        at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
    None
}

impl Text {
    /// Puts `-` in the place of each `%` and `/`.
    fn replace(&self, block: &mut [u8]) {
        let bytes = &mut block[self.bytes.clone()];
        if self.is_huffman {
            replace_in_huffman_code(bytes);
        } else {
            bytes.iter_mut().filter(|byte| matches!(byte, b'%' | b'/')).for_each(|byte| *byte = b'-');
        }
    }
}

/// The first code of each length that is of a longer one: codes of one length follow each other, and every shorter code
/// comes before every longer one. Longer ones are not of printable characters.
const CODES: [(usize, u32); 10] = [
    (5, 0x0a),
    (6, 0x2e),
    (7, 0x7c),
    (8, 0xfe),
    (10, 0x3fd),
    (11, 0x7fd),
    (12, 0xffc),
    (13, 0x1ffe),
    (14, 0x3ffe),
    (15, 0x7fff),
];
const PERCENT: u32 = 0x15;
const HYPHEN: u32 = 0x16;
const SLASH: u32 = 0x18;

fn replace_in_huffman_code(bytes: &mut [u8]) {
    let mut at = 0;
    while at < 8 * bytes.len() {
        let code_at = |length| bits(bytes, at, length);
        let Some((length, _)) = CODES.iter().find(|(length, end)| code_at(*length) < *end) else { return };
        if *length == 6 && matches!(code_at(6), PERCENT | SLASH) && at + 6 <= 8 * bytes.len() {
            for bit in 0..6 {
                let (byte, mask) = ((at + bit) / 8, 0x80 >> ((at + bit) % 8));
                if HYPHEN >> (5 - bit) & 1 == 1 { bytes[byte] |= mask } else { bytes[byte] &= !mask }
            }
        }
        at += length;
    }
}

/// That many bits from a position on; past the end there are ones, as in the padding.
fn bits(bytes: &[u8], at: usize, count: usize) -> u32 {
    let bit = |at: usize| bytes.get(at / 8).is_none_or(|byte| byte & (0x80 >> (at % 8)) != 0);
    (at..at + count).fold(0, |bits, at| bits << 1 | u32::from(bit(at)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Header blocks of GetInfo as `hpack` of golang.org/x/net v0.51.0 writes them, with the authority that grpc-go has
    /// for `/var/lib/kubelet/plugins_registry/netdevice-reg.sock`: since 1.57, before, and with `WithAuthority`.
    pub(crate) const ENCODED: &str = "8386459c62ba2d98d558598c84d83498f52fb4b31909b06931ea63115392a94f41ad54587b8ec545868346a8b0f5b632d054aa2c35d16cc6a91158598c84d9e95161a8a990bdcc42ad61665d07275f5f8b1d75d0620d263d4c4d65647a8a9acac8b4c7602bbc05c140027465864d833505b11f40899acac8b24d494f6a7f867df7de6816ff";
    pub(crate) const PATH: &str = "8386459c62ba2d98d558598c84d83498f52fb4b31909b06931ea63115392a94f41a563b8ec628346c75b632d054b15d16cc6a91158598c84d9e98a8a990bdcc42ad61665d072755f8b1d75d0620d263d4c4d65647a8a9acac8b4c7602bbc05c140027465864d833505b11f40899acac8b24d494f6a7f867df7de6816ff";
    pub(crate) const LOCALHOST: &str = "8386459c62ba2d98d558598c84d83498f52fb4b31909b06931ea63115392a94f4186a0e41d139d095f8b1d75d0620d263d4c4d65647a8a9acac8b4c7602bbc05c140027465864d833505b11f40899acac8b24d494f6a7f867df7de6816ff";

    pub(crate) fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// A frame with a whole header block on stream 1; the request has a body.
    pub(crate) fn headers(block: &[u8]) -> Vec<u8> {
        frame(HEADERS, END_HEADERS, 1, block)
    }

    pub(crate) fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    }

    /// As a string without Huffman code.
    fn literal(index: &[u8], value: &str) -> Vec<u8> {
        [index, &[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
    }

    #[test]
    fn the_codes_of_the_three_characters_are_told_from_all_others() {
        // RFC 7541, C.4.1: www.example.com
        let mut other = unhex("f1e3c2e5f23a6ba0ab90f4ff");
        replace_in_huffman_code(&mut other);
        assert_eq!(other, unhex("f1e3c2e5f23a6ba0ab90f4ff"));
        let mut block = unhex(LOCALHOST);
        for value in authorities(&unhex(LOCALHOST)).unwrap() {
            value.replace(&mut block);
        }
        assert_eq!(block, unhex(LOCALHOST), "what is an authority stays");
        for text in [ENCODED, PATH] {
            let (before, mut after) = (unhex(text), unhex(text));
            let found = authorities(&before).unwrap();
            assert_eq!(found.len(), 1);
            found[0].replace(&mut after);
            let (range, value) = (found[0].bytes.clone(), &after[found[0].bytes.clone()]);
            assert_ne!(before, after);
            assert_eq!((&before[..range.start], &before[range.end..]), (&after[..range.start], &after[range.end..]));
            let mut again = value.to_owned();
            replace_in_huffman_code(&mut again);
            assert_eq!(again, value);
        }
    }

    #[test]
    fn strings_without_huffman_code_are_found_whatever_is_around_them() {
        let other = [literal(&[0x40, 2, b't', b'e'], "trailers"), literal(&[0x0f, 0x2f], "application/grpc")].concat();
        for index in [0x41, 0x01, 0x11] {
            let mut block = [&other[..], &literal(&[index], "%2Fa/b"), &[0x83, 0x3f, 0xe1, 0x1f], &other].concat();
            let expected = [&other[..], &literal(&[index], "-2Fa-b"), &[0x83, 0x3f, 0xe1, 0x1f], &other].concat();
            let mut padded = frame(
                HEADERS,
                END_HEADERS | PADDED | PRIORITY,
                1,
                &[&[3, 0, 0, 0, 0, 9], &block[..], &[0; 3]].concat(),
            );
            make_readable(&mut padded);
            assert_eq!(padded[HEAD + 6..padded.len() - 3], expected);
            block = headers(&block);
            make_readable(&mut block);
            assert_eq!(block[HEAD..], expected);
        }
    }

    #[test]
    fn what_is_not_http_2_is_passed_on_unchanged_in_whatever_pieces_it_comes() {
        let frames = [headers(&unhex(PATH)), frame(0, 1, 1, b"/%"), headers(b"\xff\xff\xff\xff\xff"), headers(b"\x01")];
        let odd = [frame(HEADERS, END_HEADERS | PADDED, 1, b""), frame(HEADERS, END_HEADERS | PRIORITY, 1, b"ab")];
        let too_long = [&[0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1][..], b"and so on /%"].concat();
        let text = [&[b'P'; PREFACE][..], &frames.concat(), &odd.concat(), &too_long].concat();
        let mut expected = text.clone();
        make_readable(&mut expected[PREFACE..PREFACE + frames[0].len()]);
        for size in [1, 2, 7, 10, 1000] {
            let mut input = ReadableAuthority::new(()).input;
            let mut read = Vec::new();
            for piece in text.chunks(size) {
                input.take(piece);
                let mut buffer = [0; 5000];
                let mut buffer = ReadBuf::new(&mut buffer);
                input.give(&mut buffer);
                read.extend_from_slice(buffer.filled());
            }
            assert_eq!(read, expected, "in pieces of {size}");
        }
    }
}
