//! Rows of the hook: each beside the bare program on the same link, one after the other, over and over.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    kernel::{index_of, ip},
    process::{Run, ms, start, timed},
    row::{Budget, Row},
    samples::Samples,
    sections::Context as Bench,
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
        // it is ours, and nobody needs it any more
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A device with its sandbox and what a runtime would say of it.
pub(crate) struct Device {
    name: String,
    number: usize,
    index: u32,
    sandbox: Sandbox,
    state: PathBuf,
}

impl Device {
    /// `name` is a link that is there and down.
    pub(crate) fn new(name: &str, number: usize, folder: &TempDir) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let bundle = folder.path().join(format!("bundle-{name}"));
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
        let path = folder.path().join(format!("state-{name}.json"));
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

    /// The file with what a runtime tells the hook.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    pub(crate) fn hook(&self, bench: &Bench, folder: &TempDir, verb: &str) -> Result<Command> {
        let mut command = Command::new(&bench.programs.hook);
        command.arg(verb).arg("-state-dir").arg(folder.path().join("records"));
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

#[derive(Default)]
struct Pair {
    hook: Samples,
    bare: Samples,
}

/// Attach and detach of each kind of link, and their processor time.
pub(crate) fn moves(bench: &Bench) -> Result<Vec<Row>> {
    let folder = temporary()?;
    ip("link add ifb9 type ifb\nlink add veth9 type veth peer name peer9\nlink add lower9 type ifb\n\
        link set dev lower9 up\nlink set dev peer9 up\nlink add macvlan9 link lower9 type macvlan mode bridge\n")?;
    let devices = ["ifb9", "veth9", "macvlan9"].iter().enumerate();
    let devices: Vec<Device> = devices.map(|(at, name)| Device::new(name, at, &folder)).collect::<Result<_>>()?;
    let mut rows = Vec::new();
    let (mut attach_cpu, mut detach_cpu) = (Pair::default(), Pair::default());
    for device in &devices {
        let (mut attach, mut detach) = (Pair::default(), Pair::default());
        for round in 0..bench.runs(100, 12) {
            for turn in [round % 2, 1 - round % 2] {
                let (there, back) = if turn == 0 {
                    let there = timed(&mut device.hook(bench, &folder, "attach")?)?;
                    (there, timed(&mut device.hook(bench, &folder, "detach")?)?)
                } else {
                    (timed(&mut device.bare(bench, "attach"))?, timed(&mut device.bare(bench, "detach"))?)
                };
                let put =
                    |pair: &mut Pair, value: f64| if turn == 0 { &mut pair.hook } else { &mut pair.bare }.push(value);
                put(&mut attach, ms(there.wall));
                put(&mut detach, ms(back.wall));
                put(&mut attach_cpu, ms(there.cpu));
                put(&mut detach_cpu, ms(back.cpu));
            }
        }
        let kind = device.name.trim_end_matches('9');
        let row = |verb: &str, pair: &Pair, budget: f64| {
            let row = Row::new(format!("hook {verb}, {kind}"), "ms", &pair.hook).beside("bare", &pair.bare);
            row.budget(Budget::Ratio(budget))
        };
        rows.push(row("attach", &attach, 1.10).quoted("plugin with 2 Go hooks 1.2×, DRANET 1.0×"));
        rows.push(row("detach", &detach, 1.15));
    }
    for (verb, cpu) in [("attach", &attach_cpu), ("detach", &detach_cpu)] {
        let row = Row::new(format!("hook {verb}, CPU"), "ms", &cpu.hook).beside("bare", &cpu.bare);
        rows.push(row.budget(Budget::Median(1.5)).quoted("2 Go hooks 5.2; bare C 1.15"));
    }
    rows.push(nothing(bench, &devices[0], &folder)?);
    Ok(rows)
}

/// An attach that finds its work done.
fn nothing(bench: &Bench, device: &Device, folder: &TempDir) -> Result<Row> {
    timed(&mut device.hook(bench, folder, "attach")?)?;
    let mut pair = Pair::default();
    for _ in 0..bench.runs(200, 40) {
        pair.hook.push(ms(timed(&mut device.hook(bench, folder, "attach")?)?.wall));
        let mut start = Command::new(&bench.programs.hook);
        pair.bare.push(ms(timed(start.arg("-version").env_clear().stdout(Stdio::null()))?.wall));
    }
    timed(&mut device.hook(bench, folder, "detach")?)?;
    let row = Row::new("hook attach, nothing to do", "ms", &pair.hook).beside("its start", &pair.bare);
    Ok(row.budget(Budget::Median(2.0)))
}

/// Many hooks at once, beside as many bare programs one after another.
pub(crate) fn bursts(bench: &Bench) -> Result<Vec<Row>> {
    let folder = temporary()?;
    let mut devices = Vec::new();
    for number in 0..32 {
        let name = format!("ifb{number}");
        ip(&format!("link add {name} type ifb\n"))?;
        devices.push(Device::new(&name, number, &folder)?);
    }
    let mut rows = Vec::new();
    for (count, rounds) in [(8, bench.runs(12, 3)), (32, bench.runs(8, 1))] {
        let devices = &devices[..count];
        let (mut attach, mut detach) = (Pair::default(), Pair::default());
        for round in 0..rounds {
            for turn in [round % 2, 1 - round % 2] {
                if turn == 0 {
                    attach.hook.push(at_once(bench, devices, &folder, "attach")?);
                    detach.hook.push(at_once(bench, devices, &folder, "detach")?);
                } else {
                    attach.bare.push(in_sequence(bench, devices, "attach")?);
                    detach.bare.push(in_sequence(bench, devices, "detach")?);
                }
            }
        }
        for (verb, pair) in [("attach", &attach), ("detach", &detach)] {
            let row = Row::new(format!("{count} hooks at once, {verb}"), "ms", &pair.hook);
            rows.push(row.beside("bare in turn", &pair.bare).budget(Budget::Ratio(1.15)));
        }
    }
    Ok(rows)
}

fn at_once(bench: &Bench, devices: &[Device], folder: &TempDir, verb: &str) -> Result<f64> {
    let mut commands: Vec<Command> =
        devices.iter().map(|device| device.hook(bench, folder, verb)).collect::<Result<_>>()?;
    let began = std::time::Instant::now();
    let started: Vec<_> = commands.iter_mut().map(start).collect::<Result<_>>()?;
    started.into_iter().try_for_each(|hook| hook.wait().map(drop))?;
    Ok(ms(began.elapsed()))
}

fn in_sequence(bench: &Bench, devices: &[Device], verb: &str) -> Result<f64> {
    let began = std::time::Instant::now();
    for device in devices {
        let Run { .. } = timed(&mut device.bare(bench, verb))?;
    }
    Ok(ms(began.elapsed()))
}
