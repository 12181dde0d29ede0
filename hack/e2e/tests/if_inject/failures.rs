//! What fails leaves nothing, and what `if-inject` did not make stays.

use e2e::{Node, Output, RunningPod, wait_for};
use serde_json::{Value, json};

use crate::{host_local, lock, ptp};

#[track_caller]
fn refused(done: &Output, why: &str) {
    assert!(done.code == Some(1) && done.stdout.is_empty() && done.stderr.contains(why), "{why}: {done}");
}

/// No interface beside those that the runtime made, no lease, no result.
#[track_caller]
fn assert_nothing(node: &Node, pod: &RunningPod<'_>, network: &str) {
    assert_eq!(pod.interfaces(), ["lo", "eth0"]);
    assert!(node.cni_leases(network).is_empty(), "{:?}", node.cni_leases(network));
    assert!(node.cni_results(network).is_empty(), "{:?}", node.cni_results(network));
}

fn macvlan(network: &str, subnet: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": network, "type": "macvlan", "master": "eth0", "ipam": host_local(subnet)})
}

#[test]
fn an_add_that_fails_half_way_leaves_nothing() {
    let node = lock();
    let pod = node.running_pod("half");
    let links = || node.ip(&["link"]).as_array().map(Vec::len);
    let before = links();
    let chain = |first: Value| json!([first, {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.no_such_key": "1"}}]);
    node.sh("ip link add hdhalf type veth peer name hdhalf-p");
    for (network, first) in [
        ("half-ptp", json!({"type": "ptp", "ipam": host_local("10.35.1.0/24")})),
        ("half-bridge", json!({"type": "bridge", "bridge": "half0", "ipam": host_local("10.35.2.0/24")})),
        ("half-device", json!({"type": "host-device", "device": "hdhalf", "ipam": host_local("10.35.3.0/24")})),
    ] {
        let list = json!({"cniVersion": "1.0.0", "name": network, "plugins": chain(first)});
        let spec = node.cni_spec(&format!("{network}.conflist"), &list);
        let failed = pod.plug("add", "net1", &spec);
        refused(&failed, "plugin tuning: ADD failed");
        assert!(!failed.stderr.contains("undoing"), "{failed}");
        assert_nothing(&node, &pod, network);
    }
    assert!(node.has_link("hdhalf"));
    node.sh("ip link delete hdhalf; ip link delete half0");
    assert_eq!(links(), before);
    // the device does not exist
    let nothing = json!({"cniVersion": "1.0.0", "name": "no-device", "type": "host-device", "device": "nodevice"});
    let failed = pod.plug("add", "net1", &node.cni_spec("no-device.json", &nothing));
    refused(&failed, "plugin host-device: ADD failed");
    assert_nothing(&node, &pod, "no-device");
    let missing = json!({"cniVersion": "1.0.0", "name": "no-plugin", "type": "no-such-plugin"});
    refused(&pod.plug("add", "net1", &node.cni_spec("no-plugin.json", &missing)), "no such plugin");
}

#[test]
fn interfaces_that_were_not_added_here_are_not_touched() {
    let node = lock();
    let pod = node.running_pod("others");
    let spec = node.cni_spec("others.json", &ptp("others", "10.35.4.0/24"));
    pod.sh("ip link add mine type veth peer name mine-p; ip link property add dev mine altname mine-too");
    let before = pod.interfaces();
    for (name, why) in
        [("mine", "is taken"), ("mine-too", "is taken"), ("eth0", "primary interface"), ("lo", "is taken")]
    {
        refused(&pod.plug("add", name, &spec), why);
    }
    for (name, why) in [
        ("mine", "was added here"),
        ("mine-too", "was added here"),
        ("eth0", "primary interface"),
        ("lo", "made by the container runtime"),
    ] {
        refused(&pod.if_inject(&["del", "-interface", name]), why);
        // by the configuration of another network, or by force
        refused(&pod.if_inject(&["del", "-interface", name, "-spec", &spec]), "");
        let _ = pod.if_inject(&["del", "-interface", name, "-force"]);
    }
    assert_eq!(pod.interfaces(), before);
    assert!(node.cni_leases("others").is_empty() && node.cni_results("others").is_empty());
    refused(&pod.plug("check", "mine", &spec), "was not added to network others here");
}

#[test]
fn a_plugin_that_hangs_is_killed_with_what_it_started_and_its_add_is_undone() {
    let node = lock();
    let pod = node.running_pod("hangs");
    let plugin = "#!/bin/sh\ncase $CNI_COMMAND in\nADD) sleep 98765 & wait ;;\nVERSION) echo '{\"supportedVersions\":[\"1.0.0\"]}' ;;\nesac\n";
    node.write("/run/rig/plugins/hangs", plugin);
    node.sh("chmod +x /run/rig/plugins/hangs");
    let list = json!({"cniVersion": "1.0.0", "name": "hangs", "plugins": [
        {"type": "ptp", "ipam": host_local("10.35.5.0/24")}, {"type": "hangs"}]});
    let spec = node.cni_spec("hangs.conflist", &list);
    let flags = ["add", "-spec", &spec, "-cni-path", "/run/rig/plugins:/opt/cni/bin", "-timeout", "1s"];
    refused(&pod.if_inject(&flags), "plugin hangs: ADD failed: no answer within 1s");
    let left = || node.run(["pgrep", "-f", "sleep 98765"]).success();
    wait_for("what the plugin started is gone", left, |left| !left);
    assert_nothing(&node, &pod, "hangs");
}

#[test]
fn nothing_is_left_of_a_configuration_that_the_plugin_refuses_each_time() {
    let node = lock();
    let pod = node.running_pod("invalid");
    let invalid = node.cni_spec("invalid.json", &macvlan("invalid", "10.35.6.0/99"));
    // macvlan makes the interface first, and calls its IPAM plugin, which fails for DEL too
    let failed = pod.plug("add", "net1", &invalid);
    refused(&failed, "invalid CIDR address: 10.35.6.0/99");
    assert!(!failed.stderr.contains("undoing"), "{failed}");
    assert_eq!(pod.interfaces(), ["lo", "eth0"]);
    assert_nothing(&node, &pod, "invalid");
    // the user corrects the file
    let good = node.cni_spec("corrected.json", &macvlan("invalid", "10.35.6.0/24"));
    let added = pod.plug("add", "net1", &good);
    assert_eq!(added.json()["ips"][0]["address"], "10.35.6.2/24", "{added}");
    assert!(pod.if_inject(&["del"]).success());
    assert_nothing(&node, &pod, "invalid");
}

#[test]
fn an_attachment_that_a_plugin_does_not_delete_stays_until_it_is_forgotten() {
    let node = lock();
    let pod = node.running_pod("stubborn");
    let plugin = "#!/bin/sh\ncase $CNI_COMMAND in\nADD) echo '{}' ;;\nDEL) echo '{\"code\":100,\"msg\":\"not today\"}'; exit 1 ;;\nVERSION) echo '{\"supportedVersions\":[\"1.0.0\"]}' ;;\nesac\n";
    node.write("/run/rig/plugins/stubborn", plugin);
    node.sh("chmod +x /run/rig/plugins/stubborn");
    let list = json!({"cniVersion": "1.0.0", "name": "stubborn", "plugins": [
        {"type": "ptp", "ipam": host_local("10.35.7.0/24")}, {"type": "stubborn"}]});
    let spec = node.cni_spec("stubborn.conflist", &list);
    let run = |words: &[&str]| pod.if_inject(&[words, &["-cni-path", "/run/rig/plugins:/opt/cni/bin"]].concat());
    assert!(run(&["add", "-spec", &spec]).success());
    refused(&run(&["del"]), "plugin stubborn: DEL failed: code 100: not today");
    assert_eq!(pod.interfaces(), ["lo", "eth0"], "the other plugin deleted its interface");
    assert_eq!(node.cni_results("stubborn").len(), 1);
    let forced = run(&["del", "-force"]);
    assert!(forced.success() && forced.stderr.contains("forgotten"), "{forced}");
    assert_nothing(&node, &pod, "stubborn");
}

#[test]
fn no_plugin_takes_a_device_that_the_node_needs_or_that_a_pod_has() {
    let node = lock();
    let pod = node.running_pod("greedy");
    node.sh("ip link property add dev eth0 altname uplink-too");
    let before = node.device_state("eth0");
    let mac = node.ip(&["link", "show", "dev", "eth0"])[0]["address"].as_str().unwrap_or_default().to_uppercase();
    let recorder =
        "#!/bin/sh\ntouch /run/rig/ran\necho '{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"1.0.0\"]}'\n";
    node.write("/run/rig/plugins/recorder", recorder);
    node.sh("chmod +x /run/rig/plugins/recorder; ln -sf /opt/cni/bin/host-device /run/rig/plugins/other-name; rm -f /run/rig/ran");
    for (device, why) in [
        (json!({"type": "host-device", "device": "eth0"}), "would take eth0 away from the node"),
        (json!({"type": "host-device", "DEVICE": "eth0"}), "would take eth0"),
        (json!({"type": "host-device", "hwaddr": mac}), "would take eth0"),
        (json!({"type": "host-device", "device": "uplink-too"}), "would take eth0"),
        (json!({"type": "other-name", "device": "eth0"}), "would take eth0"),
        (json!({"type": "host-device", "device": "cni0"}), "would take cni0"),
    ] {
        let list = json!({"cniVersion": "1.0.0", "name": "greedy", "plugins": [{"type": "recorder"}, device]});
        let spec = node.cni_spec("greedy.conflist", &list);
        let flags = ["add", "-spec", &spec, "-cni-path", "/run/rig/plugins:/opt/cni/bin"];
        refused(&pod.if_inject(&flags), why);
    }
    assert!(!node.run(["test", "-e", "/run/rig/ran"]).success(), "a plugin was called");
    node.sh("ip link property del dev eth0 altname uplink-too");
    assert_eq!(node.device_state("eth0").map(|_| ()), before.map(|_| ()));
    assert_nothing(&node, &pod, "greedy");
    // a device that a Pod has by another way
    let device = node.add_device("held0");
    let holder = node.running_pod("holder");
    let held = holder.if_inject(&["add", "-device", "held0", "-interfaces", "^held0$"]);
    assert!(held.success(), "{held}");
    let take = json!({"cniVersion": "1.0.0", "name": "take", "type": "host-device", "device": "held0"});
    refused(&pod.plug("add", "net1", &node.cni_spec("take.json", &take)), "default/holder");
    assert!(holder.interface("held0").is_some());
    assert!(holder.if_inject(&["del", "-device", "held0"]).success());
    device.wait_until_free();
    // and now it is free
    assert!(pod.plug("add", "net1", &node.cni_spec("take.json", &take)).success());
    assert!(pod.plug("del", "net1", &node.cni_spec("take.json", &take)).success() && device.is_on_node());
    drop(device);
}
