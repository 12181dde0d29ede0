//! Events on Pods and the Node, for what the agent found or did: `kubectl describe` shows them.
//!
//! Nothing waits for an Event. Whoever has something to tell puts it into a queue that drops what it has no room for;
//! one task posts it. Without a service account, or if nobody wants Events, there is neither queue nor task.

mod client;
mod event;
mod happening;
mod poster;
mod series;
#[cfg(test)]
mod tests;
mod transport;

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;

pub(crate) use happening::Happening;
use poster::{DELAYS, Poster};

use crate::{
    arguments::EventMode,
    metrics::{EventResult, Metrics},
};

/// Happenings that wait to be posted.
const QUEUE: usize = 64;
/// How long a connection to the API server is kept when there is nothing more to post.
const LINGER: Duration = Duration::from_secs(10);

/// Where happenings are told.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    queue: Option<mpsc::Sender<Happening>>,
    metrics: Arc<Metrics>,
}

/// What there is to post, and with what.
pub(crate) struct Task {
    queue: mpsc::Receiver<Happening>,
    poster: Poster,
}

/// Events as far as they are wanted and this process may post them; the task is none otherwise.
pub(crate) fn open(mode: EventMode, node: Option<String>, metrics: &Arc<Metrics>) -> (Events, Option<Task>) {
    if mode == EventMode::Off || !client::has_service_account() {
        info!("no events are posted: there is no service account here, or -events=off");
        return (Events { queue: None, metrics: metrics.clone() }, None);
    }
    metrics.set_events();
    let poster = Poster::new(Box::new(client::in_cluster), DELAYS, node, metrics.clone());
    let (events, task) = with_poster(poster, metrics);
    (events, Some(task))
}

fn with_poster(poster: Poster, metrics: &Arc<Metrics>) -> (Events, Task) {
    let (sender, queue) = mpsc::channel(QUEUE);
    (Events { queue: Some(sender), metrics: metrics.clone() }, Task { queue, poster })
}

impl Events {
    /// Nobody wants to know.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { queue: None, metrics: Arc::default() }
    }

    /// Tells of something, if anybody wants to know. Never waits.
    pub(crate) fn tell(&self, happening: Happening) {
        if let Some(queue) = &self.queue
            && queue.try_send(happening).is_err()
        {
            self.metrics.count_event(EventResult::Dropped);
        }
    }
}

impl Task {
    /// Posts until `shutdown`, at which it ends at once.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let until = shutdown.clone();
        tokio::select! {
            () = until.cancelled() => {}
            () = self.post() => shutdown.cancelled().await,
        }
        Ok(())
    }

    /// Posts what comes; ends when nobody is left who could tell anything.
    async fn post(&mut self) {
        loop {
            let next = if self.poster.is_connected() {
                timeout(LINGER, self.queue.recv()).await
            } else {
                Ok(self.queue.recv().await)
            };
            match next {
                Ok(Some(happening)) => self.poster.tell(&happening).await,
                Ok(None) => return,
                Err(_) => self.poster.disconnect(),
            }
        }
    }
}
