//! DRAResourceHealth: the health of all devices, as a stream of complete lists.
//!
//! A list follows each change, but not more often than [`SHORTEST`], and at the latest after [`LONGEST`]: what is not repeated within
//! 30 s counts as unknown.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use netdevice::{
    View,
    claims::health::{Health, health},
};
use proto::{
    drahealth::{self as wire, HealthStatus, dra_resource_health_server::DraResourceHealth},
    drahealth_v1alpha1::dra_resource_health_server::DraResourceHealth as DraResourceHealthV1alpha1,
};
use store::journal;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// Least time between two lists.
const SHORTEST: Duration = Duration::from_millis(500);
/// Most time between two lists.
const LONGEST: Duration = Duration::from_secs(10);

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct HealthService {
    pub(crate) node: Arc<str>,
    pub(crate) views: watch::Receiver<Arc<View>>,
    /// All streams end with it.
    pub(crate) stop: CancellationToken,
}

impl HealthService {
    fn list(&mut self) -> wire::NodeWatchResourcesResponse {
        let view = self.views.borrow_and_update().clone();
        let now = i64::try_from(journal::now()).unwrap_or_default();
        let devices = health(&view).into_iter().map(|found| wire::DeviceHealth {
            device: Some(wire::DeviceIdentifier {
                pool_name: self.node.to_string(),
                device_name: found.device.as_str().to_owned(),
            }),
            health: match found.health {
                Health::Healthy => HealthStatus::Healthy,
                Health::Unhealthy => HealthStatus::Unhealthy,
            }
            .into(),
            last_updated_time: now,
            health_check_timeout_seconds: 0,
            message: found.message,
        });
        wire::NodeWatchResourcesResponse { devices: devices.collect() }
    }

    /// The next list, which differs from the last one or is due; none at the end.
    async fn next(mut self, last: Option<(Instant, wire::NodeWatchResourcesResponse)>) -> Option<Next> {
        let Some((sent, last)) = last else {
            let list = self.list();
            return Some((self, list));
        };
        let due = sent + LONGEST;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = sleep_until(due) => {}
                changed = self.views.changed() => changed.ok()?,
            }
            let earliest = sent + SHORTEST;
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = sleep_until(earliest) => {}
            }
            let list = self.list();
            if Instant::now() >= due || !is_same(&list, &last) {
                return Some((self, list));
            }
        }
    }
}

type Next = (HealthService, wire::NodeWatchResourcesResponse);

/// Whether two lists differ only in their time.
fn is_same(one: &wire::NodeWatchResourcesResponse, other: &wire::NodeWatchResourcesResponse) -> bool {
    let mut devices = one.devices.iter().zip(&other.devices);
    one.devices.len() == other.devices.len()
        && devices.all(|(one, other)| {
            (&one.device, one.health, &one.message) == (&other.device, other.health, &other.message)
        })
}

/// The lists.
pub(crate) struct HealthStream(Pin<Box<dyn Future<Output = Option<Next>> + Send>>);

impl HealthStream {
    fn new(service: &HealthService) -> Self {
        Self(Box::pin(service.clone().next(None)))
    }
}

impl Stream for HealthStream {
    type Item = Result<wire::NodeWatchResourcesResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll(context).map(|next| {
            let (service, list) = next?;
            self.0 = Box::pin(service.next(Some((Instant::now(), list.clone()))));
            Some(Ok(list))
        })
    }
}

/// Both versions have the same call and messages.
macro_rules! serve {
    ($($version:ident),*) => {$(
        #[tonic::async_trait]
        impl $version for HealthService {
            type NodeWatchResourcesStream = HealthStream;

            async fn node_watch_resources(
                &self,
                _: Request<wire::NodeWatchResourcesRequest>,
            ) -> Result<Response<HealthStream>, Status> {
                Ok(Response::new(HealthStream::new(self)))
            }
        }
    )*};
}
serve!(DraResourceHealth, DraResourceHealthV1alpha1);
