//! How many files this process may have open.
//!
//! A service manager sets 1024 by default, for programs that cannot use more (`select`); the hard limit is much higher.
//! The agent keeps a descriptor for each process and each network namespace that holds devices.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Raises the soft limit to the hard one.
pub(crate) fn raise_limit() {
    let before = getrlimit(Resource::Nofile);
    if before.current.is_none() || before.current == before.maximum {
        return;
    }
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => info!(limit = limit(), "raised the limit of open files"),
        Err(error) => warn!(limit = limit(), "cannot raise the limit of open files: {error}"),
    }
}

/// How many files may be open now.
pub(crate) fn limit() -> usize {
    let current = getrlimit(Resource::Nofile).current;
    current.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}
