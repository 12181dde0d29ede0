//! The runtime's side of the protocol, for tests: what containerd and CRI-O do with a plugin, step by step.
//!
//! A [`Peer`] is one plugin as the runtime sees it. Nothing happens by itself: a test says when the registration is
//! answered, what comes before it, and what is not answered at all. Dropping the peer closes the connection, as the
//! end of the runtime does.

use std::{io, path::Path, sync::Arc, time::Duration};

use prost::Message as _;
use proto::nri::{self, PLUGIN_SERVICE};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
    task::AbortHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    caller::{CallError, Caller},
    mux::{self, Connection},
    plugin::Runtime,
    pod::{Container, PodSandbox},
    request,
    trunk::{self, Outbox},
    ttrpc::{self, Body, Code, Message, encode_response},
};

/// Longest message, and so the reason to split one.
const LONGEST: usize = ttrpc::LONGEST - 1024;

/// Code of an error that a plugin's handler returns.
pub const UNKNOWN: i32 = Code::Unknown as i32;
/// Code of an answer that a plugin gives when its handler does not.
pub const DEADLINE_EXCEEDED: i32 = Code::DeadlineExceeded as i32;

/// A runtime's socket.
#[derive(Debug)]
pub struct Listener(UnixListener);

impl Listener {
    /// Removes what is at the path and listens there, as a runtime does when it starts.
    ///
    /// # Errors
    ///
    /// As of [`UnixListener::bind`].
    pub fn bind(path: &Path) -> io::Result<Self> {
        let _ = std::fs::remove_file(path);
        UnixListener::bind(path).map(Self)
    }

    /// The next plugin that connects.
    ///
    /// # Errors
    ///
    /// As of [`UnixListener::accept`].
    pub async fn accept(&self) -> io::Result<Peer> {
        Ok(Peer::over(self.0.accept().await?.0))
    }
}

/// Why a plugin did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The plugin says no.
    #[error("{message} (code {code})")]
    Refused {
        /// As in gRPC.
        code: i32,
        /// In words.
        message: String,
    },
    /// The connection ended first.
    #[error("the plugin closed the connection")]
    Ended,
    /// A real runtime goes on without the plugin now.
    #[error("the plugin did not answer within {0:?}")]
    TimedOut(Duration),
    /// A real runtime closes the connection now.
    #[error("the plugin answered {0}")]
    Nonsense(&'static str),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(status) => Self::Refused { code: status.code, message: status.message },
            CallError::Ended => Self::Ended,
            CallError::TimedOut(patience) => Self::TimedOut(patience),
        }
    }
}

/// A plugin that introduced itself and waits for an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    stream: u32,
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: String,
    /// The version of NRI that it was written for.
    pub nri_version: String,
}

/// What a plugin answers to Configure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Configured {
    /// The events that it wants.
    pub events: i32,
    /// Whether a request must fail when its answer is lost or late.
    pub fail_request: bool,
    /// Whether it wants to stay connected then.
    pub keep_connected: bool,
}

/// A runtime to be, of today.
pub fn runtime() -> Runtime {
    Runtime {
        name: "containerd".into(),
        version: "v2.3.4".into(),
        nri_version: "v0.12.5".into(),
        config: String::new(),
        request_timeout: Duration::from_secs(2),
    }
}

/// A runtime whose NRI reports Pods with StateChange: 0.11 and before.
pub fn old_runtime() -> Runtime {
    Runtime { version: "v2.1.5".into(), nri_version: String::new(), ..runtime() }
}

/// A plugin that is connected.
#[derive(Debug)]
pub struct Peer {
    plugin: Arc<Caller>,
    outbox: Outbox,
    registrations: mpsc::UnboundedReceiver<Registration>,
    runtime: Runtime,
    ended: CancellationToken,
    task: AbortHandle,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    /// The plugin at the other end of a connected socket.
    pub fn over(socket: UnixStream) -> Self {
        let (reader, writer) = socket.into_split();
        let (outbox, queue) = Outbox::new(mux::encode_as_runtime);
        let plugin = Arc::new(Caller::new(Connection::Plugin, outbox.clone()));
        let (sender, registrations) = mpsc::unbounded_channel();
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let caller = plugin.clone();
        let task = tokio::spawn(async move {
            let _guard = guard;
            let reading = trunk::read(reader, |connection, message| match connection {
                Connection::Plugin => caller.take(message),
                Connection::Runtime => drop(registration(&message).map(|registration| sender.send(registration))),
            });
            tokio::select! {
                _ = reading => {}
                _ = trunk::write(writer, queue) => {}
            }
            caller.end();
        });
        Self { plugin, outbox, registrations, runtime: runtime(), ended, task: task.abort_handle() }
    }

    /// The plugin's introduction; it is not answered yet.
    ///
    /// # Errors
    ///
    /// [`Failure::Ended`].
    pub async fn registration(&mut self) -> Result<Registration, Failure> {
        self.registrations.recv().await.ok_or(Failure::Ended)
    }

