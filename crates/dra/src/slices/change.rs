//! The request that makes a change.

use std::hash::{BuildHasher, Hasher, RandomState};

use kube::{
    api::{DeleteParams, PostParams},
    core::{Request, params::Preconditions},
};
use netdevice::claims::slice::{Change, Content, DeviceName, Fingerprint, Tracker};

use super::{
    known::Known,
    object::{Node, Written, body, new_name},
    request::{HttpRequest, RequestError, path},
};

/// What a request says of each device.
pub(super) type Sent = Vec<(DeviceName, Fingerprint)>;

/// The name of the slice, the request, and what it says of each device.
pub(super) fn request_of(
    change: &Change,
    node: &Node,
    tracker: &Tracker,
    known: &Known,
) -> Result<(String, HttpRequest, Sent), RequestError> {
    let (name, built, sent) = match change {
        Change::Delete { name, uid, version } => {
            let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: Some(version.clone()) };
            let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            (name.clone(), Request::new(path()).delete(name, &parameters), Sent::new())
        }
        Change::Update { name, version, content, .. } => {
            let (body, sent) = content_of(name, Some(version), node, content, tracker, known)?;
            (name.clone(), Request::new(path()).replace(name, &PostParams::default(), body), sent)
        }
        Change::Create { position, content } => {
            let name = new_name(&node.name, *position, random());
            let (body, sent) = content_of(&name, None, node, content, tracker, known)?;
            (name, Request::new(path()).create(&PostParams::default(), body), sent)
        }
    };
    Ok((name, built.map_err(RequestError::Build)?, sent))
}

/// The body of a slice.
fn content_of(
    name: &str,
    version: Option<&str>,
    node: &Node,
    content: &Content,
    tracker: &Tracker,
    known: &Known,
) -> Result<(Vec<u8>, Sent), RequestError> {
    let (mut devices, mut sent) = (Vec::new(), Vec::new());
    for device in content.devices.iter().filter_map(|device| tracker.device(device)) {
        sent.push((device.name.clone(), Fingerprint::of_published(&device)));
        // a taint that stays keeps its time
        let added = device.taints.iter().map(|taint| known.added(name, &device.name, (taint.key, taint.value)));
        let added: Vec<_> = added.collect();
        if added.iter().all(Option::is_none) {
            devices.push(Written::Published(Box::new(device)));
            continue;
        }
        let mut value = serde_json::to_value(&device).map_err(RequestError::Answer)?;
        for (at, time) in added.into_iter().enumerate() {
            if let Some(time) = time {
                value["taints"][at]["timeAdded"] = time.added.clone();
            }
        }
        devices.push(Written::Completed(value));
    }
    Ok((body(name, version, node, content, &devices).map_err(RequestError::Answer)?, sent))
}

/// The keys of a hasher are random enough for names.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
