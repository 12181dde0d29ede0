//! A sandbox as a runtime describes it: which Pod it belongs to, and where its network namespace is. One constructor for each
//! source: the OCI state of a hook, an NRI event, a CRI status.

use serde::Deserialize;

use crate::{
    oci,
    owner::{Owner, Pod, Request},
};

/// A sandbox, not yet opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    id: Option<String>,
    pod: Option<Pod>,
    network: Network,
}

/// Where a sandbox's network namespace is, in the words of the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// A container's first process is in it, as an OCI hook is told. The process must exist: its end is the container's.
    OfProcess {
        /// Pid in the runtime's PID namespace; none before create and once the container exited.
        pid: Option<i32>,
        /// Where the runtime keeps the namespace, for when the process is gone; none where the container has its own.
        path: Option<String>,
    },
    /// A file that the runtime keeps, such as `/run/netns/<name>` or `/proc/<pid>/ns/net`.
    AtPath {
        /// The path in the runtime's mount namespace.
        path: String,
        /// Pid of the sandbox's first process in the runtime's PID namespace. None where it has none, as CRI-O makes them.
        pid: Option<i32>,
    },
    /// The runtime names none: the Pod may use the host's network.
    Unnamed {
        /// As in [`Network::AtPath`].
        pid: Option<i32>,
    },
}

/// The member `info` of a verbose CRI `PodSandboxStatus`. containerd writes both members, CRI-O no pid.
#[derive(Debug, Deserialize)]
struct CriInfo {
    #[serde(default)]
    pid: Option<i64>,
    #[serde(default, rename = "runtimeSpec")]
    runtime_spec: Option<oci::Config>,
}

impl Sandbox {
    /// From the state that a runtime writes to a hook. `path` is that of the network namespace in the container's
    /// `config.json`, see [`oci::Config::network_namespace`].
    pub fn from_oci(state: &oci::State, path: Option<String>) -> Self {
        Self { id: state.sandbox_id(), pod: state.pod(), network: Network::OfProcess { pid: state.pid(), path } }
    }

    /// From an NRI sandbox. An empty id is none.
    pub fn from_nri(id: &str, pod: Pod, path: Option<String>, pid: Option<u32>) -> Self {
        let pid = pid.and_then(|pid| i32::try_from(pid).ok());
        Self { id: not_empty(id), pod: Some(pod), network: Network::new(path, pid) }
    }

    /// From a CRI `PodSandboxStatus`: `info` is the value of the key `info` in the answer to a verbose request, JSON of the
    /// runtime's own.
    ///
    /// # Errors
    ///
    /// When `info` is not JSON of that form.
    pub fn from_cri(id: &str, pod: Pod, info: &str) -> Result<Self, serde_json::Error> {
        let CriInfo { pid, runtime_spec } = serde_json::from_str(info)?;
        let path = runtime_spec.and_then(oci::Config::into_network_namespace);
        let pid = pid.and_then(|pid| i32::try_from(pid).ok());
        Ok(Self { id: not_empty(id), pod: Some(pod), network: Network::new(path, pid) })
    }

    /// The sandbox's id, unique on the node; none without Kubernetes.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The Pod; none without Kubernetes.
    pub fn pod(&self) -> Option<&Pod> {
        self.pod.as_ref()
    }

    /// Where its network namespace is.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// One of its containers, as the owner of a device.
    pub fn container(&self, id: &str) -> Owner {
        Owner::Container { id: id.into(), sandbox: self.id.clone(), pod: self.pod.clone() }
    }

    /// The sandbox itself, as the owner of a device; none without an id.
    pub fn owner(&self, by: Request) -> Option<Owner> {
        Some(Owner::Sandbox { id: self.id.clone()?, pod: self.pod.clone(), by })
    }

    /// A claim, as the owner of a device in this sandbox; none without an id, or if `reserved` is not a claim.
    pub fn claim(&self, reserved: &Owner) -> Option<Owner> {
        let Owner::Claim { uid, namespace, name, request, pod, .. } = reserved.clone() else { return None };
        let (sandbox, pod) = (Some(self.id.clone()?), self.pod.clone().or(pod));
        Some(Owner::Claim { uid, namespace, name, request, sandbox, pod })
    }
}

