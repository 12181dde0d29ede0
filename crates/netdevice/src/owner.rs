//! Who has the right to a device, however it was requested.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The Pod of a sandbox, as reported by the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID: another Pod may later have the same name.
    pub uid: String,
}

impl fmt::Display for Pod {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.namespace, self.name)
    }
}

/// Who has the right to a device.
///
/// In JSON an object with one member, named like the variant: `{"container": {"id": ...}}`. [`Owner::Kubelet`] is the string
/// `"kubelet"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// A container, from its createRuntime hook to its poststop hook.
    Container {
        /// Id of the container, unique on the node.
        id: String,
        /// Id of the Pod's sandbox; none without Kubernetes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sandbox: Option<String>,
        /// The Pod; none without Kubernetes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pod: Option<Pod>,
    },
    /// A Pod's sandbox, from before its first container to after its last one.
    Sandbox {
        /// Id of the sandbox, unique on the node.
        id: String,
        /// The Pod; none without Kubernetes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pod: Option<Pod>,
        /// How the device was requested.
        by: Request,
    },
    /// A ResourceClaim, from Prepare to Unprepare.
    Claim {
        /// UID of the claim.
        uid: String,
        /// Kubernetes namespace of the claim.
        namespace: String,
        /// Name of the claim.
        name: String,
        /// The request in the claim, `request` or `request/subrequest`.
        request: String,
        /// Id of the sandbox that the device is in; none before it is attached.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sandbox: Option<String>,
        /// The Pod that the claim is reserved for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pod: Option<Pod>,
    },
    /// A container that the kubelet has not started yet. Allocate does not name it.
    Kubelet,
}

/// How a device was requested for a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// The Pod's annotation `netdevices.nri.containerd.io`.
    Annotation,
    /// An element of the Pod's annotation `k8s.v1.cni.cncf.io/networks`.
    Networks {
        /// Name of the NetworkAttachmentDefinition, `namespace/name`; [`ATTACH_KEY`] if that annotation has it.
        network: String,
        /// Name of the interface in the Pod; empty for [`ATTACH_KEY`].
        interface: String,
    },
    /// A command on the node.
    Command,
}

/// The annotation of a running Pod that lists devices.
pub const ATTACH_KEY: &str = "netdevice.networking.k8s.io/attach";

impl Request {
    /// A request in the annotation [`ATTACH_KEY`]. All elements of a Pod's annotation are one request.
    ///
    /// It has the form of a network, so that each program that reads records of version 2 ends the attachment with the Pod.
    pub fn attach() -> Self {
        Self::Networks { network: ATTACH_KEY.into(), interface: String::new() }
    }

    /// Whether it is a request in the annotation [`ATTACH_KEY`].
    pub fn is_attach(&self) -> bool {
        matches!(self, Self::Networks { network, .. } if network == ATTACH_KEY)
    }
}

impl Owner {
    /// The id of the container or of the sandbox, or the UID of the claim.
    pub fn id(&self) -> &str {
        match self {
            Self::Container { id, .. } | Self::Sandbox { id, .. } => id,
            Self::Claim { uid, .. } => uid,
            Self::Kubelet => "",
        }
    }

    /// Id of the sandbox that the device is in or goes to, if it is known.
    pub fn sandbox(&self) -> Option<&str> {
        match self {
            Self::Container { sandbox, .. } | Self::Claim { sandbox, .. } => sandbox.as_deref(),
            Self::Sandbox { id, .. } => Some(id),
            Self::Kubelet => None,
        }
    }

    /// The Pod, if it is known.
    pub fn pod(&self) -> Option<&Pod> {
        match self {
            Self::Container { pod, .. } | Self::Sandbox { pod, .. } | Self::Claim { pod, .. } => pod.as_ref(),
            Self::Kubelet => None,
        }
    }

    /// Whether it is the container with that id.
    pub fn is_container(&self, container: &str) -> bool {
        matches!(self, Self::Container { id, .. } if id == container)
    }

