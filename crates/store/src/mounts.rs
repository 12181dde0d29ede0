//! In which mount namespace pins are made, and what is held where none can be made.

use std::{
    io,
    sync::{Arc, Mutex},
};

use netdevice::DeviceId;

use crate::namespace::Namespace;

/// Runs something in the mount namespace that the runtime and its hooks are in.
pub(crate) type InMounts = fn(&mut (dyn FnMut() -> io::Result<()> + Send)) -> io::Result<()>;

/// Where an agent's pins are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mounts {
    /// In this process's mount namespace, which is the runtime's: a hook.
    Runtime,
    /// In the mount namespace of PID 1, which this process enters for it: an agent, in a container perhaps.
    Init(InMounts),
    /// In this process's mount namespace, which may end with it: an agent that cannot enter that of PID 1.
    Own,
}

/// Descriptors of namespaces that could not be mounted, from before the move of the device. Their network namespace is held
/// for as long as this process lives.
pub(crate) type Held = Arc<Mutex<Vec<(DeviceId, Namespace)>>>;