impl Network {
    fn new(path: Option<String>, pid: Option<i32>) -> Self {
        let pid = pid.filter(|pid| *pid > 0);
        match path.filter(|path| !path.is_empty()) {
            Some(path) => Self::AtPath { path, pid },
            None => Self::Unnamed { pid },
        }
    }
}

fn not_empty(id: &str) -> Option<String> {
    (!id.is_empty()).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pod() -> Pod {
        Pod { namespace: "default".into(), name: "web".into(), uid: "u1".into() }
    }

    fn of_cri(info: &str) -> Network {
        Sandbox::from_cri("s1", pod(), info).unwrap().network
    }

    #[test]
    fn a_hook_finds_the_sandbox_by_the_containers_process() {
        let state = br#"{"id":"c1","pid":42,"annotations":{"io.kubernetes.cri.sandbox-id":"s1","io.kubernetes.cri.sandbox-name":"web","io.kubernetes.cri.sandbox-namespace":"default","io.kubernetes.cri.sandbox-uid":"u1"}}"#;
        let state = oci::State::from_json(state).unwrap();
        let sandbox = Sandbox::from_oci(&state, Some("/run/netns/a".into()));
        assert_eq!((sandbox.id(), sandbox.pod()), (Some("s1"), Some(&pod())));
        assert_eq!(sandbox.network, Network::OfProcess { pid: Some(42), path: Some("/run/netns/a".into()) });
        assert_eq!(sandbox.container("c1").to_string(), "pod default/web (sandbox s1)");
    }

    #[test]
    fn a_container_without_kubernetes_is_in_no_sandbox() {
        let state = oci::State::from_json(br#"{"id":"c1","pid":0}"#).unwrap();
        let sandbox = Sandbox::from_oci(&state, None);
        assert_eq!(sandbox.network, Network::OfProcess { pid: None, path: None });
        assert_eq!(sandbox.container("c1").to_string(), "container c1");
        assert_eq!(sandbox.owner(Request::Command), None);
    }

    #[test]
    fn an_nri_sandbox_has_a_path_or_a_process_or_neither() {
        let network = |path: Option<&str>, pid| Sandbox::from_nri("s1", pod(), path.map(Into::into), pid).network;
        let path = "/var/run/netns/a".to_owned();
        assert_eq!(network(Some(&path), Some(7)), Network::AtPath { path: path.clone(), pid: Some(7) });
        assert_eq!(network(Some(&path), Some(u32::MAX)), Network::AtPath { path, pid: None });
        assert_eq!(network(Some(""), Some(0)), Network::Unnamed { pid: None });
        assert_eq!(network(None, Some(7)), Network::Unnamed { pid: Some(7) });
        assert_eq!(Sandbox::from_nri("", pod(), None, None).owner(Request::Annotation), None);
    }

    #[test]
    fn a_cri_status_has_the_namespace_in_the_runtimes_own_information() {
        let spec = r#""runtimeSpec":{"ociVersion":"1.2","linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/run/netns/a"}]}}"#;
        let path = "/run/netns/a".to_owned();
        assert_eq!(of_cri(&format!("{{\"pid\":7,{spec}}}")), Network::AtPath { path: path.clone(), pid: Some(7) });
        assert_eq!(of_cri(&format!("{{{spec}}}")), Network::AtPath { path, pid: None }, "CRI-O names no process");
        let host = r#"{"pid":7,"runtimeSpec":{"linux":{"namespaces":[{"type":"ipc"}]}}}"#;
        assert_eq!(of_cri(host), Network::Unnamed { pid: Some(7) });
        assert_eq!(of_cri("{}"), Network::Unnamed { pid: None });
        assert!(Sandbox::from_cri("s1", pod(), "").is_err() && Sandbox::from_cri("s1", pod(), "{").is_err());
    }

    proptest! {
        #[test]
        fn any_information_of_a_runtime_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = Sandbox::from_cri("s1", pod(), &text);
        }
    }
}
