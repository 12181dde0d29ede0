//! A runtime for tests: it serves the real protocol on a socket, and says what a test wants.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use netdevice::owner::Pod;
use proto::cri::{
    self as wire,
    runtime_service_server::{RuntimeService, RuntimeServiceServer},
};
use tokio::{net::UnixListener, sync::watch, task::JoinSet};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::{client::Runtime, endpoint::Endpoint};

/// A call of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// `Version`.
    Version,
    /// `ListPodSandbox`.
    List,
    /// `PodSandboxStatus`.
    SandboxStatus,
    /// `Status`.
    Status,
}

/// What a call is answered with in place of what is right.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This error.
    Error(Status),
    /// Nothing, until [`RuntimeStandIn::repair`] of this call: then what is right.
    Silence,
}

/// A sandbox of the stand-in.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// Its id.
    pub id: String,
    /// The Pod, also in the labels.
    pub pod: Pod,
    /// How many sandboxes the Pod had before.
    pub attempt: u32,
    /// Whether it runs.
    pub is_ready: bool,
    /// When it was made, in nanoseconds since 1970.
    pub created_at: i64,
    /// Whether it uses the node's network.
    pub is_host_network: bool,
    /// What a verbose status has under the key `info`; none for no such key.
    pub info: Option<String>,
    /// Its annotations in a list have so many bytes.
    pub annotations: usize,
}

impl SandboxSpec {
    /// A running one of a Pod in namespace `default` whose UID is `uid-NAME`, with no info.
    pub fn new(id: &str, name: &str) -> Self {
        let pod = Pod { namespace: "default".into(), name: name.into(), uid: format!("uid-{name}") };
        let (id, attempt, is_ready, created_at) = (id.to_owned(), 0, true, 1);
        Self { id, pod, attempt, is_ready, created_at, is_host_network: false, info: None, annotations: 0 }
    }

