//! The socket that both logical connections share: one reader, one writer.

use std::io::ErrorKind;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::{mpsc, oneshot},
};

use crate::{
    error::Error,
    mux::{self, Connection},
    ttrpc::{self, Message},
};

/// How much is read at once.
const PIECE: usize = 64 << 10;
/// Messages that may wait for the writer; a sender waits when there are more.
const QUEUE: usize = 64;

/// Passes on every message that arrives, until the socket ends. `take` must not wait for anything: it would delay both
/// connections.
pub(crate) async fn read(mut socket: OwnedReadHalf, mut take: impl FnMut(Connection, Message)) -> Error {
    let mut frames = mux::Decoder::default();
    let (mut plugin, mut runtime) = (ttrpc::Decoder::default(), ttrpc::Decoder::default());
    let mut piece = vec![0; PIECE];
    loop {
        let bytes = match socket.read(&mut piece).await {
            Ok(0) => return Error::Closed,
            Ok(length) => &piece[..length],
            Err(source) if source.kind() == ErrorKind::ConnectionReset => return Error::Closed,
            Err(source) => return Error::ReadFailed(source),
        };
        let fed = frames.feed(bytes, |connection, bytes| {
            let decoder = match connection {
                Connection::Plugin => &mut plugin,
                Connection::Runtime => &mut runtime,
            };
            decoder.feed(bytes, |message| take(connection, message));
        });
        if let Err(error) = fed {
            return error;
        }
    }
}

/// A message in frames, and where to report that the socket has it.
#[derive(Debug)]
pub(crate) struct Outgoing {
    frames: Vec<u8>,
    written: oneshot::Sender<()>,
}

/// Writes message by message, until the socket ends.
pub(crate) async fn write(mut socket: OwnedWriteHalf, mut queue: mpsc::Receiver<Outgoing>) -> Error {
    while let Some(outgoing) = queue.recv().await {
        match socket.write_all(&outgoing.frames).await {
            Ok(()) => {}
            Err(source) if source.kind() == ErrorKind::BrokenPipe => return Error::Closed,
            Err(source) => return Error::WriteFailed(source),
        }
        // perhaps no task waits for it
        let _ = outgoing.written.send(());
    }
    Error::Closed
}

/// How a message is split into frames.
type Encode = fn(Connection, &[u8]) -> Vec<u8>;

/// The queue of the writer.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    queue: mpsc::Sender<Outgoing>,
    encode: Encode,
}

/// The connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended;

impl Outbox {
    pub(crate) fn new(encode: Encode) -> (Self, mpsc::Receiver<Outgoing>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        (Self { queue, encode }, receiver)
    }

    /// Sends what `message` makes when there is room for it; returns when the socket has it. A caller that stops
    /// waiting does not leave half of a message unwritten.
    pub(crate) async fn send(&self, connection: Connection, message: impl FnOnce() -> Vec<u8>) -> Result<(), Ended> {
        let room = self.queue.reserve().await.map_err(|_| Ended)?;
        let (written, is_written) = oneshot::channel();
        room.send(Outgoing { frames: (self.encode)(connection, &message()), written });
        is_written.await.map_err(|_| Ended)
    }

    /// Sends if there is room at once; returns whether there was.
    pub(crate) fn try_send(&self, connection: Connection, message: &[u8]) -> bool {
        let outgoing = Outgoing { frames: (self.encode)(connection, message), written: oneshot::channel().0 };
        self.queue.try_send(outgoing).is_ok()
    }

    /// Sends bytes that need not be frames.
    #[cfg(feature = "stand-in")]
    pub(crate) async fn send_raw(&self, bytes: Vec<u8>) -> Result<(), Ended> {
        let (written, is_written) = oneshot::channel();
        self.queue.send(Outgoing { frames: bytes, written }).await.map_err(|_| Ended)?;
        is_written.await.map_err(|_| Ended)
    }
}