    /// Whether the device stays in the sandbox when a container ends: until the sandbox ends, or the claim is unprepared.
    pub fn outlives_containers(&self) -> bool {
        match self {
            Self::Sandbox { .. } | Self::Claim { .. } => true,
            Self::Container { .. } | Self::Kubelet => false,
        }
    }

    /// How the device was requested for the sandbox; none if the sandbox itself is not the owner.
    pub fn request(&self) -> Option<&Request> {
        match self {
            Self::Sandbox { by, .. } => Some(by),
            Self::Container { .. } | Self::Claim { .. } | Self::Kubelet => None,
        }
    }

    /// Whether the kubelet gave the device out under an extended resource, so that it counts it as healthy and in use.
    pub fn is_of_kubelet(&self) -> bool {
        match self {
            Self::Container { .. } | Self::Kubelet => true,
            Self::Sandbox { .. } | Self::Claim { .. } => false,
        }
    }

    /// Whether the owner is the sandbox with that id or one of its containers.
    pub fn is_in_sandbox(&self, sandbox: &str) -> bool {
        self.sandbox() == Some(sandbox) || self.is_container(sandbox)
    }

    /// Whether both are of one Pod, so that one may take over from the other. Without a Pod, whether both are the same owner.
    /// What a claim has goes only to another sandbox of that Pod, by the same claim.
    pub fn is_same_pod(&self, other: &Self) -> bool {
        let is_claim = |owner: &Self| matches!(owner, Self::Claim { .. });
        if (is_claim(self) || is_claim(other)) && !self.is_same_claim(other) {
            return false;
        }
        match (self.pod(), other.pod()) {
            (Some(pod), Some(other)) => pod == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other) && self.id() == other.id(),
        }
    }

    /// Whether it is the claim with that UID.
    pub fn is_claim(&self, claim: &str) -> bool {
        matches!(self, Self::Claim { uid, .. } if uid == claim)
    }

    /// Whether both are one claim, whichever sandbox and Pod has it.
    pub fn is_same_claim(&self, other: &Self) -> bool {
        matches!(other, Self::Claim { uid, .. } if self.is_claim(uid))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |id: &str| id.chars().take(13).collect::<String>();
        if let Self::Claim { namespace, name, .. } = self {
            write!(out, "claim {namespace}/{name}")?;
            return self.pod().map_or(Ok(()), |pod| write!(out, " of pod {pod}"));
        }
        match (self.pod(), self.sandbox()) {
            (Some(pod), Some(sandbox)) => write!(out, "pod {pod} (sandbox {})", short(sandbox)),
            (Some(pod), None) => write!(out, "pod {pod}"),
            (None, _) => match self {
                Self::Container { id, .. } => write!(out, "container {}", short(id)),
                Self::Sandbox { id, .. } => write!(out, "sandbox {}", short(id)),
                Self::Claim { .. } | Self::Kubelet => out.write_str("a pod that the kubelet has not started yet"),
            },
        }
    }
}

/// The owner in records of version 1. If both ids are equal, the sandbox itself is the owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HolderV1 {
    container: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sandbox: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Pod>,
}

impl HolderV1 {
    /// The holder, if a program of version 1 can use it.
    pub(crate) fn of(owner: &Owner) -> Option<Self> {
        match owner {
            // for a program of version 1 this is the sandbox
            Owner::Container { id, sandbox, .. } if sandbox.as_ref() == Some(id) => None,
            Owner::Container { id, sandbox, pod } => {
                Some(Self { container: id.clone(), sandbox: sandbox.clone(), pod: pod.clone() })
            }
            Owner::Sandbox { id, pod, by: Request::Annotation } => {
                Some(Self { container: id.clone(), sandbox: Some(id.clone()), pod: pod.clone() })
            }
            Owner::Sandbox { .. } | Owner::Claim { .. } | Owner::Kubelet => None,
        }
    }
}

