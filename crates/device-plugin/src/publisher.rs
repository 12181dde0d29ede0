//! Updates the CDI file and the list for the kubelet from the view, the file always first.
//!
//! Level, not edge: each round compares the wanted state with the present one. Views that arrive during a round are combined
//! for the next one.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use netdevice::{DeviceId, ResourceName, View, cdi};
use tokio::{
    sync::watch,
    task::{JoinError, spawn_blocking},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use wake::Backoff;

use crate::{
    allocated::AllocatedDevices,
    cdi_file::CdiFile,
    config::Config,
    conflicts::{Conflicts, Scanner},
    error::Error,
    offer::{Change, Offer, is_offered, resources},
    shared::{Published, Shared},
    stats::{CdiReport, FailureLog, Stats},
};

/// The pause after the second attempt in a row, and the shortest one after a failure.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// Writing a file of 10,000 devices takes several milliseconds: at most a fifth of the time is spent on that.
const LONG_WRITE: Duration = Duration::from_millis(5);

/// Publishes what the view has for one pool.
pub(crate) struct Publisher {
    pub(crate) config: Config,
    pub(crate) shared: Arc<Shared>,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) file_changed: watch::Receiver<()>,
    pub(crate) others_changed: watch::Receiver<()>,
}

impl Publisher {
    /// Publishes until it is stopped, or until the pool and its last device were removed; then it stops the other tasks.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let resource = self.config.resource.clone();
        let mut offer = Offer::new(resource.clone());
        let mut allocated = self.shared.allocated.subscribe();
        let stats = self.shared.stats.clone();
        let mut writer = Writer::open(&self.config, &self.shared, FailureLog::new(&stats)).await?;
        let mut wanted = Arc::new(BTreeSet::new());
        let mut others = Others::new(&self.config);
        self.others_changed.mark_changed();
        allocated.mark_changed();
        while !stop.is_cancelled() {
            self.file_changed.mark_unchanged();
            let view = self.view.borrow_and_update().clone();
            let change = offer.update(&view);
            if change == Change::Ids || allocated.has_changed().unwrap_or(false) {
                wanted = Arc::new(offer.resolvable(allocated.borrow_and_update().ids()));
            }
            let creation = view.pools.named(&resource).and_then(|pool| {
                let uplink_parents = pool.uplink_parents();
                pool.children.map(|children| cdi::Creation { children, uplink_parents })
            });
            let is_written = writer.write(&wanted, creation).await?;
            let have_others_changed = if self.others_changed.has_changed().unwrap_or(false) {
                self.others_changed.mark_unchanged();
                others.read(&view).await?
            } else {
                false
            };
            if change != Change::Nothing
                || is_written == Written::Tried
                || have_others_changed
                || self.shared.published.borrow().is_none()
            {
                self.publish(&offer, &writer, &wanted, &allocated.borrow(), &others.conflicts);
                if others.report(&wanted, &self.shared.stats) {
                    self.config.report_waker.notify_one();
                }
            }
            if is_written == Written::Nothing && wanted.is_empty() && !is_offered(&view, &resource) {
                tracing::info!(%resource, "the pool is no longer offered as a resource and no pod has a device of it: the device plugin ends");
                stop.cancel();
            }
            tokio::select! {
                () = stop.cancelled() => {}
                Ok(()) = self.view.changed() => {}
                Ok(()) = allocated.changed() => allocated.mark_changed(),
                Ok(()) = self.file_changed.changed() => {}
                Ok(()) = self.others_changed.changed() => self.others_changed.mark_changed(),
                () = sleep_until(writer.not_before), if is_written == Written::Later => {}
            }
        }
        Ok(())
    }

    fn publish(
        &self,
        offer: &Offer,
        writer: &Writer<'_>,
        wanted: &Arc<BTreeSet<DeviceId>>,
        allocated: &AllocatedDevices,
        conflicts: &Arc<Conflicts>,
    ) {
        let Some(file) = &writer.file else { return };
        let mut written = file.resolvable();
        if written.iter().any(|device| conflicts.devices.contains_key(device)) {
            let resolves = |device: &&DeviceId| !conflicts.devices.contains_key(*device);
            written = Arc::new(written.iter().filter(resolves).cloned().collect());
        }
        let is_complete = Arc::ptr_eq(&written, wanted);
        let list = if is_complete { offer.list() } else { offer.list_of(&written, |id| allocated.has(id)) };
        self.shared.stats.set_listed(list.0.len());
        let now = Published { list, written, conflicts: conflicts.clone() };
        self.shared.published.send_if_modified(|published| {
            let is_new = published.as_ref() != Some(&now);
            *published = Some(now);
            is_new
        });
    }
}

/// The CDI files of others.
struct Others {
    resource: ResourceName,
    /// None only while the files are being read.
    scanner: Option<Scanner>,
    conflicts: Arc<Conflicts>,
}

