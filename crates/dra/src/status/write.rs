//! One claim's status, written with one GET and one PATCH.
//!
//! A JSON merge patch with the claim's resource version. The API server compares the bytes of opaque parameters: a server-side
//! apply or a strategic merge patch of a claim whose parameters have unsorted keys is refused (422), and with spaces in the
//! parameters every write of JSON is, by API servers to 1.36.

use http_body_util::{BodyExt, Limited};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Client,
    api::{Patch, PatchParams},
    client::Body,
    core::Request,
};
use netdevice::{
    DeviceId,
    claims::{
        slice::device_name,
        status::{Decision, Wanted, decide},
    },
};
use serde_json::Value;
use tokio::time::{Duration, timeout};

use super::queue::{Task, Written};
use crate::api::{Api, ApiError};

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces";
/// Who writes, in `metadata.managedFields`.
const MANAGER: &str = "netdevice";
/// How long one attempt may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Longest answer that is read.
const MAX_ANSWER: usize = 2 << 20;
/// Longest reason of the API server that is passed on.
const MAX_REASON: usize = 500;

/// Writes statuses.
pub(crate) struct Writer {
    api: Api,
    client: Client,
    node: String,
}

impl Writer {
    pub(crate) fn new(client: Client, node: String) -> Self {
        Self { api: Api::new(client.clone()), client, node }
    }

    /// Makes the status of a claim what it should be.
    pub(crate) async fn write(&self, task: &Task) -> Written {
        match timeout(LIMIT, self.try_write(task)).await {
            Ok(result) => result,
            Err(_) => Written::Again(format!("the API server did not answer within {} s", LIMIT.as_secs())),
        }
    }

    async fn try_write(&self, task: &Task) -> Written {
        let claim = &task.claim;
        let text = match self.api.claim(&claim.namespace, &claim.name).await {
            Ok(text) => text,
            Err(ApiError::NotFound(_)) => return Written::Gone,
            Err(error) => return Written::Again(error.to_string()),
        };
        // parameters may be invalid UTF-8
        let object: Value = match serde_json::from_str(&String::from_utf8_lossy(&text)) {
            Ok(object) => object,
            Err(error) => return Written::Again(format!("the API server's claim is not JSON: {error}")),
        };
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string();
        let name_of = |device: &DeviceId| device_name(device).as_str().to_owned();
        let wanted = Wanted { uid: &claim.uid, pool: &self.node, devices: &task.wanted, name_of: &name_of, now: &now };
        match decide(&object, &wanted) {
            Decision::Gone => Written::Gone,
            Decision::Nothing => Written::Done,
            Decision::Patch(patch) => self.patch(&claim.namespace, &claim.name, patch).await,
        }
    }

    async fn patch(&self, namespace: &str, name: &str, patch: Value) -> Written {
        let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let request = Request::new(format!("{CLAIMS}/{namespace}/resourceclaims"));
        let request = match request.patch_subresource("status", name, &parameters, &Patch::Merge(patch)) {
            Ok(request) => request,
            Err(error) => return Written::Refused(error.to_string()),
        };
        let response = match self.client.send(request.map(Body::from)).await {
            Ok(response) => response,
            Err(error) => return Written::Again(error.to_string()),
        };
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let reason = || {
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            let answer: Value = serde_json::from_str(&String::from_utf8_lossy(&body)).unwrap_or_default();
            let message = answer["message"].as_str().unwrap_or("no reason given");
            let message: String = message.chars().take(MAX_REASON).collect();
            format!("the API server answered {status}: {message}")
        };
        match status {
            200 | 201 => Written::Changed,
            404 => Written::Gone,
            400 | 413 | 422 => Written::Refused(reason()),
            // another writer was faster, or there is no right, or the server is busy
            _ => Written::Again(reason()),
        }
    }
}
