//! Sandboxes that have or get devices: the work on each, and its namespace. Work on one sandbox does not delay the others.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use link::OpenSandbox;
use netdevice::Ledger;
use nri::Refusal;
use tokio::{sync::watch, time::timeout_at};

/// The state of the work on a sandbox.
#[derive(Debug, Clone, Default)]
pub(super) enum Progress {
    /// Not started.
    #[default]
    Idle,
    /// Devices are being chosen and moved.
    Busy,
    /// It failed, and devices that were attached are being returned.
    Failing(Refusal),
    /// Its result.
    Done(Result<(), Refusal>),
}

/// The state of the work at the deadline of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Waited {
    /// The work is done.
    Done(Result<(), Refusal>),
    /// It continues, or waits for the reason given.
    Late(Option<String>),
}

/// One sandbox.
#[derive(Debug, Default)]
pub(super) struct Work {
    progress: watch::Sender<Progress>,
    /// Whether the sandbox is being stopped.
    is_stopped: AtomicBool,
    /// Whether a request was answered before the end of the work, so that the next request takes the result.
    is_awaited: AtomicBool,
    /// Whether the ledger had a device of the sandbox.
    was_seen: AtomicBool,
    /// What the work waits for, if it waits.
    obstacle: Mutex<Option<String>>,
    sandbox: Mutex<Option<Arc<OpenSandbox>>>,
}

impl Work {
    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    /// The sandbox of the devices, opened when the work began: its path may no longer exist.
    pub(super) fn sandbox(&self) -> Option<Arc<OpenSandbox>> {
        self.lock().clone()
    }

    pub(super) fn keep(&self, sandbox: OpenSandbox) -> Arc<OpenSandbox> {
        self.lock().get_or_insert_with(|| Arc::new(sandbox)).clone()
    }

    /// Sets what the work waits for; none if it does not wait.
    pub(super) fn set_obstacle(&self, obstacle: Option<String>) {
        *self.obstacle.lock().unwrap_or_else(PoisonError::into_inner) = obstacle;
    }

