//! What a plugin of NRI does: the trait that its user implements, and what the runtime says of itself.

use std::{
    fmt::{self, Display},
    future::Future,
    time::{Duration, Instant},
};

use crate::pod::{Container, PodSandbox};

/// The behaviour of a plugin.
///
/// Each future runs in a task of its own and is never dropped half way: not at its deadline, not when the runtime
/// disconnects, not at shutdown. So requests for one sandbox can overlap: a runtime that stopped waiting for
/// [`run_pod_sandbox`](Self::run_pod_sandbox) sends [`stop_pod_sandbox`](Self::stop_pod_sandbox) while it still works.
///
/// A handler must return by its `deadline`; work that takes longer continues elsewhere. A little later the runtime gets
/// DEADLINE_EXCEEDED in any case, and what the handler returns then is only logged.
pub trait Plugin: Send + Sync + 'static {
    /// A runtime has connected and sent its name; no other call of that connection comes earlier. Must not block.
    fn configure(&self, runtime: Runtime);

    /// All sandboxes and containers that exist, once for each connection. The runtime has its answer already and may
    /// send requests meanwhile. Never runs twice at once: of lists that arrive meanwhile only the newest is kept.
    fn synchronize(&self, pods: Vec<PodSandbox>, containers: Vec<Container>) -> impl Future<Output = ()> + Send;

    /// A sandbox has its network. An error fails the Pod: the runtime then stops and removes the sandbox.
    fn run_pod_sandbox(&self, pod: PodSandbox, deadline: Instant) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// A container is about to be created. An error fails this container.
    fn create_container(
        &self,
        pod: PodSandbox,
        container: Container,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// The containers of a sandbox have ended. May be called twice, or without a `run_pod_sandbox`, or not at all; the
    /// network namespace may be missing from the Pod or have ended. The runtime only logs an error.
    fn stop_pod_sandbox(&self, pod: PodSandbox, deadline: Instant) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// A sandbox was removed. Otherwise as [`stop_pod_sandbox`](Self::stop_pod_sandbox).
    fn remove_pod_sandbox(
        &self,
        pod: PodSandbox,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// The connection of the last [`configure`](Self::configure) has ended. Must not block.
    fn disconnected(&self) {}
}

/// What a runtime says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// "containerd", "cri-o".
    pub name: String,
    /// Such as "v2.1.5".
    pub version: String,
    /// The version of its NRI library; empty before 0.12.
    pub nri_version: String,
    /// Text of the plugin's file in `/etc/nri/conf.d`; empty for a plugin that the runtime did not start.
    pub config: String,
    /// How long it waits for the answer of a request.
    pub request_timeout: Duration,
}

impl Runtime {
    /// How much of [`request_timeout`](Self::request_timeout) a handler has: the `deadline` that it is given is this
    /// much after the request arrived, or less where the request itself says that there is less.
    pub fn budget(&self) -> Duration {
        crate::deadline::budget(self.request_timeout)
    }
}

/// Most bytes of a refusal; users see it in `kubectl describe pod`.
const LONGEST: usize = 1000;
/// What stands for the rest.
const CUT: &str = "...";

/// Why a request is refused: one line of less than 1 kB, which the user of the Pod reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

impl Refusal {
    /// Takes any text; control characters and line ends become spaces, and what is too long is cut.
    pub fn new(reason: impl Display) -> Self {
        let mut line = Line(String::new());
        // an error of the text's own Display keeps what came before it; one of `Line` says that it is full
        let _ = fmt::write(&mut line, format_args!("{reason}"));
        Self(line.0)
    }

    /// The line.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Collects one line, up to the limit.
struct Line(String);

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let character = if character.is_control() { ' ' } else { character };
            if self.0.len() + character.len_utf8() > LONGEST - CUT.len() {
                self.0.push_str(CUT);
                return Err(fmt::Error);
            }
            self.0.push(character);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_refusal_is_one_line() {
        assert_eq!(Refusal::new("no device\n\teth2\u{7}").as_str(), "no device  eth2 ");
    }

    #[test]
    fn a_refusal_of_ten_thousand_bytes_is_cut_between_characters() {
        let refusal = Refusal::new("é".repeat(5000));
        assert!(refusal.as_str().len() <= LONGEST);
        assert!(refusal.as_str().ends_with("é..."));
    }

    proptest! {
        #[test]
        fn any_text_becomes_a_short_line(text in "\\PC{0,2000}|[\\x00-\\x7f]{0,2000}") {
            let refusal = Refusal::new(&text);
            prop_assert!(refusal.as_str().len() <= LONGEST);
            prop_assert!(!refusal.as_str().chars().any(char::is_control));
        }
    }
}
