//! Posts Events. After a few failures a report is dropped and counted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{api::events::v1::Event, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::{
    event::{build_count, build_event, build_name},
    occurrence::{Occurrence, Report},
    series::{AllSeries, Decision},
};
use crate::{
    api_server::{ApiServer, ConnectError},
    metrics::{EventResult, Metrics},
};

/// The pause before each further attempt.
pub(super) const DELAYS: &[Duration] = &[Duration::from_secs(1), Duration::from_secs(5)];

/// Why an Event was not posted.
#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the API server did not accept an event")]
    Api(#[source] kube::Error),
}

/// A request to the API server.
enum Request<'a> {
    Create(&'a Event),
    Count(&'a str, &'a Patch<Event>),
}

impl Request<'_> {
    async fn send(&self, api: &Api<Event>) -> Result<(), kube::Error> {
        match self {
            Self::Create(event) => api.create(&PostParams::default(), event).await?,
            Self::Count(event, patch) => api.patch(event, &PatchParams::default(), patch).await?,
        };
        Ok(())
    }
}

/// Posts Events.
pub(super) struct Poster {
    api_server: ApiServer,
    delays: &'static [Duration],
    node: Option<String>,
    metrics: Arc<Metrics>,
    client: Option<Client>,
    series: AllSeries,
    /// Whether the last failure was logged.
    is_logged: bool,
}

impl Poster {
    pub(super) fn new(
        api_server: ApiServer,
        delays: &'static [Duration],
        node: Option<String>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            api_server,
            delays,
            node,
            metrics,
            client: None,
            series: AllSeries::new(Instant::now()),
            is_logged: false,
        }
    }

    /// Whether there is a client, which may hold a connection.
    pub(super) fn is_connected(&self) -> bool {
        self.client.is_some()
    }

    /// Drops the client, with its connection and its memory.
    pub(super) fn disconnect(&mut self) {
        self.client = None;
    }

    /// Posts the Events of an occurrence. When the future is dropped, at most an Event is lost.
    pub(super) async fn post(&mut self, occurrence: &Occurrence) {
        for report in occurrence.reports(self.node.as_deref()) {
            let result = match self.post_report(&report).await {
                Ok(result) => result,
                Err(error) => {
                    self.log_failure(&error.into(), &report);
                    EventResult::Failed
                }
            };
            self.is_logged &= result == EventResult::Failed;
            self.metrics.count_event(result);
        }
    }

    /// Logs a failure once, until posting succeeds again. The occurrence itself is in the log in any case.
    fn log_failure(&mut self, error: &anyhow::Error, report: &Report) {
        if self.is_logged {
            debug!(reason = report.reason, "cannot post an event: {error:#}");
        } else {
            warn!(reason = report.reason, "cannot post an event: {error:#}");
        }
        self.is_logged = true;
        // the next report needs a new client: the certificates may have been replaced
        self.client = None;
    }

    async fn post_report(&mut self, report: &Report) -> Result<EventResult, PostError> {
        match self.series.decide(report, Instant::now()) {
            Decision::Join => Ok(EventResult::Joined),
            Decision::Drop => Ok(EventResult::Dropped),
            Decision::Create => self.create(report).await,
            Decision::Count(event, count) => self.count(report, &event, count).await,
        }
    }

    async fn create(&mut self, report: &Report) -> Result<EventResult, PostError> {
        let now = Timestamp::now();
        let name = build_name(&report.subject, now);
        let event = build_event(report, &name, self.node.as_deref(), now);
        match self.attempt(report, &Request::Create(&event)).await {
            // an earlier attempt created it, and its answer was lost
            Err(PostError::Api(error)) if is(&error, 409) => {}
            result => result?,
        }
        self.series.created(report.clone(), name, Instant::now());
        Ok(EventResult::Ok)
    }

    async fn count(&mut self, report: &Report, event: &str, count: i32) -> Result<EventResult, PostError> {
        let patch = Patch::Merge(build_count(count, Timestamp::now()));
        match self.attempt(report, &Request::Count(event, &patch)).await {
            // the API server deletes Events after an hour
            Err(PostError::Api(error)) if is(&error, 404) => {
                self.series.forget(report);
                return self.create(report).await;
            }
            result => result?,
        }
        self.series.counted(report, Instant::now());
        Ok(EventResult::Ok)
    }

    /// Makes a request, and again after a while if that may help.
    async fn attempt(&mut self, report: &Report, request: &Request<'_>) -> Result<(), PostError> {
        let api = Api::namespaced(self.client()?, report.subject.namespace());
        for delay in self.delays {
            match request.send(&api).await {
                Err(error) if is_passing(&error) => debug!("posting an event again in {delay:?}: {error}"),
                result => return result.map_err(PostError::Api),
            }
            sleep(*delay).await;
        }
        request.send(&api).await.map_err(PostError::Api)
    }

    fn client(&mut self) -> Result<Client, ConnectError> {
        let client = self.client.take().map_or_else(|| self.api_server.client(), Ok)?;
        Ok(self.client.insert(client).clone())
    }
}

fn is(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Whether the same request may succeed later.
fn is_passing(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        kube::Error::Service(_) => true,
        _ => false,
    }
}
