//! Plugs and unplugs interfaces while a Pod runs, as its annotation `k8s.v1.cni.cncf.io/networks` says, and devices of the node
//! as `netdevice.networking.k8s.io/attach` says ([`attach`]).
//!
//! Level, not edge. Each time, what is wanted (the annotation) is compared with what there is: the attachments in libcni's
//! cache and the links in the Pod's network namespace. So a lost event, a restart of this program, of the runtime or of the
//! API server, and a network that was deleted meanwhile need no rule of their own. What a status annotation says is not
//! believed, except that Multus made an interface when the Pod was created.
//!
//! [`run`] watches the Pods of the node and the NetworkAttachmentDefinitions ([`watch`]), and works on several Pods at a
//! time, on one Pod never twice ([`controller`]). The work on a Pod is blocking ([`work`]): it finds the sandbox, plans, calls
//! the plugins or Multus ([`multus`]), and returns what happened, which is then written to the Pod's status ([`status`]) and
//! reported as Events.

mod attach;
mod controller;
mod definition;
mod device;
mod entry;
mod handle;
pub mod multus;
mod outcome;
mod report;
mod settings;
mod status;
mod status_change;
mod watch;
mod work;

pub use controller::run;
pub use device::Devices;
pub use handle::{Handle, Inquiries, Inquiry};
pub use report::{Report, Reporter};
pub use settings::Settings;
pub use work::NodeReader;

/// The program, as attachments in libcni's cache name it.
pub const NAME: &str = "dynamic-networks";
