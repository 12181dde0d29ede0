//! Counters and states for metrics: the plugin writes them and the agent reads them.

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

/// Problems with the devices of a plugin that other files in the CDI directories cause.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CdiReport {
    /// Number of devices that cannot be attached because of conflicts.
    pub devices: usize,
    /// The conflicts, one per line.
    pub conflicts: Vec<String>,
    /// Files that the runtime ignores, one per line.
    pub ignored: Vec<String>,
}

impl Stats {
    /// Registrations that the kubelet accepted.
    pub fn registrations(&self) -> u64 {
        self.registrations.load(Relaxed)
    }

    /// Whether the plugin is registered with the kubelet, as far as the plugin knows.
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

    /// The last error; it may have passed long ago.
    pub fn last_error(&self) -> Option<Arc<str>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Conflicts with CDI files of others.
    pub fn cdi_report(&self) -> CdiReport {
        self.cdi_conflicts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the report; returns the one before when it differs.
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

/// Logs the failures of one activity, each only once in a row.
#[derive(Debug)]
pub(crate) struct FailureLog<'a> {
    stats: &'a Stats,
    logged: Option<String>,
}

impl<'a> FailureLog<'a> {
    pub(crate) fn new(stats: &'a Stats) -> Self {
        Self { stats, logged: None }
    }

    /// Logs the error unless it is the one that was logged last.
    pub(crate) fn failed(&mut self, resource: &netdevice::ResourceName, error: &Error) {
        let text = error.to_string();
        if self.logged.as_ref() != Some(&text) {
            tracing::warn!(%resource, "{text}");
            self.stats.set_last_error(text.clone());
            self.logged = Some(text);
        }
    }

    /// An attempt succeeded. Returns whether the one before had failed.
    pub(crate) fn succeeded(&mut self) -> bool {
        self.logged.take().is_some()
    }
}
