//! A sandbox whose network namespace is open.

use std::{
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
};

use netdevice::{Owner, Sandbox, record::Process, sandbox::Network};
use store::Namespace;

use crate::{error::Error, identity::process};

/// The file system of namespaces (`include/uapi/linux/magic.h`).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// A sandbox whose network namespace is open: where devices can be attached.
#[derive(Debug)]
pub struct OpenSandbox {
    namespace: Namespace,
    paths: Vec<String>,
    process: Option<Process>,
    /// Whether that process is a container's.
    is_container: bool,
}

/// Why a sandbox cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenSandboxError {
    /// The network namespace is the host's own.
    #[error("{}", Error::HostNetwork)]
    HostNetwork,
    /// The runtime says nothing of a network namespace, or of a process that is in it.
    #[error("the runtime names no network namespace of the pod")]
    Unnamed,
    /// A hook was started for a container without a process.
    #[error("the container has no process: a device is attached before the container starts, not after it exited")]
    NoProcess,
    /// The container exited, or its runtime was killed, while the hook waited. A record without the container's process would
    /// be kept for ever: no program would see that the container exited.
    #[error("the container exited before it started: the device was not attached")]
    ContainerExited,
    /// The process cannot be read.
    #[error("cannot read the container's process {pid}: {error}")]
    Process {
        /// Its pid.
        pid: i32,
        /// What the system said.
        error: io::Error,
    },
    /// The file of the namespace.
    #[error("cannot open the pod's network namespace {path}: {error}")]
    Namespace {
        /// Where the runtime has it.
        path: String,
        /// What the system said; not found also if there is a file that is not a namespace.
        error: io::Error,
    },
}

impl OpenSandboxError {
    /// Whether the sandbox has no network namespace any more.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Unnamed | Self::ContainerExited => true,
            Self::Namespace { error, .. } => error.kind() == io::ErrorKind::NotFound,
            Self::HostNetwork | Self::NoProcess | Self::Process { .. } => false,
        }
    }
}

impl OpenSandbox {
    /// Opens the network namespace of a sandbox. A path may be another one in the mount namespace of this process: the same
    /// below `/run`, and then the namespace of the sandbox's first process, are tried after it.
    ///
    /// # Errors
    ///
    /// When there is none, or none that can be opened.
    pub fn open(sandbox: &Sandbox) -> Result<Self, OpenSandboxError> {
        match sandbox.network() {
            Network::OfProcess { pid: None, .. } => Err(OpenSandboxError::NoProcess),
            Network::OfProcess { pid: Some(pid), path } => Self::of_process(*pid, path.as_deref()),
            Network::AtPath { path, pid } => Self::at_path(path, *pid),
            Network::Unnamed { pid } => {
                let inode = pid.and_then(|pid| inode(namespace_of(pid)));
                let is_host = inode.is_some() && inode == own_inode();
                Err(if is_host { OpenSandboxError::HostNetwork } else { OpenSandboxError::Unnamed })
            }
        }
    }

    /// From here on, every program that reads the record of a device that is attached sees that the process ended.
    fn of_process(pid: i32, path: Option<&str>) -> Result<Self, OpenSandboxError> {
        let own = namespace_of(pid);
        let opened = Namespace::open(&own);
        let namespace = opened.map_err(|error| OpenSandboxError::Namespace { path: own.clone(), error })?;
        let process = process(pid).map_err(|error| OpenSandboxError::Process { pid, error })?;
        let process = Some(process.ok_or(OpenSandboxError::ContainerExited)?);
        let path = path.filter(|path| *path != own).map(Into::into);
        let paths = std::iter::once(own).chain(path).collect();
        Ok(Self { namespace, paths, process, is_container: true })
    }

