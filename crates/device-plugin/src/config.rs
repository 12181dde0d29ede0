//! What a device plugin is told by its caller.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use netdevice::{DeviceId, Refusal, ResourceName};

use tokio::sync::Notify;

use crate::reservations::Reservations;

/// A device plugin of one pool.
#[derive(Debug, Clone)]
pub struct Config {
    /// The pool.
    pub resource: ResourceName,
    /// Where things are.
    pub paths: Paths,
    /// How long things may take.
    pub timing: Timing,
    /// Asked about a device at the moment when it is handed out.
    pub record_check: RecordCheck,
    /// Devices that were handed out and are not attached yet, of all plugins of the process.
    pub reservations: Arc<Reservations>,
    /// Woken when [`Stats::cdi_report`](crate::Stats::cdi_report) or the registration is another one.
    pub report_waker: Arc<Notify>,
}

/// Whether a device's record on disk lets it be handed out. The view learns of a record some milliseconds later: in
/// between a Pod may have taken the device by an annotation.
#[derive(Clone)]
pub struct RecordCheck(Arc<Check>);

type Check = dyn Fn(&DeviceId) -> Result<(), Refusal> + Send + Sync;

impl RecordCheck {
    /// Asks `check`, which must not block for long.
    pub fn new(check: impl Fn(&DeviceId) -> Result<(), Refusal> + Send + Sync + 'static) -> Self {
        Self(Arc::new(check))
    }

    pub(crate) fn check(&self, device: &DeviceId) -> Result<(), Refusal> {
        (self.0)(device)
    }
}

impl Default for RecordCheck {
    /// There are no records.
    fn default() -> Self {
        Self::new(|_| Ok(()))
    }
}

impl fmt::Debug for RecordCheck {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("RecordCheck")
    }
}

/// Where the kubelet, the runtime and the hook are.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Folder of `kubelet.sock` and of our own socket: `/var/lib/kubelet/device-plugins`.
    pub device_plugins: PathBuf,
    /// The kubelet's PodResources socket, `/var/lib/kubelet/pod-resources/kubelet.sock`. It need not be there.
    pub pod_resources: PathBuf,
    /// CDI folder that we write to, `/var/run/cdi`; made when it is missing.
    pub cdi: PathBuf,
    /// CDI folders that the runtime reads, the one that wins last: `/etc/cdi` and `/var/run/cdi`.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// The hook as the runtime finds it: an absolute path on the host.
    pub hook: String,
    /// Folder of the records for the hook; none leaves the hook's own default.
    pub state_dir: Option<String>,
}

/// How long things may take.
#[derive(Debug, Clone)]
pub struct Timing {
    /// How long Allocate waits for the record of a Pod that is on its way out.
    pub held_grace: Duration,
    /// Safety net below inotify, and the longest pause between two attempts of anything.
    pub poll: Duration,
    /// Longest Register: the kubelet dials us within the call and gives that 10 s.
    pub register: Duration,
    /// How long the calls that are under way at shutdown may take.
    pub shutdown: Duration,
    /// How old a kubelet must be before what PodResources does not name counts as gone. After a restart its list is
    /// empty for a second.
    pub settle: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            held_grace: Duration::from_secs(5),
            poll: Duration::from_secs(5),
            register: Duration::from_secs(15),
            shutdown: Duration::from_secs(2),
            settle: Duration::from_secs(30),
        }
    }
}
