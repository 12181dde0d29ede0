//! The program as it is started, in network namespaces of its own.

#![allow(clippy::unwrap_used)] // tests, in functions of their own

use std::{
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(20);

/// Runs a test on a thread in a new namespace; the thread ends afterwards, and the namespace with it.
fn in_a_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // SAFETY: only the network namespace of this thread is replaced, no file descriptor table.
        #[allow(unsafe_code)]
        let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
        unshared.expect("this test makes network namespaces: run it as root");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().expect("iproute2 is there");
    assert!(status.success(), "ip {arguments}");
}

fn netdevctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netdevctl"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    netdevctl(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn rows(output: &Output) -> Vec<(String, String)> {
    assert!(output.status.success(), "{output:?}");
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let of = |row: &Value, key| row[key].as_str().unwrap().to_owned();
    rows.iter().map(|row| (of(row, "device"), of(row, "state"))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(device, state)| ((*device).into(), (*state).into())).collect()
}

#[test]
fn devices_are_listed_without_an_agent() {
    in_a_namespace(|| {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().to_str().unwrap();
        ip("link add name nd0 type ifb");
        ip("link add name nd1 type ifb");
        ip("link set dev nd1 up");
        std::fs::write(state.path().join("nd7.json"), "{").unwrap();
        let listed = run(&["ls", "-interfaces", "^nd", "-o", "json", "-state-dir", folder]);
        assert_eq!(rows(&listed), pairs(&[("nd0", "unhealthy"), ("nd1", "offered"), ("nd7", "unreadable")]));

        // nobody says which pools: all interfaces, and a word about it
        let all = run(&["ls", "-state-dir", folder]);
        assert!(text(&all.stdout).contains("nd1") && text(&all.stdout).contains("excluded"));
        assert!(text(&all.stderr).contains("no pools are known"), "{all:?}");

        // the agent left what it works by
        std::fs::write(state.path().join("config.yaml"), "pools: [{resource: a.b/cc, select: {names: [^nd1]}}]")
            .unwrap();
        let listed = run(&["ls", "-o", "json", "-state-dir", folder]);
        assert_eq!(rows(&listed), pairs(&[("nd1", "offered"), ("nd7", "unreadable")]));
        let explained = run(&["explain", "nd0", "-state-dir", folder]);
        assert!(text(&explained.stdout).starts_with("nd0: not offered\n"), "{explained:?}");
    });
}

#[test]
fn a_folder_that_is_not_there_has_no_records() {
    in_a_namespace(|| {
        let listed = run(&["ls", "-interfaces", "nothing-like-it", "-state-dir", "/nonexistent", "-o", "json"]);
        assert_eq!(rows(&listed), []);
        let table = run(&["ls", "-interfaces", "nothing-like-it", "-state-dir", "/nonexistent"]);
        assert_eq!(text(&table.stdout).lines().count(), 1, "the names of the columns alone");
    });
}

#[test]
fn changes_are_shown_as_they_come() {
    in_a_namespace(|| {
        ip("link add name nd0 type ifb");
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().to_str().unwrap();
        let mut watching = netdevctl(&["ls", "-watch", "-o", "json", "-interfaces", "^nd", "-state-dir", directory])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = mpsc::channel();
        let out = BufReader::new(watching.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().try_for_each(|line| send.send(line.unwrap())));
        let expect = |device: &str, state: &str| {
            let line = lines.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("{device} {state} is not shown"));
            let row: Value = serde_json::from_str(&line).unwrap();
            assert_eq!((row["device"].as_str(), row["state"].as_str()), (Some(device), Some(state)));
        };
        expect("nd0", "unhealthy");
        ip("link add name nd1 type ifb");
        expect("nd1", "unhealthy");
        ip("link set dev nd0 up");
        expect("nd0", "offered");
        let records = store::Records::new(state.path());
        records
            .reserve_for_kubelet(
                &"nd0".parse().unwrap(),
                &netdevice::ResourceName::default(),
                netdevice::Acquisition::Move,
            )
            .unwrap();
        expect("nd0", "reserved");
        let lock = records.lock(&"nd0".parse().unwrap()).unwrap();
        records.release(&"nd0".parse().unwrap(), &lock);
        expect("nd0", "offered");
        ip("link del dev nd1");
        expect("nd1", "gone");
        watching.kill().unwrap();
        watching.wait().unwrap();
    });
}

#[test]
fn who_has_read_enough_may_close_the_pipe() {
    in_a_namespace(|| {
        let mut child = netdevctl(&["ls", "-o", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    });
}

#[test]
fn the_example_is_a_configuration() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/config.yaml");
    let checked = run(&["config", "check", example]);
    insta::assert_snapshot!(text(&checked.stdout));
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn wrong_configurations_are_one_line_with_the_place_and_status_1() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.yaml");
    let file = file.to_str().unwrap();
    std::fs::write(file, "pools:\n- resource: a.b/cc\n  select: {names: ['(']}\n").unwrap();
    let missing = "/nonexistent/file.yaml";
    for (arguments, part) in [
        (&["config", "check", file][..], "line 3"),
        (&["config", "check", missing], "/nonexistent/file.yaml: No such file"),
        (&["ls", "-config", missing], "/nonexistent/file.yaml: No such file"),
        (&["explain", "nothing-like-it"], "no device or interface \"nothing-like-it\" is on this node"),
    ] {
        let output = run(arguments);
        let error = text(&output.stderr);
        assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{arguments:?}: {error}");
        assert!(error.starts_with("netdevctl: ") && error.contains(part), "{arguments:?}: {error}");
    }
    for arguments in [&["ls", "-interfaces", "("][..], &["nothing"], &[]] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn shells_can_complete() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(&["completion", shell]);
        assert!(output.status.success() && text(&output.stdout).contains("explain"), "{shell}");
    }
}

