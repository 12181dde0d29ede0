//! All Pods and containers, as a runtime lists them: collected from parts, and passed to the plugin beside the requests.

use std::sync::{Mutex, PoisonError};

use proto::{nri, ttrpc::Status};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    plugin::Plugin,
    pod::{Container, PodSandbox},
    ttrpc::{Code, status},
};

/// Most bytes of all parts together.
const LONGEST: usize = 64 << 20;

/// Every sandbox and container of a runtime.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Everything {
    pub(crate) pods: Vec<PodSandbox>,
    pub(crate) containers: Vec<Container>,
}

/// The parts that have arrived so far.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    so_far: Everything,
    bytes: usize,
}

impl Parts {
    /// Adds a part of so many bytes on the wire; the last one completes the whole.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED when all together is too much; the runtime then ends the connection.
    pub(crate) fn add(&mut self, part: nri::SynchronizeRequest, bytes: usize) -> Result<Option<Everything>, Status> {
        self.bytes += bytes;
        if self.bytes > LONGEST {
            *self = Self::default();
            return Err(status(
                Code::ResourceExhausted,
                format!("the list of all pods is longer than {LONGEST} bytes"),
            ));
        }
        self.so_far.pods.extend(part.pods.into_iter().map(PodSandbox::from));
        self.so_far.containers.extend(part.containers.into_iter().map(Container::from));
        Ok((!part.more).then(|| std::mem::take(self).so_far))
    }
}

/// Where the complete list waits for the plugin.
#[derive(Debug, Default)]
pub(crate) struct Synchronizer {
    newest: Mutex<Option<Everything>>,
    has_come: Notify,
}

impl Synchronizer {
    /// Replaces the list that waits: an older one of the same Pods.
    pub(crate) fn hand_over(&self, everything: Everything) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(everything);
        self.has_come.notify_one();
    }

    fn take(&self) -> Option<Everything> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Passes on one list after another until it is stopped.
    pub(crate) async fn run<P: Plugin>(&self, plugin: &P, stop: CancellationToken) {
        while stop.run_until_cancelled(self.has_come.notified()).await.is_some() {
            if let Some(Everything { pods, containers }) = self.take() {
                plugin.synchronize(pods, containers).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(id: &str, more: bool) -> nri::SynchronizeRequest {
        let pod = nri::PodSandbox { id: id.into(), ..Default::default() };
        let container = nri::Container { id: id.into(), ..Default::default() };
        nri::SynchronizeRequest { pods: vec![pod], containers: vec![container], more }
    }

    #[test]
    fn parts_become_one_whole_with_the_last() {
        let mut parts = Parts::default();
        assert_eq!(parts.add(part("a", true), 10).unwrap(), None);
        let whole = parts.add(part("b", false), 10).unwrap().unwrap();
        assert_eq!(whole.pods.iter().map(|pod| &pod.id[..]).collect::<String>(), "ab");
        assert_eq!(whole.containers.len(), 2);
        assert_eq!(parts.add(part("c", false), 10).unwrap().unwrap().pods.len(), 1, "nothing of it is left");
    }

    #[test]
    fn more_than_64_mib_is_refused_and_forgotten() {
        let mut parts = Parts::default();
        assert_eq!(parts.add(part("a", true), LONGEST).unwrap(), None);
        assert_eq!(parts.add(part("b", true), 1).unwrap_err().code, Code::ResourceExhausted as i32);
        assert!(parts.so_far.pods.is_empty());
    }
}
