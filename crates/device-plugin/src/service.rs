//! The gRPC service that the kubelet calls. It answers from what the rest of the plugin published.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use netdevice::{DeviceId, View};
use proto::deviceplugin::{self as wire, device_plugin_server::DevicePlugin};
use tokio::{sync::watch, time};
use tokio_stream::{Stream, wrappers::WatchStream};
use tonic::{Request, Response, Status};

use crate::{
    allocation::{self, AllocationError},
    offer::List,
    preference::{Candidate, Use, prefer},
    shared::Shared,
};

/// How often the disk is read while Allocate waits for a device: the view may miss a record that existed for a moment.
const CHECK: Duration = Duration::from_millis(20);

/// The streams of one registration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Streams {
    opened: u32,
    open: u32,
}

impl Streams {
    /// Whether the kubelet has requested the list.
    pub(crate) fn were_opened(self) -> bool {
        self.opened > 0
    }

    /// Whether it has requested the list and ended the stream.
    pub(crate) fn are_closed(self) -> bool {
        self.opened > 0 && self.open == 0
    }
}

/// The service of one registration.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) shared: Arc<Shared>,
    pub(crate) view: watch::Receiver<Arc<View>>,
    /// When it ends, all streams end.
    pub(crate) list: watch::Receiver<List>,
    pub(crate) streams: Arc<watch::Sender<Streams>>,
}

