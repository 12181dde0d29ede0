//! Sandboxes, as the runtime lists and describes them.

use netdevice::{Sandbox, owner::Pod, sandbox::Network};
use proto::cri as wire;

use crate::error::Error;

/// A sandbox that the runtime knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedSandbox {
    /// Its id, unique on the node.
    pub id: String,
    /// The Pod. Its parts are empty where the runtime does not know them.
    pub pod: Pod,
    /// How many sandboxes the Pod had before this one.
    pub attempt: u32,
    /// Whether it runs; the runtime keeps one that was stopped until it is removed.
    pub is_ready: bool,
    /// When it was made, in nanoseconds since 1970.
    pub created_at: i64,
}

impl From<wire::PodSandbox> for ListedSandbox {
    fn from(sandbox: wire::PodSandbox) -> Self {
        let is_ready = sandbox.state() == wire::PodSandboxState::SandboxReady;
        let wire::PodSandboxMetadata { name, uid, namespace, attempt } = sandbox.metadata.unwrap_or_default();
        let pod = Pod { namespace, name, uid };
        Self { id: sandbox.id, pod, attempt, is_ready, created_at: sandbox.created_at }
    }
}

/// Of several sandboxes of one name the one that counts. For a moment after a restart a Pod has two, and the later attempt
/// counts, whatever the clock says; a Pod that was deleted by force runs on beside the next one of its name, and then the
/// later Pod counts.
pub(crate) fn newest(sandboxes: Vec<ListedSandbox>) -> Option<ListedSandbox> {
    let pod = sandboxes.iter().max_by_key(|sandbox| sandbox.created_at)?.pod.uid.clone();
    let of_pod = sandboxes.into_iter().filter(|sandbox| sandbox.pod.uid == pod);
    of_pod.max_by_key(|sandbox| (sandbox.attempt, sandbox.created_at))
}

/// A running sandbox with a network of its own. `link::OpenSandbox` opens it, and makes sure that the namespace is there and
/// is not the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSandbox {
    listed: ListedSandbox,
    sandbox: Sandbox,
    namespace: String,
}

impl FoundSandbox {
    /// From the runtime's answer to a verbose request.
    pub(crate) fn new(listed: ListedSandbox, answer: wire::PodSandboxStatusResponse) -> Result<Self, Error> {
        let wire::PodSandboxStatusResponse { status, mut info } = answer;
        let status = status.unwrap_or_default();
        let linux = status.linux.and_then(|linux| linux.namespaces).and_then(|namespaces| namespaces.options);
        if linux.is_some_and(|options| options.network() == wire::NamespaceMode::Node) {
            let Pod { namespace, name, .. } = listed.pod;
            return Err(Error::HostNetwork { namespace, name });
        }
        let id = || listed.id.clone();
        let info = info.remove("info").ok_or_else(|| Error::NoInfo { id: id() })?;
        let sandbox = Sandbox::from_cri(&listed.id, listed.pod.clone(), &info);
        let sandbox = sandbox.map_err(|cause| Error::InvalidInfo { id: id(), cause })?;
        let Network::AtPath { path, .. } = sandbox.network() else { return Err(Error::NoNamespace { id: id() }) };
        Ok(Self { namespace: path.clone(), sandbox, listed })
    }

    /// Its id, unique on the node.
    pub fn id(&self) -> &str {
        &self.listed.id
    }

    /// The Pod.
    pub fn pod(&self) -> &Pod {
        &self.listed.pod
    }

    /// The path of its network namespace, in the runtime's mount namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What `link` opens.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(id: &str, uid: &str, attempt: u32, created_at: i64) -> ListedSandbox {
        let pod = Pod { namespace: "default".into(), name: "web".into(), uid: uid.into() };
        ListedSandbox { id: id.into(), pod, attempt, is_ready: true, created_at }
    }

    #[test]
    fn the_last_attempt_of_the_last_pod_counts() {
        let counts = |sandboxes: &[ListedSandbox]| newest(sandboxes.to_vec()).map(|sandbox| sandbox.id);
        assert_eq!(counts(&[]), None);
        let (first, second) = (sandbox("first", "u1", 0, 100), sandbox("second", "u1", 1, 200));
        assert_eq!(counts(&[first.clone(), second.clone()]).as_deref(), Some("second"));
        assert_eq!(counts(&[second.clone(), first.clone()]).as_deref(), Some("second"));
        let set_back = sandbox("set back", "u1", 1, 50);
        assert_eq!(counts(&[first.clone(), set_back]).as_deref(), Some("set back"), "the clock was set back");
        let twin = sandbox("twin", "u1", 1, 300);
        assert_eq!(counts(&[twin, second.clone()]).as_deref(), Some("twin"), "the same attempt");
        let of_next_pod = sandbox("next", "u2", 0, 400);
        assert_eq!(counts(&[second, of_next_pod, first]).as_deref(), Some("next"), "another pod of that name");
    }
}