#[test]
fn what_concerns_the_whole_node_is_explained_too() {
    in_a_namespace(|| {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().to_str().unwrap();
        ip("link add name nd0 type ifb");
        let explain = || {
            let explained = run(&["explain", "nd0", "-interfaces", "^nd", "-state-dir", folder]);
            assert!(explained.status.success(), "{explained:?}");
            text(&explained.stdout).rsplit_once("\npools: -interfaces\n").unwrap().1.to_owned()
        };
        let absent = "\nnetdevice-agent does not run on this node: the kubelet is offered no devices\n";
        assert_eq!(explain(), absent);
        let records = store::Records::new(state.path());
        let running = records.lock_agent().unwrap();
        assert_eq!(explain(), "");
        records.write_problems(&["CDI conflict: x".into(), "warning: y".into()]).unwrap();
        let problems = "\nproblems of this node, as the agent reports them:\n  CDI conflict: x\n  warning: y\n";
        assert_eq!(explain(), problems);
        drop(running);
        assert_eq!(explain(), absent);
    });
}

/// The program, with every path of a node below a directory.
fn check_node(node: &std::path::Path, ways: &str) -> Output {
    let below = |path: &str| node.join(path).to_str().unwrap().to_owned();
    let runtime = below("runtime.sock");
    let mut command = netdevctl(&["check-node", "-o", "json", "-for", ways, "-runtime-endpoint", &runtime]);
    command.args(["-kubelet-dir", &below("kubelet"), "-nri-socket", &below("nri.sock"), "-cdi-dir", &below("cdi")]);
    command.args(["-cni-path", &below("bin"), "-cni-conf-dir", &below("net.d")]);
    command.args(["-hook-path", &below("hook"), "-state-dir", &below("records")]);
    command.output().unwrap()
}

fn verdict(output: &Output, way: &str, check: &str) -> String {
    let sections: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let section =
        sections.iter().find(|section| section["way"] == *way || way.is_empty() && section.get("way").is_none());
    let rows = section.unwrap()["checks"].as_array().unwrap();
    let row = rows.iter().find(|row| row["check"] == *check).unwrap_or_else(|| panic!("{check}: {rows:?}"));
    row["ready"].as_str().unwrap().to_owned()
}

#[test]
fn a_machine_without_anything_is_checked_to_the_end() {
    let node = tempfile::tempdir().unwrap();
    let ways = "extended-resource,annotation,command,networks-annotation,claims";
    let checked = check_node(node.path(), ways);
    assert_eq!(checked.status.code(), Some(1), "{checked:?}");
    let expected =
        "netdevctl: this node is not ready for: extended resource, annotation, command, networks annotation, claims\n";
    assert_eq!(text(&checked.stderr), expected);
    for (way, check, expected) in [
        ("", "container runtime", "no"),
        ("extended-resource", "kubelet's device plugins", "no"),
        ("extended-resource", "hook", "no"),
        ("annotation", "NRI", "no"),
        ("command", "CNI plugins", "no"),
    ] {
        assert_eq!(verdict(&checked, way, check), expected, "{check}");
    }
}

#[test]
fn a_node_is_checked_for_the_ways_that_are_asked_for() {
    use std::{fs, os::unix::fs::PermissionsExt, os::unix::net::UnixListener};
    let directory = tempfile::tempdir().unwrap();
    let node = directory.path();
    for name in ["kubelet/device-plugins", "kubelet/pod-resources", "bin", "net.d"] {
        fs::create_dir_all(node.join(name)).unwrap();
    }
    let _device_plugins = UnixListener::bind(node.join("kubelet/device-plugins/kubelet.sock")).unwrap();
    let pod_resources = UnixListener::bind(node.join("kubelet/pod-resources/kubelet.sock")).unwrap();
    for program in ["hook", "bin/ptp"] {
        fs::write(node.join(program), "").unwrap();
        fs::set_permissions(node.join(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(node.join("net.d/10-rig.conflist"), "").unwrap();
    let _agent = store::Records::new(node.join("records")).lock_agent().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let guard = runtime.enter();
    let stand_in = cri::stand_in::RuntimeStandIn::start(&node.join("runtime.sock")).unwrap();
    drop(guard);

    stand_in.set_info("config", &format!(r#"{{"enableCDI":true,"cdiSpecDirs":["{}"]}}"#, node.join("cdi").display()));
    let checked = check_node(node, "extended-resource,command");
    assert_eq!((checked.status.code(), text(&checked.stderr)), (Some(0), ""), "{}", text(&checked.stdout));

    stand_in.set_info("config", r#"{"enableCDI":false,"cdiSpecDirs":["/etc/cdi"]}"#);
    drop(pod_resources);
    let checked = check_node(node, "extended-resource,command");
    assert_eq!(text(&checked.stderr), "netdevctl: this node is not ready for: extended resource\n");
    for check in ["CDI", "CDI directory", "kubelet's PodResources"] {
        assert_eq!(verdict(&checked, "extended-resource", check), "no", "{check}");
    }

    // a runtime that does not answer
    stand_in.break_call(cri::stand_in::Call::Version, cri::stand_in::Fault::Silence);
    let checked = check_node(node, "command");
    assert_eq!((checked.status.code(), verdict(&checked, "", "container runtime").as_str()), (Some(1), "no"));
    assert!(text(&checked.stdout).contains("timed out after 3s"), "{}", text(&checked.stdout));
}
