//! How a device was requested.

use std::fmt;

use netdevice::{Owner, owner::Request};
use serde::Serialize;

/// How a device was requested, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// A container requested the extended resource.
    Resource,
    /// The Pod's annotation names it.
    Annotation,
    /// A network of the Pod.
    Network,
    /// The annotation of the running Pod that lists devices.
    Attach,
    /// A command on the node.
    Command,
    /// A ResourceClaim.
    Claim,
}

impl Way {
    pub(crate) fn of(owner: &Owner) -> Self {
        match owner {
            Owner::Container { .. } | Owner::Kubelet => Self::Resource,
            Owner::Sandbox { by: Request::Annotation, .. } => Self::Annotation,
            Owner::Sandbox { by, .. } if by.is_attach() => Self::Attach,
            Owner::Sandbox { by: Request::Networks { .. }, .. } => Self::Network,
            Owner::Sandbox { by: Request::Command, .. } => Self::Command,
            Owner::Claim { .. } => Self::Claim,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Resource => "resource",
            Self::Annotation => "annotation",
            Self::Network => "network",
            Self::Attach => "attach",
            Self::Command => "command",
            Self::Claim => "claim",
        })
    }
}
