//! What is watched of the API server: the metadata of the node's Pods, and the NetworkAttachmentDefinitions.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use k8s_openapi::api::core::v1::Pod as CorePod;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    core::{ObjectMeta, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use netdevice::{
    Pod,
    annotation::attach,
    networks::{KEY, STATUS_KEY},
};
use serde_json::Value;
use tokio_stream::{Stream, StreamExt};

/// Objects in one answer of a list: few, so that none is large.
const PAGE: u32 = 100;
/// The annotation of a static Pod's mirror with the UID by which the kubelet and the runtime know the Pod.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What is known of a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WatchedPod {
    /// As the API server knows it.
    pub(crate) pod: Pod,
    /// The UID that the runtime knows.
    pub(crate) uid_on_node: String,
    /// The annotation with networks; empty if there is none.
    pub(crate) networks: String,
    /// The annotation with devices; empty if there is none.
    pub(crate) devices: String,
    /// The status; empty if there is none.
    pub(crate) status: String,
    /// Its version when it was read.
    pub(crate) version: Option<String>,
    /// Whether it is being deleted.
    pub(crate) is_deleted: bool,
}

impl WatchedPod {
    /// Whether both have the same annotations that request something.
    pub(crate) fn has_same_requests(&self, other: &Self) -> bool {
        (&self.networks, &self.devices) == (&other.networks, &other.devices)
    }

    /// Whether it has one of the annotations that request something.
    pub(crate) fn requests_any(&self) -> bool {
        !self.networks.trim().is_empty() || !self.devices.trim().is_empty()
    }

    fn new(metadata: ObjectMeta) -> Option<Self> {
        let mut annotations = metadata.annotations.unwrap_or_default();
        let pod = Pod { namespace: metadata.namespace?, name: metadata.name?, uid: metadata.uid? };
        let uid_on_node = annotations.remove(MIRROR).unwrap_or_else(|| pod.uid.clone());
        let mut text = |key| annotations.remove(key).unwrap_or_default();
        let (networks, devices, status) = (text(KEY), text(attach::KEY), text(STATUS_KEY));
        let is_deleted = metadata.deletion_timestamp.is_some();
        Some(Self { pod, uid_on_node, networks, devices, status, version: metadata.resource_version, is_deleted })
    }
}

/// A change of what is watched.
#[derive(Debug)]
pub(crate) enum Change {
    /// A list begins.
    Begin,
    /// An object of the list, or one that changed.
    Pod(WatchedPod),
    /// It is gone.
    PodGone(String),
    /// The list is complete.
    End,
}

/// As [`Change`], for the definitions.
#[derive(Debug)]
pub(crate) enum DefinitionChange {
    Begin,
    Definition(String, Arc<str>),
    Gone(String),
    End,
}

pub(crate) type Changes<T> = Pin<Box<dyn Stream<Item = Result<T, watcher::Error>> + Send>>;

/// The Pods of a node. After an error the stream goes on, with pauses.
pub(crate) fn pods(client: Client, node: &str) -> Changes<Change> {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}")).page_size(PAGE);
    let stream = watcher(Api::<PartialObjectMeta<CorePod>>::all(client), config).default_backoff();
    Box::pin(stream.filter_map(|event| event.map(change).transpose()))
}

fn change(event: Event<PartialObjectMeta<CorePod>>) -> Option<Change> {
    Some(match event {
        Event::Init => Change::Begin,
        Event::InitDone => Change::End,
        Event::InitApply(object) | Event::Apply(object) => Change::Pod(WatchedPod::new(object.metadata)?),
        Event::Delete(object) => Change::PodGone(object.metadata.uid?),
    })
}

/// The definitions of the cluster.
pub(crate) fn definitions(client: Client) -> Changes<DefinitionChange> {
    let kind = GroupVersionKind::gvk("k8s.cni.cncf.io", "v1", "NetworkAttachmentDefinition");
    let resource = ApiResource::from_gvk_with_plural(&kind, "network-attachment-definitions");
    let api = Api::<DynamicObject>::all_with(client, &resource);
    let stream = watcher(api, watcher::Config::default().page_size(PAGE)).default_backoff();
    Box::pin(stream.filter_map(|event| event.map(definition_change).transpose()))
}

fn definition_change(event: Event<DynamicObject>) -> Option<DefinitionChange> {
    let name = |metadata: &ObjectMeta| Some(format!("{}/{}", metadata.namespace.as_ref()?, metadata.name.as_ref()?));
    Some(match event {
        Event::Init => DefinitionChange::Begin,
        Event::InitDone => DefinitionChange::End,
        Event::InitApply(object) | Event::Apply(object) => {
            let config = object.data.pointer("/spec/config").and_then(Value::as_str).unwrap_or_default();
            DefinitionChange::Definition(name(&object.metadata)?, config.into())
        }
        Event::Delete(object) => DefinitionChange::Gone(name(&object.metadata)?),
    })
}

/// A set of objects that a watch keeps: the list that is being read, beside the one that was complete.
#[derive(Debug)]
pub(crate) struct Kept<V> {
    pub(crate) objects: BTreeMap<String, V>,
    listed: Option<BTreeMap<String, V>>,
    /// Whether a list was complete once.
    pub(crate) is_complete: bool,
}

impl<V> Default for Kept<V> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listed: None, is_complete: false }
    }
}

impl<V> Kept<V> {
    pub(crate) fn begin(&mut self) {
        self.listed = Some(BTreeMap::new());
    }

    pub(crate) fn insert(&mut self, key: String, value: V) {
        self.listed.as_mut().unwrap_or(&mut self.objects).insert(key, value);
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.listed.as_mut().unwrap_or(&mut self.objects).remove(key);
    }

    /// Returns the objects before the list.
    pub(crate) fn end(&mut self) -> BTreeMap<String, V> {
        self.is_complete = true;
        let listed = self.listed.take().unwrap_or_default();
        std::mem::replace(&mut self.objects, listed)
    }
}
