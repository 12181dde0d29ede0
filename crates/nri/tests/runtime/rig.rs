//! A plugin that runs, what it sees, and its end.

use std::{future::Future, path::Path, sync::Arc, time::Duration};

use nri::{
    Config, ConnectionState, Connector, Container, Error, PodSandbox,
    stand_in::{Listener, Peer},
};
use tempfile::TempDir;
use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::plugin::{Seen, TestPlugin};

/// Nothing takes as long, however slow the machine is.
const LONG: Duration = Duration::from_secs(60);

/// What must happen, and does not hang when it does not.
pub(crate) async fn within<T>(happening: impl Future<Output = T>) -> T {
    timeout(LONG, happening).await.expect("what the test waits for does not happen")
}

pub(crate) struct Rig {
    pub(crate) plugin: Arc<TestPlugin>,
    pub(crate) state: watch::Receiver<ConnectionState>,
    pub(crate) shutdown: CancellationToken,
    seen: mpsc::UnboundedReceiver<Seen>,
    running: JoinHandle<Result<(), Error>>,
}

impl Rig {
    pub(crate) fn start(config: Config) -> Self {
        let (sender, seen) = mpsc::unbounded_channel();
        let plugin = Arc::new(TestPlugin::new(sender));
        let connector = Connector::new(config, plugin.clone());
        let (state, shutdown) = (connector.state(), CancellationToken::new());
        let running = tokio::spawn(connector.run(shutdown.clone()));
        Self { plugin, state, shutdown, seen, running }
    }

    /// As if the runtime had started the plugin.
    pub(crate) fn connected() -> (Self, Peer) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let config = Config::connected("netdevice", "10", ours.into_std().unwrap()).unwrap();
        (Self::start(config), Peer::over(theirs))
    }

    /// A plugin that connects to this socket by itself.
    pub(crate) fn external(socket: &Path) -> Self {
        Self::start(Config::external("netdevice", "10", socket.to_owned()).unwrap())
    }

    /// The next thing that the plugin saw.
    pub(crate) async fn next(&mut self) -> Seen {
        within(self.seen.recv()).await.expect("the plugin is there")
    }

    /// Skips what the plugin saw, up to this.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Seen) -> bool) {
        while !wanted(&self.next().await) {}
    }

    pub(crate) async fn until_began(&mut self, name: &str) {
        self.until(|seen| matches!(seen, Seen::Began(began, _) if *began == name)).await;
    }

    pub(crate) async fn until_state(&mut self, wanted: impl Fn(&ConnectionState) -> bool) -> ConnectionState {
        within(self.state.wait_for(|state| wanted(state))).await.unwrap().clone()
    }

    /// The end of the plugin, asked for or not.
    pub(crate) async fn end(self) -> Result<(), Error> {
        within(self.running).await.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.end().await.unwrap();
    }
}

/// A runtime's socket in a folder of its own.
pub(crate) struct Socket {
    folder: TempDir,
}

impl Socket {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("nri.sock")
    }

    pub(crate) fn listen(&self) -> Listener {
        Listener::bind(&self.path()).unwrap()
    }
}

pub(crate) async fn accept(listener: &Listener) -> Peer {
    within(listener.accept()).await.unwrap()
}

/// A Pod with these annotations.
pub(crate) fn pod(id: &str, annotations: &[(&str, &str)]) -> PodSandbox {
    PodSandbox {
        id: id.into(),
        name: format!("pod-{id}"),
        namespace: "default".into(),
        uid: format!("uid-{id}"),
        annotations: annotations.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        network_namespace: Some(format!("/var/run/netns/cni-{id}")),
        pid: Some(4711),
    }
}

pub(crate) fn container_of(pod: &PodSandbox) -> Container {
    Container { id: format!("c-{}", pod.id), name: "web".into(), sandbox_id: pod.id.clone() }
}
