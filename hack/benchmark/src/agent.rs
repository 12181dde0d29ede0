//! An agent beside a stand-in of the kubelet, in directories of its own.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kubelet_stand_in::{Kubelet, KubeletState};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    bench::Bench,
    process::{cpu_of, memory_of},
};

/// The default resource of the agent.
pub(crate) const RESOURCE: &str = "networking.k8s.io/netdevice";
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory with a stand-in of the kubelet.
pub(crate) struct Node {
    pub(crate) kubelet: Kubelet,
    folder: TempDir,
}

/// A running agent.
pub(crate) struct Agent(Child);

impl Node {
    pub(crate) fn new() -> Result<Self> {
        // in memory, as /run is
        let folder = tempfile::Builder::new().prefix("netdevice-bench-").tempdir_in("/dev/shm")?;
        let kubelet = Kubelet::start(&folder.path().join("device-plugins"))?;
        Ok(Self { kubelet, folder })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Starts an agent that offers the links whose names match.
    pub(crate) fn start_agent(&self, bench: &Bench, pattern: &str) -> Result<Agent> {
        let mut command = Command::new(&bench.programs.agent);
        command.arg(format!("-interfaces={pattern}")).arg("-admin-address=127.0.0.1:0");
        for (flag, path) in [
            ("-device-plugin-dir", "device-plugins"),
            ("-pod-resources-socket", "pod-resources.sock"),
            ("-cdi-dir", "cdi"),
            ("-state-dir", "records"),
            ("-hook-path", "hook/netdevice-hook"),
        ] {
            command.arg(flag).arg(self.path().join(path));
        }
        command.arg("-hook-source").arg(&bench.programs.hook);
        let log = fs::File::options().create(true).append(true).open(self.path().join("agent.log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Agent::start(&mut command)
    }

    /// Waits until the kubelet knows something, and says when it did.
    pub(crate) async fn until(&self, what: &str, is_so: impl FnMut(&KubeletState) -> bool) -> Result<Instant> {
        let mut state = self.kubelet.subscribe();
        let found = timeout(PATIENCE, state.wait_for(is_so)).await;
        let now = Instant::now();
        let log = || fs::read_to_string(self.path().join("agent.log")).unwrap_or_default();
        ensure!(found.is_ok(), "not so within a minute: {what}; the agent said:\n{}", log());
        Ok(now)
    }

    /// Waits until so many devices are listed.
    pub(crate) async fn until_listed(&self, count: usize) -> Result<Instant> {
        self.until(&format!("{count} devices are listed"), |state| listed(state) == Some(count)).await
    }

    /// How many lists came so far.
    pub(crate) fn lists(&self) -> usize {
        self.kubelet.with_state(lists)
    }

    /// Waits until so many devices are listed after those lists: the lists of an earlier agent do not count.
    pub(crate) async fn until_listed_since(&self, known: usize, count: usize) -> Result<Instant> {
        let what = format!("{count} devices are listed anew");
        self.until(&what, |state| lists(state) > known && listed(state) == Some(count)).await
    }
}

fn lists(state: &KubeletState) -> usize {
    state.resources.get(RESOURCE).map_or(0, |known| known.lists.len())
}

/// How many devices the last list has.
pub(crate) fn listed(state: &KubeletState) -> Option<usize> {
    state.resources.get(RESOURCE).filter(|resource| !resource.lists.is_empty()).map(|known| known.devices().len())
}

/// Health of a device in the last list.
pub(crate) fn health<'a>(state: &'a KubeletState, id: &str) -> Option<&'a str> {
    let devices = state.resources.get(RESOURCE)?.devices();
    devices.iter().find(|device| device.id == id).map(|device| device.health.as_str())
}

impl Agent {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        Ok(Self(command.spawn().context("start the agent")?))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.pid())
    }

    /// RSS, PSS and anonymous memory in MB.
    pub(crate) fn memory(&self) -> Result<[f64; 3]> {
        memory_of(self.pid())
    }

    /// How often each of its threads went to sleep: each time it had been woken up.
    pub(crate) fn sleeps(&self) -> Result<BTreeMap<String, u64>> {
        let mut sleeps = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))?.flatten() {
            let Ok(status) = fs::read_to_string(task.path().join("status")) else { continue };
            let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            let count = count.and_then(|count| count.trim().parse().ok()).unwrap_or(0);
            sleeps.insert(task.file_name().to_string_lossy().into_owned(), count);
        }
        Ok(sleeps)
    }

    /// Ends it as a kubelet does.
    pub(crate) fn stop(mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // after an error; one that was stopped is gone already
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
