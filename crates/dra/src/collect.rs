//! Ends claims that are gone and that nobody unprepares: the kubelet forgets them when its state is lost, or the node was away.
//!
//! A claim with a device in a sandbox is not touched. All work is under the claim's lock, which Prepare and Unprepare take, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use netdevice::{
    Owner,
    claims::{
        claim::{Claim, ClaimError, is_uid},
        document,
    },
};
use proto::dra as wire;
use store::{Records, journal};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{ApiError, until},
    driver::Driver,
    metadata,
};

/// How often claims are checked.
const INTERVAL: Duration = Duration::from_secs(600);
/// The first check is within this time from the start, different on each node.
const SPREAD: Duration = Duration::from_secs(60);
/// A claim that was prepared less than this before is left to the kubelet, in seconds.
const LEAST_AGE: u64 = 300;
/// How long the devices of one claim may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Namespaces and names of claims, by UID.
type Idle = BTreeMap<String, (String, String)>;

/// Checks the claims of this node from time to time, until `shutdown`.
pub(crate) async fn run(driver: &Driver, shutdown: &CancellationToken) {
    let mut hasher = DefaultHasher::new();
    driver.settings.node.hash(&mut hasher);
    let mut pause = SPREAD.mul_f64(f64::from(u16::try_from(hasher.finish() % 1000).unwrap_or_default()) / 1000.0);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(pause) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = driver.collect(journal::now()) => {}
        }
        pause = INTERVAL;
    }
}

impl Driver {
    /// Ends the claims that are gone and in no sandbox. `now` in seconds since 1970.
    pub(crate) async fn collect(&self, now: u64) {
        for (uid, (namespace, name)) in self.idle(now).await {
            if self.is_gone(&uid, &namespace, &name).await {
                self.end_gone(wire::Claim { namespace, uid, name }, now).await;
            }
        }
    }

    async fn idle(&self, now: u64) -> Idle {
        let (records, cdi) = (self.settings.records.clone(), self.settings.paths.cdi.clone());
        let read = spawn_blocking(move || idle(&records, &cdi, now)).await;
        // what cannot be read is reported by the reconciler
        read.ok().and_then(Result::ok).unwrap_or_default()
    }

    async fn is_gone(&self, uid: &str, namespace: &str, name: &str) -> bool {
        match until(Instant::now() + PATIENCE, self.api.claim(namespace, name)).await {
            Ok(text) => match Claim::read(&text, &self.settings.node) {
                Ok(claim) => claim.uid != uid || claim.allocations.is_empty(),
                Err(ClaimError::NotAllocated | ClaimError::OtherPool { .. }) => true,
                Err(_) => false,
            },
            Err(error) => matches!(error, ApiError::NotFound(_)),
        }
    }

    async fn end_gone(&self, claim: wire::Claim, now: u64) {
        // one that another instance works on is checked the next time
        let Ok(Some(lock)) = self.lock_claim(&claim.uid, Instant::now()).await else { return };
        // prepared or attached meanwhile
        if !self.idle(now).await.contains_key(&claim.uid) {
            return;
        }
        let wire::Claim { namespace, name, .. } = &claim;
        match self.end_claim(&claim, &lock, Instant::now() + PATIENCE).await {
            Ok(_) => tracing::info!("ended claim {namespace}/{name}, which is gone and was never unprepared"),
            Err(error) => tracing::warn!("cannot end claim {namespace}/{name}, which is gone: {error}"),
        }
        drop(lock);
    }
}

/// The claims that are prepared, for long enough, and in no sandbox.
fn idle(records: &Records, cdi: &Path, now: u64) -> io::Result<Idle> {
    let is_old = |since: u64| now.saturating_sub(since) >= LEAST_AGE;
    let mut idle = Idle::new();
    let mut busy = BTreeSet::new();
    for reservation in records.reservations()?.into_values() {
        if let Owner::Claim { uid, namespace, name, .. } = reservation.owner {
            if !is_old(reservation.since) {
                busy.insert(uid.clone());
            }
            idle.insert(uid, (namespace, name));
        }
    }
    for entry in fs::read_dir(cdi).into_iter().flatten().flatten() {
        let file_name = entry.file_name();
        let Some(uid) = file_name.to_str().and_then(document::uid_of).filter(|uid| is_uid(uid)) else { continue };
        let modified = entry.metadata().and_then(|it| it.modified()).unwrap_or_else(|_| SystemTime::now());
        if !is_old(modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())) {
            busy.insert(uid.to_owned());
        }
        if let Some(name) = fs::read(entry.path()).ok().and_then(|text| name_in(&text)) {
            idle.entry(uid.to_owned()).or_insert(name);
        }
    }
    let (ledger, _) = records.list()?;
    idle.retain(|uid, _| !busy.contains(uid) && !ledger.values().any(|record| record.owner.is_claim(uid)));
    Ok(idle)
}

/// Namespace and name of the claim of a CDI file, which mounts the claim's metadata.
fn name_in(document: &[u8]) -> Option<(String, String)> {
    let document: serde_json::Value = serde_json::from_slice(document).ok()?;
    let devices = document["devices"].as_array()?;
    devices.iter().find_map(|device| metadata::claim_of(device["containerEdits"]["mounts"][0]["hostPath"].as_str()?))
}
