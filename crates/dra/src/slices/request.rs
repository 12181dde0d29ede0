//! Requests to the API server.

use std::time::Duration;

use kube::{
    Client,
    api::{GetParams, ListParams},
    client::Body,
    core::Request,
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;

use super::object::{GROUP, Node, PLURAL, Slice, VERSION};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Longest pause that the API server can ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(120);

pub(super) type HttpRequest = hyper::Request<Vec<u8>>;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("no answer from the API server within {TIMEOUT:?}")]
    Timeout,
    #[error("cannot send the request")]
    Build(#[source] kube::core::request::Error),
    #[error("cannot reach the API server")]
    Send(#[source] kube::Error),
    #[error("the API server refuses it ({code}): {message}")]
    Refused { code: u16, message: String, retry_after: Option<Duration> },
    /// It is created by the kubelet, perhaps in a moment.
    #[error("the API server has no such Node")]
    NoNode,
    #[error("cannot read the answer of the API server, or write a request")]
    Answer(#[source] serde_json::Error),
}

impl RequestError {
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct NodeObject {
    metadata: kube::core::ObjectMeta,
}

#[derive(Deserialize)]
struct List {
    items: Vec<Slice>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    message: String,
}

/// Sends requests.
#[derive(Clone)]
pub(super) struct Requests(pub(super) Client);

impl Requests {
    /// The Node, which owns the slices.
    pub(super) async fn node(&self, name: &str) -> Result<Node, RequestError> {
        let request = Request::new("/api/v1/nodes").get(name, &GetParams::default());
        let read: NodeObject = match self.send(request.map_err(RequestError::Build)?).await {
            Err(error) if error.code() == Some(404) => return Err(RequestError::NoNode),
            read => read?,
        };
        Ok(Node { name: name.into(), uid: read.metadata.uid.unwrap_or_default() })
    }

    /// A slice, if it is there. By a list, for which the agent has the right anyway.
    pub(super) async fn slice(&self, name: &str) -> Result<Option<Slice>, RequestError> {
        let parameters = ListParams::default().fields(&format!("metadata.name={name}"));
        let request = Request::new(path()).list(&parameters).map_err(RequestError::Build)?;
        let List { items } = self.send(request).await?;
        Ok(items.into_iter().next())
    }

    /// The answer to a request.
    pub(super) async fn send<T: DeserializeOwned>(&self, request: HttpRequest) -> Result<T, RequestError> {
        timeout(TIMEOUT, self.send_without_limit(request)).await.map_err(|_| RequestError::Timeout)?
    }

    async fn send_without_limit<T: DeserializeOwned>(&self, request: HttpRequest) -> Result<T, RequestError> {
        let answer = self.0.send(request.map(Body::from)).await.map_err(RequestError::Send)?;
        let code = answer.status();
        let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = retry_after.map(|seconds| Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER));
        let bytes = answer.into_body().collect_bytes().await.map_err(RequestError::Send)?;
        if code.is_success() {
            return serde_json::from_slice(&bytes).map_err(RequestError::Answer);
        }
        // the API server's own limiter answers with text
        let text = || String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).trim().to_owned();
        let message = serde_json::from_slice::<Status>(&bytes).map_or_else(|_| text(), |status| status.message);
        Err(RequestError::Refused { code: code.as_u16(), message, retry_after })
    }
}

/// Where the slices are.
pub(super) fn path() -> String {
    format!("/apis/{GROUP}/{VERSION}/{PLURAL}")
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}
