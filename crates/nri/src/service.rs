//! The Plugin service: takes requests, runs a handler for each, and answers in time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message as _;
use proto::{nri, ttrpc};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::timeout_at,
};
use tokio_util::task::TaskTracker;

use crate::{
    deadline,
    mux::Connection,
    plugin::{Plugin, Refusal, Runtime},
    progress::Progress,
    request::{Event, Request, parse},
    synchronize::{Parts, Synchronizer},
    trunk::Outbox,
    ttrpc::{Body, Code, Kind, Message, encode_response, status},
};

/// RunPodSandbox, StopPodSandbox, RemovePodSandbox, CreateContainer: a bit for each. All known to every runtime; one
/// that it does not know would end the connection.
const EVENTS: i32 = 1 | 1 << 1 | 1 << 2 | 1 << 3;

/// A request that is lost or late must fail: a Pod that asked for a device never runs without it. And one late answer
/// is not a reason to lose the plugin.
const FAILURE_POLICY: nri::FailurePolicy = nri::FailurePolicy { fail_request: true, keep_connected: true };

/// How many KiB of requests may be worked on at once.
const MEMORY: usize = 64 << 10;

type Answer = Result<Vec<u8>, ttrpc::Status>;

/// A request that is not answered yet.
#[derive(Debug)]
struct Call {
    stream: u32,
    arrival: Instant,
    /// Its part of [`MEMORY`], until its handler is done and its answer is written.
    permit: Arc<OwnedSemaphorePermit>,
}

/// Serves one connection.
#[derive(Debug)]
pub(crate) struct Service<P> {
    plugin: Arc<P>,
    outbox: Outbox,
    progress: Arc<Progress>,
    synchronizer: Arc<Synchronizer>,
    parts: Parts,
    request_timeout: Duration,
    memory: Arc<Semaphore>,
    /// Handlers; they outlive the connection.
    handlers: TaskTracker,
    /// Answers that are not written yet.
    answers: TaskTracker,
}

impl<P: Plugin> Service<P> {
    pub(crate) fn new(
        plugin: Arc<P>,
        outbox: Outbox,
        progress: Arc<Progress>,
        synchronizer: Arc<Synchronizer>,
        handlers: TaskTracker,
    ) -> Self {
        Self {
            plugin,
            outbox,
            progress,
            synchronizer,
            parts: Parts::default(),
            request_timeout: deadline::DEFAULT_REQUEST_TIMEOUT,
            memory: Arc::new(Semaphore::new(MEMORY)),
            handlers,
            answers: TaskTracker::new(),
        }
    }

    /// Waits until nothing is left to answer, once it is closed.
    pub(crate) fn answers(&self) -> TaskTracker {
        self.answers.clone()
    }

    /// Takes a message that arrived on the connection. Never waits.
    pub(crate) fn take(&mut self, message: Message) {
        let arrival = tokio::time::Instant::now().into_std();
        let Message { stream, kind, body } = message;
        if kind != Kind::Request {
            return tracing::debug!(?kind, "ignored a message that is not a request");
        }
        let kibibytes = match &body {
            Body::Whole(data) => data.len() / 1024 + 1,
            Body::TooLong(_) => 1,
        };
        let Ok(permit) = self.memory.clone().try_acquire_many_owned(kibibytes as u32) else {
            return self.turn_away(stream);
        };
        let call = Call { stream, arrival, permit: Arc::new(permit) };
        match read(body) {
            Ok(request) => self.serve(call, &request),
            Err(status) => self.answer(call, Err(status)),
        }
    }

    /// Refuses without keeping anything: not even this answer, when the runtime reads none.
    fn turn_away(&self, stream: u32) {
        let answer = Err(status(Code::ResourceExhausted, "too many requests at once: try again"));
        let is_told = self.outbox.try_send(Connection::Plugin, &encode_response(stream, answer));
        tracing::warn!(is_told, "refused a request: too many requests at once");
    }

    fn serve(&mut self, call: Call, request: &ttrpc::Request) {
        match parse(&request.method, &request.payload) {
            Ok(Request::Configure(request)) => {
                let answer = self.configure(request);
                self.answer(call, Ok(answer.encode_to_vec()));
            }
            Ok(Request::Synchronize(part)) => {
                let answer = self.synchronize(part, request.payload.len());
                self.answer(call, answer.map(|answer| answer.encode_to_vec()));
            }
            Ok(Request::Event(event)) => self.handle(call, event, self.patience(request.timeout_nano)),
            Ok(Request::Agreed) => self.answer(call, Ok(Vec::new())),
            Err(status) => self.answer(call, Err(status)),
        }
    }

    /// How long the runtime waits for the answer of a request: as long as for any request, or less if this one says so.
    fn patience(&self, timeout_nano: i64) -> Duration {
        let own = u64::try_from(timeout_nano).ok().filter(|nanos| *nanos != 0).map(Duration::from_nanos);
        own.map_or(self.request_timeout, |own| own.min(self.request_timeout))
    }