    /// With the information that containerd adds: the path of the namespace, and the pid of the pause process.
    #[must_use]
    pub fn as_containerd(self, namespace: &str, pid: i32) -> Self {
        self.info(&format!(r#"{{"pid":{pid},"processStatus":"running","runtimeSpec":{}}}"#, spec(namespace)))
    }

    /// With the information that CRI-O adds: the path of the namespace.
    #[must_use]
    pub fn as_crio(self, namespace: &str) -> Self {
        self.info(&format!(r#"{{"image":"pause","runtimeSpec":{}}}"#, spec(namespace)))
    }

    /// With this information.
    #[must_use]
    pub fn info(mut self, info: &str) -> Self {
        self.info = Some(info.to_owned());
        self
    }

    fn metadata(&self) -> wire::PodSandboxMetadata {
        let Pod { namespace, name, uid } = self.pod.clone();
        wire::PodSandboxMetadata { name, uid, namespace, attempt: self.attempt }
    }

    fn state(&self) -> wire::PodSandboxState {
        if self.is_ready { wire::PodSandboxState::SandboxReady } else { wire::PodSandboxState::SandboxNotready }
    }

    fn listed(&self) -> wire::PodSandbox {
        let labels = [
            ("io.kubernetes.pod.name", self.pod.name.clone()),
            ("io.kubernetes.pod.namespace", self.pod.namespace.clone()),
            ("io.kubernetes.pod.uid", self.pod.uid.clone()),
            // our messages have no annotations: as long, and skipped as they are
            ("filler", "x".repeat(self.annotations)),
        ];
        wire::PodSandbox {
            id: self.id.clone(),
            metadata: Some(self.metadata()),
            state: self.state().into(),
            created_at: self.created_at,
            labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        }
    }

    fn status(&self) -> wire::PodSandboxStatus {
        let network = if self.is_host_network { wire::NamespaceMode::Node } else { wire::NamespaceMode::Pod };
        let options = Some(wire::NamespaceOption { network: network.into() });
        wire::PodSandboxStatus {
            id: self.id.clone(),
            metadata: Some(self.metadata()),
            state: self.state().into(),
            created_at: self.created_at,
            linux: Some(wire::LinuxPodSandboxStatus { namespaces: Some(wire::Namespace { options }) }),
        }
    }
}

fn spec(namespace: &str) -> String {
    format!(
        r#"{{"ociVersion":"1.2.1","linux":{{"namespaces":[{{"type":"pid"}},{{"type":"network","path":"{namespace}"}}]}}}}"#
    )
}

#[derive(Debug, Clone)]
struct State {
    runtime: Runtime,
    sandboxes: Vec<SandboxSpec>,
    info: HashMap<String, String>,
    not_ready: Vec<(String, String)>,
    faults: HashMap<Call, Fault>,
    asked: HashSet<Call>,
}

impl Default for State {
    fn default() -> Self {
        let runtime = Runtime { name: "containerd".into(), version: "v2.1.9".into() };
        let (sandboxes, info, not_ready) = (Vec::new(), HashMap::new(), Vec::new());
        Self { runtime, sandboxes, info, not_ready, faults: HashMap::new(), asked: HashSet::new() }
    }
}

/// A runtime on a socket of its own; it ends when it is dropped.
#[derive(Debug)]
pub struct RuntimeStandIn {
    socket: PathBuf,
    state: Arc<watch::Sender<State>>,
    _server: JoinSet<Result<(), tonic::transport::Error>>,
}

impl RuntimeStandIn {
    /// Serves on that socket as containerd 2.1.9, without a sandbox.
    ///
    /// # Errors
    ///
    /// When the socket cannot be made.
    pub fn start(socket: &Path) -> io::Result<Self> {
        let listener = UnixListenerStream::new(UnixListener::bind(socket)?);
        let state = Arc::new(watch::Sender::new(State::default()));
        let service = RuntimeServiceServer::new(Service(Arc::clone(&state)));
        let mut server = JoinSet::new();
        server.spawn(Server::builder().serve_with_incoming(service, listener));
        Ok(Self { socket: socket.to_owned(), state, _server: server })
    }

    /// Its socket.
    ///
    /// # Panics
    ///
    /// When the path that it was started with is relative.
    pub fn endpoint(&self) -> Endpoint {
        self.socket.display().to_string().parse().expect("an absolute path")
    }

    /// From now on it has this sandbox too.
    pub fn add(&self, sandbox: SandboxSpec) {
        self.state.send_modify(|state| state.sandboxes.push(sandbox));
    }

    /// From now on the sandbox is not ready.
    pub fn stop(&self, id: &str) {
        let of_id = |sandbox: &&mut SandboxSpec| sandbox.id == id;
        self.state.send_modify(|state| {
            state.sandboxes.iter_mut().filter(of_id).for_each(|sandbox| sandbox.is_ready = false);
        });
    }

    /// From now on the sandbox is not known.
    pub fn remove(&self, id: &str) {
        self.state.send_modify(|state| state.sandboxes.retain(|sandbox| sandbox.id != id));
    }

    /// From now on it says that it is this.
    pub fn set_runtime(&self, name: &str, version: &str) {
        self.state.send_modify(|state| state.runtime = Runtime { name: name.into(), version: version.into() });
    }

    /// From now on its verbose status has this under that key.
    pub fn set_info(&self, key: &str, json: &str) {
        self.state.send_modify(|state| _ = state.info.insert(key.into(), json.into()));
    }

    /// From now on this condition is not met, for that reason.
    pub fn set_not_ready(&self, condition: &str, message: &str) {
        self.state.send_modify(|state| state.not_ready.push((condition.into(), message.into())));
    }

    /// Waits until a call of this kind arrives after [`RuntimeStandIn::break_call`], or has.
    ///
    /// # Panics
    ///
    /// Never: the runtime has not ended.
    pub async fn asked(&self, call: Call) {
        self.state.subscribe().wait_for(|state| state.asked.contains(&call)).await.expect("a runtime");
    }

    /// From now on it answers a call wrongly.
    pub fn break_call(&self, call: Call, fault: Fault) {
        self.state.send_modify(|state| {
            state.faults.insert(call, fault);
            state.asked.remove(&call);
        });
    }

    /// From now on it answers a call rightly.
    pub fn repair(&self, call: Call) {
        self.state.send_modify(|state| _ = state.faults.remove(&call));
    }
}

#[derive(Debug, Clone)]
struct Service(Arc<watch::Sender<State>>);

impl Service {
    /// The state in which a call is answered.
    async fn state(&self, call: Call) -> Result<State, Status> {
        self.0.send_modify(|state| _ = state.asked.insert(call));
        let mut states = self.0.subscribe();
        let is_answered = |state: &State| !matches!(state.faults.get(&call), Some(Fault::Silence));
        let state = states.wait_for(is_answered).await.map_err(|_| Status::unavailable("the runtime ended"))?.clone();
        match state.faults.get(&call) {
            Some(Fault::Error(status)) => Err(status.clone()),
            _ => Ok(state),
        }
    }
}

fn passes(sandbox: &SandboxSpec, filter: &wire::PodSandboxFilter) -> bool {
    let labels = sandbox.listed().labels;
    sandbox.id.starts_with(&filter.id)
        && filter.state.is_none_or(|wanted| wanted.state() == sandbox.state())
        && filter.label_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _: Request<wire::VersionRequest>) -> Result<Response<wire::VersionResponse>, Status> {
        let Runtime { name, version } = self.state(Call::Version).await?.runtime;
        Ok(Response::new(wire::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: name,
            runtime_version: version,
            runtime_api_version: "v1".into(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<wire::ListPodSandboxRequest>,
    ) -> Result<Response<wire::ListPodSandboxResponse>, Status> {
        let state = self.state(Call::List).await?;
        let filter = request.into_inner().filter.unwrap_or_default();
        let items = state.sandboxes.iter().filter(|sandbox| passes(sandbox, &filter)).map(SandboxSpec::listed);
        Ok(Response::new(wire::ListPodSandboxResponse { items: items.collect() }))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<wire::PodSandboxStatusRequest>,
    ) -> Result<Response<wire::PodSandboxStatusResponse>, Status> {
        let state = self.state(Call::SandboxStatus).await?;
        let wire::PodSandboxStatusRequest { pod_sandbox_id, verbose } = request.into_inner();
        let sandbox = state.sandboxes.iter().find(|sandbox| sandbox.id == pod_sandbox_id);
        let sandbox =
            sandbox.ok_or_else(|| Status::not_found("an error occurred when try to find sandbox: not found"))?;
        let info = sandbox.info.clone().filter(|_| verbose).map(|info| ("info".to_owned(), info));
        let status = Some(sandbox.status());
        Ok(Response::new(wire::PodSandboxStatusResponse { status, info: info.into_iter().collect() }))
    }

    async fn status(&self, request: Request<wire::StatusRequest>) -> Result<Response<wire::StatusResponse>, Status> {
        let state = self.state(Call::Status).await?;
        let condition = |(name, message): &(String, String)| wire::RuntimeCondition {
            r#type: name.clone(),
            status: message.is_empty(),
            message: message.clone(),
            ..wire::RuntimeCondition::default()
        };
        let ready = ["RuntimeReady", "NetworkReady"].map(|name| (name.to_owned(), String::new()));
        let ready = ready.iter().filter(|(name, _)| state.not_ready.iter().all(|(other, _)| other != name));
        let conditions = ready.chain(&state.not_ready).map(condition).collect();
        let info = if request.into_inner().verbose { state.info } else { HashMap::new() };
        Ok(Response::new(wire::StatusResponse { status: Some(wire::RuntimeStatus { conditions }), info }))
    }
}
