//! From facts to rows.

use clap::Parser;

use super::{
    facts::{
        Cni, Facts, Hook, Kernel, PLUGINS, Runtime, RuntimeState, Socket, View, is_injector, read_capabilities,
        read_runtime_state,
    },
    rows::{Row, Section, Verdict, sections},
    text, *,
};
use crate::arguments::{Arguments, Command, ReadCommand};

const EVERY_WAY: [WayIn; 5] =
    [WayIn::ExtendedResource, WayIn::Annotation, WayIn::Command, WayIn::NetworksAnnotation, WayIn::Claims];

fn arguments() -> CheckNodeArguments {
    let Command::Read(ReadCommand::CheckNode(arguments)) = Arguments::parse_from(["netdevctl", "check-node"]).command
    else {
        unreachable!()
    };
    CheckNodeArguments { cni_path: vec![cni::DEFAULT_PLUGIN_DIR.into()], ..arguments }
}

/// A node on which everything is ready.
fn ready() -> Facts {
    let directories = vec!["/etc/cdi".to_owned(), "/var/run/cdi".to_owned()];
    let state = RuntimeState { not_ready: Vec::new(), cdi: Some(true), cdi_directories: Some(directories) };
    Facts {
        view: View::Node,
        kernel: Kernel { release: "6.12.1".into(), cookie: Ok(()), namespace_events: Ok(()), kinds: Ok(vec![true; 3]) },
        capabilities: Some((1 << 41) - 1),
        runtime: Ok(Runtime {
            name: "containerd".into(),
            version: "v2.1.9".into(),
            endpoint: "/run/containerd/containerd.sock".into(),
            state: Ok(state),
        }),
        nri: Socket::Accepts,
        device_plugins: Socket::Accepts,
        pod_resources: Socket::Accepts,
        has_plugins_registry: true,
        has_driver: true,
        cni: Cni { plugins: PLUGINS.into(), networks: ["10-rig.conflist".to_owned()].into() },
        hook: Hook::Installed,
        has_agent: true,
        has_injector: true,
    }
}

/// A machine that is not a node.
fn nothing() -> Facts {
    Facts {
        view: View::Own("cannot enter the mount namespace of PID 1: Permission denied (os error 13)".into()),
        kernel: Kernel {
            release: "5.10.0".into(),
            cookie: Err("Protocol not available (os error 92)".into()),
            namespace_events: Err("Invalid argument (os error 22)".into()),
            kinds: Err("Operation not permitted (os error 1)".into()),
        },
        capabilities: None,
        runtime: Err(
            "found no container runtime on this node: /run/crio/crio.sock not found: pass -runtime-endpoint".into()
        ),
        nri: Socket::Absent,
        device_plugins: Socket::Absent,
        pod_resources: Socket::Refuses("Connection refused (os error 111)".into()),
        has_plugins_registry: false,
        has_driver: false,
        cni: Cni::default(),
        hook: Hook::Absent,
        has_agent: false,
        has_injector: false,
    }
}

fn with_runtime(name: &str, version: &str, state: RuntimeState) -> Facts {
    let Ok(runtime) = ready().runtime else { unreachable!() };
    let runtime = Runtime { name: name.into(), version: version.into(), state: Ok(state), ..runtime };
    Facts { runtime: Ok(runtime), ..ready() }
}

/// The row of that name; the way's own come after the node's.
fn row(facts: &Facts, way: WayIn, check: &str) -> Row {
    let rows = sections(facts, &arguments(), &[way]).into_iter().flat_map(|section| section.checks);
    rows.into_iter().find(|row| row.check == check).unwrap_or_else(|| panic!("{check}"))
}

fn ready_ways(facts: &Facts) -> Vec<WayIn> {
    let sections = sections(facts, &arguments(), &EVERY_WAY);
    let ready = sections.iter().filter(|section| section.ready == Verdict::Yes);
    ready.filter_map(|section| section.way).collect()
}

