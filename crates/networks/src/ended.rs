//! What Pods that have ended left: their attachments are deleted, so that addresses are free again.
//!
//! The runtime deletes what it made itself. CRI-O also deletes everything that is in libcni's cache for a sandbox; containerd
//! leaves it, with the address that it has.

use std::time::Instant;

use cni::{CacheEntry, ForeignFiles, NetworkList, attachments_of};
use netdevice::Pod;
use store::LockMode;

use crate::{
    attachment,
    error::Error,
    operations::{Networks, sandbox_of},
};

/// An attachment whose Pod has ended.
#[derive(Debug)]
pub struct Ended {
    /// The network.
    pub network: String,
    /// The interface.
    pub interface: String,
    /// The id of the sandbox.
    pub sandbox: String,
    /// The Pod.
    pub pod: Option<Pod>,
    /// Why it is not deleted, if it is not.
    pub error: Option<Error>,
}

/// What was collected on the node.
#[derive(Debug, Default)]
pub struct Collected {
    /// Attachments whose Pods have ended.
    pub ended: Vec<Ended>,
    /// Files in the cache that cannot be read.
    pub unreadable: Vec<cni::CacheError>,
}

impl Networks {
    /// Deletes the attachments that our programs made for Pods that have ended, and those whose ADD or DEL was interrupted. A
    /// Pod on which another program works is left to it. `foreign` is kept from one call to the next.
    ///
    /// # Errors
    ///
    /// When the cache cannot be read. What cannot be deleted is in the answer.
    pub fn collect(&self, foreign: &mut ForeignFiles) -> Result<Collected, Error> {
        let (entries, unreadable) = self.runtime.cache.list_own(foreign)?;
        let _networks = if entries.is_empty() { None } else { Some(self.lock_networks(LockMode::Shared)?) };
        let ended = entries.iter().filter_map(|entry| self.collect_one(entry));
        Ok(Collected { ended: ended.collect(), unreadable })
    }

    fn collect_one(&self, entry: &CacheEntry) -> Option<Ended> {
        let result = match self.records.lock_sandbox(sandbox_of(entry), Instant::now()) {
            Ok(None) => return None,
            Ok(Some(_lock)) => self.delete_if_ended(entry),
            Err(error) => Err(Error::Lock(error)),
        };
        let error = match result {
            Ok(false) => return None,
            Ok(true) => None,
            Err(error) => Some(error),
        };
        let (network, interface) = (entry.network().to_owned(), entry.interface().to_owned());
        let pod = entry.marker().map(|marker| marker.pod.clone());
        Some(Ended { network, interface, sandbox: sandbox_of(entry).to_owned(), pod, error })
    }

    /// The Pod's lock is held. Returns whether it has ended.
    fn delete_if_ended(&self, entry: &CacheEntry) -> Result<bool, Error> {
        // another program may have deleted or replaced it meanwhile
        let (list, target) = (entry.list()?, entry.target()?);
        let Some(entry) = self.runtime.cache.read(list.name(), &target)? else { return Ok(false) };
        if entry.marker().is_none() {
            return Ok(false);
        }
        let namespace = attachment::namespace_of(&entry, &self.boot).map_err(Error::Namespace)?;
        if namespace.is_some() && !entry.is_unfinished() {
            return Ok(false);
        }
        // first: who is killed in between finds the entry in the own cache again
        for cache in &self.further_caches {
            cache.forget(list.name(), &target)?;
        }
        self.runtime.delete(&entry, namespace.map_or("", |_| entry.namespace()))?;
        Ok(true)
    }

    /// Tells the plugins of a network which attachments there are, so that they free what they keep for others. `caches` are
    /// further caches with attachments to it, such as Multus'. Returns whether they were told.
    ///
    /// # Errors
    ///
    /// When the network or a plugin has no GC, or a plugin fails.
    pub fn collect_in_plugins(&self, list: &NetworkList, caches: &[cni::Cache]) -> Result<bool, Error> {
        let _networks = self.lock_networks(LockMode::Exclusive)?;
        let mut valid = Vec::new();
        for cache in std::iter::once(&self.runtime.cache).chain(caches) {
            let (entries, unreadable) = cache.list()?;
            // an attachment that is not known would lose its address
            if let Some(error) = unreadable.into_iter().next() {
                return Err(error.into());
            }
            valid.extend(attachments_of(&entries, list.name()));
        }
        Ok(self.runtime.collect_garbage(list, &valid)?)
    }
}
