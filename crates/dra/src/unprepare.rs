//! Unprepare: ends what Prepare and the attachments made of a claim. The claim may be gone, and nothing of it may be there: that
//! is a success.

use netdevice::{InterfaceName, claims::claim::is_uid};
use proto::dra as wire;
use tokio::time::Instant;

use link::{Detached, Ended, Unprepared};

use crate::{
    cdi_file,
    driver::{ClaimLock, Driver, step},
    error::{PrepareError, cannot_lock},
    metadata,
};

impl Driver {
    /// Unprepares a claim. Returns the interfaces that are on the host again.
    ///
    /// # Errors
    ///
    /// What is left of it; the kubelet repeats the call.
    pub(crate) async fn unprepare(&self, asked: &wire::Claim, deadline: Instant) -> Result<Vec<InterfaceName>, String> {
        let uid = &asked.uid;
        if !is_uid(uid) {
            // no claim of that UID was ever prepared
            return Ok(Vec::new());
        }
        let directory = self.settings.records.directory();
        let lock = self.lock_claim(uid, deadline).await.map_err(|error| cannot_lock(directory, &error))?;
        let Some(lock) = lock else { return Err(PrepareError::Busy.to_string()) };
        step();
        self.end_claim(asked, &lock, deadline).await
    }

    /// Ends a claim, whose lock is held. Returns the interfaces that are on the host again.
    ///
    /// # Errors
    ///
    /// What is left of it.
    pub(crate) async fn end_claim(
        &self,
        claim: &wire::Claim,
        lock: &ClaimLock,
        deadline: Instant,
    ) -> Result<Vec<InterfaceName>, String> {
        let (claim, limit) = (claim.clone(), deadline.into_std());
        let ended = self.blocking(lock, deadline, move |driver| driver.end(&claim, limit)).await;
        ended.map_err(|error| format!("cannot detach its devices: {error}"))?
    }

    /// The same, which blocks.
    fn end(&self, claim: &wire::Claim, limit: std::time::Instant) -> Result<Vec<InterfaceName>, String> {
        let wire::Claim { namespace, uid, name } = claim;
        // first: no container starts with a device that it cannot keep
        let paths = &self.settings.paths;
        cdi_file::remove(&paths.cdi, uid)
            .map_err(|error| format!("cannot remove {}: {error}", cdi_file::path(&paths.cdi, uid).display()))?;
        step();
        let ended = link::unprepare(&self.settings.records, uid, limit);
        let ended = ended.map_err(|error| format!("cannot read the records of this node: {error}"))?;
        step();
        if let Err(error) = metadata::remove(paths, namespace, name, uid) {
            tracing::warn!("cannot remove the metadata of claim {namespace}/{name}: {error}");
        }
        step();
        let failures: Vec<String> = ended.iter().filter_map(failure).collect();
        if failures.is_empty() { Ok(ended.iter().filter_map(on_host).collect()) } else { Err(failures.join("; ")) }
    }
}

/// Why a device is not released. One in quarantine is: it waits for an administrator, and the claim does not wait for it.
fn failure((device, detached): &Unprepared) -> Option<String> {
    let error = detached.as_ref().err()?;
    if error.is_quarantined() {
        tracing::warn!(%device, "its claim has ended: {error}");
        return None;
    }
    Some(format!("device {device}: {error}"))
}

/// The interface that is on the host again.
fn on_host((device, detached): &Unprepared) -> Option<InterfaceName> {
    match detached {
        Ok(Detached::Done(Ended::Returned { renamed, .. })) => {
            Some(renamed.clone().unwrap_or_else(|| device.to_name()))
        }
        _ => None,
    }
}
