//! The driver: one for each process, without state of its own.
//!
//! The agent has one thread for everything that waits. What works on files or asks the kernel runs beside it
//! ([`Driver::blocking`]).

use std::{fmt, sync::Arc, time::Duration};

use store::NamedLock;
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

use crate::{api::Api, error::BlockingError, settings::Settings};

/// How long a request may wait: the kubelet gives up after 45 s.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// How long after a deadline a look at disk and kernel may end that was begun before: less than the kubelet still waits.
const LAST_LOOK: Duration = Duration::from_secs(3);

/// What the services share.
#[derive(Clone)]
pub(crate) struct Driver {
    pub(crate) settings: Arc<Settings>,
    pub(crate) api: Api,
}

/// The right to work on one claim, which work that was begun keeps until its end.
pub(crate) type ClaimLock = Arc<NamedLock>;

/// A moment between two changes on disk, at which a test kills the process.
pub(crate) fn step() {
    #[cfg(test)]
    crate::tests::killed::step();
}

impl Driver {
    pub(crate) fn new(settings: Settings) -> Self {
        let api = Api::new(settings.client.clone());
        Self { settings: Arc::new(settings), api }
    }

    /// Runs what works on files or asks the kernel on a thread of its own, under the lock of a claim. It is never cut off: if
    /// the caller is gone, or the deadline has passed, it goes on to its end, and nobody else works on the claim until then.
    ///
    /// # Errors
    ///
    /// When it does not end in time.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        lock: &ClaimLock,
        deadline: Instant,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, BlockingError> {
        let (driver, lock) = (self.clone(), lock.clone());
        let task = spawn_blocking(move || {
            let done = work(&driver);
            drop(lock);
            done
        });
        Ok(timeout_at(deadline + LAST_LOOK, task).await.map_err(|_| BlockingError::Slow)??)
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Driver").field("node", &self.settings.node).finish_non_exhaustive()
    }
}
