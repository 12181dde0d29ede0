//! Pods and containers without a kubelet, by crictl.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Value, json};

use crate::command::Output;
use crate::node::{Node, json_or_empty};
use crate::process::Process;

const NAMESPACE: &str = "default";

/// The network that a Pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// One of its own, made by CNI.
    Pod,
    /// The node's.
    Host,
}

/// What a Pod should be.
#[derive(Debug, Clone)]
pub struct PodSpec {
    name: String,
    uid: String,
    attempt: u32,
    network: Network,
    handler: Option<String>,
    annotations: Value,
}

impl PodSpec {
    /// A Pod of namespace `default` with a network of its own, run by the node's default runtime.
    #[must_use]
    pub fn new(name: &str) -> PodSpec {
        let (name, uid) = (name.to_owned(), format!("uid-{name}"));
        PodSpec { name, uid, attempt: 0, network: Network::Pod, handler: None, annotations: json!({}) }
    }

    /// The Pod's uid (`uid-NAME` by default): one more sandbox of the same Pod has the same.
    #[must_use]
    pub fn uid(mut self, uid: &str) -> PodSpec {
        self.uid = uid.to_owned();
        self
    }

    /// Which sandbox of the Pod this is (0 by default).
    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> PodSpec {
        self.attempt = attempt;
        self
    }

    /// The network.
    #[must_use]
    pub fn network(mut self, network: Network) -> PodSpec {
        self.network = network;
        self
    }

    /// A runtime handler in place of the default.
    #[must_use]
    pub fn handler(mut self, handler: &str) -> PodSpec {
        self.handler = Some(handler.to_owned());
        self
    }

    /// One more annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> PodSpec {
        self.annotations[key] = value.into();
        self
    }

    fn namespaces(&self) -> Value {
        // runtime.v1.NamespaceMode: POD 0, CONTAINER 1, NODE 2
        let network = match self.network {
            Network::Pod => 0,
            Network::Host => 2,
        };
        json!({"network": network, "pid": 1, "ipc": 0})
    }

    fn config(&self) -> Value {
        let hostname = match self.network {
            Network::Pod => self.name.as_str(),
            Network::Host => "",
        };
        json!({
            "metadata": {"name": self.name, "uid": self.uid, "namespace": NAMESPACE, "attempt": self.attempt},
            "hostname": hostname,
            "log_directory": format!("/var/log/pods/{}", self.uid),
            "labels": {
                "io.kubernetes.pod.name": self.name,
                "io.kubernetes.pod.namespace": NAMESPACE,
                "io.kubernetes.pod.uid": self.uid,
            },
            "annotations": self.annotations,
            "linux": {"cgroup_parent": "/pods", "security_context": {"namespace_options": self.namespaces()}},
        })
    }
}

/// What a container should be.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    name: String,
    attempt: u32,
    image: String,
    argv: Vec<String>,
    cdi_devices: Vec<String>,
    annotations: Value,
    privileged: bool,
}

impl ContainerSpec {
    /// A busybox that sleeps until it gets a signal.
    #[must_use]
    pub fn new(name: &str) -> ContainerSpec {
        let script = "trap exit TERM; sleep 1000000 & wait";
        ContainerSpec {
            name: name.to_owned(),
            attempt: 0,
            image: crate::BUSYBOX_IMAGE.to_owned(),
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            cdi_devices: Vec::new(),
            annotations: json!({}),
            privileged: false,
        }
    }

    /// Another command.
    #[must_use]
    pub fn argv(mut self, argv: &[&str]) -> ContainerSpec {
        self.argv = argv.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Another image.
    #[must_use]
    pub fn image(mut self, image: &str) -> ContainerSpec {
        self.image = image.to_owned();
        self
    }

    /// One more CDI device, such as `networking.k8s.io/netdevice=dummy0`.
    #[must_use]
    pub fn cdi_device(mut self, name: &str) -> ContainerSpec {
        self.cdi_devices.push(name.to_owned());
        self
    }

    /// One more annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> ContainerSpec {
        self.annotations[key] = value.into();
        self
    }

