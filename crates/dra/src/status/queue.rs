//! Which claims' statuses are to be written, and when.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use netdevice::{
    Attachment, Ledger, Owner, Pod, Reservation,
    claims::status::{DeviceState, DeviceStatus, Failure, wanted},
    record::Reservations,
};
use tokio::time::Instant;

use crate::settings::ClaimName;

/// Pauses after failures.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(120));
/// How long after a claim ended its entries are removed: mostly it is deleted or deallocated by then, which costs no request
/// but one.
const AFTER_END: Duration = Duration::from_secs(5);

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Written {
    /// The status says already what it should.
    Done,
    /// It was written.
    Changed,
    /// There is nothing to write any longer.
    Gone,
    /// The API server does not take it; another attempt would not succeed either.
    Refused(String),
    /// Another attempt may succeed.
    Again(String),
}

/// One claim whose status is to be written.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) claim: ClaimName,
    pub(crate) pod: Option<Pod>,
    pub(crate) wanted: Vec<DeviceStatus>,
    failures: u32,
}

impl Task {
    /// Whether no attempt failed before this one.
    pub(crate) fn is_first_failure(&self) -> bool {
        self.failures == 0
    }

    #[cfg(test)]
    pub(crate) fn new(claim: ClaimName, wanted: Vec<DeviceStatus>) -> Self {
        Self { claim, pod: None, wanted, failures: 0 }
    }
}

/// What is known of one claim.
#[derive(Debug)]
struct Entry {
    claim: ClaimName,
    pod: Option<Pod>,
    failure: Option<Failure>,
    wanted: Vec<DeviceStatus>,
    /// What was written last; none if that is not known.
    written: Option<Vec<DeviceStatus>>,
    is_on_disk: bool,
    /// When it is to be written; none if it is not.
    due: Option<Instant>,
    failures: u32,
}

/// All claims of the node.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    claims: BTreeMap<String, Entry>,
    /// Whether the node was read at least once: a claim that was there before may have an old status.
    is_read: bool,
}

/// Whether a status has something to say of a device that the claim may not say yet.
fn is_news(status: &DeviceStatus) -> bool {
    matches!(status.state, DeviceState::Attached { .. } | DeviceState::Failed(_))
}

impl Entry {
    fn new(claim: ClaimName) -> Self {
        let (wanted, written) = (Vec::new(), None);
        Self { claim, pod: None, failure: None, wanted, written, is_on_disk: false, due: None, failures: 0 }
    }

    /// Sets what is to be said.
    fn set(&mut self, wanted: Vec<DeviceStatus>, at: Instant) {
        let is_new = self.wanted != wanted;
        self.wanted = wanted;
        let is_changing = self.wanted.iter().any(|status| status.state == DeviceState::Changing);
        let has_said = self.written.as_ref().is_some_and(|written| written.iter().any(is_news));
        let needs = self.wanted.iter().any(is_news) || has_said;
        if self.written.as_ref() == Some(&self.wanted) || is_changing || !needs {
            self.due = None;
        } else if is_new {
            (self.due, self.failures) = (Some(at), 0);
        }
    }
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Sets what is on disk.
    pub(crate) fn set(&mut self, reservations: &Reservations, ledger: &Ledger, now: Instant) {
        let mut found: BTreeMap<&str, (&Owner, Vec<&Reservation>, Vec<&Attachment>)> = BTreeMap::new();
        for reservation in reservations.values() {
            if let Owner::Claim { uid, .. } = &reservation.owner {
                found.entry(uid).or_insert_with(|| (&reservation.owner, Vec::new(), Vec::new())).1.push(reservation);
            }
        }
        for record in ledger.values() {
            if let Owner::Claim { uid, .. } = &record.owner {
                found.entry(uid).or_insert_with(|| (&record.owner, Vec::new(), Vec::new())).2.push(record);
            }
        }
        let uids: BTreeSet<String> = found.keys().map(|uid| (*uid).to_owned()).collect();
        let is_first = !std::mem::replace(&mut self.is_read, true);
        for (owner, reservations, records) in found.into_values() {
            let Owner::Claim { uid, namespace, name, pod, .. } = owner else { continue };
            let claim = ClaimName { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() };
            let entry = self.claims.entry(uid.clone()).or_insert_with(|| Entry::new(claim));
            (entry.is_on_disk, entry.pod) = (true, pod.clone());
            let is_attached =
                |reservation: &&Reservation| records.iter().any(|record| record.device == reservation.device);
            if reservations.iter().all(is_attached) {
                entry.failure = None;
            }
            let wanted = wanted(reservations.iter().copied(), records.iter().copied(), entry.failure.as_ref());
            entry.set(wanted, now);
            if is_first && entry.due.is_none() {
                // whether it says that a device is attached which is not is not known
                entry.due = Some(now);
            }
        }
        for (_, entry) in self.claims.iter_mut().filter(|(uid, _)| !uids.contains(*uid)) {
            if std::mem::replace(&mut entry.is_on_disk, false) {
                entry.failure = None;
                entry.set(Vec::new(), now + AFTER_END);
            }
        }
        self.claims.retain(|_, entry| entry.is_on_disk || entry.due.is_some());
    }

