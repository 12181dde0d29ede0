//! The networks of a Pod: the annotation `k8s.v1.cni.cncf.io/networks`, what it changes, and the status annotation.
//!
//! The form is that of the multi-network specification v1.3, as Multus reads and writes it. The Pod's author writes the
//! annotation, so no error repeats its text: an error has the element's position, from 1, and the key.

mod address;
mod configuration;
mod element;
mod error;
mod event;
mod parse;
mod plan;
mod selection;
mod status;

pub use configuration::configuration_text;
pub use error::NetworksError;
pub use event::{EventVerb, REJECTED_HOST_NETWORK, device_event_text, event_text, rejected_host_network};
pub use parse::parse;
pub use plan::{Plan, Present, plan};
pub use selection::NetworkSelection;
pub use status::{entries_of_result, merge_status, read_status, write_status};

/// The annotation of a Pod that requests networks.
pub const KEY: &str = "k8s.v1.cni.cncf.io/networks";

/// The annotation of a Pod that reports its networks.
pub const STATUS_KEY: &str = "k8s.v1.cni.cncf.io/network-status";

/// Longest annotation in bytes.
pub const MAX_ANNOTATION: usize = 64 << 10;

/// Maximum number of elements of one annotation.
pub const MAX_ELEMENTS: usize = 32;
