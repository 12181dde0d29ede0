//! A CNI runtime: what libcni is for programs in Go.
//!
//! A [`NetworkList`] is loaded and checked as a whole before any plugin runs. [`Runtime`] runs its plugins for one
//! [`Target`] (a container and an interface name): ADD, CHECK and DEL, and STATUS and GC for the whole network. Results are
//! kept in libcni's cache, in libcni's form ([`cache`]), so that the kubelet's runtime, Multus and cnitool find and clean
//! what was added here, and the other way round.
//!
//! What libcni does not do: an ADD that fails is undone; an ADD that was killed is found by the next call and undone; a
//! plugin has a time limit, and is killed with its process group past it; a result is converted to the version of the
//! list before the next plugin gets it; a capability argument that no plugin takes is an error.
//!
//! Synchronous: a plugin is a child of the calling thread, in that thread's mount namespace, and is killed if the thread
//! ends. The specification is <https://www.cni.dev/docs/spec/>, versions 0.1.0 to 1.1.0.

pub mod cache;
mod call;
mod caller;
mod capability;
mod configuration;
mod delegate;
mod error;
mod load;
mod name;
mod node_device;
mod process;
mod result;
mod runtime;
mod target;
mod version;

pub use cache::{Cache, CacheEntry, CacheError, ForeignFiles, Marker, Phase, Requested};
pub use call::Verb;
pub use caller::{Notes, Plugins};
pub use capability::{CapabilityArguments, CapabilityError, check as check_capabilities};
pub use configuration::{ConfigurationError, NetworkList, Plugin};
pub use delegate::{Delegate, DelegateError};
pub use error::{AddError, Error, PluginFailure, Reason};
pub use load::{LoadError, load_by_name, load_file, read_configuration};
pub use name::{ContainerId, NameError, NetworkName};
pub use node_device::{NodeDevice, Selector};
pub use process::{Environment, Limits};
pub use result::{Addition, Interface, Ip, ResultError};
pub use runtime::{IsGone, Runtime, attachments_of};
pub use target::Target;
pub use version::{Version, VersionError};

/// Where libcni looks for plugins if `CNI_PATH` does not say.
pub const DEFAULT_PLUGIN_DIR: &str = "/opt/cni/bin";
/// Where a runtime's networks are configured.
pub const DEFAULT_CONFIGURATION_DIR: &str = "/etc/cni/net.d";
/// Where libcni keeps results (`libcni.CacheDir`).
pub const DEFAULT_CACHE_DIR: &str = "/var/lib/cni";
