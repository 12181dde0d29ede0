//! The guest's devices: its cards as they are after a start, and one of each shape.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::Value;

use crate::support::{Host, until};

/// The card with virtual functions, on NUMA node 1; `eth0`.
pub(crate) const IGB: &str = "0000:41:00.0";
/// Its first virtual functions.
pub(crate) const VF0: &str = "0000:41:10.0";
pub(crate) const VF1: &str = "0000:41:10.2";
/// Plain cards without a node; `eth1`, `eth2`.
const CARDS: [(&str, &str); 3] = [(IGB, "igb"), ("0000:01:00.0", "e1000e"), ("0000:02:00.0", "e1000e")];

/// Runs a test on the guest, whose devices are as after a start.
pub(crate) fn on_machine(test: impl FnOnce(&Host)) {
    let host = Host::of_the_guest();
    start_afresh(&host);
    test(&host);
}

/// Whatever an earlier test left: virtual links go, and a driver that is bound again makes a new interface.
fn start_afresh(host: &Host) {
    let _ = fs::write(sysfs(IGB, "sriov_numvfs"), "0");
    for (address, driver) in CARDS {
        // it may be unbound already
        let _ = fs::write(format!("/sys/bus/pci/drivers/{driver}/unbind"), address);
    }
    let _ = fs::write("/sys/bus/netdevsim/del_device", "1");
    let links: Value = serde_json::from_str(&host.show("-j link show")).unwrap();
    let names = links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap());
    for name in names.filter(|name| *name != "lo") {
        // with one link another may go
        let _ = host.show(&format!("link delete {name}"));
    }
    for (address, driver) in CARDS {
        host.write(format!("/sys/bus/pci/drivers/{driver}/bind"), address);
        interface_of(address);
    }
}

pub(crate) fn sysfs(address: &str, file: &str) -> PathBuf {
    Path::new("/sys/bus/pci/devices").join(address).join(file)
}

/// Name of the interface that a PCI function has on the host now.
pub(crate) fn name_of(address: &str) -> Option<String> {
    only_entry(&sysfs(address, "net"))
}

fn only_entry(folder: &Path) -> Option<String> {
    let entry = fs::read_dir(folder).ok()?.flatten().next()?;
    entry.file_name().into_string().ok()
}

/// The same, once it has one.
pub(crate) fn interface_of(address: &str) -> String {
    until(&format!("{address} has an interface"), || name_of(address).is_some());
    name_of(address).unwrap()
}

/// Makes virtual functions. Their physical function is up: otherwise the driver gives them random addresses.
pub(crate) fn make_functions(host: &Host, count: u32) {
    switch_functions(host, count);
    [VF0, VF1].iter().take(count as usize).for_each(|address| drop(interface_of(address)));
}

/// Switches so many virtual functions on, or all off. igb breaks the kernel when a multicast group is joined meanwhile
/// (`igb_restore_vf_multicasts` finds no `vf_data`), as IPv6 does in the background for a link-local address: there is none.
pub(crate) fn switch_functions(host: &Host, count: u32) {
    if count > 0 {
        host.ip("link set eth0 addrgenmode none\nlink set eth0 up");
        wait_for_carrier("eth0");
    }
    host.write(sysfs(IGB, "sriov_numvfs"), &count.to_string());
}

pub(crate) fn wait_for_carrier(name: &str) {
    let carrier = || fs::read_to_string(format!("/sys/class/net/{name}/carrier")).unwrap_or_default();
    until(&format!("{name} has a carrier"), || carrier().trim() == "1");
}

/// What kinds of devices there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    VirtualFunction,
    PhysicalFunction,
    Card,
    Netdevsim,
    Dummy,
    Vlan,
}

