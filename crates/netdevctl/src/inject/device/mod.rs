//! `if-inject add|del -device`: a device of the node in a Pod that runs, until the Pod ends or the command takes it back.
//!
//! The owner in the record is the Pod's sandbox, by command. The choice, the reservation, the attachment and the return are
//! those of the other ways to request a device, so none of them gets a device that another one has.

mod add;
mod configuration;
mod del;
mod find;
mod list;

use std::{path::PathBuf, time::Duration};

use netdevice::{Owner, owner::Request};
use store::Records;

pub use add::{AddedDevice, add};
pub use del::{Outcome, ReturnedDevice, del, gc};
pub use list::{ListedDevice, list};

use crate::node_arguments::NodeArguments;
pub use crate::way::Way;

/// How long a command waits for other programs that work on the device or on the Pod.
const LIMIT: Duration = Duration::from_secs(30);
/// What is said when that has passed.
const BUSY: &str = "another program of this node did not finish in time: try again in a moment";

/// The node that a command works on.
#[derive(Debug)]
pub struct Place {
    /// Where the records are, and which pools apply.
    pub node: NodeArguments,
    /// The socket on which the kubelet lists the devices that it allocated. It need not exist.
    pub pod_resources: PathBuf,
}

impl Place {
    /// The records, for work on devices. Pins are made where the runtime and its hooks see them; if that is not possible, the
    /// second value is the reason.
    fn records(&self) -> (Records, Option<std::io::Error>) {
        Records::of_agent(&self.node.state_dir)
    }
}

/// A Pod, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodName<'a> {
    /// Kubernetes namespace.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
}

impl PodName<'_> {
    fn is_of(&self, owner: &Owner) -> bool {
        owner.pod().is_some_and(|pod| (pod.namespace.as_str(), pod.name.as_str()) == (self.namespace, self.name))
    }
}

/// A device for a Pod, as the command line says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceRequestArguments {
    /// `-device`: a device id, or the name or an alternative name of an interface.
    pub device: String,
    /// `-name`: the name in the Pod.
    pub name: Option<String>,
    /// `-ips`: addresses with their prefix lengths. An element may have several, separated by commas.
    pub ips: Vec<String>,
    /// `-mtu`.
    pub mtu: Option<String>,
    /// `-mac`.
    pub mac: Option<String>,
    /// `-routes`: each `TO [via GATEWAY] [metric NUMBER]`. An element may have several, separated by commas.
    pub routes: Vec<String>,
    /// `-inherit`: whether it also keeps what it has on the host.
    pub inherit: bool,
}

/// Whether the owner has the device by a command.
fn is_by_command(owner: &Owner) -> bool {
    owner.request() == Some(&Request::Command)
}