    /// What the work waits for, if it waits.
    pub(super) fn obstacle(&self) -> Option<String> {
        self.obstacle.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<OpenSandbox>>> {
        self.sandbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the caller is to start the work. Work that runs is not started twice. The result of work that took
    /// longer than its request is taken by the next request: on a busy node the work would otherwise never complete.
    pub(super) fn begin(&self) -> bool {
        let mut begun = false;
        self.progress.send_if_modified(|progress| {
            let is_awaited = self.is_awaited.swap(false, Ordering::AcqRel);
            begun = match progress {
                Progress::Busy | Progress::Failing(_) => false,
                Progress::Done(Ok(())) => !is_awaited,
                Progress::Idle | Progress::Done(Err(_)) => true,
            };
            if begun {
                *progress = Progress::Busy;
            }
            begun
        });
        begun
    }

    pub(super) fn fail(&self, refusal: Refusal) {
        self.progress.send_replace(Progress::Failing(refusal));
    }

    pub(super) fn end(&self, result: Result<(), Refusal>) {
        self.progress.send_replace(Progress::Done(result));
    }

    /// Waits for the end of the work until the deadline. An error that is known by then is returned, although devices are
    /// still being returned.
    pub(super) async fn wait_until(&self, deadline: Instant) -> Waited {
        let mut progress = self.progress.subscribe();
        let is_done = |progress: &Progress| matches!(progress, Progress::Done(_));
        // the sender lives as long as this
        let _ = timeout_at(deadline.into(), progress.wait_for(is_done)).await;
        let now = progress.borrow().clone();
        match now {
            Progress::Done(result) => Waited::Done(result),
            Progress::Failing(refusal) => Waited::Done(Err(refusal)),
            Progress::Busy | Progress::Idle => {
                self.is_awaited.store(true, Ordering::Release);
                Waited::Late(self.obstacle())
            }
        }
    }

    fn is_busy(&self) -> bool {
        matches!(*self.progress.borrow(), Progress::Busy | Progress::Failing(_))
    }
}

/// All sandboxes that have or get devices by annotation.
#[derive(Debug, Default)]
pub(super) struct Sandboxes(Mutex<BTreeMap<String, Arc<Work>>>);

impl Sandboxes {
    fn map(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Work>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The work on a sandbox. For one that was stopped and is started again, it is new.
    pub(super) fn of(&self, sandbox: &str) -> Arc<Work> {
        let mut map = self.map();
        let work = map.entry(sandbox.to_owned()).or_default();
        if work.is_stopped() {
            *work = Arc::default();
        }
        work.clone()
    }

    /// Stops the work on a sandbox. Its entry stays until it is removed.
    pub(super) fn stop(&self, sandbox: &str) -> Option<Arc<Work>> {
        let work = self.map().get(sandbox).cloned()?;
        work.is_stopped.store(true, Ordering::Release);
        Some(work)
    }

    /// Removes a sandbox, unless it was started again since.
    pub(super) fn forget(&self, sandbox: &str, work: &Arc<Work>) {
        let mut map = self.map();
        if map.get(sandbox).is_some_and(|now| Arc::ptr_eq(now, work)) {
            map.remove(sandbox);
        }
    }

    /// Removes sandboxes that had devices and have none now, so that their namespaces are no longer kept open.
    pub(super) fn forget_ended(&self, ledger: &Ledger) {
        self.map().retain(|sandbox, work| {
            let has_some = ledger.values().any(|record| record.owner.is_in_sandbox(sandbox));
            let had_some = work.was_seen.fetch_or(has_some, Ordering::AcqRel);
            has_some || !had_some || work.is_busy()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        tokio::time::Instant::now().into_std() + Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_while_the_work_goes_on_joins_it() {
        let sandboxes = Sandboxes::default();
        let work = sandboxes.of("a");
        assert!(work.begin());
        assert!(!sandboxes.of("a").begin());
        assert!(sandboxes.of("b").begin(), "another sandbox's work is its own");
        assert_eq!(work.wait_until(soon()).await, Waited::Late(None));
        work.end(Ok(()));
        assert_eq!(work.wait_until(soon()).await, Waited::Done(Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_waited_for_in_vain_is_not_done_again_when_he_comes_again() {
        let work = Work::default();
        assert!(work.begin());
        assert_eq!(work.wait_until(soon()).await, Waited::Late(None));
        work.end(Ok(()));
        assert!(!work.begin());
        assert_eq!(work.wait_until(soon()).await, Waited::Done(Ok(())));
        assert!(work.begin(), "the next one looks again at what is");
        assert_eq!(work.wait_until(soon()).await, Waited::Late(None));
        work.end(Err(Refusal::new("no")));
        assert!(work.begin(), "what failed is tried again");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_vain_hears_what_the_work_waits_for() {
        let work = Work::default();
        assert!(work.begin());
        work.set_obstacle(Some("device a: busy".into()));
        assert_eq!(work.wait_until(soon()).await, Waited::Late(Some("device a: busy".into())));
        work.set_obstacle(None);
        assert_eq!(work.wait_until(soon()).await, Waited::Late(None));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_is_told_before_everything_is_back() {
        let work = Work::default();
        assert!(work.begin());
        work.fail(Refusal::new("taken"));
        assert!(!work.begin());
        assert_eq!(work.wait_until(soon()).await, Waited::Done(Err(Refusal::new("taken"))));
    }

    #[test]
    fn a_sandbox_that_was_stopped_begins_anew() {
        let sandboxes = Sandboxes::default();
        let first = sandboxes.of("a");
        assert!(first.begin());
        assert!(sandboxes.stop("a").is_some_and(|work| work.is_stopped()));
        assert!(sandboxes.stop("b").is_none());
        let second = sandboxes.of("a");
        assert!(!second.is_stopped() && second.begin());
        sandboxes.forget("a", &first);
        assert!(Arc::ptr_eq(&sandboxes.of("a"), &second), "it is the second one's");
        sandboxes.forget("a", &second);
        assert!(sandboxes.stop("a").is_none());
    }
}
