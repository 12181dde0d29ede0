//! What a container with all capabilities leaves on its device: BPF programs, links in namespaces of its own, another link
//! in the device's place. Nothing of it is on the node or in the next Pod.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Command,
};

use nix::mount::{MsFlags, mount};

use crate::{
    home::{assert_has, wired},
    support::{
        Host, Sandbox,
        bpf::{self, TCX_EGRESS, TCX_INGRESS, Verdict, XDP, attach_tcx, load},
        ended_state, on_host,
        trace::count_requests,
    },
};

const ADDRESS: &str = "addr add 10.9.0.2/24 dev dev0\nroute add 10.20.0.0/16 via 10.9.0.1";

/// Attaches, lets the container do something, detaches, and compares the host; then the next Pod gets the device.
fn leaves_nothing<T>(deed: impl FnOnce(&Host, &Sandbox) -> T + Send) {
    on_host(|host| {
        wired(host, ADDRESS);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        let _kept = deed(host, &sandbox);
        host.detach("c1", "dev0").succeeds();
        host.assert_same(&before);
        assert_eq!(programs("dev0"), 0, "no program is on the device");
        let next = host.sandbox("next");
        host.attach(&next, "c2", "dev0").succeeds();
        assert_eq!(next.run(|| programs("dev0")), 0);
        assert!(!next.show("-d link show dev0").contains("xdp"));
        host.detach("c2", "dev0").succeeds();
        host.assert_same(&before);
    });
}

/// Index of a link of the calling thread's namespace.
fn index(name: &str) -> u32 {
    let output = Command::new("ip").args(["-o", "link", "show", name]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).split(':').next().unwrap().parse().unwrap()
}

/// How many tcx programs are on a link of the calling thread's namespace.
fn programs(name: &str) -> u32 {
    [TCX_INGRESS, TCX_EGRESS].iter().map(|attach_type| bpf::count(index(name), *attach_type)).sum()
}

#[test]
fn tcx_programs_that_a_container_attached_are_taken_off() {
    leaves_nothing(|_, sandbox| {
        sandbox.run(|| {
            attach_tcx(index("dev0"), &load(Verdict::TcDrop), TCX_INGRESS);
            attach_tcx(index("dev0"), &load(Verdict::TcNext), TCX_INGRESS);
            attach_tcx(index("dev0"), &load(Verdict::TcDrop), TCX_EGRESS);
            assert_eq!(programs("dev0"), 3);
        });
    });
}

#[test]
fn a_tcx_program_that_a_bpf_link_holds_is_taken_off_while_a_process_keeps_the_link() {
    leaves_nothing(|_, sandbox| sandbox.run(|| bpf::link(index("dev0"), &load(Verdict::TcDrop), TCX_INGRESS)));
}

#[test]
fn an_xdp_program_that_a_bpf_link_holds_is_taken_off_while_a_process_keeps_the_link() {
    leaves_nothing(|_, sandbox| {
        let link = sandbox.run(|| bpf::link(index("dev0"), &load(Verdict::XdpPass), XDP));
        assert!(sandbox.show("-d link show dev0").contains("xdp"));
        link
    });
}