impl Others {
    fn new(config: &Config) -> Self {
        let ours = config.paths.cdi.join(cdi::file_name(&config.resource));
        let scanner = Scanner::new(config.resource.clone(), ours, config.paths.cdi_spec_dirs.clone());
        Self { resource: config.resource.clone(), scanner: Some(scanner), conflicts: Arc::default() }
    }

    /// Reads the files again; returns whether there is a difference.
    async fn read(&mut self, view: &View) -> Result<bool, JoinError> {
        let own_names = resources(view).iter().chain([&self.resource]).map(cdi::file_name).collect();
        let is_up_to_date = |scanner: &mut Scanner| scanner.is_up_to_date(&own_names);
        let Some(mut scanner) = self.scanner.take_if(|scanner| !is_up_to_date(scanner)) else { return Ok(false) };
        let (scanner, conflicts) = spawn_blocking(move || {
            let conflicts = scanner.scan(&own_names);
            (scanner, conflicts)
        })
        .await?;
        self.scanner = Some(scanner);
        let is_new = *self.conflicts != conflicts;
        if is_new {
            self.conflicts = Arc::new(conflicts);
        }
        Ok(is_new)
    }

    /// Logs new conflicts and sets the report; returns whether it changed.
    fn report(&self, wanted: &BTreeSet<DeviceId>, stats: &Stats) -> bool {
        let devices = self.conflicts.devices.keys().filter(|device| wanted.contains(*device)).count();
        let conflicts = self.conflicts.lines(&self.resource, wanted);
        let now = CdiReport { devices, conflicts, ignored: self.conflicts.ignored.clone() };
        let Some(before) = stats.set_cdi_report(now.clone()) else { return false };
        let is_new = |line: &&String| !before.conflicts.contains(line) && !before.ignored.contains(line);
        now.conflicts.iter().chain(&now.ignored).filter(is_new).for_each(|line| tracing::warn!("{line}"));
        if now.conflicts.is_empty() && !before.conflicts.is_empty() {
            tracing::info!(resource = %self.resource, "the CDI conflict has ended");
        }
        true
    }
}

/// What one round did with the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// Nothing: it is up to date.
    Nothing,
    /// It was written, or could not be.
    Tried,
    /// It must be written, but not yet.
    Later,
}

/// Writes the file, at a limited rate.
struct Writer<'a> {
    config: Config,
    /// None only while the file is being written.
    file: Option<CdiFile>,
    not_before: Instant,
    backoff: Backoff,
    failures: FailureLog<'a>,
    shared: &'a Shared,
}

impl<'a> Writer<'a> {
    /// Takes all devices in the file of an earlier instance as allocated: a Pod may have them.
    async fn open(config: &Config, shared: &'a Shared, failures: FailureLog<'a>) -> Result<Self, JoinError> {
        let for_file = config.clone();
        let (file, named) = spawn_blocking(move || {
            let file = CdiFile::open(&for_file);
            let named = file.read_devices();
            (file, named)
        })
        .await?;
        shared.allocated.send_modify(|allocated| allocated.add(named));
        let backoff = Backoff::new(SHORTEST_PAUSE, config.timing.poll).with_first_at_once();
        let not_before = Instant::now();
        Ok(Self { config: config.clone(), file: Some(file), not_before, backoff, failures, shared })
    }

    async fn write(
        &mut self,
        wanted: &Arc<BTreeSet<DeviceId>>,
        creation: Option<cdi::Creation>,
    ) -> Result<Written, JoinError> {
        let Some(file) = self.file.take() else { return Ok(Written::Nothing) };
        let is_wanted = file.wrote(wanted, creation);
        if is_wanted && file.is_intact() {
            self.file = Some(file);
            return Ok(Written::Nothing);
        }
        let began = Instant::now();
        if began < self.not_before {
            self.file = Some(file);
            return Ok(Written::Later);
        }
        if began > self.not_before + 2 * self.config.timing.poll {
            self.backoff.reset();
        }
        let wanted = wanted.clone();
        let (file, written) = spawn_blocking(move || {
            let mut file = file;
            let written = file.write(wanted, creation);
            (file, written)
        })
        .await?;
        self.file = Some(file);
        let pause = match &written {
            Ok(()) => self.written(is_wanted, began.elapsed()),
            Err(error) => self.failed(error),
        };
        self.not_before = Instant::now() + pause;
        Ok(Written::Tried)
    }

    /// Returns the pause until the next write: two programs that write the same file, such as an instance with other
    /// settings, must not do so without a pause.
    fn written(&mut self, was_changed_by_others: bool, took: Duration) -> Duration {
        if self.failures.succeeded() {
            tracing::info!(resource = %self.config.resource, "the CDI file is written again");
            self.backoff.reset();
        }
        if was_changed_by_others {
            self.backoff.next_pause()
        } else if took > LONG_WRITE {
            4 * took
        } else {
            Duration::ZERO
        }
    }

    fn failed(&mut self, error: &Error) -> Duration {
        self.shared.stats.count_cdi_write_error();
        self.failures.failed(&self.config.resource, error);
        // another attempt without a pause would fail too
        self.backoff.next_pause().max(SHORTEST_PAUSE)
    }
}
