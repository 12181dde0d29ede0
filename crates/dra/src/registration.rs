//! The driver's sockets: the services on one, the registration on the other, which the kubelet finds by itself.
//!
//! Two instances serve side by side while the agent is updated: each has sockets of its own, named after its Pod, and the kubelet
//! calls the one that registered last. Both sockets are removed at the end. When one of them is deleted by another program, both
//! are made anew: the kubelet removes a plugin whose registration socket is gone, and connects to the one that appears.

use std::{
    fs::DirBuilder,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kubelet::{
    MAX_PATH, PluginInfo, PluginKind, PluginRegistration, PluginSocket, ReadableAuthority, RegistrationState,
    remove_stale,
};
use netdevice::claims::DRIVER;
use proto::{dra, dra_v1beta1, drahealth, drahealth_v1alpha1};
use tokio::{sync::watch, time::sleep};
use tokio_stream::{StreamExt, wrappers::UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use wake::{Backoff, Directories, FileIdentity};

use crate::{driver::Driver, health::HealthService, service::Service, services::Services, settings::Paths};

/// How often the sockets are looked at whatever inotify says.
const POLL: Duration = Duration::from_secs(5);
/// Pauses after failures.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The paths of the sockets of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sockets {
    pub(crate) registration: PathBuf,
    pub(crate) service: PathBuf,
}

impl Sockets {
    pub(crate) fn of(paths: &Paths, instance: Option<&str>) -> Self {
        let named = |instance: Option<&str>| match instance {
            None => Self {
                registration: paths.registry.join(format!("{DRIVER}-reg.sock")),
                service: paths.plugin.join("dra.sock"),
            },
            Some(instance) => Self {
                registration: paths.registry.join(format!("{DRIVER}-{instance}-reg.sock")),
                service: paths.plugin.join(format!("dra-{instance}.sock")),
            },
        };
        let sockets = named(instance);
        let is_too_long = |path: &Path| path.as_os_str().len() > MAX_PATH;
        match instance {
            Some(instance) if is_too_long(&sockets.registration) || is_too_long(&sockets.service) => {
                let mut hasher = DefaultHasher::new();
                instance.hash(&mut hasher);
                named(Some(&format!("{:016x}", hasher.finish())))
            }
            _ => sockets,
        }
    }
}

/// Serves and stays registered until `shutdown`.
pub(crate) async fn run(driver: Arc<Driver>, state: watch::Sender<RegistrationState>, shutdown: CancellationToken) {
    let sockets = Sockets::of(&driver.settings.paths, driver.settings.instance.as_deref());
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    while !shutdown.is_cancelled() {
        let result = serve(&driver, &sockets, &state, &shutdown).await;
        state.send_replace(RegistrationState::Pending);
        match result {
            Ok(()) => backoff.reset(),
            Err(error) => {
                tracing::warn!("claims: {error}");
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = sleep(backoff.next_pause()) => {}
                }
            }
        }
    }
}

/// Serves until `shutdown`, or until one of the sockets is gone.
async fn serve(
    driver: &Arc<Driver>,
    sockets: &Sockets,
    state: &watch::Sender<RegistrationState>,
    shutdown: &CancellationToken,
) -> Result<(), kubelet::Error> {
    let Paths { registry, plugin, .. } = &driver.settings.paths;
    // a directory that cannot be made is reported with the socket
    let _ = DirBuilder::new().recursive(true).mode(0o750).create(plugin);
    remove_stale(plugin, |name| name.starts_with("dra") && name.ends_with(".sock")).await;
    remove_stale(registry, |name| name.starts_with(DRIVER) && name.ends_with("-reg.sock")).await;
    let mut directories = Directories::new([registry, plugin], POLL);
    let (socket, listener) = PluginSocket::bind(sockets.service.clone())?;
    let stop = shutdown.child_token();
    let service = Service(driver.clone());
    let (node, views) = (driver.settings.node.as_str().into(), driver.settings.views.clone());
    let health = HealthService { node, views, stop: stop.clone() };
    let connections = UnixListenerStream::new(listener).map(|stream| stream.map(ReadableAuthority::new));
    let services = Server::builder().serve_with_incoming_shutdown(
        Services::new(service, health),
        connections,
        stop.clone().cancelled_owned(),
    );
    let registration = PluginRegistration::new(PluginInfo {
        kind: PluginKind::Dra,
        name: DRIVER.into(),
        endpoint: sockets.service.to_string_lossy().into_owned(),
        versions: [dra::VERSION, dra_v1beta1::VERSION, drahealth::VERSION, drahealth_v1alpha1::VERSION]
            .map(str::to_owned)
            .into(),
    });
    let mut answer = registration.state();
    let registered = registration.serve(&sockets.registration, stop.clone());
    let watched = async {
        let mut identity = None;
        loop {
            let now = FileIdentity::of(&sockets.registration);
            if !socket.is_there() || identity.is_some() && now != identity {
                tracing::info!("claims: a socket of the driver was removed");
                break;
            }
            identity = now;
            tokio::select! {
                _ = directories.changed() => {}
                Ok(()) = answer.changed() => publish(&answer.borrow_and_update(), state),
                () = stop.cancelled() => break,
            }
        }
        stop.cancel();
    };
    let failed = |cause| kubelet::Error::ServeFailed { socket: sockets.service.clone(), cause };
    let served = async {
        let served = services.await.map_err(failed);
        stop.cancel();
        served
    };
    let registered = async {
        let registered = registered.await;
        stop.cancel();
        registered
    };
    let (served, registered, ()) = tokio::join!(served, registered, watched);
    served.and(registered)
}

fn publish(answer: &RegistrationState, state: &watch::Sender<RegistrationState>) {
    match answer {
        RegistrationState::Registered => tracing::info!("claims: registered with the kubelet"),
        RegistrationState::Refused(reason) => tracing::warn!("claims: the kubelet refused the driver: {reason}"),
        RegistrationState::Pending => {}
    }
    state.send_replace(answer.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_instance_has_sockets_of_its_own_and_their_paths_are_short_enough() {
        let uid = "0c1d5b7e-0a0b-4c4d-8e8f-000000000000";
        let usual = Paths::of_kubelet(Path::new("/var/lib/kubelet"));
        let names = |paths: &Paths, instance: Option<&str>| {
            let sockets = Sockets::of(paths, instance);
            assert!([&sockets.registration, &sockets.service].iter().all(|path| path.as_os_str().len() <= MAX_PATH));
            [sockets.registration, sockets.service].map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        };
        assert_eq!(names(&usual, None), ["netdevice.networking.k8s.io-reg.sock", "dra.sock"]);
        assert_eq!(
            names(&usual, Some(uid)),
            [format!("netdevice.networking.k8s.io-{uid}-reg.sock"), format!("dra-{uid}.sock")]
        );
        let longer = Paths::of_kubelet(Path::new("/var/lib/k0s/kubelet"));
        let [registration, service] = names(&longer, Some(uid));
        assert!(!registration.contains(uid) && service.starts_with("dra-"), "{registration} {service}");
        assert_ne!(names(&longer, Some(uid)), names(&longer, Some("0c1d5b7e-0a0b-4c4d-8e8f-000000000001")));
    }
}