    /// Takes the plugin.
    pub async fn accept(&self, registration: &Registration) {
        self.answer(registration.stream, Ok(Vec::new())).await;
    }

    /// Refuses the plugin. Runtimes before NRI 0.12 leave the connection open then, as the stand-in does.
    pub async fn refuse(&self, registration: &Registration, reason: &str) {
        self.answer(registration.stream, Err(ttrpc::status(Code::Unknown, reason))).await;
    }

    async fn answer(&self, stream: u32, answer: Result<Vec<u8>, proto::ttrpc::Status>) {
        // a plugin that disconnected needs no answer
        let _ = self.outbox.send(Connection::Runtime, || encode_response(stream, answer)).await;
    }

    /// Introduces the runtime, which decides from then on in which form and how patiently the plugin is asked.
    ///
    /// # Errors
    ///
    /// What keeps the plugin from an answer.
    pub async fn configure(&mut self, runtime: Runtime) -> Result<Configured, Failure> {
        self.runtime = runtime;
        let request = nri::ConfigureRequest {
            config: self.runtime.config.clone(),
            runtime_name: self.runtime.name.clone(),
            runtime_version: self.runtime.version.clone(),
            registration_timeout: 5000,
            request_timeout: self.runtime.request_timeout.as_millis() as i64,
            nri_version: self.runtime.nri_version.clone(),
        };
        let answer: nri::ConfigureResponse = self.ask("Configure", &request).await?;
        let policy = answer.failure_policy.unwrap_or_default();
        let (fail_request, keep_connected) = (policy.fail_request, policy.keep_connected);
        Ok(Configured { events: answer.events, fail_request, keep_connected })
    }

    /// Tells of all that exists, in as many parts as it takes.
    ///
    /// # Errors
    ///
    /// What keeps the plugin from an answer, or [`Failure::Nonsense`] for one that fits the last part only.
    pub async fn synchronize(&self, pods: &[PodSandbox], containers: &[Container]) -> Result<usize, Failure> {
        let parts = split(pods, containers);
        for (position, mut part) in parts.iter().cloned().enumerate() {
            part.more = position + 1 < parts.len();
            let answer: nri::SynchronizeResponse = self.ask("Synchronize", &part).await?;
            if answer.more != part.more {
                return Err(Failure::Nonsense("a part of Synchronize as if it were another"));
            }
        }
        Ok(parts.len())
    }

    /// The usual beginning: accepts the plugin, configures it and sends all Pods and containers.
    ///
    /// # Errors
    ///
    /// What keeps the plugin from an answer.
    pub async fn start(
        &mut self,
        runtime: Runtime,
        pods: &[PodSandbox],
        containers: &[Container],
    ) -> Result<Configured, Failure> {
        let registration = self.registration().await?;
        self.accept(&registration).await;
        let configured = self.configure(runtime).await?;
        self.synchronize(pods, containers).await?;
        Ok(configured)
    }

    /// A sandbox has its network.
    ///
    /// # Errors
    ///
    /// Why the Pod fails, or what keeps the plugin from an answer.
    pub async fn run_pod_sandbox(&self, pod: &PodSandbox) -> Result<(), Failure> {
        self.tell(nri::Event::RunPodSandbox, "RunPodSandbox", pod).await
    }

    /// The containers of a sandbox have ended.
    ///
    /// # Errors
    ///
    /// As of [`run_pod_sandbox`](Self::run_pod_sandbox).
    pub async fn stop_pod_sandbox(&self, pod: &PodSandbox) -> Result<(), Failure> {
        self.tell(nri::Event::StopPodSandbox, "StopPodSandbox", pod).await
    }

    /// A sandbox is gone.
    ///
    /// # Errors
    ///
    /// As of [`run_pod_sandbox`](Self::run_pod_sandbox).
    pub async fn remove_pod_sandbox(&self, pod: &PodSandbox) -> Result<(), Failure> {
        self.tell(nri::Event::RemovePodSandbox, "RemovePodSandbox", pod).await
    }

    /// A container is about to be made; every version has a method for this.
    ///
    /// # Errors
    ///
    /// As of [`run_pod_sandbox`](Self::run_pod_sandbox).
    pub async fn create_container(&self, pod: &PodSandbox, container: &Container) -> Result<(), Failure> {
        let (pod, container) = (Some(pod.into()), Some(container.into()));
        self.call("CreateContainer", nri::CreateContainerRequest { pod, container }.encode_to_vec()).await.map(drop)
    }

    /// In the form of the runtime's version: the requests of all events have the same fields.
    async fn tell(&self, event: nri::Event, method: &str, pod: &PodSandbox) -> Result<(), Failure> {
        let pod = Some(pod.into());
        let answered = if self.runtime.nri_version.is_empty() {
            let change = nri::StateChangeEvent { event: event as i32, pod, container: None };
            self.call("StateChange", change.encode_to_vec()).await
        } else {
            self.call(method, nri::RunPodSandboxRequest { pod }.encode_to_vec()).await
        };
        answered.map(drop)
    }

