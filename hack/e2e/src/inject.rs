//! `if-inject` on a node, and what it leaves there: results, leases, interfaces of Pods.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::ops::Deref;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use crate::command::{Output, run};
use crate::cri::{Pod, PodSpec};
use crate::node::{Node, json_or_empty};
use crate::process::Process;

/// Where the node has the program.
pub const IF_INJECT: &str = "/run/rig/if-inject";
/// libcni's cache of results.
pub const CNI_RESULTS: &str = "/var/lib/cni/results";
/// What the kernel's tunnel modules make in every network namespace once they are loaded.
const FALLBACK_TUNNELS: [&str; 9] =
    ["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"];
/// Where host-local keeps its leases.
pub const CNI_LEASES: &str = "/var/lib/cni/networks";

impl Node {
    /// Runs `if-inject` to its end.
    pub fn if_inject(&self, args: &[&str]) -> Output {
        self.if_inject_with(args, "")
    }

    /// Runs `if-inject` with `input` as its standard input.
    pub fn if_inject_with(&self, args: &[&str], input: &str) -> Output {
        self.link_if_inject();
        self.enter(&[&[IF_INJECT], args].concat(), input)
    }

    /// Starts `if-inject` and does not wait for it.
    #[must_use]
    pub fn begin_if_inject(&self, args: &[&str]) -> Process {
        self.link_if_inject();
        self.spawn([IF_INJECT].iter().chain(args))
    }

    /// As [`Node::run_with`], for tests of many short commands: without the shell script in between.
    pub fn enter(&self, argv: &[&str], input: &str) -> Output {
        static PATH: OnceLock<String> = OnceLock::new();
        // the same for every node of this process
        let path = PATH.get_or_init(|| self.run(["sh", "-c", "echo PATH=$PATH"]).text().to_owned());
        let init = format!("--target={}", self.init_pid());
        let entered = [&init, "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--", "env", path];
        let dying = ["setpriv", "--pdeathsig", "KILL"];
        run("nsenter".into(), [&entered[..], &dying, argv].concat(), input)
    }

    fn link_if_inject(&self) {
        let link = self.path(IF_INJECT);
        match symlink(crate::program("netdevctl"), &link) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => panic!("{}: {error}", link.display()),
            _ => {}
        }
    }

    /// Writes a CNI configuration and returns the path that the node has it under.
    #[must_use]
    pub fn cni_spec(&self, file: &str, configuration: &Value) -> String {
        let path = format!("/run/rig/spec/{file}");
        self.write(&path, &configuration.to_string());
        path
    }

    /// What host-local has reserved in a network: the addresses, and the container and interface that has each.
    #[must_use]
    pub fn cni_leases(&self, network: &str) -> BTreeMap<String, (String, String)> {
        let files = read_dir(&self.path(&format!("{CNI_LEASES}/{network}")));
        let leases = files.into_iter().filter(|(name, _)| name.contains(['.', ':']) && !name.starts_with("last_"));
        let owner = |text: &str| text.split_once("\r\n").map(|(id, name)| (id.to_owned(), name.to_owned()));
        leases.filter_map(|(name, text)| Some((name, owner(&text)?))).collect()
    }

    /// The results that libcni's cache has of a network, by the names of their files.
    #[must_use]
    pub fn cni_results(&self, network: &str) -> BTreeMap<String, Value> {
        let files = read_dir(&self.path(CNI_RESULTS)).into_iter();
        let entries = files.filter_map(|(name, text)| Some((name, serde_json::from_str::<Value>(&text).ok()?)));
        entries.filter(|(_, entry)| entry["networkName"] == network).collect()
    }

    /// Runs a Pod and finds its network namespace by `if-inject netns`.
    ///
    /// # Panics
    /// When either fails.
    #[must_use]
    #[track_caller]
    pub fn running_pod(&self, name: &str) -> RunningPod<'_> {
        self.running_pod_as(name, PodSpec::new(name))
    }

    /// As [`Node::running_pod`], of a specification.
    ///
    /// # Panics
    /// As that.
    #[must_use]
    #[track_caller]
    pub fn running_pod_as(&self, name: &str, spec: PodSpec) -> RunningPod<'_> {
        let pod = self.run_pod(spec).unwrap_or_else(|error| panic!("{error}"));
        RunningPod { pod, name: name.to_owned(), network: self.pod_network(name) }
    }

    /// The network of a Pod that runs, found by `if-inject netns`.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    #[track_caller]
    pub fn pod_network(&self, pod: &str) -> PodNetwork<'_> {
        PodNetwork { node: self, namespace: self.if_inject(&["netns", "-pod", pod]).text().to_owned() }
    }
}