#[test]
fn a_node_with_everything_is_ready_for_the_ways_that_this_version_has() {
    assert_eq!(ready_ways(&ready()), EVERY_WAY);
    let sections = sections(&ready(), &arguments(), &WAYS);
    insta::assert_snapshot!("ready", text(&sections, CheckNodeFormat::Table).unwrap());
    let of_node = serde_json::to_value(&sections[0]).unwrap();
    assert_eq!(of_node["ready"], "yes");
    assert!(of_node.get("way").is_none() && of_node["checks"][0].get("optional").is_none());
    let json = serde_json::to_value(&sections[1]).unwrap();
    assert_eq!((&json["way"], &json["ready"]), (&"extended-resource".into(), &"yes".into()));
}

#[test]
fn a_machine_without_anything_is_told_what_to_do_about_each_no() {
    assert_eq!(ready_ways(&nothing()), []);
    let sections = sections(&nothing(), &arguments(), &EVERY_WAY);
    let has_action =
        |section: &Section| section.checks.iter().all(|row| row.ready == Verdict::Yes || row.action.is_some());
    assert!(sections.iter().all(has_action));
    insta::assert_snapshot!("nothing", text(&sections, CheckNodeFormat::Table).unwrap());
}

#[test]
fn each_missing_thing_takes_the_ways_that_need_it() {
    use WayIn::{Annotation, Claims, Command, ExtendedResource, NetworksAnnotation};
    let no_cdi = with_runtime("containerd", "1.7.24~ds1", RuntimeState { cdi: Some(false), ..RuntimeState::default() });
    let not_ready =
        RuntimeState { not_ready: vec!["NetworkReady: cni plugin not initialized".into()], ..RuntimeState::default() };
    let table: [(&str, Facts, &[WayIn]); 11] = [
        ("CDI is off", no_cdi, &[Annotation, Command, NetworksAnnotation]),
        (
            "NRI is off",
            Facts { nri: Socket::Absent, ..ready() },
            &[ExtendedResource, Command, NetworksAnnotation, Claims],
        ),
        (
            "a stale NRI socket",
            Facts { nri: Socket::Refuses("x".into()), ..ready() },
            &[ExtendedResource, Command, NetworksAnnotation, Claims],
        ),
        (
            "no kubelet",
            Facts { device_plugins: Socket::Absent, ..ready() },
            &[Annotation, Command, NetworksAnnotation, Claims],
        ),
        ("no driver", Facts { has_driver: false, ..ready() }, &EVERY_WAY[..4]),
        ("no PodResources", Facts { pod_resources: Socket::Absent, ..ready() }, &EVERY_WAY),
        ("no hook", Facts { hook: Hook::Unusable("x"), ..ready() }, &[Annotation, Command, NetworksAnnotation]),
        ("no agent", Facts { has_agent: false, has_injector: false, ..ready() }, &[Command]),
        ("an injector alone", Facts { has_agent: false, ..ready() }, &[Annotation, Command]),
        ("no plugins", Facts { cni: Cni::default(), ..ready() }, &[ExtendedResource, Annotation, Claims]),
        ("no network", with_runtime("containerd", "v2.1.9", not_ready), &[]),
    ];
    for (name, facts, expected) in table {
        assert_eq!(ready_ways(&facts), expected, "{name}");
    }
}

#[test]
fn versions_of_runtimes_are_told_apart() {
    let on = || RuntimeState { cdi: Some(true), ..RuntimeState::default() };
    let table = [
        ("containerd", "v2.1.9", Verdict::Yes),
        ("containerd", "1.7.24~ds1", Verdict::Yes),
        ("containerd", "v2.2.0-k3s1", Verdict::Yes),
        ("containerd", "1.6.20", Verdict::No),
        ("containerd", "devel", Verdict::Unknown),
        ("cri-o", "1.36.3", Verdict::Yes),
        ("cri-o", "1.24.0", Verdict::Unknown),
        ("docker", "28.0.1", Verdict::Unknown),
    ];
    for (name, version, expected) in table {
        let row = row(&with_runtime(name, version, on()), WayIn::Command, "container runtime");
        assert_eq!(row.ready, expected, "{name} {version}");
    }
}

