//! A host and its sandboxes, made of namespaces for one test, and the hook as a runtime starts it.

pub(crate) mod bpf;
pub(crate) mod command;
pub(crate) mod driver;
pub(crate) mod inject;
pub(crate) mod picture;
pub(crate) mod trace;

use std::{
    fs::{self, File},
    io::Write,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};
use picture::Picture;

/// CDI kind of all devices here.
const KIND: &str = "networking.k8s.io/netdevice";

/// A network namespace that stands for the node's, with a mount namespace of its own in which sysfs shows it. The
/// thread that has it is in both.
pub(crate) struct Host {
    folder: tempfile::TempDir,
}

/// Runs a test on a fresh host, on a thread of its own that ends with it.
pub(crate) fn on_host(test: impl FnOnce(&Host) + Send) {
    assert!(nix::unistd::geteuid().is_root(), "these tests make network namespaces: run them as root");
    let result = thread::scope(|scope| scope.spawn(|| test(&Host::new())).join());
    result.unwrap_or_else(|panic| resume_unwind(panic));
}

impl Host {
    /// This machine's own network, which must be a throw-away guest's.
    pub(crate) fn of_the_guest() -> Self {
        assert!(is_guest(), "these tests change the whole machine: hack/vm-test runs them in a guest");
        let host = Self { folder: tempfile::tempdir().unwrap() };
        host.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
        host
    }

    /// A folder for the test.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).unwrap();
        let host = Self { folder: tempfile::tempdir().unwrap() };
        host.ip("link set lo up");
        // a test that is about duplicate address detection switches it on
        host.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
        host
    }

    /// Folder of the records.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn record_path(&self, device: &str) -> PathBuf {
        self.state_dir().join(format!("{device}.json"))
    }

    pub(crate) fn write(&self, path: impl AsRef<Path>, text: &str) {
        let path = path.as_ref();
        fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Runs `ip` commands, one a line; each must succeed.
    pub(crate) fn ip(&self, lines: &str) {
        ip_batch(lines).unwrap_or_else(|error| panic!("ip on the host: {error}"));
    }

    /// What `ip` prints.
    pub(crate) fn show(&self, arguments: &str) -> String {
        show(arguments)
    }

    pub(crate) fn has_link(&self, name: &str) -> bool {
        has_link(name)
    }

    pub(crate) fn ifindex(&self, name: &str) -> u32 {
        fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).unwrap().trim().parse().unwrap()
    }

    /// The host as it is once nothing is on its way any more.
    pub(crate) fn settled(&self) -> Picture {
        Picture::settled()
    }

    /// The host is as it was, and no record is left.
    #[track_caller]
    pub(crate) fn assert_same(&self, before: &Picture) {
        let differences = before.differences_in_the_end();
        assert!(differences.is_empty(), "the host is not as it was:\n{differences}\n{}", self.journal());
        assert_eq!(self.records(), Vec::<String>::new(), "no record is left");
    }

    /// Names of the files in the state folder but the journal and what the agent leaves there, of pins and of reservations.
    pub(crate) fn records(&self) -> Vec<String> {
        let names = |folder: PathBuf| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
        };
        let below = |folder: &str| {
            let folder = folder.to_owned();
            names(self.state_dir().join(&folder)).map(move |name| format!("{folder}/{name}"))
        };
        let others = [
            "hook.log",
            "lock",
            "netns",
            "reservations",
            "waiting",
            "config.yaml",
            "node-addresses",
            "problems",
            "agent.lock",
            "injector.lock",
        ];
        let is_other = |name: &String| others.contains(&name.as_str());
        let own = names(self.state_dir()).filter(|name| !is_other(name));
        own.chain(below("netns")).chain(below("reservations")).collect()
    }

    /// What the namespace of a device is pinned on.
    pub(crate) fn pin_path(&self, device: &str) -> PathBuf {
        self.state_dir().join("netns").join(device)
    }

    pub(crate) fn journal(&self) -> String {
        fs::read_to_string(self.state_dir().join("hook.log")).unwrap_or_default()
    }

    pub(crate) fn sandbox(&self, pod: &str) -> Sandbox {
        Sandbox::new(pod)
    }

    /// The hook's command with these devices, not started.
    pub(crate) fn command(&self, verb: &str, devices: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netdevice-hook"));
        command.arg(verb).arg("-state-dir").arg(self.state_dir());
        command.args(devices.iter().map(|device| format!("{KIND}={device}")));
        command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts the hook with that text on standard input.
    pub(crate) fn hook(&self, verb: &str, devices: &[&str], state: &str) -> Ending {
        finish(self.command(verb, devices).spawn().unwrap(), state)
    }

    pub(crate) fn attach(&self, sandbox: &Sandbox, container: &str, device: &str) -> Ending {
        self.hook("attach", &[device], &sandbox.state(container))
    }

    pub(crate) fn detach(&self, container: &str, device: &str) -> Ending {
        self.hook("detach", &[device], &ended_state(container))
    }
}

