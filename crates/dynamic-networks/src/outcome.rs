//! What the work on a Pod did, or why it did nothing.

use netdevice::{
    Pod,
    networks::{REJECTED_HOST_NETWORK, rejected_host_network},
};

use crate::{report::Report, status_change::StatusChange};

/// What was done for a Pod.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Its sandbox.
    pub(crate) sandbox: Option<String>,
    /// What happened.
    pub(crate) reports: Vec<Report>,
    /// Annotations that are not valid. What they once requested stays as it is.
    pub(crate) invalid: Vec<Report>,
    /// What was not done. Empty, as the invalid ones: the Pod has what it requests.
    pub(crate) failures: Vec<String>,
    /// How many of the failures are devices that others have, or that are not offered.
    pub(crate) refused: usize,
    /// Whether a repetition would only repeat the harm: a changed element was plugged again as it was before.
    pub(crate) is_restored: bool,
    /// Whether the Pod has attachments that this program made.
    pub(crate) has_own: bool,
    /// What the Pod's status is to say.
    pub(crate) status: Option<StatusChange>,
}

impl Done {
    /// What the Pod does not have; none if it has all that it requests.
    pub(crate) fn missing(&self) -> Option<String> {
        let invalid = self.invalid.iter().map(|report| report.note.as_str());
        let all: Vec<&str> = invalid.chain(self.failures.iter().map(String::as_str)).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// Why nothing was done for a Pod.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkError {
    /// The sandbox is not there yet, or no longer.
    #[error("the pod has no sandbox that runs: {0}")]
    NoSandbox(String),
    /// The Pod uses the node's network.
    #[error("the pod uses the node's network")]
    HostNetwork,
    /// Multus made an interface when the Pod was created, and the status that names it has not been read yet.
    #[error("the pod's network-status does not have what Multus made yet")]
    Lagging,
    /// The runtime, or the node.
    #[error("{0}")]
    Node(String),
}

/// The report that a Pod on the node's network gets nothing.
pub(crate) fn rejected(pod: &Pod) -> Report {
    let note = rejected_host_network(&pod.namespace, &pod.name);
    Report { pod: pod.clone(), reason: REJECTED_HOST_NETWORK, is_warning: true, note }
}

/// The report that an annotation cannot be used.
pub(crate) fn invalid_annotation(pod: &Pod, key: &str, error: &dyn std::fmt::Display) -> Report {
    let note = format!("pod [{pod}]: annotation {key} is not used: {error}");
    Report { pod: pod.clone(), reason: "InvalidNetworksAnnotation", is_warning: true, note }
}
