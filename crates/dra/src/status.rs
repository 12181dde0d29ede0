//! Writes what became of claims into their status: `status.devices`, with the interface in the Pod and the condition `Ready`.
//!
//! Level-triggered: the reservations and records of the node say what each claim's status should be (`netdevice::claims::status`),
//! and the claim says what it is. So what an agent did not write before it ended is written by the next one. One claim is
//! written at a time, with one GET and, if something is to be said, one PATCH, and with a pause after it: at most
//! [`PER_SECOND`] claims a second. A claim whose devices do not change causes no request.

mod queue;
#[cfg(test)]
mod tests;
mod write;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use kube::Client;
use netdevice::{Ledger, Pod, View, claims::status::Failure, record::Reservations};
use store::Records;
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use wake::Directories;

use crate::settings::ClaimName;
use queue::{Queue, Task, Written};
use write::Writer;

/// Most claims whose status is written in a second, each with at most two requests.
pub const PER_SECOND: u32 = 10;
/// How long changes are taken together: the devices of a Pod come one after another.
const TOGETHER: Duration = Duration::from_millis(100);
/// How often the reservations are read without an event.
const POLL: Duration = Duration::from_secs(60);
/// Most failures that wait. More are dropped: they are in the log and in Events.
const MAX_FAILURES: usize = 64;

/// What this task needs.
pub struct StatusSettings {
    /// Name of the Node, which is that of our pool.
    pub node: String,
    /// What is on disk.
    pub records: Records,
    /// The devices of this node, for the records.
    pub views: watch::Receiver<Arc<View>>,
    /// The API server.
    pub client: Client,
    /// Receives what cannot be written, once for each claim.
    pub unwritable: Arc<dyn Fn(Unwritable) + Send + Sync>,
}

/// A status that the API server does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwritable {
    /// The claim.
    pub claim: ClaimName,
    /// Its Pod, if it is known.
    pub pod: Option<Pod>,
    /// The API server's words.
    pub reason: String,
}

/// Where failures of claims are reported. Nothing waits for them to be written.
#[derive(Clone)]
pub struct Failures(mpsc::Sender<(ClaimName, Option<Failure>)>);

impl fmt::Debug for Failures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Failures")
    }
}

/// The failures that were reported.
#[derive(Debug)]
pub struct Reported(mpsc::Receiver<(ClaimName, Option<Failure>)>);

/// A queue of failures.
pub fn failures() -> (Failures, Reported) {
    let (sender, receiver) = mpsc::channel(MAX_FAILURES);
    (Failures(sender), Reported(receiver))
}

impl Failures {
    /// A claim, or one of its devices, was not prepared or attached.
    pub fn report(&self, claim: ClaimName, failure: Failure) {
        let _ = self.0.try_send((claim, Some(failure)));
    }

    /// A claim was prepared: earlier failures no longer count.
    pub fn forget(&self, claim: ClaimName) {
        let _ = self.0.try_send((claim, None));
    }
}

/// Writes until `shutdown`.
pub async fn run(settings: StatusSettings, failures: Reported, shutdown: CancellationToken) {
    let StatusSettings { node, records, mut views, client, unwritable } = settings;
    let mut failures = failures.0;
    let writer = Writer::new(client, node);
    let directory: PathBuf = records.directory().join("reservations");
    let mut directories = Directories::new([directory], POLL);
    let mut queue = Queue::new();
    let mut ledger = views.borrow_and_update().ledger.clone();
    scan(&records, &ledger, &mut queue).await;
    loop {
        let next = queue.next_time();
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = directories.changed() => {
                sleep(TOGETHER).await;
                ledger = views.borrow_and_update().ledger.clone();
                scan(&records, &ledger, &mut queue).await;
            }
            changed = views.changed() => {
                // the agent ends
                let Ok(()) = changed else { return shutdown.cancelled().await };
                if !Arc::ptr_eq(&views.borrow_and_update().ledger, &ledger) {
                    sleep(TOGETHER).await;
                    ledger = views.borrow_and_update().ledger.clone();
                    scan(&records, &ledger, &mut queue).await;
                }
            }
            Some((claim, failure)) = failures.recv() => queue.set_failure(claim, failure, Instant::now()),
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                if let Some(task) = queue.take(Instant::now()) {
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        result = writer.write(&task) => settle(&mut queue, task, result, unwritable.as_ref()),
                    }
                    // a failure must not keep the others waiting, nor the API server busy
                    sleep(Duration::from_secs(1) / PER_SECOND).await;
                }
            }
        }
    }
}

/// Reads what is reserved, and derives what is to be written.
async fn scan(records: &Records, ledger: &Arc<Ledger>, queue: &mut Queue) {
    let records = records.clone();
    let reservations: Option<Reservations> = match spawn_blocking(move || records.reservations()).await {
        Ok(Ok(reservations)) => Some(reservations),
        Ok(Err(error)) => {
            warn!("cannot read the reservations of this node: {error}");
            None
        }
        Err(_) => None,
    };
    // what cannot be read is not gone
    if let Some(reservations) = reservations {
        queue.set(&reservations, ledger, Instant::now());
    }
}

fn settle(queue: &mut Queue, task: Task, result: Written, unwritable: &(dyn Fn(Unwritable) + Send + Sync)) {
    let name = format!("{}/{}", task.claim.namespace, task.claim.name);
    match &result {
        Written::Done => {}
        Written::Changed => info!(claim = name, "wrote its status"),
        Written::Gone => info!(claim = name, "its status is not written: it is gone, or not allocated any longer"),
        Written::Refused(reason) => {
            warn!(claim = name, "its status cannot be written: {reason}");
            unwritable(Unwritable { claim: task.claim.clone(), pod: task.pod.clone(), reason: reason.clone() });
        }
        Written::Again(reason) if task.is_first_failure() => {
            warn!(claim = name, "its status is not written yet, trying again: {reason}");
        }
        Written::Again(_) => {}
    }
    queue.finish(task, result, Instant::now());
}
