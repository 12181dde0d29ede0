//! Who may use a claim: several Pods may share one, and its devices are in one of them at a time.
//!
//! The kubelet calls Prepare for the first Pod only. Whether a second one is about to start without its device is known to the
//! API server alone.

use std::{fmt, future::Future, pin::Pin};

/// An answer of [`ClaimHolders`].
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Sharing, String>> + Send + 'a>>;

/// The Pods that a claim is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sharing {
    /// It is gone, or another claim has its name.
    Gone,
    /// It was made for one Pod, which owns it.
    One,
    /// It is reserved for the Pods with these UIDs, in the order of their arrival.
    Pods(Vec<String>),
}

/// Knows for which Pods claims are reserved.
pub trait ClaimHolders: fmt::Debug + Send + Sync {
    /// For which Pods the claim with that UID is reserved; an error if that is not known.
    fn sharing<'a>(&'a self, namespace: &'a str, name: &'a str, uid: &'a str) -> Answer<'a>;
}
