//! The body of an answer: read as it arrives, and limited. At its end the connection becomes idle.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::body::{Body, Bytes, Frame, Incoming};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    connection::Connection,
    error::ReceiveError,
    idle::Idle,
    limits::{MAX_ANSWER, MAX_OBJECT, WATCH_TIMEOUT},
};

/// The body of an answer.
pub(super) struct Answer {
    incoming: Incoming,
    /// None when the answer has ended or failed.
    exchange: Option<Exchange>,
    bounds: Bounds,
    timer: Pin<Box<Sleep>>,
}

/// What the answer needs until its end.
pub(super) struct Exchange {
    pub(super) connection: Connection,
    /// Where the connection is kept then.
    pub(super) idle: Arc<Idle>,
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}

/// The limits of an answer.
pub(super) struct Bounds {
    kind: Kind,
    until: Instant,
}

/// How many bytes have arrived: of the whole answer, or of the object of a watch that is not complete.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Whole(usize),
    Watch(usize),
}

impl Bounds {
    /// An answer that is complete at that time.
    pub(super) fn until(until: Instant) -> Self {
        Self { kind: Kind::Whole(0), until }
    }

    /// A watch that begins now: one object a line.
    pub(super) fn watch() -> Self {
        Self { kind: Kind::Watch(0), until: Instant::now() + WATCH_TIMEOUT }
    }
}

impl Kind {
    fn take(&mut self, bytes: &[u8]) -> Result<(), ReceiveError> {
        match self {
            Self::Whole(length) => {
                *length += bytes.len();
                if *length > MAX_ANSWER { Err(ReceiveError::TooLong) } else { Ok(()) }
            }
            Self::Watch(length) => bytes.split_inclusive(|byte| *byte == b'\n').try_for_each(|line| {
                *length += line.len();
                if *length > MAX_OBJECT {
                    return Err(ReceiveError::ObjectTooLong);
                }
                if line.ends_with(b"\n") {
                    *length = 0;
                }
                Ok(())
            }),
        }
    }

    fn timeout(self) -> ReceiveError {
        match self {
            Self::Whole(_) => ReceiveError::Timeout,
            Self::Watch(_) => ReceiveError::WatchTimeout,
        }
    }
}

impl Answer {
    pub(super) fn new(incoming: Incoming, exchange: Exchange, bounds: Bounds) -> Self {
        let timer = Box::pin(sleep_until(bounds.until));
        let mut answer = Self { incoming, exchange: Some(exchange), bounds, timer };
        if answer.incoming.is_end_stream() {
            answer.end();
        }
        answer
    }

    /// The answer is complete: its connection becomes idle.
    fn end(&mut self) {
        if let Some(Exchange { connection, idle, .. }) = self.exchange.take().filter(|it| it.connection.is_open()) {
            idle.put(connection);
        }
    }

    fn poll_incoming(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ReceiveError>>> {
        if let Some(exchange) = &mut self.exchange {
            exchange.connection.poll_work(context);
        }
        let frame = match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Pending => {
                ready!(self.timer.as_mut().poll(context));
                return Poll::Ready(Some(Err(self.bounds.kind.timeout())));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(frame)) => frame.map_err(ReceiveError::Http),
        };
        Poll::Ready(Some(frame.and_then(|frame| {
            frame.data_ref().map_or(Ok(()), |bytes| self.bounds.kind.take(bytes))?;
            Ok(frame)
        })))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = ReceiveError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReceiveError>>> {
        let frame = ready!(self.poll_incoming(context));
        match &frame {
            // a connection on which something failed is not used again
            Some(Err(_)) => self.exchange = None,
            Some(Ok(_)) if self.incoming.is_end_stream() => self.end(),
            Some(Ok(_)) => {}
            None => self.end(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }
}
