//! The runtime with plugins that do what a test says: shell scripts that note how they were called.

#![allow(clippy::unwrap_used)] // tests, in functions of their own

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use cni::{
    AddError, Addition, Cache, Error, Limits, Marker, NetworkList, Phase, PluginFailure, Plugins, Reason, Runtime,
    Target,
};
use netdevice::Pod;
use serde_json::{Value, json};

/// A directory of plugins and a cache.
struct Rig {
    directory: tempfile::TempDir,
    runtime: Runtime,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path().join("cache"));
        fs::create_dir(directory.path().join("bin")).unwrap();
        let runtime = Runtime::new(Plugins::new(vec![directory.path().join("bin")], Limits::default()), cache);
        Self { directory, runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A plugin that notes its call and its input, and then runs `script`.
    fn plugin(&self, name: &str, script: &str) {
        let (path, log) = (self.path("bin").join(name), self.path("calls").display().to_string());
        let text = format!(
            "#!/bin/sh\ninput=$(cat)\necho \"{name} $CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS\" >> {log}\necho \"$input\" >> {log}.input\n{script}\n"
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A plugin that succeeds, and supports these versions.
    fn good(&self, name: &str, versions: &str) {
        self.plugin(name, &format!("{}\necho '{{\"ips\":[{{\"address\":\"10.0.0.2/24\"}}]}}'", version(versions)));
    }

    /// The calls since the last one, without VERSION.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        text.lines().filter(|line| !line.contains(" VERSION ")).map(|line| line.trim_end().to_owned()).collect()
    }

    /// The inputs since the last call of it, without VERSION's.
    fn inputs(&self) -> Vec<Value> {
        let path = self.path("calls.input");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        let inputs = text.lines().map(|line| serde_json::from_str(line).unwrap());
        inputs.filter(|input: &Value| input.get("name").is_some()).collect()
    }

    fn add(&self, list: &NetworkList) -> Result<(Addition, cni::Version), AddError> {
        self.runtime.add(list, &target(), Some(marker()))
    }

    fn entries(&self) -> Vec<cni::CacheEntry> {
        self.runtime.cache.list().unwrap().0
    }
}

fn version(versions: &str) -> String {
    format!(
        r#"[ $CNI_COMMAND != VERSION ] || {{ echo '{{"cniVersion":"1.0.0","supportedVersions":[{versions}]}}'; exit; }}"#
    )
}

const ALL: &str = r#""0.3.0","0.3.1","0.4.0","1.0.0","1.1.0""#;

fn list(version: &str, kinds: &[&str]) -> NetworkList {
    let plugins: Vec<Value> = kinds.iter().map(|kind| json!({"type": kind})).collect();
    NetworkList::from_json(json!({"name": "n", "cniVersion": version, "plugins": plugins}).to_string().as_bytes())
        .unwrap()
}

fn target() -> Target {
    let mut target = Target::new("s1".parse().unwrap(), "net1".parse().unwrap(), "/run/netns/a");
    target.arguments = vec![("IgnoreUnknown".into(), "1".into())];
    target
}

fn marker() -> Marker {
    let pod = Pod { namespace: "default".into(), name: "p".into(), uid: "u".into() };
    Marker {
        phase: Phase::Adding,
        by: "test".into(),
        pod,
        sandbox: "s1".into(),
        since: 0,
        cookie: 0,
        boot: String::new(),
        requested: None,
    }
}

fn failure(error: &Error) -> &PluginFailure {
    match error {
        Error::Plugin(failure) => failure,
        other => panic!("{other}"),
    }
}

#[test]
fn a_chain_is_added_checked_and_deleted() {
    let rig = Rig::new();
    rig.good("a", ALL);
    rig.plugin(
        "b",
        &format!(
            "{}\necho '{{\"cniVersion\":\"1.1.0\",\"interfaces\":[{{\"name\":\"net1\",\"mtu\":1400}}]}}'",
            version(ALL)
        ),
    );
    let list = list("0.4.0", &["a", "b"]);
    let (addition, version) = rig.add(&list).unwrap();
    assert_eq!((addition.interfaces[0].name.as_str(), version.as_str()), ("net1", "0.4.0"));
    assert_eq!(
        rig.calls(),
        ["a ADD s1 /run/netns/a net1 IgnoreUnknown=1", "b ADD s1 /run/netns/a net1 IgnoreUnknown=1"]
    );
    let inputs = rig.inputs();
    assert_eq!(inputs[0], json!({"type": "a", "name": "n", "cniVersion": "0.4.0"}));
    let previous = json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.2/24"}], "dns": {}});
    assert_eq!(inputs[1]["prevResult"], previous);
    let entry = rig.entries().remove(0);
    assert_eq!((entry.marker().unwrap().phase, entry.namespace()), (Phase::Added, "/run/netns/a"));
    let result = json!({"cniVersion": "0.4.0", "interfaces": [{"name": "net1"}], "dns": {}});
    assert_eq!(entry.result(), Some(&result), "in the list's version, as the next program wants it");
    assert!(rig.runtime.check(&entry, "/run/netns/b").unwrap());
    assert_eq!(
        rig.calls(),
        ["a CHECK s1 /run/netns/b net1 IgnoreUnknown=1", "b CHECK s1 /run/netns/b net1 IgnoreUnknown=1"]
    );
    assert!(rig.inputs().iter().all(|input| input["prevResult"] == result));
    rig.runtime.delete(&entry, "").unwrap();
    assert_eq!(rig.calls(), ["b DEL s1  net1 IgnoreUnknown=1", "a DEL s1  net1 IgnoreUnknown=1"]);
    assert!(rig.inputs().iter().all(|input| input["prevResult"] == result));
    assert!(rig.entries().is_empty());
    rig.runtime.delete_uncached(&list, &target()).unwrap();
    assert_eq!(rig.calls().len(), 2);
}

#[test]
fn an_add_that_fails_is_undone_from_the_plugin_that_failed() {
    let rig = Rig::new();
    rig.good("a", ALL);
    let fail = r#"[ $CNI_COMMAND != ADD ] || { echo '{"code":100,"msg":"no","details":"way"}'; exit 1; }"#;
    rig.plugin("b", &format!("{}\n{fail}", version(ALL)));
    rig.good("c", ALL);
    let error = rig.add(&list("1.0.0", &["a", "b", "c"])).unwrap_err();
    assert_eq!(error.to_string(), "plugin b: ADD failed: code 100: no: way");
    let verbs: Vec<String> = rig.calls().iter().map(|call| call.chars().take(5).collect()).collect();
    assert_eq!(verbs, ["a ADD", "b ADD", "b DEL", "a DEL"]);
    let inputs = rig.inputs();
    assert_eq!(inputs[2]["prevResult"], inputs[1]["prevResult"]);
    assert!(rig.entries().is_empty());
}

#[test]
fn what_cannot_be_undone_is_deleted_later() {
    let rig = Rig::new();
    let on = rig.path("on").display().to_string();
    rig.plugin("a", &format!("[ -e {on} ] || {{ echo '{{\"code\":11,\"msg\":\"busy\"}}'; exit 1; }}\necho '{{}}'"));
    let list = list("1.0.0", &["a"]);
    let error = rig.add(&list).unwrap_err();
    assert_eq!(
        error.to_string(),
        "plugin a: ADD failed: code 11 (try again later): busy; undoing it failed too, del tries again: plugin a: DEL failed: code 11 (try again later): busy"
    );
    let entry = rig.entries().remove(0);
    assert_eq!(entry.marker().unwrap().phase, Phase::Adding);
    rig.calls();
    fs::write(on, "").unwrap();
    // the next ADD finds it
    rig.add(&list).unwrap();
    let verbs: Vec<String> = rig.calls().iter().map(|call| call.chars().take(5).collect()).collect();
    assert_eq!(verbs, ["a DEL", "a ADD"]);
    assert_eq!(rig.entries()[0].marker().unwrap().phase, Phase::Added);
}

#[test]
fn every_error_code_is_shown_with_its_meaning_its_message_and_its_details() {
    let table = [
        (0, "code 0: m: d"),
        (1, "code 1 (incompatible CNI version): m: d"),
        (2, "code 2 (unsupported field in the network configuration): m: d"),
        (3, "code 3 (container unknown or does not exist): m: d"),
        (4, "code 4 (invalid environment variables): m: d"),
        (5, "code 5 (I/O failure): m: d"),
        (6, "code 6 (failed to decode content): m: d"),
        (7, "code 7 (invalid network configuration): m: d"),
        (8, "code 8 (invalid network namespace): m: d"),
        (11, "code 11 (try again later): m: d"),
        (50, "code 50 (the plugin is not available): m: d"),
        (51, "code 51 (the plugin is not available, and existing containers may have limited connectivity): m: d"),
        (100, "code 100: m: d"),
        (999, "code 999: m: d"),
    ];
    let rig = Rig::new();
    for (code, expected) in table {
        rig.plugin("a", &format!(r#"[ $CNI_COMMAND != ADD ] || {{ echo '{{"cniVersion":"1.0.0","code":{code},"msg":"m","details":"d"}}'; exit 1; }}"#));
        let error = rig.add(&list("1.0.0", &["a"])).unwrap_err();
        assert_eq!(error.to_string(), format!("plugin a: ADD failed: {expected}"));
        assert!(matches!(&failure(&error.error).reason, Reason::Refused { code: shown, .. } if *shown == code));
    }
}

#[test]
fn whatever_a_plugin_writes_is_a_result_or_a_clear_error() {
    let table = [
        (":", "empty result"),
        ("echo hello", "invalid result: expected value at line 1 column 1"),
        (
            r#"echo '{"cniVersion":"9.0.0"}'"#,
            "result: CNI version 9.0.0 is not supported: supported are 0.1.0 to 1.1.0",
        ),
        (r#"echo '{"code":7,"msg":"not valid"}'"#, "code 7 (invalid network configuration): not valid"),
        ("head -c 3000000 /dev/zero", "its output is longer than 1 MiB: it was killed"),
        ("exit 3", "exit status 3"),
        ("echo oh no >&2; exit 3", "exit status 3; standard error: oh no"),
        ("echo panic; exit 2", r#"exit status 2, and its output is no error object: "panic""#),
        ("kill -9 $$", "ended by signal 9"),
        (r#"echo '{"ips":[{"address":"ten"}]}'"#, r#"result: invalid address "ten""#),
    ];
    let rig = Rig::new();
    for (script, expected) in table {
        rig.plugin("a", &format!("[ $CNI_COMMAND = DEL ] && exit\n{script}"));
        let error = rig.add(&list("1.0.0", &["a"])).unwrap_err();
        assert_eq!(error.to_string(), format!("plugin a: ADD failed: {expected}"), "{script}");
        assert!(rig.entries().is_empty());
        let verbs: Vec<String> = rig.calls().iter().map(|call| call.chars().take(5).collect()).collect();
        assert_eq!(verbs, ["a ADD", "a DEL"], "{script}");
    }
    // what it leaves behind may keep its pipes open
    rig.plugin("a", "sleep 600 &\necho $! > \"$(dirname \"$0\")/pid\"\necho '{}'");
    rig.add(&list("1.0.0", &["a"])).unwrap();
    let left = fs::read_to_string(rig.path("bin/pid")).unwrap();
    assert!(Path::new(&format!("/proc/{}", left.trim())).exists(), "it is the plugin's own business");
    std::process::Command::new("kill").arg(left.trim()).status().unwrap();
    // it need not read its input either
    fs::write(rig.path("bin/a"), "#!/bin/sh\nexec <&-\necho '{}'\n").unwrap();
    let entry = rig.entries().remove(0);
    rig.runtime.delete(&entry, "").unwrap();
    rig.add(&list("1.0.0", &["a"])).unwrap();
}

#[test]
fn a_plugin_that_hangs_is_killed_with_what_it_started() {
    let mut rig = Rig::new();
    rig.runtime.plugins.limits.time = Duration::from_millis(300);
    rig.plugin(
        "a",
        "[ $CNI_COMMAND = DEL ] && exit\nsleep 600 &\necho $! > \"$(dirname \"$0\")/pid\"\necho waiting >&2\nwait",
    );
    let error = rig.add(&list("1.0.0", &["a"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "plugin a: ADD failed: no answer within 300ms: it was killed; standard error: waiting"
    );
    let left = fs::read_to_string(rig.path("bin/pid")).unwrap();
    let state = || fs::read_to_string(format!("/proc/{}/stat", left.trim())).unwrap_or_default();
    while !state().is_empty() && !state().contains(") Z ") {
        std::thread::yield_now();
    }
    assert!(rig.entries().is_empty());
}

#[test]
fn an_add_that_is_stopped_is_undone() {
    let mut rig = Rig::new();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    rig.runtime.plugins.limits.stop = Some(Arc::new(reader));
    let started = rig.path("started").display().to_string();
    rig.plugin("a", &format!("[ $CNI_COMMAND = DEL ] && exit\necho > {started}\nsleep 600"));
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !rig.path("started").exists() {
                std::thread::yield_now();
            }
            drop(writer);
        });
        rig.add(&list("1.0.0", &["a"])).unwrap_err()
    });
    assert_eq!(error.to_string(), "plugin a: ADD failed: killed, because this program was asked to end");
    assert_eq!(rig.calls().len(), 2, "the DEL is not stopped");
}

#[test]
fn nothing_runs_when_a_plugin_or_its_version_is_missing() {
    let rig = Rig::new();
    rig.good("a", ALL);
    rig.good("old", r#""0.3.1","0.4.0""#);
    rig.plugin("first", r#"echo '{"code":4,"msg":"unknown CNI_COMMAND: VERSION"}'; exit 1"#);
    let error = rig.add(&list("1.0.0", &["a", "none"])).unwrap_err().to_string();
    let expected = format!("plugin none: ADD failed: no such plugin in {}", rig.path("bin").display());
    assert_eq!(error, expected);
    let error = rig.add(&list("1.0.0", &["a", "old"])).unwrap_err().to_string();
    assert_eq!(error, "plugin old: ADD failed: it supports CNI versions 0.3.1, 0.4.0, not 1.0.0");
    let error = rig.add(&list("1.0.0", &["a", "first"])).unwrap_err().to_string();
    assert_eq!(error, "plugin first: ADD failed: it supports CNI versions 0.1.0, not 1.0.0");
    let text =
        json!({"name": "n", "cniVersions": ["1.0.0", "0.4.0", "0.3.1"], "plugins": [{"type": "a"}, {"type": "old"}]});
    let several = NetworkList::from_json(text.to_string().as_bytes()).unwrap();
    assert!(rig.calls().is_empty() && rig.entries().is_empty());
    assert_eq!(rig.add(&several).unwrap().1.as_str(), "0.4.0");
}

#[test]
fn an_argument_that_no_plugin_takes_is_an_error() {
    let rig = Rig::new();
    rig.good("a", ALL);
    let mut target = target();
    target.capabilities.insert("mac".into(), "02:00:00:00:00:01".into());
    let error = rig.runtime.add(&list("1.0.0", &["a"]), &target, None).unwrap_err().to_string();
    assert_eq!(
        error,
        r#"no plugin of network n has the capability "mac": set "capabilities": {"mac": true} in the plugin that is to get it"#
    );
    let text = r#"{"name":"n","cniVersion":"1.0.0","type":"a","capabilities":{"mac":true}}"#;
    rig.runtime.add(&NetworkList::from_json(text.as_bytes()).unwrap(), &target, None).unwrap();
    let inputs = rig.inputs();
    assert_eq!(inputs[0]["runtimeConfig"], json!({"mac": "02:00:00:00:00:01"}));
    // and its DEL gets it too
    rig.runtime.delete(&rig.entries()[0], "").unwrap();
    assert_eq!(rig.inputs()[0]["runtimeConfig"], json!({"mac": "02:00:00:00:00:01"}));
}

#[test]
fn a_del_calls_every_plugin_and_keeps_the_entry_if_one_fails() {
    let rig = Rig::new();
    rig.good("a", ALL);
    rig.plugin("b", &format!("{}\n[ $CNI_COMMAND != DEL ] || {{ echo bad >&2; exit 1; }}\necho '{{}}'", version(ALL)));
    rig.add(&list("1.0.0", &["a", "b"])).unwrap();
    rig.calls();
    let error = rig.runtime.delete(&rig.entries()[0], "").unwrap_err().to_string();
    assert_eq!(error, "plugin b: DEL failed: exit status 1; standard error: bad");
    assert_eq!(rig.calls().len(), 2);
    assert_eq!(rig.entries().len(), 1);
}

#[test]
fn status_and_gc_are_for_plugins_that_know_them() {
    let rig = Rig::new();
    rig.good("a", ALL);
    rig.good("old", r#""1.0.0""#);
    let error = rig.runtime.status(&list("1.0.0", &["a"])).unwrap_err().to_string();
    assert_eq!(error, "network n is of CNI version 1.0.0, which has no STATUS");
    let error = rig.runtime.collect_garbage(&list("1.1.0", &["old"]), &[]).unwrap_err().to_string();
    assert_eq!(error, "plugin old: GC failed: it supports CNI versions 1.0.0, not 1.1.0");
    rig.runtime.status(&list("1.1.0", &["a"])).unwrap();
    assert!(rig.runtime.collect_garbage(&list("1.1.0", &["a"]), &[("s1".into(), "net1".into())]).unwrap());
    assert_eq!(rig.calls(), ["a STATUS", "a GC"]);
    let valid = json!([{"containerID": "s1", "ifname": "net1"}]);
    assert_eq!(rig.inputs()[1]["cni.dev/valid-attachments"], valid);
}

#[test]
fn a_check_needs_a_version_that_has_it_and_a_list_that_allows_it() {
    let rig = Rig::new();
    rig.good("a", ALL);
    rig.add(&list("0.3.1", &["a"])).unwrap();
    let error = rig.runtime.check(&rig.entries()[0], "").unwrap_err().to_string();
    assert_eq!(error, "network n is of CNI version 0.3.1, which has no CHECK");
    rig.runtime.delete(&rig.entries()[0], "").unwrap();
    assert!(rig.inputs().iter().all(|input| input.get("prevResult").is_none()), "nor a previous result for DEL");
    let text = json!({"name": "n", "cniVersion": "1.0.0", "disableCheck": true, "plugins": [{"type": "a"}]});
    rig.add(&NetworkList::from_json(text.to_string().as_bytes()).unwrap()).unwrap();
    assert!(!rig.runtime.check(&rig.entries()[0], "").unwrap());
}

#[test]
fn what_a_plugin_says_beside_its_result_is_not_lost() {
    let mut rig = Rig::new();
    let said = Arc::new(Mutex::new(Vec::new()));
    let notes = said.clone();
    rig.runtime.plugins.notes =
        Box::new(move |plugin, verb, text| notes.lock().unwrap().push(format!("{plugin} {verb}: {text}")));
    rig.plugin("a", "echo careful >&2; echo '{}'");
    rig.add(&list("1.0.0", &["a"])).unwrap();
    assert_eq!(*said.lock().unwrap(), ["a ADD: careful"]);
}

#[test]
fn a_daemon_passes_nothing_of_its_environment_on() {
    let mut rig = Rig::new();
    rig.runtime.plugins.environment = cni::Environment::Clean;
    rig.plugin("a", "env > \"$(dirname \"$0\")/env\"\necho '{}'");
    rig.add(&list("1.0.0", &["a"])).unwrap();
    let env = fs::read_to_string(rig.path("bin/env")).unwrap();
    let names: Vec<&str> = env.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    assert!(
        names.iter().all(|name| name.starts_with("CNI_") || ["PATH", "PWD", "_", "SHLVL", "OLDPWD"].contains(name)),
        "{env}"
    );
}

#[test]
fn addresses_of_host_device_are_freed_without_its_interface_and_after_its_namespace() {
    let mut rig = Rig::new();
    rig.good("host-device", ALL);
    rig.good("addresses", ALL);
    let text = br#"{"name":"n","cniVersion":"1.0.0","type":"host-device","device":"eth1","ipam":{"type":"addresses"}}"#;
    let list = NetworkList::from_json(text).unwrap();
    let ipam = |namespace: &str| format!("addresses DEL s1 {namespace} net1 IgnoreUnknown=1");
    rig.add(&list).unwrap();
    rig.calls();
    // as the plugin does it after the namespace: it succeeds, and frees nothing
    rig.runtime.delete(&rig.entries()[0], "").unwrap();
    assert_eq!(rig.calls()[1..], [ipam("")]);
    assert!(rig.entries().is_empty());

    rig.add(&list).unwrap();
    let fails = format!(
        "{}\n[ $CNI_COMMAND != DEL ] || {{ echo '{{\"code\":999,\"msg\":\"no link\"}}'; exit 1; }}",
        version(ALL)
    );
    rig.plugin("host-device", &fails);
    rig.calls();
    rig.runtime.delete(&rig.entries()[0], "/run/netns/a").unwrap_err();
    assert_eq!(rig.calls().len(), 1, "the interface may be there");
    assert_eq!(rig.entries()[0].marker().map(|marker| marker.phase), Some(Phase::Deleting));
    rig.runtime.is_gone = Box::new(|target| target.namespace == "/run/netns/a");
    rig.runtime.delete(&rig.entries()[0], "/run/netns/a").unwrap();
    assert_eq!(rig.calls()[1..], [ipam("/run/netns/a")]);
    assert!(rig.entries().is_empty());
}