impl Shape {
    /// Makes such a device, `dev0`, with all kinds of state; false if this guest's kernel has none.
    pub(crate) fn make(self, host: &Host) -> bool {
        let take = |name: &str| host.ip(&format!("link set {name} down\nlink set {name} name dev0"));
        match self {
            Self::VirtualFunction => {
                make_functions(host, 1);
                take(&interface_of(VF0));
            }
            Self::PhysicalFunction => take("eth0"),
            Self::Card => take("eth1"),
            Self::Netdevsim => {
                if fs::write("/sys/bus/netdevsim/new_device", "1 1").is_err() {
                    println!("NOT TESTED: the guest has no netdevsim");
                    return false;
                }
                let folder = Path::new("/sys/bus/netdevsim/devices/netdevsim1/net");
                until("netdevsim has a port", || only_entry(folder).is_some());
                let name = only_entry(folder).unwrap();
                // it loses its carrier for good when it goes down for the first time
                host.ip(&format!("link set {name} up"));
                take(&name);
            }
            Self::Dummy => host.ip("link add dev0 type dummy"),
            Self::Vlan => {
                host.ip("link set eth1 up");
                wait_for_carrier("eth1");
                host.ip("link add dev0 link eth1 type vlan id 7");
            }
        }
        host.ip("link set dev0 mtu 1400 txqueuelen 77 alias a-nic
             link property add dev dev0 altname fast-nic altname a-much-longer-alternative-name
             link set dev0 up");
        if !matches!(self, Self::Netdevsim) {
            wait_for_carrier("dev0");
        }
        host.ip("addr add 10.1.0.5/24 brd 10.1.0.255 dev dev0
             addr add 2001:db8::5/64 dev dev0
             route add 10.50.0.0/16 via 10.1.0.1 metric 77
             route add 2001:db8:9::/48 via 2001:db8::1
             neigh add 10.1.0.77 lladdr 02:00:00:00:00:77 dev dev0 nud permanent");
        for (file, value) in SETTINGS {
            host.write(format!("/proc/sys/net/{file}"), value);
        }
        true
    }
}

/// Settings of the device that somebody made.
pub(crate) const SETTINGS: [(&str, &str); 3] =
    [("ipv4/conf/dev0/rp_filter", "2"), ("ipv6/conf/dev0/accept_ra", "0"), ("ipv4/neigh/dev0/gc_stale_time", "33")];

/// A program of ours beside the hook.
pub(crate) fn program(name: &str) -> Command {
    Command::new(Path::new(env!("CARGO_BIN_EXE_netdevice-hook")).with_file_name(name))
}

/// The agent on the host, until it is dropped.
pub(crate) struct Agent {
    process: Child,
    kubelet: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Agent {
    /// Starts it with a kubelet of its own, and waits until that knows so many devices.
    pub(crate) fn start(host: &Host, pools: &str, resource: &str, count: usize) -> Self {
        let folder = |name: &str| {
            let folder = host.folder().join(name);
            fs::create_dir_all(&folder).unwrap();
            folder
        };
        let mut kubelet = program("kubelet-stand-in")
            .arg(folder("kubelet"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let log = fs::File::create(folder("log").join("agent.log")).unwrap();
        let config = folder("config").join("pools.yaml");
        host.write(&config, pools);
        let process = program("netdevice-agent")
            .args(["-v=2", "-admin-address=127.0.0.1:0"])
            .arg("-config")
            .arg(&config)
            .arg("-device-plugin-dir")
            .arg(folder("kubelet"))
            .arg("-pod-resources-socket")
            .arg(folder("kubelet").join("none.sock"))
            .arg("-cdi-dir")
            .arg(folder("cdi"))
            .arg("-state-dir")
            .arg(host.state_dir())
            .arg("-hook-path")
            .arg(folder("bin").join("netdevice-hook"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let (commands, answers) = (kubelet.stdin.take().unwrap(), BufReader::new(kubelet.stdout.take().unwrap()));
        let mut agent = Self { process, kubelet, commands, answers };
        agent.wait_for(host, resource, count);
        agent
    }

    /// One line to the kubelet and its answer.
    fn ask(&mut self, line: &str) -> Value {
        writeln!(self.commands, "{line}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// Waits until the kubelet has just so many devices.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, host: &Host, resource: &str, count: usize) {
        let mut last = Value::Null;
        let deadline = std::time::Instant::now() + crate::support::patience();
        while last[resource].as_array().map(Vec::len) != Some(count) {
            let log = fs::read_to_string(host.folder().join("log/agent.log")).unwrap();
            assert!(std::time::Instant::now() < deadline, "the kubelet has {last}, not {count} of {resource}\n{log}");
            std::thread::sleep(std::time::Duration::from_millis(50));
            last = self.ask("list");
        }
    }

    /// What the kubelet has of the resource.
    pub(crate) fn devices(&mut self, resource: &str) -> Value {
        self.ask("list")[resource].clone()
    }

    pub(crate) fn log(&self, host: &Host) -> String {
        fs::read_to_string(host.folder().join("log/agent.log")).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        for process in [&mut self.process, &mut self.kubelet] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// What `netdevctl` prints with these pools.
#[track_caller]
pub(crate) fn netdevctl(host: &Host, pools: &str, words: &[&str]) -> String {
    let config = host.folder().join("netdevctl.yaml");
    host.write(&config, pools);
    let mut command = program("netdevctl");
    command.args(words).arg("-config").arg(&config).arg("-state-dir").arg(host.state_dir());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
