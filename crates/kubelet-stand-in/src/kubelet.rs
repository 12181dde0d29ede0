//! The kubelet as a whole: it starts, serves, allocates, ends and starts again.

use std::{
    fs, io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use proto::deviceplugin as wire;
use proto::deviceplugin::registration_server::RegistrationServer;
use tokio::{net::UnixListener, sync::watch, time::timeout};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, transport::Server};

use crate::{
    registration::{Behaviour, Run},
    state::KubeletState,
};

/// How long [`Kubelet::until`] waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// A kubelet in a directory of its own.
#[derive(Debug)]
pub struct Kubelet {
    folder: PathBuf,
    state: Arc<watch::Sender<KubeletState>>,
    behaviour: watch::Sender<Behaviour>,
    run: Run,
    listening: CancellationToken,
    tasks: TaskTracker,
}

impl Kubelet {
    /// Starts in that directory, which is created if it is missing: all sockets in it are removed, `kubelet.sock` is created.
    ///
    /// # Errors
    ///
    /// When the directory or the socket cannot be created.
    pub fn start(folder: &Path) -> io::Result<Self> {
        let behaviour = watch::Sender::new(Behaviour::Right);
        let (state, tasks) = (Arc::default(), TaskTracker::new());
        let run = Run::new(folder, Arc::clone(&state), behaviour.subscribe(), tasks.clone());
        let listening = CancellationToken::new();
        let mut kubelet = Self { folder: folder.to_owned(), state, behaviour, run, listening, tasks };
        kubelet.start_again()?;
        Ok(kubelet)
    }

    /// Ends as a process does: connections close, the socket's file stays.
    pub fn stop(&mut self) {
        self.run.end.cancel();
        self.listening.cancel();
    }

    /// Starts after [`stop`](Self::stop): all sockets in the directory are removed, `kubelet.sock` is created.
    ///
    /// # Errors
    ///
    /// When the directory or the socket cannot be created.
    pub fn start_again(&mut self) -> io::Result<()> {
        self.stop();
        fs::create_dir_all(&self.folder)?;
        for entry in fs::read_dir(&self.folder)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
                fs::remove_file(entry.path())?;
            }
        }
        self.state.send_replace(KubeletState::default());
        self.run = Run::new(&self.folder, self.state.clone(), self.behaviour.subscribe(), self.tasks.clone());
        self.listen()
    }

    /// Makes `kubelet.sock` anew, with nothing else changed.
    ///
    /// # Errors
    ///
    /// When the socket cannot be made.
    pub fn replace_socket(&mut self) -> io::Result<()> {
        self.listening.cancel();
        fs::remove_file(self.folder.join("kubelet.sock"))?;
        self.listen()
    }

    fn listen(&mut self) -> io::Result<()> {
        let listener = UnixListenerStream::new(UnixListener::bind(self.folder.join("kubelet.sock"))?);
        self.listening = CancellationToken::new();
        let end = self.listening.clone().cancelled_owned();
        let service = RegistrationServer::new(self.run.clone());
        self.tasks.spawn(Server::builder().serve_with_incoming_shutdown(service, listener, end));
        Ok(())
    }

    /// What it does from now on when a plugin registers.
    pub fn behave(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// What it knows now.
    pub fn state(&self) -> KubeletState {
        self.state.borrow().clone()
    }

    /// Follows what it knows.
    pub fn subscribe(&self) -> watch::Receiver<KubeletState> {
        self.state.subscribe()
    }

    /// Looks at what it knows now.
    pub fn with_state<T>(&self, look: impl FnOnce(&KubeletState) -> T) -> T {
        look(&self.state.borrow())
    }

    /// Waits until it knows something.
    ///
    /// # Panics
    ///
    /// When that takes longer than 20 s.
    pub async fn until(&self, what: &str, is_so: impl Fn(&KubeletState) -> bool) -> KubeletState {
        let mut state = self.state.subscribe();
        if let Ok(Ok(state)) = timeout(PATIENCE, state.wait_for(is_so)).await {
            return state.clone();
        }
        panic!("{what}: not so after {PATIENCE:?}, but {:#?}", self.state())
    }

    /// Asks the plugin for a preference.
    ///
    /// # Errors
    ///
    /// The plugin's.
    pub async fn prefer(
        &self,
        resource: &str,
        available: Vec<String>,
        must: Vec<String>,
        size: i32,
    ) -> Result<Vec<String>, Status> {
        let request = wire::ContainerPreferredAllocationRequest {
            available_device_i_ds: available,
            must_include_device_i_ds: must,
            allocation_size: size,
        };
        let request = wire::PreferredAllocationRequest { container_requests: vec![request] };
        let mut plugin = self.plugin(resource)?;
        let answer = plugin.get_preferred_allocation(request).await?.into_inner();
        Ok(answer.container_responses.into_iter().flat_map(|container| container.device_i_ds).collect())
    }

    /// Allocates these devices to a container, as at the admission of a Pod.
    ///
    /// # Errors
    ///
    /// The plugin's.
    pub async fn allocate(&self, resource: &str, ids: &[&str]) -> Result<wire::ContainerAllocateResponse, Status> {
        let devices_ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        let container = wire::ContainerAllocateRequest { devices_ids: devices_ids.clone() };
        let request = wire::AllocateRequest { container_requests: vec![container] };
        let mut plugin = self.plugin(resource)?;
        let answer = plugin.allocate(request).await?.into_inner();
        self.state.send_modify(|state| {
            state.resources.entry(resource.to_owned()).or_default().in_use.extend(devices_ids);
        });
        answer.container_responses.into_iter().next().ok_or_else(|| Status::unknown("no answer for the container"))
    }

    /// Allocates so many devices that are healthy and free, those that the plugin prefers.
    ///
    /// # Errors
    ///
    /// The plugin's, or that there are too few.
    pub async fn allocate_any(&self, resource: &str, count: usize) -> Result<wire::ContainerAllocateResponse, Status> {
        let known = self.state().resources.remove(resource).unwrap_or_default();
        let mut ids = known.available();
        if ids.len() < count {
            let text = format!("requested {count} devices of {resource}, available {}", ids.len());
            return Err(Status::resource_exhausted(text));
        }
        if known.has_preference {
            let size = i32::try_from(count).unwrap_or(i32::MAX);
            ids = self.prefer(resource, ids, Vec::new(), size).await?;
        }
        ids.truncate(count);
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        self.allocate(resource, &ids).await
    }

    /// The Pods that had these devices are gone.
    pub fn release(&self, resource: &str, ids: &[&str]) {
        self.state.send_modify(|state| {
            let resource = state.resources.entry(resource.to_owned()).or_default();
            resource.in_use.retain(|id| !ids.contains(&id.as_str()));
        });
    }

    fn plugin(
        &self,
        resource: &str,
    ) -> Result<wire::device_plugin_client::DevicePluginClient<tonic::transport::Channel>, Status> {
        let client = self.run.client(resource);
        client.map(|client| client.plugin).ok_or_else(|| Status::unavailable(format!("no plugin of {resource}")))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop();
    }
}
