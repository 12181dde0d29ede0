//! The runtime, connected.

use std::{collections::BTreeMap, path::Path, time::Duration};

use proto::cri::{
    self as wire, ListPodSandboxRequest, PodSandboxFilter, PodSandboxStateValue, PodSandboxStatusRequest,
    StatusRequest, VersionRequest, runtime_service_client::RuntimeServiceClient,
};
use tokio::time::timeout;
use tonic::{Code, Response, Status, transport::Channel};

use crate::{
    candidates::Candidates,
    connection,
    endpoint::Endpoint,
    error::{ConnectError, Error, MAX_ANSWER},
    sandbox::{FoundSandbox, ListedSandbox, newest},
};

/// Label of a sandbox with the name of its Pod; the kubelet sets it.
const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label of a sandbox with the namespace of its Pod.
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";

/// How long the runtime is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Until one socket is connected and the runtime has said what it is.
    pub connect: Duration,
    /// Until one call is answered.
    pub call: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), call: Duration::from_secs(10) }
    }
}

/// What a runtime says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// `containerd` or `cri-o`.
    pub name: String,
    /// Such as `v2.1.9` of containerd, `1.36.3` of CRI-O.
    pub version: String,
}

/// How a runtime is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeState {
    /// What it lacks, in its own words; empty when it is ready.
    pub not_ready: Vec<String>,
    /// What it adds: JSON, by key. containerd has its configuration under `config`.
    pub info: BTreeMap<String, String>,
}

/// A container runtime that answered.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    endpoint: Endpoint,
    runtime: Runtime,
    deadline: Duration,
}

impl Client {
    /// Connects to the first candidate that is a CRI v1 runtime.
    ///
    /// # Errors
    ///
    /// When the one that was named is none, or none of the known ones is.
    pub async fn connect(candidates: &Candidates, deadlines: Deadlines) -> Result<Self, Error> {
        match candidates {
            Candidates::One(endpoint, origin) => {
                let connected = Self::connect_to(endpoint, deadlines).await;
                connected.map_err(|cause| Error::ConnectFailed { endpoint: endpoint.clone(), origin: *origin, cause })
            }
            Candidates::Known(endpoints) => {
                let mut tried = Vec::new();
                for endpoint in endpoints.iter().filter(|endpoint| !is_below_a_link(endpoint.path())) {
                    match Self::connect_to(endpoint, deadlines).await {
                        Ok(client) => return Ok(client),
                        Err(cause) => tried.push((endpoint.clone(), cause)),
                    }
                }
                Err(Error::NoRuntime(tried))
            }
        }
    }

    async fn connect_to(endpoint: &Endpoint, deadlines: Deadlines) -> Result<Self, ConnectError> {
        let connected = async {
            let channel = connection::connect(endpoint).await?;
            let answer = client(channel.clone()).version(VersionRequest { version: "0.1.0".into() }).await;
            Ok((channel, answer.map_err(not_a_runtime)?.into_inner()))
        };
        let connected = timeout(deadlines.connect, connected).await;
        let (channel, version) = connected.map_err(|_| ConnectError::TimedOut(deadlines.connect)).flatten()?;
        let runtime = Runtime { name: version.runtime_name, version: version.runtime_version };
        Ok(Self { channel, endpoint: endpoint.clone(), runtime, deadline: deadlines.call })
    }

    /// The socket.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What the runtime is, as it said when it was connected.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The running sandbox of a Pod that has a network of its own.
    ///
    /// # Errors
    ///
    /// When there is none on this node, it uses the host's network, or the runtime does not say where its network is.
    pub async fn find_sandbox(&self, namespace: &str, name: &str) -> Result<FoundSandbox, Error> {
        let labels = [(POD_NAMESPACE, namespace), (POD_NAME, name)];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut filter = PodSandboxFilter { label_selector: labels.into(), ..PodSandboxFilter::default() };
        filter.state = Some(PodSandboxStateValue { state: wire::PodSandboxState::SandboxReady.into() });
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let Some(running) = newest(self.list(Some(filter.clone())).await?) else {
            filter.state = None;
            let is_stopped = !self.list(Some(filter)).await?.is_empty();
            return Err(if is_stopped {
                Error::NotRunning { namespace, name }
            } else {
                Error::NoPod { namespace, name }
            });
        };
        let Some(status) = self.sandbox_status(&running.id).await? else {
            return Err(Error::NotRunning { namespace, name });
        };
        FoundSandbox::new(running, status)
    }

    /// All sandboxes of the node, stopped ones too, in no order.
    ///
    /// # Errors
    ///
    /// When the runtime does not list them.
    pub async fn list_sandboxes(&self) -> Result<Vec<ListedSandbox>, Error> {
        self.list(None).await
    }

    /// How the runtime is, and what it says of itself.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn runtime_state(&self) -> Result<RuntimeState, Error> {
        let mut client = self.client();
        let answer = self.call("report its status", client.status(StatusRequest { verbose: true })).await?;
        let conditions = answer.status.unwrap_or_default().conditions;
        let unmet = conditions.into_iter().filter(|condition| !condition.status);
        let in_words = |condition: wire::RuntimeCondition| match condition.message.as_str() {
            "" => condition.r#type,
            message => format!("{}: {message}", condition.r#type),
        };
        Ok(RuntimeState { not_ready: unmet.map(in_words).collect(), info: answer.info.into_iter().collect() })
    }

    async fn list(&self, filter: Option<PodSandboxFilter>) -> Result<Vec<ListedSandbox>, Error> {
        let mut client = self.client();
        let answer = self.call("list its sandboxes", client.list_pod_sandbox(ListPodSandboxRequest { filter })).await?;
        Ok(answer.items.into_iter().map(ListedSandbox::from).collect())
    }

    /// None when it stopped, or was removed, since it was listed.
    async fn sandbox_status(&self, id: &str) -> Result<Option<wire::PodSandboxStatusResponse>, Error> {
        let mut client = self.client();
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        match self.call("report the status of a sandbox", client.pod_sandbox_status(request)).await {
            Ok(answer) => {
                let is_ready = |status: &wire::PodSandboxStatus| status.state() == wire::PodSandboxState::SandboxReady;
                Ok(answer.status.as_ref().is_none_or(is_ready).then_some(answer))
            }
            Err(Error::CallFailed { status, .. }) if status.code() == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn client(&self) -> RuntimeServiceClient<Channel> {
        client(self.channel.clone())
    }

    async fn call<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        let deadline = self.deadline;
        let answer = timeout(deadline, answer).await.map_err(|_| Error::CallTimedOut { call, deadline })?;
        Ok(answer.map_err(|status| Error::CallFailed { call, status: Box::new(status) })?.into_inner())
    }
}

fn client(channel: Channel) -> RuntimeServiceClient<Channel> {
    RuntimeServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER)
}

fn not_a_runtime(status: Status) -> ConnectError {
    let status = Box::new(status);
    if status.code() == Code::Unimplemented { ConnectError::NotCri(status) } else { ConnectError::Version(status) }
}

/// Whether the path is below `/var/run` and that is a link, to `/run`, where the same socket is known under its other name.
fn is_below_a_link(path: &Path) -> bool {
    let directory = Path::new("/var/run");
    path.starts_with(directory) && directory.is_symlink()
}