/// The IPv4 addresses of an interface as `ip -j` shows it, each with its prefix length.
#[must_use]
pub fn addresses_of(interface: &Value) -> Vec<String> {
    let addresses = interface["addr_info"].as_array().cloned().unwrap_or_default().into_iter();
    let v4 = addresses.filter(|address| address["family"] == "inet");
    v4.map(|address| format!("{}/{}", address["local"].as_str().unwrap_or_default(), address["prefixlen"])).collect()
}

/// The files of a directory that may not exist, with their texts.
fn read_dir(directory: &Path) -> BTreeMap<String, String> {
    let files = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let read = |file: fs::DirEntry| {
        let text = fs::read(file.path()).ok()?;
        Some((file.file_name().to_string_lossy().into_owned(), String::from_utf8_lossy(&text).into_owned()))
    };
    files.filter_map(read).collect()
}

/// A Pod that runs, for `if-inject`.
#[derive(Debug)]
pub struct RunningPod<'n> {
    pod: Pod<'n>,
    name: String,
    network: PodNetwork<'n>,
}

impl RunningPod<'_> {
    /// The Pod's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sandbox's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.pod.id()
    }

    /// `if-inject ARGS -pod NAME`.
    pub fn if_inject(&self, args: &[&str]) -> Output {
        self.network.node.if_inject(&[args, &["-pod", &self.name]].concat())
    }

    /// `if-inject COMMAND -interface NAME -spec FILE`.
    pub fn plug(&self, command: &str, interface: &str, spec: &str) -> Output {
        self.if_inject(&[command, "-interface", interface, "-spec", spec])
    }

    /// Stops and removes it, as the kubelet does.
    ///
    /// # Panics
    /// When the runtime refuses.
    #[track_caller]
    pub fn end(self) {
        self.pod.stop().and_then(|()| self.pod.remove()).unwrap_or_else(|error| panic!("{error}"));
    }
}

impl<'n> Deref for RunningPod<'n> {
    type Target = PodNetwork<'n>;

    fn deref(&self) -> &PodNetwork<'n> {
        &self.network
    }
}

/// The network namespace of a Pod.
#[derive(Debug)]
pub struct PodNetwork<'n> {
    node: &'n Node,
    namespace: String,
}

impl PodNetwork<'_> {
    /// The path of its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Runs a command in the Pod's network namespace.
    pub fn run(&self, argv: &[&str]) -> Output {
        let namespace = format!("--net={}", self.namespace);
        self.node.enter(&[&["nsenter", &namespace, "--"], argv].concat(), "")
    }

    /// Runs a script in the Pod's network namespace.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Output {
        let done = self.run(&["sh", "-ec", script]);
        assert!(done.success(), "{done}");
        done
    }

    /// What `ip -d address show` says of one of its interfaces; none if there is no such interface.
    #[must_use]
    pub fn interface(&self, name: &str) -> Option<Value> {
        let shown = self.run(&["ip", "-j", "-d", "address", "show", "dev", name]);
        if shown.success() { json_or_empty(&shown).get(0).cloned() } else { None }
    }

    /// The IPv4 addresses of one of its interfaces, each with its prefix length.
    #[must_use]
    pub fn addresses(&self, name: &str) -> Vec<String> {
        addresses_of(&self.interface(name).unwrap_or_default())
    }

    /// The names of its interfaces, without those that the kernel makes in every namespace.
    #[must_use]
    pub fn interfaces(&self) -> Vec<String> {
        let links = json_or_empty(&self.run(&["ip", "-j", "link"]));
        let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
        names.filter(|name| !FALLBACK_TUNNELS.contains(name)).map(str::to_owned).collect()
    }
}
