//! The configuration of a device plugin.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use netdevice::{Acquisition, DeviceId, Refusal, ResourceName};

use tokio::sync::Notify;

use crate::reservations::Reservations;

/// A device plugin of one pool.
#[derive(Debug, Clone)]
pub struct Config {
    /// The pool.
    pub resource: ResourceName,
    /// Directories and files.
    pub paths: Paths,
    /// Intervals and deadlines.
    pub timing: Timing,
    /// Checks a device's record at the moment of its allocation.
    pub record_check: RecordCheck,
    /// Devices that were allocated and are not attached yet, of all plugins of the process.
    pub reservations: Arc<Reservations>,
    /// Woken when [`Stats::cdi_report`](crate::Stats::cdi_report) or the registration changed.
    pub report_waker: Arc<Notify>,
}

/// Whether a device's record on disk allows its allocation. The view has a record some milliseconds later: meanwhile a Pod
/// may have got the device by annotation.
#[derive(Clone)]
pub struct RecordCheck {
    check: Arc<Check>,
    reserve: Arc<Reserve>,
}

type Check = dyn Fn(&DeviceId) -> Result<(), Refusal> + Send + Sync;
type Reserve = dyn Fn(&DeviceId, Acquisition) -> Result<(), Refusal> + Send + Sync;

impl RecordCheck {
    /// Calls `check`, which must not block for long.
    pub fn new(check: impl Fn(&DeviceId) -> Result<(), Refusal> + Send + Sync + 'static) -> Self {
        Self { check: Arc::new(check), reserve: Arc::new(|_, _| Ok(())) }
    }

    /// Calls `reserve` for each device that is allocated, before the answer. It must not block for long.
    #[must_use]
    pub fn reserving(
        self,
        reserve: impl Fn(&DeviceId, Acquisition) -> Result<(), Refusal> + Send + Sync + 'static,
    ) -> Self {
        Self { reserve: Arc::new(reserve), ..self }
    }

    pub(crate) fn check(&self, device: &DeviceId) -> Result<(), Refusal> {
        (self.check)(device)
    }

    pub(crate) fn reserve(&self, device: &DeviceId, acquisition: Acquisition) -> Result<(), Refusal> {
        (self.reserve)(device, acquisition)
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
    /// Directory of `kubelet.sock` and of the plugin's socket: `/var/lib/kubelet/device-plugins`.
    pub device_plugins: PathBuf,
    /// The kubelet's PodResources socket, `/var/lib/kubelet/pod-resources/kubelet.sock`. It need not exist.
    pub pod_resources: PathBuf,
    /// CDI directory that the plugin writes to, `/var/run/cdi`; created if it is missing.
    pub cdi: PathBuf,
    /// CDI directories that the runtime reads, the last one has priority: `/etc/cdi` and `/var/run/cdi`.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// The path of the hook for the runtime: absolute, on the host.
    pub hook: String,
    /// Directory of the records, for the hook; none for the hook's default.
    pub state_dir: Option<String>,
}

/// Intervals and deadlines.
#[derive(Debug, Clone)]
pub struct Timing {
    /// How long Allocate waits for the end of the record of a Pod that is being torn down.
    pub held_grace: Duration,
    /// How often files are checked without an event of inotify, and the longest pause between two attempts.
    pub poll: Duration,
    /// Longest Register: the kubelet connects to the plugin within the call and allows 10 s for that.
    pub register: Duration,
    /// How long calls that are running at shutdown may take.
    pub shutdown: Duration,
    /// How old a kubelet must be before a device that PodResources does not list counts as free. After a restart the list
    /// is empty for a second.
    pub complete_list: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            held_grace: Duration::from_secs(5),
            poll: Duration::from_secs(5),
            register: Duration::from_secs(15),
            shutdown: Duration::from_secs(2),
            complete_list: Duration::from_secs(30),
        }
    }
}
