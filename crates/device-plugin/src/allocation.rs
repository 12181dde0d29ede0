//! Allocate: from the ids that the kubelet requests to the answer, or to the reason for a refusal.
//!
//! Every id is checked before anything is answered, so an error means that nothing was allocated.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
};

use netdevice::{DeviceId, DeviceIdError, Refusal, ResourceName, View, cdi};
use proto::deviceplugin as wire;
use tonic::{Code, Status};

use crate::{
    preference::PreferenceError,
    shared::{Published, Shared},
};

/// Why devices are not allocated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AllocationError {
    #[error("device {0:?}: invalid device id: choose another device")]
    InvalidId(String, #[source] DeviceIdError),
    #[error("device {0}: requested twice")]
    RequestedTwice(DeviceId),
    #[error("device {0}: {1}")]
    Refused(DeviceId, Box<Refusal>),
    #[error("device {0}: its CDI file {path} is not written yet: see the log of netdevice-agent on the node", path = .1.display())]
    NotWritten(DeviceId, PathBuf),
    #[error("device {0}: the CDI file {1}")]
    InConflict(DeviceId, Arc<str>),
    #[error(transparent)]
    NoPreference(#[from] PreferenceError),
}

impl AllocationError {
    /// Whether it may pass soon: the Pod that has the device is being torn down, or the file is about to be written.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Refused(_, refusal) => matches!(**refusal, Refusal::Held(_)),
            Self::NotWritten(..) => true,
            Self::InvalidId(..) | Self::RequestedTwice(_) | Self::InConflict(..) | Self::NoPreference(_) => false,
        }
    }
}

/// The one place where errors become status codes. The kubelet shows the text in `kubectl describe pod` and appends
/// ", which is unexpected": hence no full stop.
impl From<AllocationError> for Status {
    fn from(error: AllocationError) -> Self {
        let code = match &error {
            AllocationError::InvalidId(..) | AllocationError::RequestedTwice(_) | AllocationError::NoPreference(_) => {
                Code::InvalidArgument
            }
            AllocationError::Refused(_, refusal) if **refusal == Refusal::NotThere => Code::NotFound,
            AllocationError::Refused(..) | AllocationError::InConflict(..) => Code::FailedPrecondition,
            AllocationError::NotWritten(..) => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}

/// The ids of a request, container by container.
#[derive(Debug)]
pub(crate) struct Request(Vec<Vec<DeviceId>>);

impl Request {
    /// Reads the kubelet's request. Every id must be valid and named once.
    pub(crate) fn parse(request: &wire::AllocateRequest) -> Result<Self, AllocationError> {
        let mut seen = BTreeSet::new();
        let mut id = |text: &String| {
            let id: DeviceId = text.parse().map_err(|reason| AllocationError::InvalidId(text.clone(), reason))?;
            if seen.insert(id.clone()) { Ok(id) } else { Err(AllocationError::RequestedTwice(id)) }
        };
        let containers = request.container_requests.iter();
        containers
            .map(|container| container.devices_ids.iter().map(&mut id).collect())
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// All ids.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &DeviceId> {
        self.0.iter().flatten()
    }

    /// Whether every device can be allocated now. An obstacle that will not pass is reported first: then waiting is useless.
    pub(crate) fn check(&self, shared: &Shared, view: &View, published: &Published) -> Result<(), AllocationError> {
        let check = |id: &DeviceId| {
            let refused = |refusal| AllocationError::Refused(id.clone(), Box::new(refusal));
            view.allocate(&shared.resource, id).map_err(refused)?;
            shared.record_check.check(id).map_err(refused)?;
            if published.written.contains(id) {
                return Ok(());
            }
            Err(match published.conflicts.devices.get(id) {
                Some(reason) => AllocationError::InConflict(id.clone(), reason.clone()),
                None => AllocationError::NotWritten(id.clone(), shared.cdi_file.clone()),
            })
        };
        let errors: Vec<AllocationError> = self.ids().filter_map(|id| check(id).err()).collect();
        match errors.into_iter().min_by_key(AllocationError::is_passing) {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    /// The answer: exactly these devices.
    pub(crate) fn answer(&self, resource: &ResourceName) -> wire::AllocateResponse {
        let container = |ids: &Vec<DeviceId>| wire::ContainerAllocateResponse {
            envs: HashMap::from([(resource.environment_variable(), interface_names(ids))]),
            // only in this field: runtimes merge it with the annotation
            cdi_devices: ids.iter().map(|id| wire::CdiDevice { name: cdi::qualified_name(resource, id) }).collect(),
        };
        wire::AllocateResponse { container_responses: self.0.iter().map(container).collect() }
    }
}

/// The interface names of the devices in the Pod, separated by spaces, which no name has. A gRPC message must be UTF-8: a name
/// that is not is given as its device id.
fn interface_names(ids: &[DeviceId]) -> String {
    let name = |id: &DeviceId| id.default_name().to_str().map_or_else(|| id.to_string(), str::to_owned);
    ids.iter().map(name).collect::<Vec<String>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(containers: &[&[&str]]) -> wire::AllocateRequest {
        let container = |ids: &&[&str]| wire::ContainerAllocateRequest {
            devices_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        };
        wire::AllocateRequest { container_requests: containers.iter().map(container).collect() }
    }

    #[test]
    fn the_answer_names_exactly_the_devices_of_each_container() {
        let answer = Request::parse(&request(&[&["eth0", "x::c3:a9", "x::ff"], &["eth1"]])).unwrap();
        let answer = answer.answer(&ResourceName::default());
        insta::assert_debug_snapshot!(answer);
    }

    #[test]
    fn an_invalid_id_and_one_that_is_named_twice_are_refused() {
        let message = |containers: &[&[&str]]| Status::from(Request::parse(&request(containers)).unwrap_err());
        let no_id = message(&[&["eth0"], &["a\nb"]]);
        assert_eq!(no_id.message(), r#"device "a\nb": invalid device id: choose another device"#);
        assert_eq!(no_id.code(), Code::InvalidArgument);
        assert_eq!(message(&[&["eth0"], &["eth0"]]).message(), "device eth0: requested twice");
    }
}
