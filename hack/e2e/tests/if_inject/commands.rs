//! The command line, on a real node: what the original program's README says, and what is refused.

use e2e::{ContainerSpec, Network, Output, PodSpec};
use serde_json::{Value, json};

use crate::{lock, ptp};

/// What a command that failed wrote to standard error: one JSON object, at level error.
#[track_caller]
fn error(done: &Output, status: i32) -> String {
    assert_eq!(done.code, Some(status), "{done}");
    let logged: Value = serde_json::from_str(done.stderr.trim_end()).unwrap_or_else(|error| panic!("{error}: {done}"));
    assert_eq!((&logged["level"], logged["time"].is_string()), (&json!("error"), true), "{done}");
    logged["msg"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_original_readme_works_word_by_word() {
    let node = lock();
    let pod = node.run_pod(PodSpec::new("alpine")).unwrap();
    let container = pod.start(&ContainerSpec::new("c")).unwrap();
    // an interface by hand
    let ns = node.if_inject(&["netns", "-ns", "default", "-pod", "alpine"]);
    assert!(ns.text().starts_with("/var/run/netns/") && ns.stderr.is_empty(), "{ns}");
    let ns = ns.text();
    node.sh(&format!(
        "ip link add pod0 type veth peer net1; ip link set net1 netns {ns}; nsenter --net={ns} ip link set net1 up
        ip link set pod0 up"
    ));
    assert!(container.exec(&["ip", "addr", "show", "net1"]).text().contains("LOWER_UP"));
    node.sh("ip link del pod0");
    // an interface by a CNI plugin, with the file of that repository
    let ranges = json!({"type": "host-local", "ranges": [[{"subnet": "10.22.22.0/24"}]]});
    let spec = json!({"cniVersion": "1.0.0", "name": "mynet", "type": "ptp", "ipam": ranges});
    let spec = node.cni_spec("ptp.json", &spec);
    let words = ["add", "-ns", "default", "-pod", "alpine", "-spec", &spec];
    let added = node.if_inject(&words);
    assert!(added.stdout.contains("\n    \"cniVersion\": \"1.0.0\",") && added.stderr.is_empty(), "{added}");
    assert_eq!(added.json()["ips"][0]["address"], "10.22.22.2/24", "{added}");
    assert!(container.exec(&["ip", "addr", "show", "net1"]).text().contains("10.22.22.2/24"));
    assert!(container.exec(&["ping", "-c1", "-W2", "10.22.22.1"]).success());
    let checked = node.if_inject(&["check", "-ns", "default", "-pod", "alpine", "-spec", &spec]);
    assert!(checked.success() && checked.stdout.is_empty(), "{checked}");
    let deleted = node.if_inject(&["del", "-ns", "default", "-pod", "alpine", "-spec", &spec]);
    assert!(deleted.success() && deleted.stdout.is_empty() && deleted.stderr.is_empty(), "{deleted}");
    assert!(!container.exec(&["ip", "addr", "show", "net1"]).success());
    assert!(node.cni_leases("mynet").is_empty() && node.cni_results("mynet").is_empty());
    // its log, as the README reads it with jq
    let logged = node.if_inject(&["-loglevel", "2", "netns", "-ns", "default", "-pod", "alpine"]);
    assert_eq!(logged.text(), ns);
    let lines: Vec<Value> = logged.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() >= 3 && lines.iter().all(|line| line["level"] == "info"), "{logged}");
}

#[test]
fn flags_are_taken_anywhere_with_one_dash_or_two_and_netdevctl_inject_is_the_same() {
    let node = lock();
    let pod = node.running_pod("flags");
    let spec = node.cni_spec("flags.json", &ptp("flags", "10.22.23.0/24"));
    for add in [
        &["--pod=flags", "--interface", "x1", "add", "-spec", &spec][..],
        &["add", "-pod", "flags", "--spec", &spec, "-interface=x1"],
    ] {
        let added = node.if_inject(add);
        assert!(added.success() && pod.addresses("x1").len() == 1, "{added}");
        let deleted = node.if_inject(&["-interface", "x1", "-pod", "flags", "del"]);
        assert!(deleted.success() && pod.interface("x1").is_none(), "{deleted}");
    }
    let netdevctl = e2e::program("netdevctl");
    let inject = |words: &[&str]| node.run([&*netdevctl.to_string_lossy(), "inject"].iter().chain(words));
    let added = inject(&["-interface", "x2", "add", "-pod", "flags", "-spec", &spec]);
    assert_eq!(added.json()["interfaces"][1]["name"], "x2", "{added}");
    assert!(inject(&["del", "-pod", "flags", "-interface", "x2"]).success());
    assert_eq!(pod.interfaces(), ["lo", "eth0"]);
    assert_eq!(inject(&["netns", "-pod", "flags"]).text(), pod.namespace());
    // standard input
    let text = ptp("stdin", "10.22.24.0/24").to_string();
    let added = node.if_inject_with(&["add", "-pod", "flags", "-spec", "-"], &text);
    assert_eq!(added.json()["ips"][0]["address"], "10.22.24.2/24");
    // a network by its name
    node.write("/run/rig/net.d/20-named.conf", &ptp("named", "10.22.25.0/24").to_string());
    let by_name = ["add", "-interface", "n1", "-spec", "named", "-cni-conf-dir", "/run/rig/net.d"];
    assert_eq!(pod.if_inject(&by_name).json()["ips"][0]["address"], "10.22.25.2/24");
    let listed = pod.if_inject(&["list"]).json();
    let networks = listed["networks"].as_array().unwrap();
    let ours: Vec<_> = networks.iter().filter(|it| it["by"] == "if-inject").map(|it| &it["interface"]).collect();
    assert_eq!(ours, ["n1", "net1"], "{listed:#}");
    assert!(networks.iter().any(|it| it["interface"] == "eth0" && it["by"] == "other"), "{listed:#}");
}

#[test]
fn exit_statuses_are_0_1_and_2() {
    let node = lock();
    let spec = node.cni_spec("status.json", &ptp("status", "10.22.26.0/24"));
    let version = node.if_inject(&["-version"]);
    assert!(version.text().starts_with("if-inject "), "{version}");
    let verbs = node.if_inject(&[]);
    assert!(verbs.text().starts_with("Subcommands:\n") && verbs.stdout.contains("  netns\n"), "{verbs}");
    assert!(node.if_inject(&["-h"]).success());
    for wrong in [
        &["netns"][..],
        &["plug", "-pod", "p"],
        &["add", "-pod", "p"],
        &["netns", "-pod", "p", "-nonsense"],
        &["add", "-pod", "p", "-spec", &spec, "-interface", "a/b"],
        &["add", "-pod", "p", "-spec", &spec, "-timeout", "1"],
    ] {
        let done = node.if_inject(wrong);
        assert!(done.code == Some(2) && done.stdout.is_empty() && !done.stderr.is_empty(), "{done}");
    }
    for command in ["netns", "add", "check"] {
        let flags: &[&str] = if command == "netns" { &[] } else { &["-spec", &spec] };
        let words = [&[command, "-pod", "nobody"], flags].concat();
        let why = error(&node.if_inject(&words), 1);
        assert!(why.contains("default/nobody"), "{why}");
    }
    let of_nobody = node.if_inject(&["del", "-pod", "nobody", "-spec", &spec]);
    assert!(of_nobody.success(), "nothing is left to do: {of_nobody}");
    let elsewhere = ["netns", "-pod", "p", "-runtime-endpoint", "unix:///run/rig/no.sock"];
    let why = error(&node.if_inject(&elsewhere), 1);
    assert!(why.contains("/run/rig/no.sock"), "{why}");
}

#[test]
fn a_host_network_pod_is_refused_and_of_two_sandboxes_the_one_that_runs_is_used() {
    let node = lock();
    let spec = node.cni_spec("sandboxes.json", &ptp("sandboxes", "10.22.27.0/24"));
    let _host = node.run_pod(PodSpec::new("hosted").network(Network::Host)).unwrap();
    for command in [&["netns"][..], &["add", "-spec", &spec]] {
        let why = error(&node.if_inject(&[command, &["-pod", "hosted"]].concat()), 1);
        assert!(why.contains("host"), "{why}");
    }
    let old = node.run_pod(PodSpec::new("again")).unwrap();
    let added = node.if_inject(&["add", "-pod", "again", "-spec", &spec]);
    assert!(added.success(), "{added}");
    old.stop().unwrap();
    // the old sandbox is still listed, NotReady
    let not_ready = error(&node.if_inject(&["netns", "-pod", "again"]), 1);
    assert!(not_ready.contains("default/again"), "{not_ready}");
    let pod = node.running_pod_as("again", PodSpec::new("again").attempt(1));
    let added = pod.plug("add", "net1", &spec);
    assert_eq!(added.json()["ips"][0]["address"], "10.22.27.3/24", "the first is still reserved: {added}");
    let owners: Vec<String> = node.cni_leases("sandboxes").into_values().map(|(container, _)| container).collect();
    assert_eq!(owners, [old.id(), pod.id()]);
    let collected = node.if_inject(&["gc"]).json();
    assert_eq!(collected["networks"][0]["sandbox"], old.id(), "{collected:#}");
    let owners: Vec<String> = node.cni_leases("sandboxes").into_values().map(|(container, _)| container).collect();
    assert_eq!((owners, pod.addresses("net1").len()), (vec![pod.id().to_owned()], 1));
    assert!(pod.plug("del", "net1", &spec).success());
}

#[test]
fn capability_arguments_and_cni_args_reach_the_plugins() {
    let node = lock();
    let pod = node.running_pod("arguments");
    let bridge = json!({"type": "bridge", "bridge": "args0", "capabilities": {"ips": true, "mac": true}, "ipam": {"type": "static"}});
    let list = |name: &str, bridge: &Value| json!({"cniVersion": "1.0.0", "name": name, "plugins": [bridge]});
    let spec = node.cni_spec("arguments.conflist", &list("arguments", &bridge));
    let add = ["add", "-spec", &spec, "-ips", "10.41.0.9/24,10.41.1.9/24", "-mac", "02:00:00:00:41:09"];
    let added = pod.if_inject(&add);
    assert!(added.success(), "{added}");
    assert_eq!(pod.addresses("net1"), ["10.41.0.9/24", "10.41.1.9/24"]);
    assert_eq!(pod.interface("net1").unwrap_or_default()["address"], "02:00:00:00:41:09");
    assert!(pod.plug("check", "net1", &spec).success() && pod.if_inject(&["del"]).success());
    // the static plugin reads IP, host-local and others ignore what they do not know
    let named = node.cni_spec(
        "args.conflist",
        &list("args", &json!({"type": "bridge", "bridge": "args0", "ipam": {"type": "static"}})),
    );
    let added = pod.if_inject(&["add", "-spec", &named, "-cni-args", "IP=10.41.2.9/24", "-cni-args", "OTHER=x"]);
    assert_eq!(added.json()["ips"][0]["address"], "10.41.2.9/24", "{added}");
    let results = node.cni_results("args").into_values().next().unwrap_or_default();
    let arguments: Vec<&Value> = results["cniArgs"].as_array().unwrap().iter().map(|pair| &pair[0]).collect();
    for key in
        ["IgnoreUnknown", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID", "OTHER"]
    {
        assert!(arguments.contains(&&json!(key)), "{results:#}");
    }
    assert!(pod.if_inject(&["del"]).success());
    // what no plugin takes
    let refused = error(&pod.if_inject(&["add", "-spec", &named, "-ips", "10.41.3.9/24"]), 1);
    assert!(refused.contains("ips"), "{refused}");
    assert_eq!(pod.interfaces(), ["lo", "eth0"]);
    node.sh("ip link delete args0");
}
