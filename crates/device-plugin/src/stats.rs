//! What happened so far, for metrics: counters that the plugin raises and the agent reads.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use crate::error::Error;

/// Counters of one plugin.
#[derive(Debug, Default)]
pub struct Stats {
    registrations: AtomicU64,
    registered: AtomicBool,
    listed: AtomicUsize,
    allocations: AtomicU64,
    failed_allocations: AtomicU64,
    cdi_write_errors: AtomicU64,
    last_error: Mutex<Option<Arc<str>>>,
    cdi_conflicts: Mutex<CdiReport>,
}

/// What other files in the CDI directories do to the devices of a plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CdiReport {
    /// Devices that no container gets while it is so.
    pub devices: usize,
    /// The conflicts, one a line.
    pub conflicts: Vec<String>,
    /// Files that the runtime ignores, one a line.
    pub ignored: Vec<String>,
}

impl Stats {
    /// Registrations that the kubelet took.
    pub fn registrations(&self) -> u64 {
        self.registrations.load(Relaxed)
    }

    /// Whether the kubelet has us registered, as far as we know.
    pub fn is_registered(&self) -> bool {
        self.registered.load(Relaxed)
    }

    /// Devices in the list that the kubelet gets.
    pub fn listed(&self) -> usize {
        self.listed.load(Relaxed)
    }

    /// Allocate calls that were answered with devices.
    pub fn allocations(&self) -> u64 {
        self.allocations.load(Relaxed)
    }

    /// Allocate calls that were answered with an error.
    pub fn failed_allocations(&self) -> u64 {
        self.failed_allocations.load(Relaxed)
    }

    /// Attempts to write the CDI file that failed.
    pub fn cdi_write_errors(&self) -> u64 {
        self.cdi_write_errors.load(Relaxed)
    }

    /// What failed last; it may be long over.
    pub fn last_error(&self) -> Option<Arc<str>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What other CDI files do to our devices.
    pub fn cdi_report(&self) -> CdiReport {
        self.cdi_conflicts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a report; says whether it is another one than before.
    pub(crate) fn set_cdi_report(&self, report: CdiReport) -> Option<CdiReport> {
        let mut known = self.cdi_conflicts.lock().unwrap_or_else(PoisonError::into_inner);
        (*known != report).then(|| std::mem::replace(&mut *known, report))
    }

    pub(crate) fn set_registered(&self, registered: bool) {
        let before = self.registered.swap(registered, Relaxed);
        if registered && !before {
            self.registrations.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn set_listed(&self, devices: usize) {
        self.listed.store(devices, Relaxed);
    }

    pub(crate) fn count_allocation(&self, error: Option<String>) {
        match error {
            None => drop(self.allocations.fetch_add(1, Relaxed)),
            Some(error) => {
                self.failed_allocations.fetch_add(1, Relaxed);
                self.set_last_error(error);
            }
        }
    }

    pub(crate) fn count_cdi_write_error(&self) {
        self.cdi_write_errors.fetch_add(1, Relaxed);
    }

    fn set_last_error(&self, error: String) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.into());
    }
}

/// A state that is good or failed, told once per change and not once per attempt.
#[derive(Debug)]
pub(crate) struct Trouble<'a> {
    stats: &'a Stats,
    told: Option<String>,
}

impl<'a> Trouble<'a> {
    pub(crate) fn new(stats: &'a Stats) -> Self {
        Self { stats, told: None }
    }

    /// Logs the error unless it is the one that was logged last.
    pub(crate) fn failed(&mut self, resource: &netdevice::ResourceName, error: &Error) {
        let text = error.chain();
        if self.told.as_ref() != Some(&text) {
            tracing::warn!(%resource, "{text}");
            self.stats.set_last_error(text.clone());
            self.told = Some(text);
        }
    }

    /// Says whether there was trouble before.
    pub(crate) fn passed(&mut self) -> bool {
        self.told.take().is_some()
    }
}