/// A BPF file system, which ends with the test.
fn bpf_folder(host: &Host) -> PathBuf {
    let folder = host.folder().join("bpf");
    fs::create_dir(&folder).unwrap();
    mount(Some("bpf"), &folder, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
    folder
}

#[test]
fn an_xdp_program_that_was_attached_by_netlink_is_taken_off() {
    leaves_nothing(|host, sandbox| {
        let path = bpf_folder(host).join("pass");
        bpf::pin(&load(Verdict::XdpPass), &path);
        for mode in ["xdpgeneric", "xdpdrv"] {
            sandbox.ip(&format!("link set dev dev0 {mode} pinned {}", path.display()));
            assert!(sandbox.show("-d link show dev0").contains("xdp"));
            if mode == "xdpgeneric" {
                sandbox.ip("link set dev dev0 xdpgeneric off");
            }
        }
    });
}

#[test]
fn a_tc_filter_that_a_container_attached_is_gone() {
    leaves_nothing(|host, sandbox| {
        let path = bpf_folder(host).join("drop");
        bpf::pin(&load(Verdict::TcDrop), &path);
        sandbox.run(|| {
            for words in ["qdisc add dev dev0 clsact", "filter add dev dev0 ingress bpf da pinned "] {
                let file = if words.ends_with(' ') { path.to_str().unwrap() } else { "" };
                let mut command = Command::new("tc");
                let output = command.args(words.split_whitespace()).args(Some(file).filter(|file| !file.is_empty()));
                let output = output.output().unwrap();
                assert!(output.status.success(), "tc {words}{file}: {}", String::from_utf8_lossy(&output.stderr));
            }
        });
        host.detach("c1", "dev0").succeeds();
        for what in ["qdisc show dev dev0", "filter show dev dev0 ingress"] {
            let output = Command::new("tc").args(what.split_whitespace()).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(!text.contains("clsact") && !text.contains("bpf"), "{text}");
        }
    });
}

#[test]
fn programs_that_the_node_attached_stay() {
    on_host(|host| {
        wired(host, ADDRESS);
        attach_tcx(host.ifindex("dev0"), &load(Verdict::TcNext), TCX_INGRESS);
        let _kept = bpf::link(host.ifindex("dev0"), &load(Verdict::TcNext), TCX_EGRESS);
        let _xdp = bpf::link(host.ifindex("dev0"), &load(Verdict::XdpPass), XDP);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        sandbox.run(|| attach_tcx(index("dev0"), &load(Verdict::TcDrop), TCX_INGRESS));
        host.detach("c1", "dev0").succeeds();
        host.assert_same(&before);
        assert_eq!(programs("dev0"), 2);
        assert!(!host.journal().contains("left out"), "{}", host.journal());
    });
}

#[test]
fn a_program_of_the_nodes_that_a_container_replaced_is_reported() {
    on_host(|host| {
        wired(host, ADDRESS);
        let path = bpf_folder(host);
        bpf::pin(&load(Verdict::XdpPass), &path.join("nodes"));
        bpf::pin(&load(Verdict::XdpPass), &path.join("pods"));
        host.ip(&format!("link set dev dev0 xdpgeneric pinned {}", path.join("nodes").display()));
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        sandbox.ip("link set dev dev0 xdpgeneric off");
        sandbox.ip(&format!("link set dev dev0 xdpgeneric pinned {}", path.join("pods").display()));
        host.detach("c1", "dev0").succeeds();
        assert!(!host.show("-d link show dev0").contains("xdp"));
        assert_has(&host.journal(), &["the XDP program is left out: it was removed while the device was attached"]);
    });
}

/// The container deletes its device and makes another link with its index.
fn an_impostor_stays(device: &str, impostor: &str) {
    on_host(|host| {
        host.ip(device);
        host.ip("link set dev0 up\naddr add 10.9.0.2/24 dev dev0");
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        let index = sandbox.run(|| index("dev0"));
        sandbox.ip("link delete dev0");
        sandbox.ip(&impostor.replace("INDEX", &format!("index {index}")));
        host.detach("c1", "dev0").succeeds();
        assert!(!host.has_link("dev0") && !host.has_link("evil"), "{}", host.show("link"));
        assert!(sandbox.has_link("evil"), "it was not touched");
        assert_has(&host.journal(), &["\"outcome\":\"lost\""]);
        assert_eq!(host.records(), Vec::<String>::new());
    });
}

#[test]
fn a_veth_in_the_place_of_the_device_stays_in_the_pod() {
    an_impostor_stays("link add dev0 type veth peer name wire", "link add evil INDEX type veth peer name far");
}

#[test]
fn an_ifb_in_the_place_of_the_device_stays_in_the_pod() {
    an_impostor_stays("link add dev0 type ifb", "link add evil INDEX type ifb");
}

#[test]
fn a_macvlan_in_the_place_of_the_device_stays_in_the_pod() {
    an_impostor_stays(
        "link add below type ifb\nlink add dev0 link below type macvlan mode bridge",
        "link add below type ifb\nlink add evil link below INDEX type macvlan mode bridge",
    );
}

#[test]
fn a_vxlan_in_the_place_of_the_device_stays_in_the_pod() {
    an_impostor_stays(
        "link add dev0 type vxlan id 9 dstport 4789 remote 10.1.1.1",
        "link add evil INDEX type vxlan id 9 dstport 4789 remote 10.1.1.1",
    );
}

#[test]
fn a_device_whose_record_does_not_identify_it_is_followed_as_before() {
    on_host(|host| {
        wired(host, ADDRESS);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        let text = fs::read_to_string(host.record_path("dev0")).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
        for field in ["sysfs_inode", "programs", "xdp_programs"] {
            record["host"].as_object_mut().unwrap().remove(field);
        }
        host.write(host.record_path("dev0"), &record.to_string());
        host.detach("c1", "dev0").succeeds();
        host.assert_same(&before);
    });
}

/// A namespace that a container made, with a process in it.
fn nested(host: &Host, deed: impl FnOnce(&Sandbox, &Sandbox)) {
    wired(host, ADDRESS);
    let before = host.settled();
    let (sandbox, nested) = (host.sandbox("web"), host.sandbox("nested"));
    host.attach(&sandbox, "c1", "dev0").succeeds();
    deed(&sandbox, &nested);
    assert!(nested.has_link("spy"), "{}", nested.show("link"));
    host.detach("c1", "dev0").succeeds();
    assert!(!nested.has_link("spy"), "{}", nested.show("-d link"));
    host.assert_same(&before);
}

#[test]
fn a_link_on_the_device_that_was_moved_into_another_namespace_is_deleted() {
    for kind in ["macvlan mode bridge", "macvlan mode passthru", "macvtap mode private", "macvlan mode source"] {
        on_host(|host| {
            nested(host, |sandbox, nested| {
                sandbox.ip(&format!("link add spy link dev0 type {kind}\nlink set spy netns {}", nested.pid()));
            });
        });
    }
}

#[test]
fn links_on_the_device_in_the_pod_and_in_another_namespace_are_deleted() {
    on_host(|host| {
        nested(host, |sandbox, nested| {
            sandbox.ip(&format!(
                "link add ear link dev0 type macvlan\nlink set ear up
                 link add tunnel type vxlan id 7 dstport 4789 dev dev0 group 239.1.1.1
                 link add spy link dev0 type macvlan\nlink set spy netns {}",
                nested.pid()
            ));
            nested.ip("link set spy up");
        });
    });
}

#[test]
fn a_link_on_the_device_that_was_made_in_another_namespace_is_deleted() {
    for mode in ["bridge", "passthru"] {
        on_host(|host| {
            nested(host, |sandbox, nested| {
                let pid = nested.pid();
                sandbox.ip(&format!("link add spy link dev0 netns {pid} type macvlan mode {mode}"));
                nested.ip("link set spy up");
            });
        });
    }
}

#[test]
fn a_link_on_the_device_that_was_moved_on_and_on_is_deleted() {
    on_host(|host| {
        let between = host.sandbox("between");
        nested(host, |sandbox, nested| {
            sandbox.ip(&format!("link add spy link dev0 type macvlan\nlink set spy netns {}", between.pid()));
            between.ip(&format!("link set spy netns {}", nested.pid()));
        });
    });
}

#[test]
fn links_of_a_pods_other_namespaces_that_are_not_on_the_device_stay() {
    on_host(|host| {
        nested(host, |sandbox, nested| {
            sandbox.ip(&format!(
                "link add own type veth peer name far netns {pid}
                 link add safe link own type macvlan\nlink set safe netns {pid}
                 link add spy link dev0 type macvlan\nlink set spy netns {pid}",
                pid = nested.pid()
            ));
        });
        let left = host.sandbox("web");
        drop(left);
    });
    on_host(|host| {
        wired(host, ADDRESS);
        let (sandbox, nested) = (host.sandbox("web"), host.sandbox("nested"));
        host.attach(&sandbox, "c1", "dev0").succeeds();
        sandbox.ip(&format!(
            "link add own type veth peer name far netns {pid}
             link add safe link own type macvlan\nlink set safe netns {pid}",
            pid = nested.pid()
        ));
        host.detach("c1", "dev0").succeeds();
        assert!(nested.has_link("safe") && nested.has_link("far"), "{}", nested.show("link"));
    });
}

/// A namespace that no process is in hides a link that takes all frames; the device waits for an administrator.
#[test]
fn a_device_that_cannot_be_cleaned_is_quarantined_and_restored_with_its_record() {
    on_host(|host| {
        wired(host, ADDRESS);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        let hidden = {
            let nested = host.sandbox("nested");
            sandbox.ip(&format!("link add spy link dev0 netns {} type macvlan mode passthru", nested.pid()));
            nested.ip("link set spy up");
            File::open(format!("/proc/{}/ns/net", nested.pid())).unwrap()
        };
        let aside = host.state_dir().join("quarantine/dev0.1.json");
        let reason = "a link on it, in a network namespace that cannot be found, receives all its frames";
        host.detach("c1", "dev0").fails_with(reason);
        assert_has(&host.journal(), &["\"outcome\":\"failed\"", reason, aside.to_str().unwrap()]);
        assert!(!host.record_path("dev0").exists() && aside.exists());
        let text = host.show("addr show dev0");
        assert!(text.contains("state DOWN") && !text.contains("10.9.0.2"), "{text}");
        let next = host.sandbox("next");
        host.attach(&next, "c2", "dev0").fails_with(reason);
        // put back while nothing has changed, it is quarantined again
        fs::rename(&aside, host.record_path("dev0")).unwrap();
        host.detach("c1", "dev0").fails_with(reason);
        drop(hidden);
        crate::support::until("the hidden namespace ends", || {
            !host.show("-d link show dev0").contains("promiscuity 1")
        });
        fs::rename(&aside, host.record_path("dev0")).unwrap();
        host.detach("c1", "dev0").succeeds();
        fs::remove_dir(aside.parent().unwrap()).unwrap();
        host.assert_same(&before);
        host.attach(&next, "c2", "dev0").succeeds();
    });
}

/// Requests of a detachment whose container does nothing.
const ORDINARY: usize = 9;

#[test]
fn hundreds_of_links_on_the_device_are_deleted_together() {
    on_host(|host| {
        wired(host, ADDRESS);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        let lines: Vec<_> = (0..500).map(|number| format!("link add m{number} link dev0 type macvlan")).collect();
        sandbox.ip(&lines.join("\n"));
        let child = host.command("detach", &["dev0"]).spawn().unwrap();
        let (ending, requests) = count_requests(child, &ended_state("c1"));
        ending.succeeds();
        assert!(!sandbox.has_link("m0") && !sandbox.has_link("m499"));
        // a hundred in one send to be put into a group, and one that deletes it
        assert!(requests <= ORDINARY + 8, "{requests}");
        host.assert_same(&before);
    });
}

#[test]
fn a_pod_that_makes_and_deletes_links_without_pause_costs_no_request_more() {
    on_host(|host| {
        wired(host, ADDRESS);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let lines: Vec<_> = (0..400).map(|number| format!("link add l{number} type ifb")).collect();
        sandbox.ip(&lines.join("\n"));
        for _ in 0..3 {
            host.attach(&sandbox, "c1", "dev0").succeeds();
            let churn = Churn::start(&sandbox);
            let child = host.command("detach", &["dev0"]).spawn().unwrap();
            let (ending, requests) = count_requests(child, &ended_state("c1"));
            drop(churn);
            ending.succeeds();
            assert!(requests <= ORDINARY, "{requests}");
            host.assert_same(&before);
        }
    });
}

/// A process in a sandbox that makes and deletes links until it is dropped.
struct Churn(std::process::Child);

impl Churn {
    fn start(sandbox: &Sandbox) -> Self {
        let script = "while :; do printf 'link add c0 type ifb\\nlink add c1 type ifb\\nlink del c0\\nlink del c1\\n'; done | ip -batch -";
        let child = sandbox.run(|| {
            use std::os::unix::process::CommandExt;
            Command::new("sh").args(["-c", script]).process_group(0).spawn().unwrap()
        });
        crate::support::until("links come and go", || sandbox.has_link("c0"));
        Self(child)
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}
