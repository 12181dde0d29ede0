//! Who may use a claim: several Pods may share one, and its devices are in one of them at a time.
//!
//! The kubelet calls Prepare for the first Pod only. Whether a second one is about to start without its device is known to the
//! API server alone.

use std::{fmt, future::Future, pin::Pin};

use kube::Client;
use netdevice::claims::claim::{Claim, ClaimError};

use crate::api::{Api, ApiError};

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

/// The API server: one GET for each question.
pub struct ApiHolders {
    api: Api,
    node: String,
}

impl ApiHolders {
    /// Asks the API server, for the node of that name.
    pub fn new(client: Client, node: impl Into<String>) -> Self {
        Self { api: Api::new(client), node: node.into() }
    }
}

impl fmt::Debug for ApiHolders {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("ApiHolders")
    }
}

impl ClaimHolders for ApiHolders {
    fn sharing<'a>(&'a self, namespace: &'a str, name: &'a str, uid: &'a str) -> Answer<'a> {
        Box::pin(async move {
            let text = match self.api.claim(namespace, name).await {
                Ok(text) => text,
                Err(ApiError::NotFound(_)) => return Ok(Sharing::Gone),
                Err(error) => return Err(error.to_string()),
            };
            match Claim::read(&text, &self.node) {
                Ok(claim) if claim.uid != uid => Ok(Sharing::Gone),
                Ok(claim) if claim.is_of_one_pod => Ok(Sharing::One),
                Ok(claim) => Ok(Sharing::Pods(claim.reserved_for.into_iter().map(|pod| pod.uid).collect())),
                Err(ClaimError::NotAllocated | ClaimError::OtherPool { .. }) => Ok(Sharing::Gone),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}
