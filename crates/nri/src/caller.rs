//! The client's side of ttrpc on a logical connection.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prost::Message as _;
use proto::ttrpc::{Request, Response, Status};
use tokio::{sync::oneshot, time::timeout};

use crate::{
    mux::Connection,
    trunk::{Ended, Outbox},
    ttrpc::{Body, Code, Kind, Message, encode_request, status},
};

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CallError {
    /// The other side returned an error.
    Refused(Status),
    /// The connection ended first.
    Ended,
    /// None arrived in time.
    TimedOut(Duration),
}

impl From<Ended> for CallError {
    fn from(_: Ended) -> Self {
        Self::Ended
    }
}

/// Calls methods that the other side serves.
#[derive(Debug)]
pub(crate) struct Caller {
    connection: Connection,
    outbox: Outbox,
    calls: Mutex<Calls>,
}

type Answer = Result<Vec<u8>, Status>;

/// Calls that wait for their answer.
#[derive(Debug, Default)]
struct Calls {
    /// How many there were.
    begun: u32,
    waiting: HashMap<u32, oneshot::Sender<Answer>>,
    has_ended: bool,
}

impl Caller {
    pub(crate) fn new(connection: Connection, outbox: Outbox) -> Self {
        Self { connection, outbox, calls: Mutex::default() }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls, and waits for the answer for as long as `patience`, which the other side learns from the request.
    pub(crate) async fn call(
        &self,
        (service, method): (&str, &str),
        payload: Vec<u8>,
        patience: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let timeout_nano = patience.as_nanos().try_into().unwrap_or(i64::MAX);
        let request = Request { service: service.to_owned(), method: method.to_owned(), payload, timeout_nano };
        let mut stream = None;
        let answered = timeout(patience, self.send_and_wait(&request, &mut stream)).await;
        if let Some(stream) = stream {
            self.calls().waiting.remove(&stream);
        }
        answered.unwrap_or(Err(CallError::TimedOut(patience)))
    }

    async fn send_and_wait(&self, request: &Request, stream: &mut Option<u32>) -> Result<Vec<u8>, CallError> {
        let (sender, answer) = oneshot::channel();
        // the number is chosen when the message has its place in the queue: numbers on the wire only increase
        let message = || {
            let chosen = self.calls().begin(sender);
            *stream = Some(chosen);
            encode_request(chosen, request)
        };
        self.outbox.send(self.connection, message).await?;
        answer.await.map_err(|_| CallError::Ended)?.map_err(CallError::Refused)
    }

    /// Takes a message that arrived on the connection. An answer that no task waits for is dropped.
    pub(crate) fn take(&self, message: Message) {
        let waiting = self.calls().waiting.remove(&message.stream);
        match waiting.filter(|_| message.kind == Kind::Response) {
            Some(waiting) => drop(waiting.send(answer(message.body))),
            None => tracing::debug!(stream = message.stream, "ignored a response without a request"),
        }
    }

    /// The connection has ended: no call waits any longer.
    pub(crate) fn end(&self) {
        let mut calls = self.calls();
        calls.has_ended = true;
        calls.waiting.clear();
    }
}

impl Calls {
    fn begin(&mut self, waiting: oneshot::Sender<Answer>) -> u32 {
        let stream = self.begun.wrapping_mul(2).wrapping_add(1);
        self.begun = self.begun.wrapping_add(1);
        if !self.has_ended {
            self.waiting.insert(stream, waiting);
        }
        stream
    }
}

fn answer(body: Body) -> Answer {
    let data = match body {
        Body::Whole(data) => data,
        Body::TooLong(length) => {
            return Err(status(Code::ResourceExhausted, format!("the answer has {length} bytes")));
        }
    };
    match Response::decode(&data[..]) {
        Ok(Response { status: Some(status), .. }) if status.code != 0 => Err(status),
        Ok(Response { payload, .. }) => Ok(payload),
        Err(error) => Err(status(Code::Internal, format!("invalid response: {error}"))),
    }
}
