//! A device of the benchmark with its sandbox, and the programs that move it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    bench::Bench,
    kernel::{index_of, ip},
};

/// What a link has: two addresses, and two routes with a gateway. Another link has others.
fn addresses(number: usize) -> [String; 2] {
    [format!("10.66.{number}.2/24"), format!("fd66:{number}::2/64")]
}

fn routes(number: usize) -> [(String, String); 2] {
    [
        (format!("10.77.{number}.0/24"), format!("10.66.{number}.1")),
        (format!("fd77:{number}::/64"), format!("fd66:{number}::1")),
    ]
}

/// A network namespace that a process keeps.
struct Sandbox(Child);

impl Sandbox {
    fn new() -> Result<Self> {
        let child = Command::new("unshare").args(["--net", "sleep", "infinity"]).spawn().context("unshare")?;
        let own = fs::read_link("/proc/self/ns/net")?;
        let sandbox = Self(child);
        while fs::read_link(sandbox.path())? == own {
            std::thread::yield_now();
        }
        Ok(sandbox)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // our own process
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A device with its sandbox and its OCI state.
pub(crate) struct Device {
    pub(crate) name: String,
    number: usize,
    index: u32,
    sandbox: Sandbox,
    state: PathBuf,
}

impl Device {
    /// `name` is a link that is there and down.
    pub(crate) fn new(name: &str, number: usize, directory: &TempDir) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let bundle = directory.path().join(format!("bundle-{name}"));
        fs::create_dir_all(&bundle)?;
        fs::write(bundle.join("config.json"), config(&sandbox.path()).to_string())?;
        let state = json!({
            "ociVersion": "1.2.0", "id": format!("container-{name}"), "status": "creating", "pid": sandbox.0.id(),
            "bundle": bundle,
            "annotations": {
                "io.kubernetes.cri.container-type": "container",
                "io.kubernetes.cri.sandbox-id": format!("sandbox-{number}"),
                "io.kubernetes.cri.sandbox-name": format!("pod-{number}"),
                "io.kubernetes.cri.sandbox-namespace": "default",
                "io.kubernetes.cri.sandbox-uid": format!("uid-{number}"),
            },
        });
        let path = directory.path().join(format!("state-{name}.json"));
        fs::write(&path, state.to_string())?;
        let mut commands = format!("link set dev {name} up\n");
        for address in addresses(number) {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            commands += &format!("address add {address} dev {name}{nodad}\n");
        }
        for (prefix, gateway) in routes(number) {
            commands += &format!("route add {prefix} via {gateway} dev {name}\n");
        }
        ip(&commands)?;
        Ok(Self { name: name.to_owned(), number, index: index_of(name)?, sandbox, state: path })
    }

    /// Where the network namespace of its sandbox is.
    pub(crate) fn namespace(&self) -> String {
        self.sandbox.path()
    }

    /// The annotation that asks for it as it is on the host, under another name.
    pub(crate) fn annotation(&self) -> String {
        let routes = routes(self.number).map(|(to, via)| json!({"to": to, "via": via}));
        let wanted =
            json!({"name": self.name, "new_name": "net1", "addresses": addresses(self.number), "routes": routes});
        json!([wanted]).to_string()
    }

    /// The file with the OCI state for the hook.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    pub(crate) fn hook(&self, bench: &Bench, directory: &TempDir, verb: &str) -> Result<Command> {
        let mut command = Command::new(&bench.programs.hook);
        command.arg(verb).arg("-state-dir").arg(directory.path().join("records"));
        command.arg(format!("networking.k8s.io/netdevice={}", self.name));
        command.env_clear().stdin(File::open(&self.state)?).stdout(Stdio::null());
        Ok(command)
    }

    pub(crate) fn bare(&self, bench: &Bench, verb: &str) -> Command {
        let mut command = Command::new(&bench.programs.bare_move);
        command.args([verb, &self.index.to_string(), &self.name, &self.sandbox.path()]);
        command.args(addresses(self.number));
        command.args(routes(self.number).map(|(prefix, gateway)| format!("{prefix}={gateway}")));
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        command
    }
}

/// A configuration of the size that containerd writes.
fn config(namespace: &str) -> serde_json::Value {
    let capabilities: Vec<String> = (0..14).map(|number| format!("CAP_SOMETHING_{number}")).collect();
    let mounts: Vec<_> = (0..12)
        .map(|number| {
            json!({"destination": format!("/somewhere/{number}"), "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "noexec", "nodev", "mode=755", "size=65536k"]})
        })
        .collect();
    let paths: Vec<String> = (0..12).map(|number| format!("/proc/hidden/{number}")).collect();
    json!({
        "ociVersion": "1.2.0",
        "process": {"args": ["sh"], "env": paths, "cwd": "/", "capabilities": {"bounding": capabilities,
            "effective": capabilities, "permitted": capabilities}},
        "root": {"path": "rootfs"},
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "ipc", "path": "/proc/1/ns/ipc"}, {"type": "mount"},
                {"type": "network", "path": namespace}],
            "maskedPaths": paths, "readonlyPaths": paths,
        },
    })
}

pub(crate) fn temporary() -> Result<TempDir> {
    // in memory, as /run is
    Ok(tempfile::Builder::new().prefix("netdevice-bench-").tempdir_in("/dev/shm")?)
}
