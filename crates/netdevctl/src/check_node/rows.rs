//! What the facts mean for each way: a row for each thing that it needs, and what to do about each "no".

use std::path::Path;

use netdevice::claims::DRIVER;
use serde::Serialize;

use super::arguments::CheckNodeArguments;
use super::facts::{Facts, Hook, INTERFACE_PLUGINS, PLUGINS, Runtime, Socket, View, WayIn, kinds};

/// Whether something is as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Yes,
    No,
    Unknown,
}

/// One thing that a way needs.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    /// What it is.
    pub(crate) check: &'static str,
    pub(crate) ready: Verdict,
    /// Whether the way works without it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) optional: bool,
    /// What was found.
    pub(crate) found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) action: Option<String>,
}

/// The rows of one way, or of what every way needs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Section {
    /// None for what every way needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) way: Option<WayIn>,
    /// Of a way: with the rows of the node.
    pub(crate) ready: Verdict,
    pub(crate) checks: Vec<Row>,
}

impl Row {
    fn yes(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, ready: Verdict::Yes, optional: false, found: found.into(), action: None }
    }

    fn no(check: &'static str, found: impl Into<String>, action: impl Into<String>) -> Self {
        Self { ready: Verdict::No, action: Some(action.into()), ..Self::yes(check, found) }
    }

    fn unknown(check: &'static str, found: impl Into<String>, action: impl Into<String>) -> Self {
        Self { ready: Verdict::Unknown, ..Self::no(check, found, action) }
    }

    fn optional(self) -> Self {
        Self { optional: true, ..self }
    }
}

/// What all these rows mean together.
fn verdict<'a>(rows: impl Iterator<Item = &'a Row> + Clone) -> Verdict {
    let has = |verdict| rows.clone().any(|row| !row.optional && row.ready == verdict);
    if has(Verdict::No) {
        Verdict::No
    } else if has(Verdict::Unknown) {
        Verdict::Unknown
    } else {
        Verdict::Yes
    }
}

/// The node, and each of these ways.
pub(crate) fn sections(facts: &Facts, arguments: &CheckNodeArguments, ways: &[WayIn]) -> Vec<Section> {
    let node = node(facts);
    let mut sections = vec![Section { way: None, ready: verdict(node.iter()), checks: node.clone() }];
    for way in ways {
        let checks = match way {
            WayIn::ExtendedResource => extended_resource(facts, arguments),
            WayIn::Annotation => annotation(facts, arguments),
            WayIn::Command => command(facts, arguments),
            WayIn::NetworksAnnotation => networks_annotation(facts, arguments),
            WayIn::Claims => claims(facts, arguments),
        };
        sections.push(Section { way: Some(*way), ready: verdict(node.iter().chain(&checks)), checks });
    }
    sections
}

fn node(facts: &Facts) -> Vec<Row> {
    let mut rows = Vec::new();
    if let View::Own(reason) = &facts.view {
        let action = "run netdevctl as root on the node, or with hostPID and the capabilities SYS_ADMIN, SYS_CHROOT and SYS_PTRACE";
        rows.push(Row::unknown("node's files", format!("not visible: {reason}"), action).optional());
    }
    let release = &facts.kernel.release;
    rows.push(match &facts.kernel.cookie {
        Ok(()) => Row::yes("Linux", release),
        Err(reason) => {
            Row::no("Linux", format!("{release}, no network namespace cookies: {reason}"), "use Linux 5.14 or later")
        }
    });
    rows.push(match &facts.kernel.namespace_events {
        Ok(()) => Row::yes("namespace events", "reported by the kernel"),
        Err(reason) => Row::no("namespace events", format!("none: {reason}"), "use Linux 5.14 or later"),
    });
    match &facts.runtime {
        Ok(runtime) => {
            rows.push(version(runtime));
            rows.extend(runtime_ready(runtime));
        }
        Err(reason) => rows.push(Row::no(RUNTIME, reason, "start the container runtime")),
    }
    rows
}

const RUNTIME: &str = "container runtime";