    fn configure(&mut self, request: nri::ConfigureRequest) -> nri::ConfigureResponse {
        let stated = u64::try_from(request.request_timeout).ok().filter(|millis| *millis != 0);
        self.request_timeout = stated.map_or(deadline::DEFAULT_REQUEST_TIMEOUT, Duration::from_millis);
        self.parts = Parts::default();
        let runtime = Runtime {
            name: request.runtime_name,
            version: request.runtime_version,
            nri_version: request.nri_version,
            config: request.config,
            request_timeout: self.request_timeout,
        };
        self.plugin.configure(runtime.clone());
        self.progress.configured(runtime);
        nri::ConfigureResponse { events: EVENTS, failure_policy: Some(FAILURE_POLICY) }
    }

    /// Collects; the answer to a part requests more, otherwise the runtime would end the connection.
    fn synchronize(
        &mut self,
        part: nri::SynchronizeRequest,
        bytes: usize,
    ) -> Result<nri::SynchronizeResponse, ttrpc::Status> {
        let more = part.more;
        if let Some(whole) = self.parts.add(part, bytes)? {
            self.synchronizer.hand_over(whole);
            self.progress.synchronized();
        }
        Ok(nri::SynchronizeResponse { more })
    }

    fn answer(&self, call: Call, answer: Answer) {
        self.answers.spawn(send(self.outbox.clone(), call, answer));
    }

    /// Starts the handler and a task that waits for it.
    fn handle(&self, call: Call, event: Event, patience: Duration) {
        let (name, plugin, handlers) = (event.name(), self.plugin.clone(), self.handlers.clone());
        let (deadline, limit) = (call.arrival + deadline::budget(patience), call.arrival + deadline::limit(patience));
        let permit = call.permit.clone();
        let mut handler = handlers.spawn(async move {
            // until the handler is done, not only until its request is answered
            let _permit = permit;
            handle(&*plugin, event, deadline).await
        });
        let outbox = self.outbox.clone();
        self.answers.spawn(async move {
            let answer = match timeout_at(limit.into(), &mut handler).await {
                Ok(done) => answer_of(name, done),
                Err(_) => {
                    tracing::warn!(
                        request = name,
                        "timed out: the handler did not return by its deadline, the runtime gets an error"
                    );
                    handlers.spawn(tell_late(name, handler));
                    Err(status(Code::DeadlineExceeded, format!("{name} timed out: try again")))
                }
            };
            send(outbox, call, answer).await;
        });
    }
}

fn read(body: Body) -> Result<ttrpc::Request, ttrpc::Status> {
    let data = match body {
        Body::Whole(data) => data,
        Body::TooLong(length) => {
            return Err(status(Code::ResourceExhausted, format!("a request of {length} bytes is too long")));
        }
    };
    let request = ttrpc::Request::decode(&data[..]);
    let request = request.map_err(|error| status(Code::InvalidArgument, format!("invalid request: {error}")))?;
    if request.service != nri::PLUGIN_SERVICE {
        return Err(status(Code::Unimplemented, format!("unknown service {:.64}", request.service)));
    }
    Ok(request)
}

async fn handle<P: Plugin>(plugin: &P, event: Event, deadline: Instant) -> Result<(), Refusal> {
    match event {
        Event::RunPodSandbox(pod) => plugin.run_pod_sandbox(pod, deadline).await,
        Event::StopPodSandbox(pod) => plugin.stop_pod_sandbox(pod, deadline).await,
        Event::RemovePodSandbox(pod) => plugin.remove_pod_sandbox(pod, deadline).await,
        Event::CreateContainer(pod, container) => plugin.create_container(pod, container, deadline).await,
    }
}

type Done = Result<Result<(), Refusal>, tokio::task::JoinError>;

fn answer_of(name: &str, done: Done) -> Answer {
    match done {
        Ok(Ok(())) => Ok(Vec::new()),
        Ok(Err(refusal)) => Err(status(Code::Unknown, refusal.as_str())),
        Err(broken) => {
            tracing::error!(request = name, "the handler failed: {broken}");
            Err(status(Code::Internal, format!("{name}: the handler failed: see the log of the plugin")))
        }
    }
}

/// The runtime no longer waits for its result.
async fn tell_late(name: &'static str, handler: JoinHandle<Result<(), Refusal>>) {
    let outcome = answer_of(name, handler.await).map_err(|status| status.message);
    tracing::warn!(request = name, error = outcome.err(), "the handler returned after its deadline");
}

async fn send(outbox: Outbox, call: Call, answer: Answer) {
    if outbox.send(Connection::Plugin, || encode_response(call.stream, answer)).await.is_err() {
        tracing::debug!(call.stream, "the connection ended before an answer was written");
    }
}