    /// Which start of the container this is (0 by default): a restart has a higher one.
    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> ContainerSpec {
        self.attempt = attempt;
        self
    }

    /// All capabilities and devices.
    #[must_use]
    pub fn privileged(mut self) -> ContainerSpec {
        self.privileged = true;
        self
    }

    fn config(&self, pod: &PodSpec) -> Value {
        let devices: Vec<Value> = self.cdi_devices.iter().map(|name| json!({"name": name})).collect();
        json!({
            "metadata": {"name": self.name, "attempt": self.attempt},
            "image": {"image": self.image},
            "command": self.argv,
            "log_path": format!("{}_{}.log", self.name, self.attempt),
            "labels": {"io.kubernetes.container.name": self.name},
            "annotations": self.annotations,
            "CDI_devices": devices,
            "linux": {"security_context": {"privileged": self.privileged, "namespace_options": pod.namespaces()}},
        })
    }
}

/// What the runtime said when it refused.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The runtime's words, which a kubelet would show in `kubectl describe pod`.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// A sandbox.
#[derive(Debug)]
pub struct Pod<'n> {
    node: &'n Node,
    spec: PodSpec,
    id: String,
}

/// A container of a Pod.
#[derive(Debug)]
pub struct Container<'n> {
    node: &'n Node,
    id: String,
}

impl Node {
    /// Runs crictl.
    pub fn crictl(&self, args: &[&str]) -> Output {
        self.run(["crictl"].iter().chain(args))
    }

    /// Runs a sandbox.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn run_pod(&self, spec: PodSpec) -> Result<Pod<'_>, Failure> {
        let config = self.write_request(&format!("{}.pod.json", spec.name), &spec.config());
        let handler = spec.handler.clone().map(|handler| format!("--runtime={handler}"));
        let args: Vec<&str> = ["runp"].into_iter().chain(handler.as_deref()).chain([config.as_str()]).collect();
        let id = done(self.crictl(&args))?;
        Ok(Pod { node: self, spec, id })
    }

    /// Asks for a sandbox and does not wait for it.
    #[must_use]
    pub fn begin_pod(&self, spec: &PodSpec) -> Process {
        let config = self.write_request(&format!("{}.pod.json", spec.name), &spec.config());
        self.spawn(["crictl", "runp", &config])
    }

    /// Pids of all Pods' first processes and shims, also of those that containerd has forgotten.
    ///
    /// # Panics
    /// When they cannot be listed.
    #[must_use]
    #[track_caller]
    pub fn sandbox_processes(&self) -> BTreeSet<String> {
        let pids = self.sh("pgrep -fx '/busybox sleep 2147483647' || :; pgrep containerd-shim || :").stdout;
        pids.lines().map(str::to_owned).collect()
    }

    /// Stops and removes every Pod, the kubelet's too.
    ///
    /// # Panics
    /// When one does not go.
    #[track_caller]
    pub fn remove_all_pods(&self) {
        let gone = || self.crictl(&["rmp", "--all", "--force"]);
        // a container that is just exiting can make the runtime refuse; a kubelet asks again too
        crate::wait_for("all Pods go", gone, Output::success);
    }

    fn write_request(&self, name: &str, request: &Value) -> String {
        let inside = format!("/run/rig/crictl/{name}");
        self.write(&inside, &request.to_string());
        inside
    }
}

