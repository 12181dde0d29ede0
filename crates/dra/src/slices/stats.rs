//! What is counted, for metrics: this crate writes it and the agent reads it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Counters of the slices of a node.
#[derive(Debug, Default)]
pub struct Stats {
    writes: AtomicU64,
    failed_writes: AtomicU64,
    failed_watches: AtomicU64,
    repairs: AtomicU64,
    slices: AtomicUsize,
    devices: AtomicUsize,
    dropped: AtomicBool,
}

impl Stats {
    /// Requests that created, changed or deleted a slice.
    pub fn writes(&self) -> u64 {
        self.writes.load(Relaxed)
    }

    /// Such requests that failed.
    pub fn failed_writes(&self) -> u64 {
        self.failed_writes.load(Relaxed)
    }

    /// Lists and watches that failed.
    pub fn failed_watches(&self) -> u64 {
        self.failed_watches.load(Relaxed)
    }

    /// Changes by others that had to be put right.
    pub fn repairs(&self) -> u64 {
        self.repairs.load(Relaxed)
    }

    /// Slices of this node on the API server.
    pub fn slices(&self) -> usize {
        self.slices.load(Relaxed)
    }

    /// Devices that are published, or are to be.
    pub fn devices(&self) -> usize {
        self.devices.load(Relaxed)
    }

    /// Whether the API server dropped fields: a feature is off there.
    pub fn has_dropped_fields(&self) -> bool {
        self.dropped.load(Relaxed)
    }

    pub(super) fn count_write(&self) {
        self.writes.fetch_add(1, Relaxed);
    }

    pub(super) fn count_failed_write(&self) {
        self.failed_writes.fetch_add(1, Relaxed);
    }

    pub(super) fn count_failed_watch(&self) {
        self.failed_watches.fetch_add(1, Relaxed);
    }

    pub(super) fn count_repair(&self) {
        self.repairs.fetch_add(1, Relaxed);
    }

    pub(super) fn set_present(&self, slices: usize, devices: usize) {
        self.slices.store(slices, Relaxed);
        self.devices.store(devices, Relaxed);
    }

    /// Returns whether this is the first time.
    pub(super) fn set_dropped(&self) -> bool {
        !self.dropped.swap(true, Relaxed)
    }
}