fn version(runtime: &Runtime) -> Row {
    let Runtime { name, version, endpoint, .. } = runtime;
    let found = format!("{name} {version} at {endpoint}");
    match (Kind::of(runtime), major_and_minor(version)) {
        (Kind::Containerd, Some(version)) if version >= (1, 7) => Row::yes(RUNTIME, found),
        (Kind::Containerd, Some(_)) => {
            Row::no(RUNTIME, found, "use containerd 1.7 or later: it has neither CDI nor NRI")
        }
        (Kind::Crio, Some(version)) if version >= OLDEST_CRIO => Row::yes(RUNTIME, found),
        (Kind::Crio, Some(_)) => {
            Row::unknown(RUNTIME, found, "use CRI-O 1.31 or later: netdevice is not tested with this one")
        }
        (Kind::Other, _) => {
            Row::unknown(RUNTIME, found, "use containerd or CRI-O: netdevice is not tested with this one")
        }
        (_, None) => {
            Row::unknown(RUNTIME, found, "use containerd 1.7 or later, or CRI-O: this version cannot be compared")
        }
    }
}

/// Whether the runtime can start Pods.
fn runtime_ready(runtime: &Runtime) -> Option<Row> {
    let (check, state) = ("runtime ready", runtime.state.as_ref());
    Some(match state.map(|state| state.not_ready.join("; ")) {
        Ok(missing) if missing.is_empty() => Row::yes(check, "as it reports"),
        Ok(missing) => {
            Row::no(check, missing, "no Pod can start: install the cluster's network, or see the runtime's log")
        }
        Err(reason) => Row::unknown(check, reason, "see the runtime's log"),
    })
}

fn extended_resource(facts: &Facts, arguments: &CheckNodeArguments) -> Vec<Row> {
    let mut rows = cdi(facts, &arguments.cdi_dir);
    let (sockets, kubelet) = (&facts.device_plugins, arguments.kubelet_dir.display());
    rows.push(socket(
        "kubelet's device plugins",
        sockets,
        &arguments.kubelet_dir.join("device-plugins/kubelet.sock"),
        "start the kubelet, or name its directory with -kubelet-dir",
    ));
    let pod_resources = socket(
        "kubelet's PodResources",
        &facts.pod_resources,
        &arguments.kubelet_dir.join("pod-resources/kubelet.sock"),
        &format!("see whether the kubelet serves it below {kubelet}: without it a lost hook is found later"),
    );
    rows.push(pod_resources.optional());
    rows.push(hook(facts, &arguments.hook_path));
    rows.push(agent(facts));
    rows
}

fn annotation(facts: &Facts, arguments: &CheckNodeArguments) -> Vec<Row> {
    vec![nri(facts, &arguments.nri_socket), injector(facts)]
}

fn command(facts: &Facts, arguments: &CheckNodeArguments) -> Vec<Row> {
    let mut rows = capabilities(facts);
    rows.push(plugins(facts, arguments));
    rows.push(networks(facts, &arguments.cni_conf_dir).optional());
    rows.push(link_kinds(facts).optional());
    let agent = agent(facts).optional();
    rows.push(match agent.ready {
        Verdict::Yes => agent,
        _ => Row {
            action: Some("start the agent, which detaches at the end of a Pod, or run if-inject gc".into()),
            ..agent
        },
    });
    rows
}

fn networks_annotation(facts: &Facts, arguments: &CheckNodeArguments) -> Vec<Row> {
    vec![
        nri(facts, &arguments.nri_socket).optional(),
        plugins(facts, arguments),
        networks(facts, &arguments.cni_conf_dir).optional(),
        link_kinds(facts).optional(),
        agent(facts),
    ]
}

fn claims(facts: &Facts, arguments: &CheckNodeArguments) -> Vec<Row> {
    let mut rows = cdi(facts, &arguments.cdi_dir);
    let directory = arguments.kubelet_dir.join("plugins_registry");
    let directory = directory.display();
    rows.push(if facts.has_plugins_registry {
        Row::yes("kubelet's plugins", directory.to_string())
    } else {
        let action = "start the kubelet, or name its directory with -kubelet-dir";
        Row::no("kubelet's plugins", format!("no directory {directory}"), action)
    });
    rows.push(if facts.has_driver {
        Row::yes("driver", format!("{DRIVER} has a socket in {directory}"))
    } else {
        Row::no("driver", format!("no socket of {DRIVER} in {directory}"), "start netdevice-agent with -dra")
    });
    rows.push(hook(facts, &arguments.hook_path));
    rows.push(nri(facts, &arguments.nri_socket).optional());
    rows.push(agent(facts));
    rows
}

