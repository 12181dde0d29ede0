//! The view: what is offered and what is attached. One task updates it (`view_update/`); every other part of the agent
//! follows it, whole ([`Views`]) or by the part that it needs ([`Part`]).

use std::sync::Arc;

use netdevice::{Ledger, Snapshot, View};
use tokio::sync::watch;

/// The view as it is now, and its changes. It is complete from the beginning.
pub(crate) type Views = watch::Receiver<Arc<View>>;

/// A value that is shared, not copied, so that two of them are compared by their pointers.
pub(crate) trait Shared: Clone {
    /// Whether nothing has changed since `before`.
    fn is_same(&self, before: &Self) -> bool;
}

impl<T> Shared for Arc<T> {
    fn is_same(&self, before: &Self) -> bool {
        Self::ptr_eq(self, before)
    }
}

/// Compares the links: parts of the agent that follow only the snapshot need nothing else of it.
impl Shared for Snapshot {
    fn is_same(&self, before: &Self) -> bool {
        self.links().ptr_eq(before.links())
    }
}

/// A part of the view. A change of another part does not wake a task that waits for this one.
pub(crate) struct Part<T> {
    views: Views,
    project: fn(&View) -> &T,
    seen: T,
}

impl Part<Arc<Ledger>> {
    /// The records of attached devices.
    pub(crate) fn ledger(views: Views) -> Self {
        Self::new(views, |view| &view.ledger)
    }
}

impl Part<Snapshot> {
    /// The links of the host.
    pub(crate) fn links(views: Views) -> Self {
        Self::new(views, |view| &view.snapshot)
    }
}

impl<T: Shared> Part<T> {
    fn new(mut views: Views, project: fn(&View) -> &T) -> Self {
        let seen = project(&views.borrow_and_update()).clone();
        Self { views, project, seen }
    }

    /// The part as it is now; [`Self::changed`] waits for another one.
    pub(crate) fn now(&mut self) -> T {
        self.seen = (self.project)(&self.views.borrow_and_update()).clone();
        self.seen.clone()
    }

    /// Waits until the part differs from what was returned last, and returns it. Nothing is lost when the wait is dropped.
    ///
    /// # Errors
    ///
    /// When the view is no longer updated: the agent ends.
    pub(crate) async fn changed(&mut self) -> Result<T, watch::error::RecvError> {
        loop {
            self.views.changed().await?;
            let now = (self.project)(&self.views.borrow_and_update()).clone();
            if !now.is_same(&self.seen) {
                self.seen = now.clone();
                return Ok(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use netdevice::{Projector, fixture};

    use super::*;

    /// Whether a future is not ready at once.
    fn is_pending(future: impl Future) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn a_change_of_another_part_wakes_nobody() {
        let mut projector = Projector::new();
        let (sender, views) = watch::channel(Arc::new(projector.view().clone()));
        let publish = |projector: &Projector| drop(sender.send_replace(Arc::new(projector.view().clone())));
        let (mut ledger, mut links) = (Part::ledger(views.clone()), Part::links(views));
        publish(&projector);
        assert!(is_pending(ledger.changed()) && is_pending(links.changed()));

        let mut snapshot = Snapshot::default();
        snapshot.insert_link(Arc::new(fixture::link(7, "dummy0")));
        projector.set_snapshot(snapshot);
        publish(&projector);
        assert!(is_pending(ledger.changed()));
        assert_eq!(links.changed().await.unwrap().links().len(), 1);
        assert!(is_pending(links.changed()));

        let record = Arc::new(fixture::record("dummy0"));
        projector.set_ledger(Arc::new(Ledger::from_iter([(record.device.clone(), record)])));
        publish(&projector);
        assert!(is_pending(links.changed()));
        assert_eq!(ledger.changed().await.unwrap().len(), 1);
        assert!(is_pending(ledger.changed()));
    }

    #[tokio::test]
    async fn what_was_asked_for_is_not_a_change() {
        let mut projector = Projector::new();
        let (sender, views) = watch::channel(Arc::new(projector.view().clone()));
        let mut ledger = Part::ledger(views);
        projector.set_ledger(Arc::default());
        sender.send_replace(Arc::new(projector.view().clone()));
        ledger.now();
        assert!(is_pending(ledger.changed()));
        drop(sender);
        assert!(ledger.changed().await.is_err());
    }
}
