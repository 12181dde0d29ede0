//! Requests of a runtime to a plugin, from the two forms that they have.
//!
//! Runtimes with NRI up to 0.11 report Pods with StateChange, later ones with a method for each event. Both become the
//! same [`Event`].

use prost::Message;
use proto::{nri, ttrpc::Status};

use crate::{
    pod::{Container, PodSandbox},
    ttrpc::{Code, status},
};

/// Methods of the Plugin service with an empty answer, which means "agreed, and nothing to change".
const AGREED: [&str; 11] = [
    "PostCreateContainer",
    "PostStartContainer",
    "PostUpdateContainer",
    "PostUpdatePodSandbox",
    "RemoveContainer",
    "Shutdown",
    "StartContainer",
    "StopContainer",
    "UpdateContainer",
    "UpdatePodSandbox",
    "ValidateContainerAdjustment",
];

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Request {
    Configure(nri::ConfigureRequest),
    Synchronize(nri::SynchronizeRequest),
    Event(Event),
    /// Nothing that concerns the plugin.
    Agreed,
}

/// Something that happens to a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    RunPodSandbox(PodSandbox),
    StopPodSandbox(PodSandbox),
    RemovePodSandbox(PodSandbox),
    CreateContainer(PodSandbox, Container),
}

impl Event {
    /// As in the API.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::RunPodSandbox(_) => "RunPodSandbox",
            Self::StopPodSandbox(_) => "StopPodSandbox",
            Self::RemovePodSandbox(_) => "RemovePodSandbox",
            Self::CreateContainer(..) => "CreateContainer",
        }
    }
}

/// Reads the request of a method of the Plugin service.
///
/// # Errors
///
/// UNIMPLEMENTED for an unknown method: only after that code a runtime may try another one.
pub(crate) fn parse(method: &str, payload: &[u8]) -> Result<Request, Status> {
    use Event::{CreateContainer, RemovePodSandbox, RunPodSandbox, StopPodSandbox};
    Ok(match method {
        "Configure" => Request::Configure(decode(method, payload)?),
        "Synchronize" => Request::Synchronize(decode(method, payload)?),
        "RunPodSandbox" => {
            let nri::RunPodSandboxRequest { pod } = decode(method, payload)?;
            Request::Event(RunPodSandbox(present(method, pod)?.into()))
        }
        "StopPodSandbox" => {
            let nri::StopPodSandboxRequest { pod } = decode(method, payload)?;
            Request::Event(StopPodSandbox(present(method, pod)?.into()))
        }
        "RemovePodSandbox" => {
            let nri::RemovePodSandboxRequest { pod } = decode(method, payload)?;
            Request::Event(RemovePodSandbox(present(method, pod)?.into()))
        }
        "CreateContainer" => {
            let nri::CreateContainerRequest { pod, container } = decode(method, payload)?;
            Request::Event(CreateContainer(present(method, pod)?.into(), present(method, container)?.into()))
        }
        "StateChange" => state_change(decode(method, payload)?)?,
        agreed if AGREED.contains(&agreed) => Request::Agreed,
        unknown => return Err(status(Code::Unimplemented, format!("unknown method {unknown:.64}"))),
    })
}

fn state_change(change: nri::StateChangeEvent) -> Result<Request, Status> {
    let method = "StateChange";
    let make = match change.event() {
        nri::Event::RunPodSandbox => Event::RunPodSandbox,
        nri::Event::StopPodSandbox => Event::StopPodSandbox,
        nri::Event::RemovePodSandbox => Event::RemovePodSandbox,
        nri::Event::CreateContainer => {
            let (pod, container) = (present(method, change.pod)?, present(method, change.container)?);
            return Ok(Request::Event(Event::CreateContainer(pod.into(), container.into())));
        }
        // also all that were added since
        nri::Event::Unknown => return Ok(Request::Agreed),
    };
    Ok(Request::Event(make(present(method, change.pod)?.into())))
}

fn decode<M: Message + Default>(method: &str, payload: &[u8]) -> Result<M, Status> {
    M::decode(payload).map_err(|error| status(Code::InvalidArgument, format!("invalid request of {method}: {error}")))
}

fn present<T>(method: &str, subject: Option<T>) -> Result<T, Status> {
    subject.ok_or_else(|| {
        status(Code::InvalidArgument, format!("invalid request of {method}: it names no pod or container"))
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const METHODS: [&str; 18] = [
        "Configure",
        "Synchronize",
        "Shutdown",
        "RunPodSandbox",
        "UpdatePodSandbox",
        "PostUpdatePodSandbox",
        "StopPodSandbox",
        "RemovePodSandbox",
        "CreateContainer",
        "PostCreateContainer",
        "StartContainer",
        "PostStartContainer",
        "UpdateContainer",
        "PostUpdateContainer",
        "StopContainer",
        "RemoveContainer",
        "StateChange",
        "ValidateContainerAdjustment",
    ];

    fn pod() -> nri::PodSandbox {
        nri::PodSandbox { id: "s1".into(), ..Default::default() }
    }

    fn container() -> nri::Container {
        nri::Container { id: "c1".into(), ..Default::default() }
    }

    fn changed(event: i32) -> Result<Request, Status> {
        let change = nri::StateChangeEvent { event, pod: Some(pod()), container: Some(container()) };
        parse("StateChange", &change.encode_to_vec())
    }

    #[test]
    fn both_forms_of_an_event_are_the_same() {
        let run = nri::RunPodSandboxRequest { pod: Some(pod()) };
        assert_eq!(parse("RunPodSandbox", &run.encode_to_vec()), changed(1));
        let stop = nri::StopPodSandboxRequest { pod: Some(pod()) };
        assert_eq!(parse("StopPodSandbox", &stop.encode_to_vec()), changed(2));
        let remove = nri::RemovePodSandboxRequest { pod: Some(pod()) };
        assert_eq!(parse("RemovePodSandbox", &remove.encode_to_vec()), changed(3));
        let create = nri::CreateContainerRequest { pod: Some(pod()), container: Some(container()) };
        assert_eq!(parse("CreateContainer", &create.encode_to_vec()), changed(4));
        assert_eq!(changed(2), Ok(Request::Event(Event::StopPodSandbox(pod().into()))));
    }

    #[test]
    fn state_changes_that_nobody_asked_for_are_agreed_to() {
        for event in [0, 5, 13, 14, 15, 1000, -1] {
            assert_eq!(changed(event), Ok(Request::Agreed), "event {event}");
        }
    }

    #[test]
    fn no_method_of_the_service_is_unimplemented() {
        for method in METHODS {
            let code = parse(method, &[]).err().map(|status| status.code);
            assert_ne!(code, Some(Code::Unimplemented as i32), "{method}");
        }
    }

    #[test]
    fn an_unknown_method_is_unimplemented() {
        assert_eq!(parse("Frobnicate", &[]).unwrap_err().code, Code::Unimplemented as i32);
    }

    #[test]
    fn an_event_without_its_pod_or_container_is_refused() {
        let create = nri::CreateContainerRequest { pod: Some(pod()), container: None };
        for (method, payload) in [("RunPodSandbox", Vec::new()), ("CreateContainer", create.encode_to_vec())] {
            assert_eq!(parse(method, &payload).unwrap_err().code, Code::InvalidArgument as i32, "{method}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(method in 0..METHODS.len(), payload in vec(any::<u8>(), 0..300)) {
            let _ = parse(METHODS[method], &payload);
        }
    }
}
