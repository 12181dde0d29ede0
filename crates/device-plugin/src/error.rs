//! What can fail in a device plugin.

use std::{io, path::PathBuf, time::Duration};

/// An operation that failed, with its subject. Each text contains its cause: there is no `source`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubelet's socket or the plugin's own failed.
    #[error(transparent)]
    Kubelet(#[from] kubelet::Error),
    /// The kubelet registered the plugin and did not request the list.
    #[error("the kubelet did not request the list of devices within {0:?} after the registration")]
    NotWatched(Duration),
    /// The CDI file could not be written or removed.
    #[error("cannot write the CDI file {}: {cause}", .path.display())]
    CdiWriteFailed {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A task of the plugin panicked.
    #[error("a task of the device plugin failed: {0}")]
    TaskFailed(tokio::task::JoinError),
}

impl From<tokio::task::JoinError> for Error {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::TaskFailed(error)
    }
}
