//! The OCI state that a runtime writes to a hook's standard input (runtime-spec, `runtime.md`, "State").
//!
//! Runtimes differ: crun writes several lines, escapes slashes and has version "1.0". After the end of the container runc
//! omits the pid, and crun writes 0.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::owner::Pod;

/// Longest state in bytes. A state has the Pod's annotations, which Kubernetes limits to 256 KiB.
pub const MAX_STATE: usize = 4 << 20;

/// The fields that a hook needs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct State {
    /// Container id, unique on the node.
    pub id: String,
    /// Pid of the container's first process in the runtime's namespace; none or 0 after its end.
    #[serde(default)]
    pid: Option<i64>,
    /// Directory with `config.json`.
    #[serde(default)]
    pub bundle: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// Why a state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// No input.
    #[error("no OCI state on standard input: a runtime starts this program as a hook")]
    Empty,
    /// Longer than the limit.
    #[error("the OCI state on standard input is too long: the limit is {MAX_STATE} bytes")]
    TooLarge,
    /// Not JSON, or not a state.
    #[error("invalid OCI state on standard input: {0}")]
    Form(serde_json::Error),
    /// No id of the container, which identifies the owner.
    #[error("the OCI state has an empty id")]
    NoId,
}

impl From<serde_json::Error> for StateError {
    fn from(error: serde_json::Error) -> Self {
        Self::Form(error)
    }
}

impl State {
    /// Reads the text from standard input.
    ///
    /// # Errors
    ///
    /// The first thing that makes it unusable. A missing pid does not.
    pub fn from_json(text: &[u8]) -> Result<Self, StateError> {
        if text.len() > MAX_STATE {
            return Err(StateError::TooLarge);
        }
        if text.iter().all(u8::is_ascii_whitespace) {
            return Err(StateError::Empty);
        }
        let state: Self = serde_json::from_slice(text)?;
        if state.id.is_empty() { Err(StateError::NoId) } else { Ok(state) }
    }

    /// The pid of the container's first process; none before create and once the container exited.
    pub fn pid(&self) -> Option<i32> {
        self.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0)
    }

    /// The first of these annotations that is not empty.
    fn annotation(&self, keys: &[&str]) -> Option<String> {
        let annotations = self.annotations.as_ref()?;
        keys.iter().find_map(|key| annotations.get(*key).filter(|value| !value.is_empty())).cloned()
    }

    /// Id of the Pod's sandbox, by the annotation of containerd or of CRI-O; none without Kubernetes.
    pub fn sandbox_id(&self) -> Option<String> {
        self.annotation(&["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"])
    }

    /// The Pod, by the annotations of containerd or of CRI-O; none without Kubernetes.
    pub fn pod(&self) -> Option<Pod> {
        Some(Pod {
            namespace: self.annotation(&["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"])?,
            name: self.annotation(&["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"])?,
            uid: self.annotation(&["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"])?,
        })
    }
}

/// The part of a container's `config.json` that has its network namespace.
#[derive(Debug, Deserialize)]
pub struct Config {
    #[serde(default)]
    linux: ConfigLinux,
}

#[derive(Debug, Default, Deserialize)]
struct ConfigLinux {
    #[serde(default)]
    namespaces: Vec<ConfigNamespace>,
}

#[derive(Debug, Deserialize)]
struct ConfigNamespace {
    #[serde(rename = "type")]
    kind: String,
    path: Option<String>,
}

impl Config {
    /// The path of the network namespace, if the container joins an existing one.
    ///
    /// # Errors
    ///
    /// When the text is not a configuration.
    pub fn network_namespace(text: &[u8]) -> Result<Option<String>, serde_json::Error> {
        Ok(serde_json::from_slice::<Self>(text)?.into_network_namespace())
    }

    pub(crate) fn into_network_namespace(self) -> Option<String> {
        let network = self.linux.namespaces.into_iter().find(|namespace| namespace.kind == "network");
        network.and_then(|namespace| namespace.path).filter(|path| !path.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_state_of_runc_is_read() {
        let state = State::from_json(
            br#"{"ociVersion":"1.2.1","id":"c1","status":"creating","pid":42,"bundle":"/run/b","annotations":{"io.kubernetes.cri.sandbox-id":"s1","io.kubernetes.cri.sandbox-name":"web","io.kubernetes.cri.sandbox-namespace":"default","io.kubernetes.cri.sandbox-uid":"u1"}}"#,
        )
        .unwrap();
        assert_eq!((state.pid(), state.sandbox_id().as_deref()), (Some(42), Some("s1")));
        assert_eq!(state.pod().unwrap().to_string(), "default/web");
    }

    #[test]
    fn the_state_of_crun_is_read_with_escaped_slashes_over_lines() {
        let text = "{\n  \"ociVersion\": \"1.0\",\n  \"id\": \"c1\",\n  \"pid\": 0,\n  \"root\": \"\\/x\",\n  \"bundle\": \"\\/run\\/b\"\n}\n";
        let state = State::from_json(text.as_bytes()).unwrap();
        assert_eq!(state.bundle, "/run/b");
        assert_eq!((state.pid(), state.sandbox_id(), state.pod()), (None, None, None));
    }

    #[test]
    fn unusable_states_say_what_is_wrong() {
        let huge = vec![b' '; MAX_STATE + 1];
        let table = [
            (&b""[..], "no OCI state"),
            (b" \n", "no OCI state"),
            (b"{\"id\":\"c1\"", "invalid OCI state on standard input: EOF"),
            (b"{}", "missing field `id`"),
            (b"{\"id\":\"\"}", "empty id"),
            (b"[]", "invalid OCI state"),
            (&huge, "is too long"),
        ];
        for (text, part) in table {
            assert!(State::from_json(text).unwrap_err().to_string().contains(part), "{part}");
        }
        for pid in ["-1", "0", "4294967296", "null"] {
            let state = State::from_json(format!("{{\"id\":\"c\",\"pid\":{pid}}}").as_bytes()).unwrap();
            assert_eq!(state.pid(), None, "{pid}");
        }
    }

    #[test]
    fn the_namespace_of_a_configuration_is_found() {
        let text = br#"{"linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/proc/7/ns/net"}]}}"#;
        assert_eq!(Config::network_namespace(text).unwrap().as_deref(), Some("/proc/7/ns/net"));
        assert_eq!(Config::network_namespace(b"{}").unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = State::from_json(&bytes);
            let _ = Config::network_namespace(&bytes);
        }
    }
}
