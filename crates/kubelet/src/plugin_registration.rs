//! Registration by a socket in `plugins_registry`: the kubelet connects to the socket, requests the plugin's information, and
//! reports whether it uses the plugin (API `pluginregistration`, v1).
//!
//! A kubelet that starts finds the sockets by itself. It ignores names that begin with a dot.

use std::path::Path;

use proto::pluginregistration::{
    self as wire,
    registration_server::{Registration, RegistrationServer},
};
use tokio::sync::watch;
use tokio_stream::{StreamExt, wrappers::UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::Server};

use crate::{
    authority::ReadableAuthority,
    error::Error,
    plugin_socket::{PluginSocket, remove_stale},
};

/// The information about a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginInfo {
    /// What kind of plugin it is.
    pub kind: PluginKind,
    /// The driver's name, or that of the resource.
    pub name: String,
    /// The socket on which the kubelet calls the plugin, an absolute path.
    pub endpoint: String,
    /// Versions of the plugin's API, the preferred one first.
    pub versions: Vec<String>,
}

/// Kinds of plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginKind {
    /// A driver for Dynamic Resource Allocation.
    Dra,
    /// A device plugin.
    Device,
}

/// The kubelet's answer to a registration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RegistrationState {
    /// The kubelet has not answered yet.
    #[default]
    Pending,
    /// The kubelet uses the plugin.
    Registered,
    /// The kubelet does not use the plugin, for this reason.
    Refused(String),
}

/// The server on a plugin's registration socket.
#[derive(Debug)]
pub struct PluginRegistration {
    info: PluginInfo,
    state: watch::Sender<RegistrationState>,
}

impl PluginRegistration {
    /// Prepares; nothing is served yet.
    pub fn new(info: PluginInfo) -> Self {
        Self { info, state: watch::Sender::default() }
    }

    /// The kubelet's answer, and its changes.
    pub fn state(&self) -> watch::Receiver<RegistrationState> {
        self.state.subscribe()
    }

    /// Serves on that socket until `shutdown`, at which the socket is removed and the kubelet removes the plugin. The
    /// plugin must serve on its endpoint already. A socket of a killed instance is replaced.
    ///
    /// # Errors
    ///
    /// When the socket cannot be created or served.
    pub async fn serve(self, socket: &Path, shutdown: CancellationToken) -> Result<(), Error> {
        if let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) {
            remove_stale(directory, |entry| name == entry).await;
        }
        let (kept, listener) = PluginSocket::bind(socket.to_owned())?;
        let connections = UnixListenerStream::new(listener).map(|stream| stream.map(ReadableAuthority::new));
        let (service, shutdown) = (RegistrationServer::new(self), shutdown.cancelled_owned());
        let served = Server::builder().serve_with_incoming_shutdown(service, connections, shutdown).await;
        drop(kept);
        served.map_err(|cause| Error::ServeFailed { socket: socket.to_owned(), cause })
    }
}

