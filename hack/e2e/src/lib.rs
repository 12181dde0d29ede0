//! The library of the end-to-end tests: a real containerd node, and a real Kubernetes on it.
//!
//! It drives the programs `hack/node/node` and `hack/cluster/cluster`, so that tests, demo and benchmark stand on one
//! implementation. It is for tests: what must work and does not is a panic that shows the command and what it said;
//! what a test may want to see fail is a [`Result`] or an [`Output`].
//!
//! `NETDEVICE_CONTAINERD` (pinned, trixie, ...), `NETDEVICE_RUNTIME` (runc, crun, runc14, ...) and `NETDEVICE_KUBERNETES`
//! (1.36, ...) choose what the node is made of; see `hack/node/node --help` and `hack/cluster/cluster --help`. With
//! `NETDEVICE_KEEP=1` nodes stay up after the test.

mod agent;
mod claim_objects;
mod claims;
mod command;
mod cri;
mod device;
mod features;
mod inject;
mod kubernetes;
mod networks;
mod node;
mod process;
mod shared;
mod wait;

pub use agent::{Agent, Answer, CDI_FILE, HOOK_LOG, INJECTOR, injector_program};
pub use claim_objects::{ClaimPod, ClaimSpec, Level, by_name, device_configuration};
pub use claims::{DRIVER, DRIVER_SOCKETS, REGISTRY, repository_text};
pub use command::Output;
pub use cri::{Container, ContainerSpec, Failure, Network, Pod, PodSpec};
pub use device::{Device, DeviceState};
pub use features::{CONSUMABLE_CAPACITY, DEVICE_TAINTS, EXTENDED_RESOURCE, Feature, RESOURCE_HEALTH};
pub use inject::{CNI_LEASES, CNI_RESULTS, IF_INJECT, PodNetwork, RunningPod, addresses_of};
pub use networks::{NETWORK_STATUS, NETWORKS, NetworkedPod, PLUGINS};
pub use node::{Action, Kind, Node};
pub use process::Process;
pub use rustix::process::Signal;
pub use shared::{NodeGuard, SharedNode};
pub use wait::{eventually, wait_for, wait_for_object};

/// The image with busybox and all its applets that every node has.
pub const BUSYBOX_IMAGE: &str = "localhost/netdevice-test/busybox:1";

/// The annotation by which a Pod asks for devices.
pub const ANNOTATION: &str = "netdevices.nri.containerd.io";

/// Where `cargo build` put a program of this workspace in the profile of the running test.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn program(name: &str) -> std::path::PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let built = test.ancestors().nth(2).map(|dir| dir.join(name)).unwrap_or_default();
    assert!(built.exists(), "{} is not built: cargo build --workspace", built.display());
    built
}