/// CDI in the runtime: switched on, and our directory read.
fn cdi(facts: &Facts, directory: &Path) -> Vec<Row> {
    let check = "CDI";
    let ask = "ask the runtime: crictl info | grep -i cdi";
    let Ok(runtime) = &facts.runtime else {
        return vec![Row::unknown(check, "the container runtime does not answer", ask)];
    };
    let state = runtime.state.as_ref().ok();
    let enable = "set enable_cdi = true in containerd's configuration and restart it: see docs/containerd.md";
    let switch = match (Kind::of(runtime), state.and_then(|state| state.cdi)) {
        (Kind::Crio, _) => Row::yes(check, "always on in CRI-O"),
        (_, Some(true)) => Row::yes(check, "on in the runtime's configuration"),
        (Kind::Containerd, Some(false)) => Row::no(check, "off in the runtime's configuration (enableCDI)", enable),
        (_, Some(false)) => Row::no(check, "off in the runtime's configuration (enableCDI)", "switch it on"),
        (Kind::Containerd, None) => match major_and_minor(&runtime.version) {
            Some(version) if version >= (2, 0) => {
                Row::unknown(check, "not reported; on by default since containerd 2.0", ask)
            }
            Some(version) if version >= (1, 7) => {
                Row::unknown(check, "not reported; off by default in containerd 1.7", ask)
            }
            Some(_) => Row::no(check, "not in this version", "use containerd 1.7 or later"),
            None => Row::unknown(check, "not reported", ask),
        },
        (Kind::Other, None) => Row::unknown(check, "not reported", ask),
    };
    let mut rows = vec![switch];
    if let Some(directories) = state.and_then(|state| state.cdi_directories.as_ref()) {
        let (check, found) = ("CDI directory", format!("the runtime reads {}", directories.join(" and ")));
        let is_read = directories.iter().any(|read| without_link(read) == without_link(&directory.to_string_lossy()));
        let action =
            format!("add {} to the runtime's CDI directories, or start the agent with -cdi-dir", directory.display());
        rows.push(if is_read { Row::yes(check, found) } else { Row::no(check, found, action) });
    }
    rows
}

/// A path below `/run`, where `/var/run` leads to.
fn without_link(path: &str) -> String {
    let path = path.trim_end_matches('/');
    path.strip_prefix("/var/run/").map_or(path.to_owned(), |rest| format!("/run/{rest}"))
}

fn nri(facts: &Facts, path: &Path) -> Row {
    let enable = match facts.runtime.as_ref().map(|runtime| (Kind::of(runtime), major_and_minor(&runtime.version))) {
        Ok((Kind::Containerd, Some((1, _)))) => {
            "off by default in containerd 1: switch it on as docs/containerd.md says, and restart containerd"
        }
        Ok((Kind::Containerd, _)) => {
            "remove disable = true from containerd's section io.containerd.nri.v1.nri, and restart it; or name the socket with -nri-socket"
        }
        Ok((Kind::Crio, _)) => {
            "set enable_nri = true in [crio.nri], and restart CRI-O; or name the socket with -nri-socket"
        }
        _ => "switch NRI on in the runtime, or name the socket with -nri-socket",
    };
    socket("NRI", &facts.nri, path, enable)
}

fn socket(check: &'static str, socket: &Socket, path: &Path, action: &str) -> Row {
    let path = path.display();
    match socket {
        Socket::Accepts => Row::yes(check, path.to_string()),
        Socket::Absent => Row::no(check, format!("no socket {path}"), action),
        Socket::Refuses(reason) => Row::no(check, format!("{path}: {reason}"), action),
    }
}

fn hook(facts: &Facts, path: &str) -> Row {
    let check = "hook";
    match facts.hook {
        Hook::Installed => Row::yes(check, path),
        Hook::Absent => {
            Row::no(check, format!("no file {path}"), "start the agent, which installs it, or name it with -hook-path")
        }
        Hook::Unusable(reason) => {
            Row::no(check, format!("{path}: {reason}"), "see docs/troubleshooting.md, The hook cannot be started")
        }
    }
}

fn agent(facts: &Facts) -> Row {
    if facts.has_agent {
        return Row::yes("agent", "runs");
    }
    Row::no("agent", "does not run", "kubectl apply -f install.yaml")
}

fn injector(facts: &Facts) -> Row {
    let check = "injector";
    if facts.has_injector {
        return Row::yes(check, "runs");
    }
    let found = if facts.has_agent { "the agent runs without -nri" } else { "does not run" };
    Row::no(check, found, "start the agent with -nri, or network-device-injector: see docs/annotation.md")
}

/// The capabilities of this process: name, number (`include/uapi/linux/capability.h`), and what fails without it; none for
/// everything.
const CAPABILITIES: [(&str, u32, Option<&str>); 6] = [
    ("NET_ADMIN", 12, None),
    ("SYS_ADMIN", 21, None),
    ("SYS_PTRACE", 19, Some("namespaces of processes with more rights cannot be opened")),
    ("SYS_CHROOT", 18, Some("a namespace cannot be pinned in the mounts of PID 1")),
    ("NET_RAW", 13, Some("addresses are not announced")),
    ("DAC_OVERRIDE", 1, Some("CNI plugins that need all rights of root fail, such as tuning")),
];