#[tonic::async_trait]
impl Registration for PluginRegistration {
    async fn get_info(&self, _: Request<wire::InfoRequest>) -> Result<Response<wire::PluginInfo>, Status> {
        let PluginInfo { kind, name, endpoint, versions } = self.info.clone();
        let kind = match kind {
            PluginKind::Dra => "DRAPlugin",
            PluginKind::Device => "DevicePlugin",
        };
        Ok(Response::new(wire::PluginInfo { r#type: kind.into(), name, endpoint, supported_versions: versions }))
    }

    async fn notify_registration_status(
        &self,
        status: Request<wire::RegistrationStatus>,
    ) -> Result<Response<wire::RegistrationStatusResponse>, Status> {
        let wire::RegistrationStatus { plugin_registered, error } = status.into_inner();
        let state = if plugin_registered { RegistrationState::Registered } else { RegistrationState::Refused(error) };
        self.state.send_replace(state);
        Ok(Response::new(wire::RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::pluginregistration::registration_client::RegistrationClient;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{UnixListener, UnixStream},
        task::JoinSet,
        time::timeout,
    };

    use super::*;
    use crate::authority::tests::{ENCODED, LOCALHOST, PATH, frame, headers, unhex};

    const SOON: Duration = Duration::from_secs(20);

    fn registration() -> PluginRegistration {
        PluginRegistration::new(PluginInfo {
            kind: PluginKind::Dra,
            name: "netdevice.example".into(),
            endpoint: "/var/lib/kubelet/plugins/netdevice.example/dra.sock".into(),
            versions: vec!["v1.DRAPlugin".into(), "v1beta1.DRAPlugin".into()],
        })
    }

    /// The types and payloads of the frames of stream 1 that answer GetInfo with that header block, up to the last one.
    async fn get_info(socket: &Path, block: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut stream = loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let settings = frame(4, 0, 0, b"");
        // a message of gRPC without a byte, which ends the request
        let body = frame(0, 1, 1, &[0; 5]);
        let request = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], &headers(block), &body].concat();
        stream.write_all(&request).await.unwrap();
        let mut frames = Vec::new();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            stream.read_exact(&mut payload).await.unwrap();
            let (kind, flags, of_request) = (head[3], head[4], head[8] == 1);
            if of_request && kind != 8 {
                frames.push((kind, payload));
                // trailers end the stream, or RST_STREAM
                if flags & 1 == 1 || kind == 3 {
                    return frames;
                }
            }
        }
    }

    #[tokio::test]
    async fn a_kubelet_that_sends_the_socket_path_as_authority_is_answered() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("netdevice-reg.sock");
        drop(UnixListener::bind(&socket).unwrap());
        let (mut tasks, shutdown) = (JoinSet::new(), CancellationToken::new());
        let (registration, path) = (registration(), socket.clone());
        let end = shutdown.clone();
        tasks.spawn(async move { registration.serve(&path, end).await });
        for (name, block) in [("encoded", ENCODED), ("path", PATH), ("localhost", LOCALHOST)] {
            let frames = timeout(SOON, get_info(&socket, &unhex(block))).await.expect(name);
            let bodies: Vec<&Vec<u8>> = frames.iter().filter(|(kind, _)| *kind == 0).map(|(_, body)| body).collect();
            assert_eq!(bodies.len(), 1, "{name}: {frames:?}");
            let text = String::from_utf8_lossy(bodies[0]);
            assert!(text.contains("DRAPlugin") && text.contains("netdevice.example"), "{name}: {text}");
        }
        shutdown.cancel();
        timeout(SOON, tasks.join_next()).await.unwrap().unwrap().unwrap().unwrap();
        assert!(!socket.exists());
    }

    /// Why [`ReadableAuthority`] is needed. When this test fails, it is no longer needed.
    #[tokio::test]
    async fn without_a_readable_authority_such_a_request_is_reset() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("netdevice-reg.sock");
        let listener = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(Server::builder().serve_with_incoming(RegistrationServer::new(registration()), listener));
        // RST_STREAM with PROTOCOL_ERROR
        let reset = vec![(3, vec![0, 0, 0, 1])];
        for block in [ENCODED, PATH] {
            assert_eq!(timeout(SOON, get_info(&socket, &unhex(block))).await.unwrap(), reset);
        }
    }

    #[tokio::test]
    async fn the_kubelets_answer_is_published() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("netdevice-reg.sock");
        let (mut tasks, shutdown) = (JoinSet::new(), CancellationToken::new());
        let (registration, path) = (registration(), socket.clone());
        let mut state = registration.state();
        let end = shutdown.clone();
        tasks.spawn(async move { registration.serve(&path, end).await });
        while !socket.exists() {
            tokio::task::yield_now().await;
        }
        let mut kubelet = RegistrationClient::new(crate::connect(&socket, SOON).await.unwrap());
        assert_eq!(*state.borrow_and_update(), RegistrationState::Pending);
        let refused = wire::RegistrationStatus { plugin_registered: false, error: "no such version".into() };
        kubelet.notify_registration_status(refused).await.unwrap();
        assert_eq!(*state.borrow_and_update(), RegistrationState::Refused("no such version".into()));
        let registered = wire::RegistrationStatus { plugin_registered: true, error: String::new() };
        kubelet.notify_registration_status(registered).await.unwrap();
        assert_eq!(*state.borrow_and_update(), RegistrationState::Registered);
        drop(kubelet);
        shutdown.cancel();
        timeout(SOON, tasks.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    }
}
