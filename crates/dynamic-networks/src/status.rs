//! Writes a Pod's status annotation. Another writer's entries stay as they are: a write is refused if the Pod has changed
//! since it was read, and is then computed anew.

use k8s_openapi::api::core::v1::Pod as CorePod;
use kube::{
    Api, Client, Error,
    api::{Patch, PatchParams},
    core::{PartialObjectMeta, Request, Resource},
};
use netdevice::{
    Pod,
    networks::{STATUS_KEY, read_status, write_status},
};
use serde_json::json;

use crate::{status_change::StatusChange, watch::WatchedPod};

/// How often a write that another writer preceded is repeated.
const ATTEMPTS: usize = 5;
const CONFLICT: u16 = 409;
const NOT_FOUND: u16 = 404;

/// Applies a change: to the status as it was watched, and if the Pod has changed since, to the status as it is. Returns the
/// text that the Pod has then; none if the Pod is gone.
pub(crate) async fn write(
    client: &Client,
    watched: &WatchedPod,
    change: &StatusChange,
) -> Result<Option<String>, Error> {
    let pod = &watched.pod;
    let (mut before, mut version) = (watched.status.clone(), watched.version.clone());
    let api = Api::<PartialObjectMeta<CorePod>>::namespaced(client.clone(), &pod.namespace);
    for attempt in 1.. {
        let now = read_status(&before);
        let then = change.apply(&now);
        if now == then {
            return Ok(Some(before));
        }
        let text = write_status(&then);
        match patch(client, pod, version.as_deref(), &text).await {
            Ok(()) => return Ok(Some(text)),
            Err(Error::Api(status)) if status.code == NOT_FOUND => return Ok(None),
            Err(Error::Api(status)) if status.code == CONFLICT && attempt < ATTEMPTS => {}
            Err(error) => return Err(error),
        }
        let metadata = match api.get(&pod.name).await {
            Err(Error::Api(status)) if status.code == NOT_FOUND => return Ok(None),
            object => object?.metadata,
        };
        if metadata.uid.as_deref() != Some(&pod.uid) {
            return Ok(None);
        }
        before = metadata.annotations.as_ref().and_then(|all| all.get(STATUS_KEY)).cloned().unwrap_or_default();
        version = metadata.resource_version;
    }
    Ok(None)
}

async fn patch(client: &Client, pod: &Pod, version: Option<&str>, text: &str) -> Result<(), Error> {
    let patch = json!({"metadata": {"uid": pod.uid, "resourceVersion": version, "annotations": {STATUS_KEY: text}}});
    let request = Request::new(CorePod::url_path(&(), Some(&pod.namespace)));
    let request = request.patch_subresource("status", &pod.name, &PatchParams::default(), &Patch::Merge(&patch));
    let request = request.map_err(Error::BuildRequest)?;
    client.request::<PartialObjectMeta<CorePod>>(request).await.map(drop)
}
