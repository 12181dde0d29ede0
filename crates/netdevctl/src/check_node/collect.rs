//! Looks at the node. Every wait has a deadline, and nothing is changed.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use cri::{Candidates, Client, Deadlines};
use link::RouteSocket;
use netdevice::claims::DRIVER;
use store::Records;
use tokio::{net::UnixStream, time::timeout};

use super::arguments::CheckNodeArguments;
use super::facts::{
    Cni, Facts, Hook, Kernel, PLUGINS, Runtime, RuntimeState, Socket, View, is_injector, kinds, read_capabilities,
    read_runtime_state,
};

/// How long a socket is waited for, and one call on it.
const DEADLINE: Duration = Duration::from_secs(3);

/// Looks at the node with the files of its first process, which the container runtime sees too, or with those of this process.
pub(crate) fn facts(arguments: &CheckNodeArguments) -> anyhow::Result<Facts> {
    if let Err(error) = fs::metadata("/proc/1/ns/mnt") {
        return facts_here(arguments, View::Own(format!("cannot read the mount namespace of PID 1: {error}")));
    }
    match store::run_in_mounts_of_init(|| facts_here(arguments, View::Node)) {
        Ok(facts) => facts,
        Err(error) => facts_here(arguments, View::Own(format!("cannot enter the mount namespace of PID 1: {error}"))),
    }
}

fn facts_here(arguments: &CheckNodeArguments, view: View) -> anyhow::Result<Facts> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(look(arguments, view))
}

async fn look(arguments: &CheckNodeArguments, view: View) -> anyhow::Result<Facts> {
    let kubelet = |path: &str| arguments.kubelet_dir.join(path);
    let (device_plugins, pod_resources) =
        (kubelet("device-plugins/kubelet.sock"), kubelet("pod-resources/kubelet.sock"));
    let (runtime, nri, device_plugins, pod_resources) = tokio::join!(
        runtime(arguments),
        socket(&arguments.nri_socket),
        socket(&device_plugins),
        socket(&pod_resources),
    );
    Ok(Facts {
        view,
        kernel: kernel(),
        capabilities: fs::read_to_string("/proc/self/status").ok().as_deref().and_then(read_capabilities),
        runtime,
        nri,
        device_plugins,
        pod_resources,
        has_plugins_registry: kubelet("plugins_registry").is_dir(),
        has_driver: has_driver(&kubelet("plugins_registry")),
        cni: cni(arguments),
        hook: hook(Path::new(&arguments.hook_path)),
        has_agent: Records::new(&arguments.state_dir).has_agent(),
        has_injector: has_injector(),
    })
}

async fn runtime(arguments: &CheckNodeArguments) -> Result<Runtime, String> {
    let environment = std::env::var_os(cri::ENVIRONMENT);
    let deadlines = Deadlines { connect: DEADLINE, call: DEADLINE };
    let connected = async {
        let candidates = Candidates::find(arguments.runtime_endpoint.as_ref(), environment.as_deref())?;
        Client::connect(&candidates, deadlines).await
    };
    let client = connected.await.map_err(|error| error.to_string())?;
    let state = client.runtime_state().await;
    let state: Result<RuntimeState, _> = state.map(read_runtime_state).map_err(|error| error.to_string());
    let cri::Runtime { name, version } = client.runtime().clone();
    Ok(Runtime { name, version, endpoint: client.endpoint().to_string(), state })
}

/// Connects, and disconnects without a word: a runtime and a kubelet take that for a plugin that changed its mind.
async fn socket(path: &Path) -> Socket {
    let is_socket = match fs::metadata(path) {
        Ok(file) => file.file_type().is_socket(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Socket::Absent,
        Err(error) => return Socket::Refuses(error.to_string()),
    };
    if !is_socket {
        return Socket::Refuses("not a socket".into());
    }
    match timeout(DEADLINE, UnixStream::connect(path)).await {
        Ok(Ok(_)) => Socket::Accepts,
        Ok(Err(error)) => Socket::Refuses(error.to_string()),
        Err(_) => Socket::Refuses(format!("timed out after {DEADLINE:?}")),
    }
}

fn kernel() -> Kernel {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let in_words = |error: io::Error| error.to_string();
    Kernel {
        release: release.trim().to_owned(),
        cookie: RouteSocket::open().map(drop).map_err(in_words),
        namespace_events: link::follow_namespaces().map_err(in_words),
        kinds: link::supported_kinds(&kinds()).map_err(in_words),
    }
}

fn cni(arguments: &CheckNodeArguments) -> Cni {
    let is_program =
        |path: PathBuf| path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    let is_there = |name: &&str| arguments.cni_path.iter().any(|directory| is_program(directory.join(name)));
    let files = fs::read_dir(&arguments.cni_conf_dir).into_iter().flatten().flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let is_network = |name: &String| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
    Cni {
        plugins: PLUGINS.into_iter().filter(is_there).collect(),
        networks: names.filter(is_network).collect::<BTreeSet<_>>(),
    }
}

fn hook(path: &Path) -> Hook {
    let Ok(file) = path.metadata() else { return Hook::Absent };
    if !file.is_file() || file.permissions().mode() & 0o111 == 0 {
        return Hook::Unusable("not an executable file");
    }
    if is_noexec(path) { Hook::Unusable("its file system is mounted noexec") } else { Hook::Installed }
}

/// Whether an agent with -dra has a socket in the kubelet's directory.
fn has_driver(registry: &Path) -> bool {
    let mut entries = fs::read_dir(registry).into_iter().flatten().flatten();
    entries.any(|entry| {
        entry.file_name().to_str().is_some_and(|name| name.starts_with(DRIVER) && name.ends_with("-reg.sock"))
    })
}

fn is_noexec(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|mount| mount.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC))
}

/// Whether a process is visible that serves annotations.
fn has_injector() -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .map(|process| process.path().join("cmdline"))
        .any(|file| fs::read(file).is_ok_and(|text| is_injector(&text)))
}