#[test]
fn whether_cdi_is_on_is_known_from_the_configuration_or_said_to_be_unknown() {
    let state = |cdi| RuntimeState { cdi, ..RuntimeState::default() };
    let table = [
        ("containerd", "v2.1.9", Some(true), Verdict::Yes, "on in the runtime's configuration"),
        ("containerd", "v2.1.9", Some(false), Verdict::No, "off in the runtime's configuration (enableCDI)"),
        ("containerd", "v2.1.9", None, Verdict::Unknown, "not reported; on by default since containerd 2.0"),
        ("containerd", "1.7.24", None, Verdict::Unknown, "not reported; off by default in containerd 1.7"),
        ("containerd", "1.6.20", None, Verdict::No, "not in this version"),
        ("cri-o", "1.36.3", None, Verdict::Yes, "always on in CRI-O"),
        ("docker", "28.0.1", None, Verdict::Unknown, "not reported"),
    ];
    for (name, version, cdi, expected, found) in table {
        let row = row(&with_runtime(name, version, state(cdi)), WayIn::ExtendedResource, "CDI");
        assert_eq!((row.ready, row.found.as_str()), (expected, found), "{name} {version} {cdi:?}");
    }
}

#[test]
fn the_agents_cdi_directory_is_one_that_the_runtime_reads() {
    let reads = |directory: &str| {
        let state = RuntimeState { cdi_directories: Some(vec![directory.to_owned()]), ..RuntimeState::default() };
        row(&with_runtime("cri-o", "1.36.3", state), WayIn::ExtendedResource, "CDI directory").ready
    };
    assert_eq!(
        [reads("/var/run/cdi"), reads("/run/cdi/"), reads("/etc/cdi")],
        [Verdict::Yes, Verdict::Yes, Verdict::No]
    );
}

#[test]
fn capabilities_that_are_missing_are_named() {
    let of = |bits| row(&Facts { capabilities: Some(bits), ..ready() }, WayIn::Command, "capabilities");
    let none = of(0);
    assert_eq!((none.ready, none.optional, none.found.as_str()), (Verdict::No, false, "no NET_ADMIN, SYS_ADMIN"));
    let some = of(1 << 12 | 1 << 21 | 1 << 19 | 1 << 18 | 1 << 1);
    assert_eq!(
        (some.ready, some.optional, some.found.as_str()),
        (Verdict::No, true, "no NET_RAW: addresses are not announced")
    );
    assert_eq!(read_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
    assert_eq!([read_capabilities(""), read_capabilities("CapEff:\tx")], [None, None]);
}

#[test]
fn the_runtimes_configuration_is_read_as_containerd_and_crio_write_it() {
    let read = |config: &str| {
        let info = [("config".to_owned(), config.to_owned())];
        read_runtime_state(cri::RuntimeState { not_ready: Vec::new(), info: info.into() })
    };
    let directories = Some(vec!["/etc/cdi".to_owned(), "/var/run/cdi".to_owned()]);
    let containerd = read(r#"{"enableCDI":true,"cdiSpecDirs":["/etc/cdi","/var/run/cdi"],"cni":{}}"#);
    assert_eq!((containerd.cdi, containerd.cdi_directories), (Some(true), directories.clone()));
    let crio = read(r#"{"sandboxImage":"pause","crio":{"CDISpecDirs":["/etc/cdi","/var/run/cdi"]}}"#);
    assert_eq!((crio.cdi, crio.cdi_directories), (None, directories));
    for other in ["", "[]", "{}", r#"{"enableCDI":"yes","cdiSpecDirs":7,"crio":[]}"#] {
        assert_eq!(read(other), RuntimeState::default(), "{other}");
    }
}

#[test]
fn an_injector_is_known_by_its_command_line() {
    let table: [(&[u8], bool); 7] = [
        (b"/netdevice-agent\0-interfaces\0eth\0-nri\0", true),
        (b"/usr/local/bin/netdevice-agent\0--nri\0", true),
        (b"/netdevice-agent\0-interfaces\0-nri-socket\0", false),
        (b"/opt/nri/plugins/10-network-device-injector\0", true),
        (b"network-device-injector\0-interfaces\0eth\0", true),
        (b"grep\0-nri\0netdevice-agent\0", false),
        (b"", false),
    ];
    for (command_line, expected) in table {
        assert_eq!(is_injector(command_line), expected, "{}", String::from_utf8_lossy(command_line));
    }
}
