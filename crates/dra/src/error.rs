//! Why a claim is not prepared, in the words that the Pod's author reads: the kubelet shows them in `kubectl describe pod`.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use netdevice::{
    DeviceId, Owner, ResourceName,
    choice::ChoiceError,
    claims::{claim::ClaimError, parameters::ParameterError},
    configuration::FieldError,
    exclusion::Exclusion,
};

use crate::api::ApiError;

/// Why a claim is not prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The kubelet's UID cannot be one.
    #[error("{0:?} is not the UID of a claim")]
    InvalidUid(String),
    /// Another call works on the claim.
    #[error(
        "the claim is being prepared or unprepared by another call: the kubelet tries again. If this continues, see the log of netdevice-agent on the node"
    )]
    Busy,
    /// The time of the call is over.
    #[error("the other claims of the call took all of its time: the kubelet tries again")]
    NoTime,
    /// The lock of the claim cannot be taken.
    #[error("{}", cannot_lock(.directory, .error))]
    Lock {
        /// The directory of the records.
        directory: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The claim or the Pod cannot be read.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The claim cannot be used.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// Another claim has the name.
    #[error("claim {name} was deleted and created anew (it has UID {found}, the pod's has {asked}): delete the pod")]
    OtherUid {
        /// `namespace/name`.
        name: String,
        /// What the API server has.
        found: String,
        /// What the kubelet asks for.
        asked: String,
    },
    /// The Pod has no network namespace.
    #[error("pod {0} uses the host's network: a device cannot be moved there. Remove the claim or hostNetwork")]
    HostNetwork(String),
    /// No container starts the hook, and the sandbox's start is not noticed.
    #[error(
        "request {request}: no container of pod {pod} names the claim in resources.claims, and {reason}: name the claim in a container, or connect netdevice-agent to the container runtime (-nri)"
    )]
    Unguarded {
        /// The request.
        request: String,
        /// The Pod, or none that is known.
        pod: String,
        /// Why the sandbox's start is not noticed.
        reason: String,
    },
    /// Nothing is known of the Pod.
    #[error(
        "request {0}: the claim is reserved for no pod by name: name it in resources.claims of a container of a pod that the claim is reserved for"
    )]
    NoPod(String),
    /// There is no hook at the path that the CDI file would name.
    #[error("the hook {0} is not installed: see the log of netdevice-agent on the node")]
    NoHook(String),
    /// A device.
    #[error("device {device}: {error}")]
    Device {
        /// As in the ResourceSlice.
        device: String,
        /// Why.
        error: Box<DeviceError>,
    },
    /// A device, after waiting.
    #[error("device {device}: {error} (waited {} s)", .waited.as_secs())]
    Waited {
        /// As in the ResourceSlice.
        device: String,
        /// Why.
        error: Box<DeviceError>,
        /// How long.
        waited: Duration,
    },
    /// Work on the node's files, or a question to its kernel.
    #[error(transparent)]
    Blocking(#[from] BlockingError),
    /// A file.
    #[error("cannot write {}: {error}", .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Why work on files and the kernel has no result.
#[derive(Debug, thiserror::Error)]
pub enum BlockingError {
    /// It still runs.
    #[error(
        "the node's disk or kernel does not answer: the kubelet tries again. If this continues, look at the node's load"
    )]
    Slow,
    /// It panicked, or the agent ends.
    #[error("the task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// The lock of a claim cannot be taken.
pub(crate) fn cannot_lock(directory: &Path, error: &io::Error) -> String {
    let directory = directory.display();
    format!(
        "cannot lock the claim in {directory}: {error}: make {directory} a directory that netdevice-agent can write"
    )
}

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Its parameters.
    #[error("invalid parameters of the claim or its class: {0}")]
    Parameters(#[from] ParameterError),
    /// It is gone.
    #[error("the node has no such interface any longer: delete the pod, so that another device is allocated")]
    NotThere,
    /// It must not be given.
    #[error("it is never handed out because {0}: delete the pod, so that another device is allocated")]
    Excluded(Exclusion),
    /// It is no longer selected.
    #[error("no pool of the node selects it any longer: delete the pod, so that another device is allocated")]
    NotSelected,
    /// It is offered in another way.
    #[error("its pool {0} is offered as an extended resource: set `offer: claims` in the agent's configuration")]
    NotByClaims(ResourceName),
    /// The pool creates something else.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// A setting that the device cannot have.
    #[error(transparent)]
    Setting(#[from] FieldError),
    /// All devices that the pool offers of the interface are in use.
    #[error("all devices that can be created on it are in use: delete a pod that has one")]
    NoneFree,
    /// Its record cannot be used.
    #[error("its record on the node cannot be used: see `netdevctl explain` on the node, or delete the pod")]
    Unknown,
    /// Another owner has it, or a right to it.
    #[error("it is held by {0}: delete that pod or choose another device")]
    Held(Box<Owner>),
    /// A sandbox still has it from an earlier allocation of the claim.
    #[error("{0} still has it from an earlier allocation of the claim: delete that pod")]
    EarlierAllocation(Box<Owner>),
    /// A program works on it.
    #[error(
        "it is being attached or detached: the kubelet tries again. If this continues, see `netdevctl explain` on the node"
    )]
    Busy,
    /// The view does not have it yet.
    #[error(
        "it has just returned to the node: the kubelet tries again. If this continues, see `netdevctl explain` on the node"
    )]
    Returning,
    /// A setting of the driver that the pool does not allow.
    #[error(transparent)]
    NotAllowed(#[from] netdevice::pool::NotAllowed),
    /// What is on disk.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// An MTU that the device cannot have.
    #[error("mtu {asked} is larger than the {most} of {of}: set a smaller mtu")]
    Mtu {
        /// In the parameters.
        asked: u32,
        /// The limit.
        most: u32,
        /// Whose.
        of: String,
    },
    /// Two devices of the Pod with one name.
    #[error("the pod has device {other} under the name {name}, too: set another name in the parameters")]
    SameName {
        /// Name in the Pod.
        name: String,
        /// The other device.
        other: DeviceId,
    },
    /// The name of the Pod's own interface.
    #[error("{0} is the pod's own interface: set another name in the parameters")]
    PodInterface(String),
}