    /// Sets or removes the failure of a claim.
    pub(crate) fn set_failure(&mut self, claim: ClaimName, failure: Option<Failure>, now: Instant) {
        let entry = match failure {
            Some(_) => self.claims.entry(claim.uid.clone()).or_insert_with(|| Entry::new(claim)),
            None => match self.claims.get_mut(&claim.uid) {
                Some(entry) => entry,
                None => return,
            },
        };
        entry.failure = failure;
        if !entry.is_on_disk {
            entry.set(wanted([], [], entry.failure.as_ref()), now);
            return;
        }
        // the devices that are attached are told apart by the next reading; what failed is known now
        let mut statuses = entry.wanted.clone();
        for status in statuses
            .iter_mut()
            .filter(|status| !matches!(status.state, DeviceState::Attached { .. } | DeviceState::Changing))
        {
            let concerns = |failure: &&Failure| failure.device.is_none() || failure.device == status.device;
            status.state = match entry.failure.as_ref().filter(concerns) {
                Some(failure) => DeviceState::Failed(failure.message.clone()),
                None => DeviceState::Reserved,
            };
        }
        entry.set(statuses, now);
    }

    /// When the next claim is due.
    pub(crate) fn next_time(&self) -> Option<Instant> {
        self.claims.values().filter_map(|entry| entry.due).min()
    }

    /// The claim that is due, the one that waits longest.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Task> {
        let due = self.claims.values_mut().filter(|entry| entry.due.is_some_and(|due| due <= now));
        let entry = due.min_by_key(|entry| entry.due)?;
        entry.due = None;
        let (claim, pod, wanted) = (entry.claim.clone(), entry.pod.clone(), entry.wanted.clone());
        Some(Task { claim, pod, wanted, failures: entry.failures })
    }

    /// Notes the result of a task. What changed meanwhile is due already.
    pub(crate) fn finish(&mut self, task: Task, result: Written, now: Instant) {
        let Some(entry) = self.claims.get_mut(&task.claim.uid) else { return };
        match result {
            Written::Done | Written::Changed | Written::Refused(_) | Written::Gone => {
                (entry.written, entry.failures) = (Some(task.wanted), 0);
                if !entry.is_on_disk && entry.due.is_none() {
                    self.claims.remove(&task.claim.uid);
                }
            }
            Written::Again(_) => {
                entry.failures = entry.failures.saturating_add(1);
                let pause = PAUSE.0 * 2_u32.saturating_pow(entry.failures.saturating_sub(1).min(16));
                entry.due = Some(now + pause.min(PAUSE.1));
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.claims.len()
    }
}