fn capabilities(facts: &Facts) -> Vec<Row> {
    let check = "capabilities";
    let Some(capabilities) = facts.capabilities else {
        return vec![Row::unknown(check, "cannot be read from /proc/self/status", "mount /proc")];
    };
    let missing = |number: u32| capabilities >> number & 1 == 0;
    let needed = CAPABILITIES.iter().filter(|(_, number, optional)| missing(*number) && optional.is_none());
    let needed: Vec<&str> = needed.map(|(name, ..)| *name).collect();
    if !needed.is_empty() {
        return vec![Row::no(check, format!("no {}", needed.join(", ")), "run it as root")];
    }
    let useful = CAPABILITIES.iter().filter(|(_, number, _)| missing(*number));
    let useful = useful.filter_map(|(name, _, without)| Some(format!("{name}: {}", (*without)?)));
    let useful: Vec<String> = useful.collect();
    if useful.is_empty() {
        return vec![Row::yes(check, "all")];
    }
    vec![Row::no(check, format!("no {}", useful.join("; no ")), "add them").optional()]
}

fn plugins(facts: &Facts, arguments: &CheckNodeArguments) -> Row {
    let check = "CNI plugins";
    let directories: Vec<_> = arguments.cni_path.iter().map(|directory| directory.display().to_string()).collect();
    let directories = directories.join(" or ");
    let is_there = |name: &&str| facts.cni.plugins.contains(*name);
    let (there, absent): (Vec<&str>, Vec<&str>) = PLUGINS.iter().partition(|name| is_there(name));
    let makes_interfaces = PLUGINS[..INTERFACE_PLUGINS].iter().any(is_there);
    let action = "install those that you use: github.com/containernetworking/plugins";
    match (there.is_empty(), absent.is_empty()) {
        (_, true) => Row::yes(check, there.join(", ")),
        (true, _) => Row::no(check, format!("none of {} in {directories}", absent.join(", ")), action),
        _ => {
            let found = format!("{}; not: {}", there.join(", "), absent.join(", "));
            let row = Row::no(check, found, action);
            if makes_interfaces { Row { ready: Verdict::Yes, ..row } } else { row }
        }
    }
}

fn networks(facts: &Facts, directory: &Path) -> Row {
    let (check, files) = ("CNI networks", &facts.cni.networks);
    if files.is_empty() {
        let found = format!("no configuration in {}", directory.display());
        return Row::no(check, found, "pass a file with -spec, or name the directory with -cni-conf-dir");
    }
    Row::yes(check, files.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
}

fn link_kinds(facts: &Facts) -> Row {
    let check = "link kinds";
    let kinds = kinds();
    let supported = match &facts.kernel.kinds {
        Ok(supported) => supported,
        Err(reason) => return Row::unknown(check, format!("cannot be tried: {reason}"), "run netdevctl as root"),
    };
    let names = |wanted: bool| {
        let of = kinds.iter().zip(supported).filter(|(_, supported)| **supported == wanted);
        of.map(|(kind, _)| kind.name()).collect::<Vec<_>>().join(", ")
    };
    let (there, absent) = (names(true), names(false));
    match (there.is_empty(), absent.is_empty()) {
        (_, true) => Row::yes(check, there),
        (true, _) => Row::no(check, format!("none of {absent}"), LOAD_MODULES),
        _ => Row::no(check, format!("{there}; not: {absent}"), LOAD_MODULES),
    }
}

const LOAD_MODULES: &str = "install the kernel modules macvlan, ipvlan and 8021q, where you use them";

/// The runtimes that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Containerd,
    Crio,
    Other,
}

impl Kind {
    fn of(runtime: &Runtime) -> Self {
        match runtime.name.as_str() {
            "containerd" => Self::Containerd,
            "cri-o" => Self::Crio,
            _ => Self::Other,
        }
    }
}

/// The oldest CRI-O whose CDI library is known to read our files.
const OLDEST_CRIO: (u32, u32) = (1, 31);

/// The first two numbers of a version such as `v2.1.9`, `1.7.24~ds1` or `2.1.0-k3s1`.
fn major_and_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.strip_prefix('v').unwrap_or(version).split('.');
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    Some((digits(numbers.next()?)?, digits(numbers.next()?)?))
}