    fn at_path(path: &str, pid: Option<i32>) -> Result<Self, OpenSandboxError> {
        let of_process = pid.map(namespace_of);
        let below_run = path.strip_prefix("/var/run/").map(|rest| format!("/run/{rest}"));
        let mut others = below_run.iter().chain(&of_process);
        let opened = open_mounted(path).or_else(|error| others.find_map(|path| open_mounted(path).ok()).ok_or(error));
        let namespace = opened.map_err(|error| OpenSandboxError::Namespace { path: path.into(), error })?;
        if Some(namespace.inode()) == own_inode() {
            return Err(OpenSandboxError::HostNetwork);
        }
        let of_process = of_process.filter(|path| inode(path) == Some(namespace.inode()));
        // where its process is not visible, the end of a sandbox shows in the kernel and in the mounts
        let process = pid.filter(|_| of_process.is_some()).and_then(|pid| process(pid).ok().flatten());
        let mut paths = vec![namespace.path().to_string_lossy().into_owned()];
        paths.extend(of_process.filter(|path| *path != paths[0]));
        Ok(Self { namespace, paths, process, is_container: false })
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Where the namespace is found, the surest first.
    pub(crate) fn paths(&self) -> &[String] {
        &self.paths
    }

    /// Its first process, if that is visible here and in the namespace: in a container without the node's processes, a pid
    /// is no process's, or another one's.
    pub(crate) fn process(&self) -> Option<Process> {
        self.process
    }

    /// The process whose end is the end of the owner: one that outlives its containers has the sandbox's, where containerd
    /// names the namespace by it, or none.
    pub(crate) fn process_of(&self, owner: &Owner) -> Option<Process> {
        if !self.is_container || !owner.outlives_containers() {
            return self.process;
        }
        let path = self.paths.get(1).filter(|path| inode(path) == Some(self.namespace.inode()))?;
        let pid = path.strip_prefix("/proc/")?.strip_suffix("/ns/net")?.parse().ok()?;
        process(pid).ok().flatten()
    }
}

fn namespace_of(pid: i32) -> String {
    format!("/proc/{pid}/ns/net")
}

/// The inode of the host's namespace, which this process is in. Of two that are open at a time it differs.
fn own_inode() -> Option<u64> {
    inode("/proc/self/ns/net")
}

fn inode(path: impl AsRef<Path>) -> Option<u64> {
    Some(fs::metadata(path).ok()?.ino())
}

/// Opens a namespace. The file under a mount that was removed is not one.
fn open_mounted(path: impl AsRef<Path>) -> io::Result<Namespace> {
    let namespace = Namespace::open(path.as_ref())?;
    let file_system = rustix::fs::fstatfs(namespace.as_fd())?.f_type;
    let is_namespace = u64::try_from(file_system) == Ok(NSFS_MAGIC);
    is_namespace.then_some(namespace).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "not a network namespace"))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use netdevice::{Pod, oci::State};

    use super::*;

    /// A process in a network namespace of its own.
    struct Sleeper(Child);

    impl Sleeper {
        fn new() -> Self {
            let mut command = Command::new("unshare");
            command.args(["--net", "sleep", "600"]).stdin(Stdio::null());
            let sleeper = Self(command.spawn().unwrap());
            while inode(namespace_of(sleeper.pid())) == own_inode() {
                std::thread::yield_now();
            }
            sleeper
        }

        fn pid(&self) -> i32 {
            self.0.id().try_into().unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    fn of_nri(path: Option<&str>, pid: Option<u32>) -> Result<OpenSandbox, OpenSandboxError> {
        let pod = Pod { namespace: "default".into(), name: "web".into(), uid: "u1".into() };
        OpenSandbox::open(&Sandbox::from_nri("s1", pod, path.map(Into::into), pid))
    }

    fn of_oci(pid: i32) -> Result<OpenSandbox, OpenSandboxError> {
        let state = State::from_json(format!("{{\"id\":\"c1\",\"pid\":{pid}}}").as_bytes()).unwrap();
        OpenSandbox::open(&Sandbox::from_oci(&state, Some("/run/netns/a".into())))
    }

    #[test]
    fn a_pod_on_the_hosts_network_is_told_by_its_namespace_and_not_by_a_missing_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let me = Some(std::process::id());
        let is_host = |opened: Result<_, _>| matches!(opened, Err(OpenSandboxError::HostNetwork));
        // as CRI-O names it, and a process of a sandbox that none is named of
        assert!(is_host(of_nri(Some("/proc/self/ns/net"), None)) && is_host(of_nri(None, me)));
        assert!(matches!(of_nri(None, None), Err(OpenSandboxError::Unnamed)));
        for path in [Some("/run/netns/none"), file.path().to_str(), None] {
            assert!(of_nri(path, Some(u32::MAX)).is_err_and(|error| error.is_gone()), "{path:?}");
        }
    }

    #[test]
    fn a_container_that_has_exited_gets_nothing() {
        assert!(matches!(of_oci(0), Err(OpenSandboxError::NoProcess)));
        let error = of_oci(i32::MAX).unwrap_err();
        assert!(matches!(error, OpenSandboxError::Namespace { .. }) && error.is_gone(), "{error}");
        // a process that has exited and is not waited for has no namespaces any more
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id().try_into().unwrap();
        while process(pid).unwrap().is_some() {
            std::thread::yield_now();
        }
        let error = of_oci(pid).unwrap_err();
        child.wait().unwrap();
        assert!(error.is_gone(), "{error}");
    }

    #[test]
    fn a_process_counts_only_if_it_is_in_the_sandbox() {
        let sleeper = Sleeper::new();
        let (pid, path) = (sleeper.pid(), namespace_of(sleeper.pid()));
        let found = of_nri(Some(&path), Some(pid.try_into().unwrap())).unwrap();
        assert_eq!((found.paths(), found.process().map(|process| process.pid)), (&[path.clone()][..], Some(pid)));
        let found = of_nri(Some(&path), Some(std::process::id())).unwrap();
        assert_eq!((found.paths(), found.process()), (&[path.clone()][..], None));
        // by its process, where the path is another one here
        let found = of_nri(Some("/run/netns/none"), Some(pid.try_into().unwrap())).unwrap();
        assert_eq!((found.paths(), found.process().is_some()), (&[path.clone()][..], true));
        let found = of_oci(pid).unwrap();
        assert_eq!((found.paths(), found.process().is_some()), (&[path, "/run/netns/a".into()][..], true));
    }
}