impl From<HolderV1> for Owner {
    fn from(HolderV1 { container, sandbox, pod }: HolderV1) -> Self {
        if sandbox.as_ref() == Some(&container) {
            Self::Sandbox { id: container, pod, by: Request::Annotation }
        } else {
            Self::Container { id: container, sandbox, pod }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str) -> Pod {
        Pod { namespace: "default".into(), name: "web".into(), uid: uid.into() }
    }

    fn owners() -> [Owner; 7] {
        let (container, sandbox) = ("0123456789abcdef".to_owned(), "fedcba9876543210".to_owned());
        [
            Owner::Container { id: container.clone(), sandbox: Some(sandbox.clone()), pod: Some(pod("1")) },
            Owner::Container { id: container, sandbox: None, pod: None },
            Owner::Sandbox { id: sandbox.clone(), pod: Some(pod("1")), by: Request::Annotation },
            Owner::Sandbox { id: sandbox.clone(), pod: None, by: Request::Command },
            Owner::Sandbox {
                id: sandbox.clone(),
                pod: Some(pod("2")),
                by: Request::Networks { network: "default/macvlan".into(), interface: "net1".into() },
            },
            Owner::Claim {
                uid: "c1".into(),
                namespace: "default".into(),
                name: "fast".into(),
                request: "nic".into(),
                sandbox: Some(sandbox),
                pod: Some(pod("1")),
            },
            Owner::Kubelet,
        ]
    }

    #[test]
    fn the_text_names_the_owner() {
        let texts = owners().map(|owner| owner.to_string());
        assert_eq!(
            texts,
            [
                "pod default/web (sandbox fedcba9876543)",
                "container 0123456789abc",
                "pod default/web (sandbox fedcba9876543)",
                "sandbox fedcba9876543",
                "pod default/web (sandbox fedcba9876543)",
                "claim default/fast of pod default/web",
                "a pod that the kubelet has not started yet",
            ]
        );
    }

    #[test]
    fn each_owner_is_read_as_it_was_written() {
        for owner in owners() {
            let text = serde_json::to_string(&owner).unwrap();
            assert_eq!(serde_json::from_str::<Owner>(&text).unwrap(), owner, "{text}");
            if let Some(holder) = HolderV1::of(&owner) {
                assert_eq!(Owner::from(holder), owner);
            }
        }
    }

    #[test]
    fn the_attach_annotation_is_a_request_that_older_programs_read() {
        let text = serde_json::to_string(&Request::attach()).unwrap();
        assert_eq!(text, r#"{"networks":{"network":"netdevice.networking.k8s.io/attach","interface":""}}"#);
        assert!(Request::attach().is_attach() && !Request::Command.is_attach());
        let other = Request::Networks { network: "default/attach".into(), interface: "net1".into() };
        assert!(!other.is_attach());
    }

    #[test]
    fn owners_of_one_pod_may_take_over_and_others_may_not() {
        let all = owners();
        let same = |one: usize, other: usize| all[one].is_same_pod(&all[other]);
        assert!(same(0, 2) && same(1, 1) && same(3, 3) && same(5, 5));
        assert!(!same(0, 4) && !same(1, 3) && !same(0, 6) && !same(2, 5) && !same(5, 2));
    }

    #[test]
    fn a_claim_follows_its_pod_from_sandbox_to_sandbox_and_no_other_claim_or_pod_takes_over() {
        let claim = |uid: &str, of: Option<&str>, sandbox: Option<&str>| Owner::Claim {
            uid: uid.into(),
            namespace: "default".into(),
            name: "fast".into(),
            request: "nic".into(),
            sandbox: sandbox.map(Into::into),
            pod: of.map(pod),
        };
        let first = claim("c1", Some("1"), Some("s1"));
        let table = [
            (claim("c1", Some("1"), Some("s2")), true, true),
            (claim("c1", Some("1"), None), true, true),
            (claim("c1", None, None), true, true),
            // another Pod that shares the claim
            (claim("c1", Some("2"), Some("s2")), false, true),
            // another claim of the Pod
            (claim("c2", Some("1"), Some("s1")), false, false),
        ];
        for (other, is_same_pod, is_same_claim) in table {
            assert_eq!(
                (first.is_same_pod(&other), first.is_same_claim(&other)),
                (is_same_pod, is_same_claim),
                "{other:?}"
            );
            assert_eq!(other.is_same_pod(&first), is_same_pod, "{other:?}");
        }
    }
}
