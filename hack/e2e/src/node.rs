//! One node: started, entered, ended.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::command::{Output, hack, run};
use crate::process::Process;

/// What runs on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// containerd alone.
    Containerd,
    /// containerd and a kubelet without API server: static Pods.
    Standalone,
    /// A whole Kubernetes.
    Cluster,
}

/// What to do to one of a node's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start it and wait until it answers.
    Start,
    /// End it; what it started goes on.
    Stop,
    /// Both.
    Restart,
}

impl Action {
    fn verb(self) -> &'static str {
        match self {
            Action::Start => "start",
            Action::Stop => "stop",
            Action::Restart => "restart",
        }
    }
}

/// A running node. It is ended when this is dropped, and also when the test process ends in any other way.
#[derive(Debug)]
pub struct Node {
    name: String,
    files: PathBuf,
    /// Ends the node when the pipe to it closes.
    tether: Option<Child>,
    spawned: AtomicU32,
}

impl Node {
    /// Starts a node with containerd. Its name is `name` and this process's id, so that test runs do not meet.
    ///
    /// # Panics
    /// When it cannot be started, with the reason (Go is missing, not root, ...).
    #[must_use]
    pub fn start(name: &str) -> Node {
        Node::start_as(name, Kind::Containerd)
    }

    /// Starts a node of the given kind.
    ///
    /// # Panics
    /// As [`Node::start`].
    #[must_use]
    pub fn start_as(name: &str, kind: Kind) -> Node {
        let name = format!("{name}-{}", std::process::id());
        let files = PathBuf::from(run(hack("node/node"), ["path", &name], "").text());
        let tether = if keep() { None } else { Some(tether(&name)) };
        let node = Node { name, files, tether, spawned: AtomicU32::new(0) };
        match kind {
            Kind::Containerd => {
                started(run(hack("cluster/cluster"), ["build", "crictl"], ""));
                started(run(hack("node/node"), ["up", node.name()], ""));
            }
            Kind::Standalone => started(run(hack("cluster/cluster"), ["up", node.name(), "--standalone"], "")),
            Kind::Cluster => started(run(hack("cluster/cluster"), ["up", node.name()], "")),
        }
        node
    }

    /// Its name: host name, and name of the Node object.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where a file of the node's own (below /run, /etc/cdi, /var/lib/kubelet, ...) lies as seen from the test.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        self.files.join(inside.trim_start_matches('/'))
    }

    /// The pid of its first process as this machine knows it: the namespaces of that process are the node's.
    ///
    /// # Panics
    /// When the node is not up.
    #[must_use]
    #[track_caller]
    pub fn init_pid(&self) -> u32 {
        let file = self.files.with_file_name("init.pid");
        let init = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        init.trim().parse().unwrap_or_else(|error| panic!("{}: {error}: {init}", file.display()))
    }

    /// Runs a command in the node to its end.
    pub fn run<I>(&self, argv: I) -> Output
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.run_with(argv, "")
    }

    /// Runs a command in the node with `input` as its standard input.
    pub fn run_with<I>(&self, argv: I, input: &str) -> Output
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        run(hack("node/node"), self.run_args(argv), input)
    }

    /// Starts a program in the node, such as the agent.
    pub fn spawn<I>(&self, argv: I) -> Process
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let number = self.spawned.fetch_add(1, Ordering::Relaxed);
        let mut command = Command::new(hack("node/node"));
        command.args(self.run_args(argv));
        Process::start(command, self.log_dir().join(format!("spawned-{number}.log")))
    }

    fn run_args<I>(&self, argv: I) -> Vec<OsString>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let mut args = vec!["run".into(), self.name().into()];
        args.extend(argv.into_iter().map(|word| word.as_ref().to_owned()));
        args
    }

    /// What iproute2 says in the node's own network: `node.ip(&["-d", "link", "show", "dev", "dummy0"])`.
    ///
    /// # Panics
    /// When `ip` fails.
    #[must_use]
    #[track_caller]
    pub fn ip(&self, args: &[&str]) -> Value {
        json_or_empty(&self.run(["ip", "-j"].iter().chain(args)))
    }

    /// Starts or ends containerd.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn containerd(&self, action: Action) {
        started(run(hack("node/node"), ["containerd", self.name(), action.verb()], ""));
    }

    /// Starts or ends the kubelet.
    ///
    /// # Panics
    /// When that fails, or the node has none.
    #[track_caller]
    pub fn kubelet(&self, action: Action) {
        started(run(hack("cluster/cluster"), ["kubelet", self.name(), action.verb()], ""));
    }

    /// Starts or ends the API server.
    ///
    /// # Panics
    /// When that fails, or the node has none.
    #[track_caller]
    pub fn apiserver(&self, action: Action) {
        started(run(hack("cluster/cluster"), ["apiserver", self.name(), action.verb()], ""));
    }

    /// Packs files of this machine (`FILE` or `FILE=PATH`) as an image and loads it.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn import_image(&self, reference: &str, files: &[&str]) {
        let tar = self.log_dir().join("image.tar");
        let tar = tar.to_string_lossy();
        started(run(hack("image"), ["pack", &tar, reference].iter().chain(files), ""));
        started(run(hack("node/node"), ["import", self.name(), &tar], ""));
    }

    /// Writes a file of the node's own in one step, as a program that watches the directory wants it.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        // a name of its own: several are written at a time
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let hidden = path.with_file_name(format!(".{name}.new"));
        let written = fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))
            .and_then(|()| fs::write(&hidden, text))
            .and_then(|()| fs::rename(&hidden, &path));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// The log of one of the node's programs: containerd, kubelet, kube-apiserver, ...
    #[must_use]
    pub fn log(&self, program: &str) -> String {
        let log = fs::read(self.log_dir().join(format!("{program}.log")));
        String::from_utf8_lossy(&log.unwrap_or_default()).into_owned()
    }

    fn log_dir(&self) -> PathBuf {
        self.files.with_file_name("log")
    }

    /// Ends the node and waits until nothing of it is left.
    ///
    /// # Panics
    /// When something stays.
    pub fn down(mut self) {
        started(self.end());
    }

    fn end(&mut self) -> Output {
        let done = run(hack("node/node"), ["down", self.name()], "");
        if let Some(mut tether) = self.tether.take() {
            // the same once more, which finds nothing to do
            drop(tether.stdin.take());
            drop(tether.wait());
        }
        done
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.tether.is_none() {
            return;
        }
        let done = self.end();
        if !done.success() && !std::thread::panicking() {
            panic!("{done}");
        }
    }
}

/// What `ip -j` said; it says nothing at all where an empty list is meant.
#[track_caller]
pub(crate) fn json_or_empty(output: &Output) -> Value {
    if output.text().is_empty() { Value::Array(Vec::new()) } else { output.json() }
}

#[track_caller]
fn started(output: Output) {
    assert!(output.success(), "{output}");
}

fn keep() -> bool {
    std::env::var_os("NETDEVICE_KEEP").is_some()
}

/// A process that ends the node once this process has ended, however that comes about.
fn tether(name: &str) -> Child {
    use std::os::unix::process::CommandExt as _;
    Command::new("sh")
        .args(["-c", "cat >/dev/null; exec \"$0\" down \"$1\""])
        .arg(hack("node/node"))
        .arg(name)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0) // Ctrl-C is for the test, not for this
        .spawn()
        .unwrap_or_else(|error| panic!("sh: {error}"))
}