impl<'n> Pod<'n> {
    /// The sandbox's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Creates a container in it. CDI names are resolved here; hooks run at [`Container::start`].
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn create(&self, spec: &ContainerSpec) -> Result<Container<'n>, Failure> {
        let pod = self.node.write_request(&format!("{}.pod.json", self.spec.name), &self.spec.config());
        let name = format!("{}.{}.json", self.spec.name, spec.name);
        let container = self.node.write_request(&name, &spec.config(&self.spec));
        let id = done(self.node.crictl(&["create", &self.id, &container, &pod]))?;
        Ok(Container { node: self.node, id })
    }

    /// Creates and starts a container.
    ///
    /// # Errors
    /// When the runtime refuses either.
    pub fn start(&self, spec: &ContainerSpec) -> Result<Container<'n>, Failure> {
        let container = self.create(spec)?;
        container.start()?;
        Ok(container)
    }

    /// `crictl inspectp`.
    ///
    /// # Panics
    /// When the sandbox is gone.
    #[must_use]
    #[track_caller]
    pub fn inspect(&self) -> Value {
        self.node.crictl(&["inspectp", &self.id]).json()
    }

    /// The pid of its pause process, as the node knows it: `/proc/PID/ns/net` is its network.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn pid(&self) -> u64 {
        self.inspect()["info"]["pid"].as_u64().expect("a running sandbox has a pid")
    }

    /// What iproute2 says in the Pod's network, as [`Node::ip`].
    ///
    /// # Panics
    /// When `ip` fails.
    #[must_use]
    #[track_caller]
    pub fn ip(&self, args: &[&str]) -> Value {
        let namespace = format!("--net=/proc/{}/ns/net", self.pid());
        json_or_empty(&self.node.run(["nsenter", &namespace, "--", "ip", "-j"].iter().chain(args)))
    }

    /// Stops it and its containers.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn stop(&self) -> Result<(), Failure> {
        done(self.node.crictl(&["stopp", &self.id])).map(drop)
    }

    /// Removes it; it must be stopped.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn remove(&self) -> Result<(), Failure> {
        done(self.node.crictl(&["rmp", &self.id])).map(drop)
    }
}

impl Container<'_> {
    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Starts it: hooks run.
    ///
    /// # Errors
    /// When the runtime, or a hook, refuses.
    pub fn start(&self) -> Result<(), Failure> {
        done(self.node.crictl(&["start", &self.id])).map(drop)
    }

    /// Stops it: TERM, and KILL after two seconds.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn stop(&self) -> Result<(), Failure> {
        done(self.node.crictl(&["stop", "--timeout=2", &self.id])).map(drop)
    }

    /// Removes it; it must be stopped.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn remove(&self) -> Result<(), Failure> {
        done(self.node.crictl(&["rm", &self.id])).map(drop)
    }

    /// Runs a command in it; the code is the command's own.
    pub fn exec(&self, argv: &[&str]) -> Output {
        let mut output = self.node.crictl(&[&["exec", self.id.as_str()], argv].concat());
        // crictl exits with 1 and says the command's code in its last line
        let (own, said) = output.stderr.rsplit_once("command terminated with exit code ").unzip();
        if let (Some(own), Some(code)) = (own, said.and_then(|rest| rest.trim_end().trim_end_matches('"').parse().ok()))
        {
            let own = own.rsplit_once("time=").map_or(own, |(own, _)| own).to_owned();
            output = Output { code: Some(code), stderr: own, ..output };
        }
        output
    }

    /// `crictl inspect`: also of a container that has ended.
    ///
    /// # Panics
    /// When it is removed.
    #[must_use]
    #[track_caller]
    pub fn inspect(&self) -> Value {
        self.node.crictl(&["inspect", &self.id]).json()
    }

    /// `CONTAINER_CREATED`, `CONTAINER_RUNNING` or `CONTAINER_EXITED`.
    ///
    /// # Panics
    /// When it is removed.
    #[must_use]
    #[track_caller]
    pub fn state(&self) -> String {
        self.inspect()["status"]["state"].as_str().unwrap_or_default().to_owned()
    }

    /// What it wrote, both streams.
    #[must_use]
    pub fn logs(&self) -> String {
        let said = self.node.crictl(&["logs", &self.id]);
        said.stdout + &said.stderr
    }
}

fn done(output: Output) -> Result<String, Failure> {
    if output.success() {
        return Ok(output.stdout.trim_end().to_owned());
    }
    Err(Failure { message: output.stderr })
}