    async fn ask<A: prost::Message + Default>(
        &self,
        method: &str,
        request: &impl prost::Message,
    ) -> Result<A, Failure> {
        let answer = self.call(method, request.encode_to_vec()).await?;
        A::decode(&answer[..]).map_err(|_| Failure::Nonsense("what is not its message"))
    }

    /// Calls any method of the Plugin service.
    ///
    /// # Errors
    ///
    /// What keeps the plugin from an answer.
    pub async fn call(&self, method: &str, payload: Vec<u8>) -> Result<Vec<u8>, Failure> {
        self.call_service(PLUGIN_SERVICE, method, payload).await
    }

    /// Calls any method of any service.
    ///
    /// # Errors
    ///
    /// What keeps the plugin from an answer.
    pub async fn call_service(&self, service: &str, method: &str, payload: Vec<u8>) -> Result<Vec<u8>, Failure> {
        Ok(self.plugin.call((service, method), payload, self.runtime.request_timeout).await?)
    }

    /// Sends bytes that need not make sense.
    pub async fn send_raw(&self, bytes: Vec<u8>) {
        // a plugin that has closed the connection is what such a test is for
        let _ = self.outbox.send_raw(bytes).await;
    }

    /// Returns when the connection has ended.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

fn registration(message: &Message) -> Option<Registration> {
    let Body::Whole(data) = &message.body else { return None };
    let request = proto::ttrpc::Request::decode(&data[..]).ok()?;
    let is_meant = request.service == nri::RUNTIME_SERVICE && request.method == "RegisterPlugin";
    let request = nri::RegisterPluginRequest::decode(&request.payload[..]).ok().filter(|_| is_meant)?;
    let (name, index) = (request.plugin_name, request.plugin_idx);
    Some(Registration { stream: message.stream, name, index, nri_version: request.nri_version })
}

/// Halves what does not fit in a message until it does.
fn split(pods: &[PodSandbox], containers: &[Container]) -> Vec<nri::SynchronizeRequest> {
    let whole = nri::SynchronizeRequest {
        pods: pods.iter().map(Into::into).collect(),
        containers: containers.iter().map(Into::into).collect(),
        more: false,
    };
    if whole.encoded_len() <= LONGEST || pods.len() + containers.len() < 2 {
        return vec![whole];
    }
    let (pods, more_pods) = pods.split_at(pods.len().div_ceil(2));
    let (containers, more_containers) = containers.split_at(containers.len() / 2);
    [split(pods, containers), split(more_pods, more_containers)].concat()
}

impl From<&PodSandbox> for nri::PodSandbox {
    fn from(pod: &PodSandbox) -> Self {
        let network = |path: &String| nri::LinuxNamespace { r#type: "network".into(), path: path.clone() };
        let others = ["pid", "ipc"].map(|r#type| nri::LinuxNamespace { r#type: r#type.into(), path: String::new() });
        let namespaces = others.into_iter().chain(pod.network_namespace.as_ref().map(network)).collect();
        Self {
            id: pod.id.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            annotations: pod.annotations.clone().into_iter().collect(),
            linux: Some(nri::LinuxPodSandbox { namespaces }),
            pid: pod.pid.unwrap_or_default(),
        }
    }
}

impl From<&Container> for nri::Container {
    fn from(container: &Container) -> Self {
        let (id, name) = (container.id.clone(), container.name.clone());
        Self { id, name, pod_sandbox_id: container.sandbox_id.clone() }
    }
}

/// What a plugin makes of the bytes that a runtime sends, when they come in pieces of that length: each message with its
/// request, and the error that ended the connection.
#[must_use]
pub fn understood(bytes: &[u8], piece: usize) -> Vec<String> {
    let (mut frames, mut plugin, mut runtime) =
        (mux::Decoder::default(), ttrpc::Decoder::default(), ttrpc::Decoder::default());
    let mut said = Vec::new();
    for piece in bytes.chunks(piece) {
        let fed = frames.feed(piece, |connection, payload| match connection {
            Connection::Plugin => plugin.feed(payload, |message| said.push(describe(&message))),
            Connection::Runtime => runtime.feed(payload, |message| said.push(format!("{message:?}"))),
        });
        if let Err(error) = fed {
            said.push(error.to_string());
            break;
        }
    }
    said
}

fn describe(message: &Message) -> String {
    let Body::Whole(data) = &message.body else { return format!("{message:?}") };
    let request = match proto::ttrpc::Request::decode(&data[..]) {
        Ok(request) => request,
        Err(error) => return format!("{:?} {} {error}", message.kind, message.stream),
    };
    // what is not a map: those are sent in any order
    let parsed = request::parse(&request.method, &request.payload).map(|_| request.payload.len());
    format!("{:?} {} {} {parsed:?}", message.kind, message.stream, request.method)
}
