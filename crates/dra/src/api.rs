//! The objects that the driver reads from the API server: the claim that is prepared, and the Pod that it is prepared for.
//!
//! One GET each. The text is read as bytes: parameters of a claim may be invalid UTF-8, which the API server takes and
//! returns, and for which kube has no object.

use std::{future::Future, time::Duration};

use http_body_util::{BodyExt, Limited};
use kube::{
    Client,
    api::GetParams,
    client::Body,
    core::{Request, request},
};
use netdevice::claims::claim::MAX_CLAIM;
use tokio::time::{Instant, timeout_at};

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces";
const PODS: &str = "/api/v1/namespaces";

/// Why an object was not read.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// There is none of that name.
    #[error("{0} does not exist any longer: delete the pod if it is still there")]
    NotFound(String),
    /// The agent may not read it.
    #[error("the agent may not read {0}: apply the rights of install-dra.yaml")]
    Forbidden(String),
    /// The API server did not answer, or with an error.
    #[error("cannot read {subject} from the API server: {cause}")]
    Failed {
        /// What was read.
        subject: String,
        /// Why.
        cause: String,
    },
    /// The API server did not answer in time.
    #[error("the API server did not answer in time: check that the node reaches it")]
    Timeout,
    /// The name makes no request.
    #[error("cannot ask the API server: {0}")]
    Request(#[from] request::Error),
}

impl ApiError {
    /// Whether another attempt may succeed.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Timeout)
    }
}

/// How new an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// What the API server has in its cache (resourceVersion 0), which may be behind: in a third of the time.
    Cached,
    /// Not older than the request.
    Newest,
}

/// Reads objects.
#[derive(Clone)]
pub(crate) struct Api(Client);

impl Api {
    pub(crate) fn new(client: Client) -> Self {
        Self(client)
    }

    /// The text of a claim.
    pub(crate) async fn claim(&self, namespace: &str, name: &str) -> Result<Vec<u8>, ApiError> {
        let subject = format!("the claim {namespace}/{name}");
        self.get(&format!("{CLAIMS}/{namespace}/resourceclaims"), name, Freshness::Newest, subject).await
    }

    /// The text of a Pod.
    pub(crate) async fn pod(&self, namespace: &str, name: &str, freshness: Freshness) -> Result<Vec<u8>, ApiError> {
        let subject = format!("the pod {namespace}/{name}");
        self.get(&format!("{PODS}/{namespace}/pods"), name, freshness, subject).await
    }

    async fn get(&self, path: &str, name: &str, freshness: Freshness, subject: String) -> Result<Vec<u8>, ApiError> {
        let parameters = match freshness {
            Freshness::Cached => GetParams::any(),
            Freshness::Newest => GetParams::default(),
        };
        let request = Request::new(path).get(name, &parameters)?;
        let failed = |cause: String| ApiError::Failed { subject: subject.clone(), cause };
        let response = self.0.send(request.map(Body::from)).await.map_err(|error| failed(innermost(&error)))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_CLAIM).collect().await;
        let body = body.map_err(|error| failed(error.to_string()))?.to_bytes();
        match status {
            200 => Ok(body.to_vec()),
            404 => Err(ApiError::NotFound(subject)),
            403 => Err(ApiError::Forbidden(subject)),
            status => Err(failed(format!("it answered with status {status}"))),
        }
    }
}

/// An attempt to read an object, which ends at the deadline at the latest.
pub(crate) async fn until<T>(
    deadline: Instant,
    reading: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    timeout_at(deadline.min(Instant::now() + ATTEMPT), reading).await.unwrap_or(Err(ApiError::Timeout))
}

/// The cause of an error: the texts of those around it say only that a request failed.
fn innermost(error: &kube::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