/// State of a container that ended, as runc writes it: without a pid.
pub(crate) fn ended_state(container: &str) -> String {
    format!(r#"{{"ociVersion":"1.2.1","id":"{container}","status":"stopped","bundle":"/nowhere"}}"#)
}

/// Gives the hook its input and waits for its end.
pub(crate) fn finish(mut child: Child, state: &str) -> Ending {
    // a hook that refuses its arguments does not read
    let _ = child.stdin.take().unwrap().write_all(state.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ending { code: output.status.code(), line: String::from_utf8_lossy(&output.stderr).into_owned() }
}

/// How the hook ended.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) code: Option<i32>,
    pub(crate) line: String,
}

impl Ending {
    #[track_caller]
    pub(crate) fn succeeds(&self) {
        assert_eq!((self.code, self.line.as_str()), (Some(0), ""));
    }

    /// It fails with one line that has these words.
    #[track_caller]
    pub(crate) fn fails_with(&self, words: &str) {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert!(self.line.contains(words), "{:?} has no {words:?}", self.line);
        assert_eq!(self.line.matches('\n').count(), 1, "one line: {:?}", self.line);
    }
}

/// A Pod's sandbox: a network namespace that a process holds.
pub(crate) struct Sandbox {
    pod: String,
    id: String,
    process: Child,
    path: PathBuf,
}

impl Sandbox {
    fn new(pod: &str) -> Self {
        let process = in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ip_batch("link set lo up").unwrap();
            // links of the sandbox's own are there at once; the device's are said to be unique
            fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
            Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap()
        });
        let path = PathBuf::from(format!("/proc/{}/ns/net", process.id()));
        Self { pod: pod.to_owned(), id: format!("sandbox-{}", process.id()), process, path }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// OCI state of a running container in it.
    pub(crate) fn state(&self, container: &str) -> String {
        let (pid, pod, id) = (self.pid(), &self.pod, &self.id);
        format!(
            r#"{{"ociVersion":"1.2.1","id":"{container}","status":"creating","pid":{pid},"bundle":"/nowhere",
            "annotations":{{"io.kubernetes.cri.sandbox-id":"{id}","io.kubernetes.cri.sandbox-name":"{pod}",
            "io.kubernetes.cri.sandbox-namespace":"default","io.kubernetes.cri.sandbox-uid":"uid-{pod}"}}}}"#
        )
    }

    /// Does something inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(&self.path).unwrap();
        in_thread(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    pub(crate) fn ip(&self, lines: &str) {
        self.run(|| ip_batch(lines)).unwrap_or_else(|error| panic!("ip in the sandbox: {error}"));
    }

    pub(crate) fn show(&self, arguments: &str) -> String {
        self.run(|| show(arguments))
    }

    pub(crate) fn has_link(&self, name: &str) -> bool {
        self.run(|| has_link(name))
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        self.run(|| fs::write(path, text)).unwrap_or_else(|error| panic!("{path} in the sandbox: {error}"));
    }

    pub(crate) fn read(&self, path: &str) -> String {
        self.run(|| fs::read_to_string(path)).unwrap().trim().to_owned()
    }

    pub(crate) fn settled(&self) -> Picture {
        self.run(Picture::settled)
    }

    /// The sandbox is as it was.
    #[track_caller]
    pub(crate) fn assert_same(&self, before: &Picture) {
        let differences = self.run(|| before.differences_in_the_end());
        assert!(differences.is_empty(), "the sandbox is not as it was:\n{differences}");
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs lines one after the other; lines that need to be told that they are about IPv6 (`-6 rule`) come last.
fn ip_batch(lines: &str) -> Result<(), String> {
    let (v6, others): (Vec<_>, Vec<_>) = lines.lines().map(str::trim).partition(|line| line.starts_with("-6 "));
    let v6: Vec<_> = v6.iter().map(|line| &line[3..]).collect();
    for (family, lines) in [(None, others.join("\n")), (Some("-6"), v6.join("\n"))] {
        if lines.is_empty() {
            continue;
        }
        let mut command = Command::new("ip");
        command.args(family).args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        if !output.status.success() {
            return Err(format!("{lines}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    Ok(())
}

fn show(arguments: &str) -> String {
    output("ip", &arguments.split_whitespace().collect::<Vec<_>>())
}

/// What a program prints in the calling thread's namespace.
pub(crate) fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program in the calling thread's namespace; it must succeed.
#[track_caller]
pub(crate) fn run(line: &str) {
    let words: Vec<_> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn has_link(name: &str) -> bool {
    let links = fs::read("/proc/thread-self/net/dev").unwrap();
    String::from_utf8_lossy(&links).lines().any(|line| line.trim_start().split(':').next() == Some(name))
}

/// Whether this is the guest of `hack/vm-test`.
fn is_guest() -> bool {
    std::env::var_os("NETDEVICE_GUEST").is_some()
}

/// How long something may take; an emulated machine is slow.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(if is_guest() { 30 } else { 5 })
}

/// Waits for a condition, as long as a busy machine may need.
#[track_caller]
pub(crate) fn until(what: &str, condition: impl FnMut() -> bool) {
    until_within(patience(), what, condition);
}

/// Waits for a condition for so long.
#[track_caller]
pub(crate) fn until_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {} seconds: {what}", limit.as_secs());
        thread::sleep(Duration::from_millis(3));
    }
}
