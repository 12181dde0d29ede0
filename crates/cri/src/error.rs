//! Errors of talking to a container runtime.

use std::{io, path::PathBuf, time::Duration};

use crate::endpoint::{Endpoint, InvalidEndpoint, Origin};

/// Longest answer that is read, in bytes: the kubelet's own limit, and the longest that containerd sends. A sandbox in a list
/// has a few hundred bytes besides its annotations, so that this is enough for some ten thousand.
pub(crate) const MAX_ANSWER: usize = 16 << 20;

/// An operation that failed, with its subject. Each text contains its cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What somebody named is not a unix socket.
    #[error("{origin}: {cause}")]
    InvalidEndpoint {
        /// Who named it.
        origin: Origin,
        /// What is wrong.
        cause: InvalidEndpoint,
    },
    /// crictl's configuration is not what crictl reads.
    #[error("invalid YAML in {}: {}", crate::CRICTL_CONFIGURATION, one_line(&.0.to_string()))]
    CrictlConfiguration(Box<serde_saphyr::Error>),
    /// crictl's configuration is there and cannot be read.
    #[error("cannot read {}: {cause}: pass -runtime-endpoint", .file.display())]
    CrictlConfigurationUnreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The runtime that was named does not answer.
    #[error("cannot connect to the container runtime at {endpoint} (from {origin}): {cause}")]
    ConnectFailed {
        /// Its socket.
        endpoint: Endpoint,
        /// Who named it.
        origin: Origin,
        /// Why.
        cause: ConnectError,
    },
    /// No known socket is a runtime's.
    #[error("found no container runtime on this node: {}: pass -runtime-endpoint", list(.0))]
    NoRuntime(Vec<(Endpoint, ConnectError)>),
    /// The runtime refused a call.
    #[error("the container runtime cannot {call}: {}", message(.status))]
    CallFailed {
        /// What was asked, as a verb and its object.
        call: &'static str,
        /// The runtime's answer.
        status: Box<tonic::Status>,
    },
    /// The runtime did not answer a call in time.
    #[error("the container runtime did not answer within {deadline:?}: it was asked to {call}")]
    CallTimedOut {
        /// What was asked.
        call: &'static str,
        /// The limit.
        deadline: Duration,
    },
    /// The runtime knows no sandbox of the Pod.
    #[error("found no pod {namespace}/{name} on this node: it does not exist, or runs on another node")]
    NoPod {
        /// The Pod's namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The runtime knows stopped sandboxes of the Pod only.
    #[error("pod {namespace}/{name} has no running sandbox on this node: only a stopped one")]
    NotRunning {
        /// The Pod's namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The Pod uses the node's network.
    #[error(
        "pod {namespace}/{name} uses the host's network (hostNetwork: true): it has no network namespace of its own"
    )]
    HostNetwork {
        /// The Pod's namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The runtime adds nothing of its own to a sandbox's status.
    #[error(
        "the container runtime does not say where the network namespace of sandbox {id} is: its verbose status has no \"info\""
    )]
    NoInfo {
        /// The sandbox's id.
        id: String,
    },
    /// What the runtime adds to a sandbox's status cannot be read.
    #[error("cannot read the container runtime's verbose status of sandbox {id}: {cause}")]
    InvalidInfo {
        /// The sandbox's id.
        id: String,
        /// What is wrong.
        cause: serde_json::Error,
    },
    /// What the runtime adds to a sandbox's status names no network namespace.
    #[error("the container runtime names no network namespace of sandbox {id}")]
    NoNamespace {
        /// The sandbox's id.
        id: String,
    },
}

/// Why a socket is not that of a runtime.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no file, or it cannot be connected to.
    #[error("{0}")]
    Socket(io::Error),
    /// The file is not a socket.
    #[error("not a socket")]
    NotASocket,
    /// Who listens does not speak gRPC.
    #[error("does not speak gRPC: {}", innermost(.0))]
    Handshake(tonic::transport::Error),
    /// Who listens does not answer.
    #[error("timed out after {0:?}")]
    TimedOut(Duration),
    /// Who listens speaks gRPC and has no CRI v1, as the containerd that comes with Docker.
    #[error("does not serve CRI v1: {}", .0.message())]
    NotCri(Box<tonic::Status>),
    /// The runtime does not say what it is.
    #[error("{}", message(.0))]
    Version(Box<tonic::Status>),
}

impl ConnectError {
    /// Whether there is no such file.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Socket(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// What was tried and why it failed. What is not there is listed together.
fn list(tried: &[(Endpoint, ConnectError)]) -> String {
    let failed = tried.iter().filter(|(_, cause)| !cause.is_absent());
    let mut causes: Vec<String> = failed.map(|(endpoint, cause)| format!("{endpoint}: {cause}")).collect();
    let absent = tried.iter().filter(|(_, cause)| cause.is_absent());
    let absent: Vec<String> = absent.map(|(endpoint, _)| endpoint.to_string()).collect();
    if !absent.is_empty() {
        causes.push(format!("{} not found", absent.join(", ")));
    }
    causes.join("; ")
}

/// The runtime's words; for an error of the connection, which tonic calls "transport error", the cause.
fn message(status: &tonic::Status) -> String {
    let message = match std::error::Error::source(status) {
        Some(source) => innermost(source),
        None => status.message().to_owned(),
    };
    let is_too_long = status.code() == tonic::Code::OutOfRange && message.contains("message length too large");
    if is_too_long { format!("its answer is longer than {} MiB", MAX_ANSWER >> 20) } else { message }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