impl Service {
    /// Waits until the devices can be allocated, at most for the grace period, and only if the obstacle may pass.
    async fn wait_for(&self, request: &allocation::Request) -> Result<(), AllocationError> {
        let mut view = self.view.clone();
        let mut published = self.shared.published.subscribe();
        let deadline = time::Instant::now() + self.shared.held_grace;
        loop {
            let seen_view = view.borrow_and_update().clone();
            let seen = published.borrow_and_update().clone().unwrap_or_default();
            let error = match request.check(&self.shared, &seen_view, &seen) {
                Err(error) if error.is_passing() => error,
                done => return done,
            };
            tokio::select! {
                Ok(()) = view.changed() => {}
                Ok(()) = published.changed() => {}
                () = time::sleep_until(deadline.min(time::Instant::now() + CHECK)) => {
                    if time::Instant::now() >= deadline {
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn allocate_now(&self, request: &wire::AllocateRequest) -> Result<wire::AllocateResponse, AllocationError> {
        let request = allocation::Request::parse(request)?;
        self.wait_for(&request).await?;
        let view = self.view.borrow().clone();
        for id in request.ids() {
            let refused = |refusal| AllocationError::Refused(id.clone(), Box::new(refusal));
            let device = view.allocate(&self.shared.resource, id).map_err(refused)?;
            self.shared.record_check.reserve(id, device.acquisition()).map_err(refused)?;
        }
        self.shared.allocated.send_if_modified(|allocated| {
            allocated.add(request.ids().cloned());
            // their CDI names are in the file already, so no task is woken
            false
        });
        self.shared.reservations.begin(request.ids().cloned());
        Ok(request.answer(&self.shared.resource))
    }

    fn choose(&self, request: wire::ContainerPreferredAllocationRequest) -> Result<Vec<String>, AllocationError> {
        let Shared { resource, record_check, reservations, .. } = &*self.shared;
        let view = self.view.borrow();
        reservations.end_attached(&view);
        let candidate = |id: String| {
            let device = id.parse::<DeviceId>().ok().and_then(|id| view.devices().get(&id));
            let in_use = match device {
                Some(device) if device.owner().is_none() && device.resource == *resource => {
                    if reservations.has(&device.id) { Use::Reserved } else { Use::None }
                }
                _ => Use::Held,
            };
            Candidate { numa_node: device.and_then(|device| device.numa_node), in_use, turn: 0, id }
        };
        let mut available: Vec<Candidate> = request.available_device_i_ds.into_iter().map(candidate).collect();
        if view.pools.named(resource).is_some_and(|pool| pool.children.is_some()) {
            take_turns(&mut available, &view);
        }
        let must = request.must_include_device_i_ds.into_iter().collect();
        loop {
            let chosen = prefer(&available, &must, request.allocation_size)?;
            // only the chosen ones are checked on disk; one that was taken a moment ago is no longer a candidate
            let is_taken = |candidate: &Candidate| {
                candidate.in_use != Use::Held
                    && chosen.binary_search(&candidate.id).is_ok()
                    && candidate.id.parse().is_ok_and(|id| record_check.check(&id).is_err())
            };
            let taken: Vec<usize> = (0..available.len()).filter(|at| is_taken(&available[*at])).collect();
            if taken.is_empty() {
                return Ok(chosen);
            }
            taken.into_iter().for_each(|at| available[at].in_use = Use::Held);
        }
    }
}

/// Spreads devices that are created over their parents: each free one has its turn after those that its parent has already.
fn take_turns(available: &mut [Candidate], view: &View) {
    let mut turns: BTreeMap<DeviceId, u32> = BTreeMap::new();
    for parent in view.ledger.keys().filter_map(DeviceId::parent) {
        *turns.entry(parent).or_default() += 1;
    }
    for candidate in available.iter_mut().filter(|candidate| candidate.in_use == Use::None) {
        let parent = candidate.id.parse::<DeviceId>().ok().and_then(|id| id.parent());
        if let Some(turn) = parent.map(|parent| turns.entry(parent).or_default()) {
            candidate.turn = *turn;
            *turn += 1;
        }
    }
}

#[tonic::async_trait]
impl DevicePlugin for Service {
    type ListAndWatchStream = ListStream;

    async fn get_device_plugin_options(
        &self,
        _: Request<wire::Empty>,
    ) -> Result<Response<wire::DevicePluginOptions>, Status> {
        let options = wire::DevicePluginOptions { pre_start_required: false, get_preferred_allocation_available: true };
        Ok(Response::new(options))
    }

    async fn list_and_watch(&self, _: Request<wire::Empty>) -> Result<Response<ListStream>, Status> {
        Ok(Response::new(ListStream::new(&self.list, &self.streams)))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<wire::PreferredAllocationRequest>,
    ) -> Result<Response<wire::PreferredAllocationResponse>, Status> {
        let choose = |request| {
            let device_i_ds = self.choose(request)?;
            Ok(wire::ContainerPreferredAllocationResponse { device_i_ds })
        };
        let requests = request.into_inner().container_requests.into_iter();
        let container_responses = requests.map(choose).collect::<Result<_, AllocationError>>()?;
        Ok(Response::new(wire::PreferredAllocationResponse { container_responses }))
    }

    async fn allocate(
        &self,
        request: Request<wire::AllocateRequest>,
    ) -> Result<Response<wire::AllocateResponse>, Status> {
        let answer = self.allocate_now(request.get_ref()).await;
        self.shared.stats.count_allocation(answer.as_ref().err().map(ToString::to_string));
        let resource = &self.shared.resource;
        let answer = answer.inspect_err(|error| tracing::warn!(%resource, "allocation refused: {error}"))?;
        let containers = request.get_ref().container_requests.iter();
        let ids: Vec<&str> = containers.flat_map(|container| &container.devices_ids).map(String::as_str).collect();
        tracing::info!(%resource, devices = ids.join(" "), "allocated");
        Ok(Response::new(answer))
    }

    async fn pre_start_container(
        &self,
        _: Request<wire::PreStartContainerRequest>,
    ) -> Result<Response<wire::PreStartContainerResponse>, Status> {
        Ok(Response::new(wire::PreStartContainerResponse {}))
    }
}

/// The list now and after each change, until the registration ends; dropped when the kubelet disconnects.
#[derive(Debug)]
pub(crate) struct ListStream {
    lists: WatchStream<List>,
    streams: Arc<watch::Sender<Streams>>,
}

impl ListStream {
    fn new(list: &watch::Receiver<List>, streams: &Arc<watch::Sender<Streams>>) -> Self {
        streams.send_modify(|streams| {
            streams.opened = streams.opened.saturating_add(1);
            streams.open += 1;
        });
        Self { lists: WatchStream::new(list.clone()), streams: streams.clone() }
    }
}

impl Stream for ListStream {
    type Item = Result<wire::ListAndWatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let response = |list: List| Ok(wire::ListAndWatchResponse { devices: list.0.to_vec() });
        Pin::new(&mut self.lists).poll_next(context).map(|list| list.map(response))
    }
}

impl Drop for ListStream {
    fn drop(&mut self) {
        self.streams.send_modify(|streams| streams.open -= 1);
    }
}
