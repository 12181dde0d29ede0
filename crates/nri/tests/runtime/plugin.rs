//! A plugin that tells what it sees, and does what a Pod's annotations say.

use std::{
    future::Future,
    sync::Mutex,
    time::{Duration, Instant},
};

use nri::{Container, Plugin, PodSandbox, Refusal, Runtime};
use tokio::sync::{Semaphore, mpsc};

/// With this annotation a handler works until it is let go.
pub(crate) const HOLD: &str = "test/hold";
/// With this one it refuses for the reason that is the value.
pub(crate) const REFUSE: &str = "test/refuse";
/// With this one it panics.
pub(crate) const PANIC: &str = "test/panic";

/// What the plugin saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    Configured(Runtime),
    Synchronizing(Vec<PodSandbox>, Vec<Container>),
    Synchronized,
    Began(&'static str, PodSandbox),
    Done(&'static str),
    Disconnected,
}

#[derive(Debug)]
pub(crate) struct TestPlugin {
    seen: mpsc::UnboundedSender<Seen>,
    /// A permit lets one held handler go.
    pub(crate) held: Semaphore,
    /// A permit lets one synchronisation go.
    pub(crate) synchronizing: Semaphore,
    /// How long the last handler had.
    pub(crate) had: Mutex<Option<Duration>>,
}

impl TestPlugin {
    pub(crate) fn new(seen: mpsc::UnboundedSender<Seen>) -> Self {
        Self { seen, held: Semaphore::new(0), synchronizing: Semaphore::new(1 << 20), had: Mutex::default() }
    }

    fn tell(&self, seen: Seen) {
        // a test may have ended
        let _ = self.seen.send(seen);
    }

    async fn handle(&self, name: &'static str, pod: PodSandbox, deadline: Instant) -> Result<(), Refusal> {
        let now = tokio::time::Instant::now().into_std();
        *self.had.lock().unwrap() = Some(deadline.duration_since(now));
        self.tell(Seen::Began(name, pod.clone()));
        if pod.annotations.contains_key(HOLD) {
            self.held.acquire().await.unwrap().forget();
        }
        assert!(!pod.annotations.contains_key(PANIC), "as the Pod wants");
        self.tell(Seen::Done(name));
        pod.annotations.get(REFUSE).map_or(Ok(()), |reason| Err(Refusal::new(reason)))
    }
}

impl Plugin for TestPlugin {
    fn configure(&self, runtime: Runtime) {
        self.tell(Seen::Configured(runtime));
    }

    async fn synchronize(&self, pods: Vec<PodSandbox>, containers: Vec<Container>) {
        self.tell(Seen::Synchronizing(pods, containers));
        self.synchronizing.acquire().await.unwrap().forget();
        self.tell(Seen::Synchronized);
    }

    fn run_pod_sandbox(&self, pod: PodSandbox, deadline: Instant) -> impl Future<Output = Result<(), Refusal>> + Send {
        self.handle("run", pod, deadline)
    }

    async fn create_container(&self, pod: PodSandbox, container: Container, deadline: Instant) -> Result<(), Refusal> {
        assert_eq!(container.sandbox_id, pod.id);
        self.handle("create", pod, deadline).await
    }

    async fn stop_pod_sandbox(&self, pod: PodSandbox, deadline: Instant) -> Result<(), Refusal> {
        self.handle("stop", pod, deadline).await
    }

    async fn remove_pod_sandbox(&self, pod: PodSandbox, deadline: Instant) -> Result<(), Refusal> {
        self.handle("remove", pod, deadline).await
    }

    fn disconnected(&self) {
        self.tell(Seen::Disconnected);
    }
}
