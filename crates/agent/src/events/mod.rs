//! Events on Pods and the Node, for what the agent found or did: `kubectl describe` shows them.
//!
//! Nothing waits for an Event. The parts of the agent put occurrences into a queue, and one task posts them. A full queue
//! drops occurrences. Without a service account, or with -events=off, there is neither queue nor task.

mod event;
mod occurrence;
mod poster;
mod series;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;

pub(crate) use occurrence::Occurrence;
use poster::{DELAYS, Poster};

use crate::{
    api_server::ApiServer,
    arguments::EventMode,
    metrics::{EventResult, Metrics},
};

/// How many occurrences may wait to be posted.
const QUEUE: usize = 64;
/// How long a client of the API server is kept when there is nothing more to post.
const LINGER: Duration = Duration::from_secs(10);

/// Where occurrences are reported.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    queue: Option<mpsc::Sender<Occurrence>>,
    metrics: Arc<Metrics>,
}

/// The queue and the poster.
pub(crate) struct Task {
    queue: mpsc::Receiver<Occurrence>,
    poster: Poster,
}

/// Events, if they are wanted and this process may post them; otherwise there is no task.
pub(crate) fn open(mode: EventMode, node: Option<String>, metrics: &Arc<Metrics>) -> (Events, Option<Task>) {
    let api_server = ApiServer::in_cluster().filter(|_| mode != EventMode::Off);
    let Some(api_server) = api_server else {
        info!("no events are posted: there is no service account, or -events=off");
        return (Events { queue: None, metrics: metrics.clone() }, None);
    };
    metrics.set_events();
    let poster = Poster::new(api_server, DELAYS, node, metrics.clone());
    let (events, task) = with_poster(poster, metrics);
    (events, Some(task))
}

fn with_poster(poster: Poster, metrics: &Arc<Metrics>) -> (Events, Task) {
    let (sender, queue) = mpsc::channel(QUEUE);
    (Events { queue: Some(sender), metrics: metrics.clone() }, Task { queue, poster })
}

impl Events {
    /// Events that are not posted.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { queue: None, metrics: Arc::default() }
    }

    /// Reports an occurrence, if Events are posted. Never waits.
    pub(crate) fn report(&self, occurrence: Occurrence) {
        if let Some(queue) = &self.queue
            && queue.try_send(occurrence).is_err()
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

    /// Posts what is reported; ends when no sender is left.
    async fn post(&mut self) {
        loop {
            let next = if self.poster.is_connected() {
                timeout(LINGER, self.queue.recv()).await
            } else {
                Ok(self.queue.recv().await)
            };
            match next {
                Ok(Some(occurrence)) => self.poster.post(&occurrence).await,
                Ok(None) => return,
                Err(_) => self.poster.disconnect(),
            }
        }
    }
}
