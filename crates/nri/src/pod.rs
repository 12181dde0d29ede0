//! Pods and containers as a plugin gets them, made from the messages of the protocol.

use std::collections::BTreeMap;

use proto::nri;

/// A Pod's sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSandbox {
    /// The runtime's id of the sandbox: a new one for each attempt and each restart of the Pod.
    pub id: String,
    /// The Pod's name.
    pub name: String,
    /// The Pod's namespace in Kubernetes.
    pub namespace: String,
    /// The Pod's UID.
    pub uid: String,
    /// Annotations of the Pod and of its OCI spec, as they were when the sandbox was created.
    pub annotations: BTreeMap<String, String>,
    /// Path of the network namespace. `None` for a Pod in the host's, and also for one whose namespace the runtime
    /// forgot (containerd before 2.1, when it stops). A path can be that of the host's namespace, too.
    pub network_namespace: Option<String>,
    /// First process of the sandbox.
    pub pid: Option<u32>,
}

/// A container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id.
    pub id: String,
    /// Its name in the Pod.
    pub name: String,
    /// The id of its sandbox.
    pub sandbox_id: String,
}

impl From<nri::PodSandbox> for PodSandbox {
    fn from(pod: nri::PodSandbox) -> Self {
        let namespaces = pod.linux.map(|linux| linux.namespaces).unwrap_or_default();
        let network = namespaces.into_iter().find(|namespace| namespace.r#type == "network");
        Self {
            id: pod.id,
            name: pod.name,
            namespace: pod.namespace,
            uid: pod.uid,
            annotations: pod.annotations.into_iter().collect(),
            network_namespace: network.map(|network| network.path).filter(|path| !path.is_empty()),
            pid: (pod.pid != 0).then_some(pod.pid),
        }
    }
}

impl From<nri::Container> for Container {
    fn from(container: nri::Container) -> Self {
        Self { id: container.id, name: container.name, sandbox_id: container.pod_sandbox_id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod_with(namespaces: &[(&str, &str)]) -> nri::PodSandbox {
        let namespace = |(r#type, path): &(&str, &str)| nri::LinuxNamespace {
            r#type: (*r#type).to_owned(),
            path: (*path).to_owned(),
        };
        let linux = nri::LinuxPodSandbox { namespaces: namespaces.iter().map(namespace).collect() };
        nri::PodSandbox { linux: Some(linux), ..Default::default() }
    }

    #[test]
    fn the_network_namespace_is_the_path_of_the_entry_of_that_type() {
        let pod = PodSandbox::from(pod_with(&[("pid", "/proc/7/ns/pid"), ("network", "/var/run/netns/cni-1")]));
        assert_eq!(pod.network_namespace.as_deref(), Some("/var/run/netns/cni-1"));
    }

    #[test]
    fn an_absent_and_an_empty_network_namespace_are_the_same() {
        for pod in [pod_with(&[("pid", "/proc/7/ns/pid")]), pod_with(&[("network", "")]), nri::PodSandbox::default()] {
            assert_eq!(PodSandbox::from(pod).network_namespace, None);
        }
    }

    #[test]
    fn process_0_is_none() {
        assert_eq!(PodSandbox::from(nri::PodSandbox::default()).pid, None);
        assert_eq!(PodSandbox::from(nri::PodSandbox { pid: 7, ..Default::default() }).pid, Some(7));
    }
}
