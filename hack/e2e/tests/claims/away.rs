//! Programs that are away for a while: the kubelet, the driver, its sockets, the API server, the runtime. Each test has the
//! cluster alone.

use std::fs;

use e2e::{
    Action, ClaimPod, ClaimSpec, DRIVER, DRIVER_SOCKETS, Device, Level, Node, REGISTRY, Signal, wait_for,
    wait_for_object,
};
use serde_json::{Value, json};

use crate::{agent, alone, inside, start_agent};

fn container_id(pod: &Value) -> Value {
    pod["status"]["containerStatuses"][0]["containerID"].clone()
}

/// A Pod with a device, which runs.
#[track_caller]
fn running<'n>(node: &'n Node, name: &str, level: Level) -> (Device<'n>, Value) {
    let device = node.add_device_at(name, "198.51.100.70/24");
    node.wait_until_sliced(name);
    node.apply(&ClaimSpec::device(name).configure(json!({"name": "net1", "addresses": ["10.75.0.1/24"]})).claim(name));
    node.apply(&ClaimPod::new(name, name, level).manifest());
    let pod = node.wait_long_until_ready(name);
    (device, pod)
}

#[track_caller]
fn untouched(node: &Node, name: &str, before: &Value) {
    let now = node.wait_long_until_ready(name);
    assert_eq!(container_id(&now), container_id(before), "{now:#}");
    assert!(inside(node, name, "net1").contains("10.75.0.1/24"));
}

#[track_caller]
fn gone(node: &Node, name: &str, device: &Device<'_>) {
    node.delete(&[&format!("pod/{name}"), &format!("resourceclaim/{name}")]);
    device.wait_until_free();
}

/// No Prepare comes; the wipe of the slices is put right.
#[test]
fn a_kubelet_that_restarts_leaves_the_pod_alone_and_the_slices_are_there_again_at_once() {
    let node = alone();
    let (device, before) = running(&node, "clkube0", Level::Container);
    let old: Vec<Value> = node.slices().iter().map(|slice| slice["metadata"]["uid"].clone()).collect();
    node.kubelet(Action::Restart);
    let anew = |now: &Value| {
        let slices = now.as_array().cloned().unwrap_or_default();
        !slices.is_empty() && slices.iter().all(|slice| !old.contains(&slice["metadata"]["uid"]))
    };
    wait_for_object("the slices were deleted and made anew", || json!(node.slices()), anew);
    untouched(&node, "clkube0", &before);
    // a container that restarts has its CDI device by the checkpoint
    node.kubectl(&["exec", "clkube0", "--", "sh", "-c", "kill 1"]);
    wait_for_object(
        "it restarts",
        || node.get(&["pod", "clkube0"]),
        |now| {
            now["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(1)
                && now["status"]["containerStatuses"][0]["ready"] == true
        },
    );
    assert!(inside(&node, "clkube0", "net1").contains("10.75.0.1/24"));
    gone(&node, "clkube0", &device);
    // the next one is prepared by the kubelet that was restarted
    let (device, _) = running(&node, "clkube1", Level::Pod);
    gone(&node, "clkube1", &device);
}

/// State on disk only: what one instance prepared the next one attaches and unprepares.
#[test]
fn a_driver_that_is_killed_and_started_leaves_the_pod_alone_and_unprepares_what_the_other_prepared() {
    let node = alone();
    let (device, before) = running(&node, "clkill0", Level::Pod);
    let mut held = agent();
    held.take().expect("it runs").kill();
    untouched(&node, "clkill0", &before);
    *held = Some(start_agent());
    drop(held);
    untouched(&node, "clkill0", &before);
    gone(&node, "clkill0", &device);
}

/// DRANET's case 15, and the Pods that end and begin while there is no driver.
#[test]
fn pods_that_end_and_begin_while_the_driver_is_away_go_on_when_it_is_back() {
    let node = alone();
    let (device, _) = running(&node, "claway0", Level::Container);
    let (forced, _) = running(&node, "claway1", Level::Pod);
    let mut held = agent();
    held.take().expect("it runs").kill();
    node.kubectl(&["delete", "pod", "claway0", "--wait=false"]).text();
    node.kubectl(&["delete", "pod", "claway1", "--grace-period=0", "--force", "--wait=false"]).text();
    node.apply(
        &ClaimSpec::device("claway0")
            .configure(json!({"name": "net1", "addresses": ["10.75.0.1/24"]}))
            .template("claway0"),
    );
    node.apply(&ClaimPod::of_template("claway2", "claway0", Level::Container).manifest());
    let node_has_driver_gone = || node.slices().len();
    // DRANET's case 14: 30 seconds after its last connection ended the kubelet deletes the slices
    let gone_slices =
        e2e::eventually(std::time::Duration::from_secs(60), || (node_has_driver_gone() == 0).then_some(()));
    assert!(gone_slices.is_some(), "{:?}", node.slices());
    assert!(!node.get(&["pod", "claway0"]).is_null(), "its claim is not unprepared");
    *held = Some(start_agent());
    drop(held);
    wait_for_object("the old Pod ends", || node.get(&["pod", "claway0"]), Value::is_null);
    forced.wait_until_free();
    node.wait_long_until_ready("claway2");
    assert!(inside(&node, "claway2", "net1").contains("10.75.0.1/24"));
    node.delete(&["pod/claway2", "resourceclaim/claway0", "resourceclaim/claway1", "resourceclaimtemplate/claway0"]);
    device.wait_until_free();
}

#[test]
fn sockets_that_are_deleted_by_hand_are_made_anew() {
    let node = alone();
    for directory in [DRIVER_SOCKETS, REGISTRY] {
        let path = node.path(directory);
        for file in fs::read_dir(&path).expect("it is there").filter_map(Result::ok) {
            if file.path().to_string_lossy().ends_with(".sock") {
                fs::remove_file(file.path()).expect("nobody else deletes it");
            }
        }
        let is_there = || {
            fs::read_dir(&path)
                .map(|files| files.filter_map(Result::ok).any(|it| it.path().to_string_lossy().ends_with(".sock")))
                .unwrap_or(false)
        };
        wait_for(&format!("a socket in {directory}"), is_there, |there| *there);
        let (device, _) = running(&node, "clsock0", Level::Container);
        gone(&node, "clsock0", &device);
    }
}

/// A rolling update: two instances at once, and either may get any call.
#[test]
fn two_drivers_at_once_give_each_device_once_and_the_older_one_may_end() {
    let node = alone();
    let (device, before) = running(&node, "clroll0", Level::Container);
    let mut held = agent();
    let new = start_agent();
    let (second, _) = running(&node, "clroll1", Level::Pod);
    let old = held.replace(new).expect("it runs");
    assert!(old.stop().success());
    untouched(&node, "clroll0", &before);
    assert!(!node.slices().is_empty());
    let (third, _) = running(&node, "clroll2", Level::Container);
    drop(held);
    gone(&node, "clroll0", &device);
    gone(&node, "clroll1", &second);
    gone(&node, "clroll2", &third);
    let sockets: Vec<String> = fs::read_dir(node.path(DRIVER_SOCKETS))
        .expect("it is there")
        .filter_map(|file| Some(file.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.ends_with(".sock"))
        .collect();
    assert_eq!(sockets.len(), 1, "the older one's is removed: {sockets:?}");
}

/// The kubelet has the claim, and the driver asks for it itself: it waits, or says so; then everything goes on.
#[test]
fn an_api_server_that_is_away_delays_pods_and_loses_nothing() {
    let node = alone();
    let (device, before) = running(&node, "clapi0", Level::Container);
    node.apiserver(Action::Stop);
    // the device's link changes meanwhile, and a container restarts
    node.sh("ip link add clapi1 type veth peer name clapi1-p; ip link set clapi1 up; ip link set clapi1-p up");
    let id = container_id(&before);
    node.sh(&format!(
        "crictl stop --timeout 0 {}",
        id.as_str().unwrap_or_default().trim_start_matches("containerd://")
    ));
    let running_now = || node.sh("crictl ps --name ^c$ --output json").json();
    let again = |list: &Value| {
        list["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|it| it["labels"]["io.kubernetes.pod.name"] == "clapi0" && it["state"] == "CONTAINER_RUNNING")
    };
    wait_for("the container runs again without the API server", running_now, again);
    node.apiserver(Action::Start);
    node.wait_until_sliced("clapi1");
    node.wait_long_until_ready("clapi0");
    assert!(inside(&node, "clapi0", "net1").contains("10.75.0.1/24"));
    gone(&node, "clapi0", &device);
    node.sh("ip link delete clapi1");
    let (device, _) = running(&node, "clapi2", Level::Pod);
    gone(&node, "clapi2", &device);
}

/// An expired token: the slices stay, the next token is read.
#[test]
fn a_token_that_is_refused_is_read_again() {
    let node = alone();
    node.write_agent_token("not-a-token");
    let device = node.add_device_at("cltoken0", "198.51.100.71/24");
    node.write_agent_token(&node.agent_token(node.name()));
    // a client keeps a token for a minute
    let sliced = e2e::eventually(std::time::Duration::from_secs(120), || {
        node.sliced_devices().iter().any(|it| it["name"] == "cltoken0").then_some(())
    });
    assert!(sliced.is_some(), "{}", agent().as_ref().map(|agent| agent.output()).unwrap_or_default());
    drop(device);
    node.wait_until_not_sliced("cltoken0");
}

#[test]
fn a_slice_that_somebody_deletes_or_edits_is_put_right() {
    let node = alone();
    let device = node.add_device_at("clforeign0", "198.51.100.72/24");
    node.wait_until_sliced("clforeign0");
    let name = |slices: &[Value]| slices[0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let before = node.slices();
    node.delete(&[&format!("resourceslice/{}", name(&before))]);
    node.wait_until_sliced("clforeign0");
    let now = node.slices();
    let patch = json!([{"op": "remove", "path": "/spec/devices/0"}]).to_string();
    node.kubectl(&["patch", "resourceslice", &name(&now), "--type=json", "--patch", &patch]).text();
    let complete = |all: &Value| all.as_array().is_some_and(|all| all.iter().any(|it| it["name"] == "clforeign0"));
    wait_for_object(
        "all devices are listed",
        || json!(node.sliced_devices()),
        |all| {
            complete(all)
                && all.as_array().is_some_and(|all| {
                    all.len()
                        == before.iter().map(|it| it["spec"]["devices"].as_array().map_or(0, Vec::len)).sum::<usize>()
                })
        },
    );
    // a slice of the same pool by another writer
    let foreign = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "clforeign"},
        "spec": {"driver": DRIVER, "nodeName": node.name(), "devices": [{"name": "ghost"}],
            "pool": {"name": node.name(), "generation": 99, "resourceSliceCount": 1}}});
    node.apply(&foreign.to_string());
    wait_for_object(
        "it is removed, or outdone",
        || json!(node.sliced_devices()),
        |all| complete(all) && all.as_array().is_some_and(|all| all.iter().all(|it| it["name"] != "ghost")),
    );
    device.wait_until_home();
}

/// The runtime goes and comes: a Pod with a claim of the Pod is not started without its device.
#[test]
fn a_runtime_that_restarts_keeps_the_devices_and_pods_start_afterwards() {
    let node = alone();
    let (device, before) = running(&node, "clcont0", Level::Pod);
    node.containerd(Action::Restart);
    untouched(&node, "clcont0", &before);
    let (second, _) = running(&node, "clcont1", Level::Pod);
    gone(&node, "clcont1", &second);
    gone(&node, "clcont0", &device);
}

/// A reboot: /run is empty, the claims are still allocated, Prepare comes again.
#[test]
fn a_reboot_prepares_the_claims_again() {
    let node = alone();
    let (device, before) = running(&node, "clboot0", Level::Container);
    node.kubelet(Action::Stop);
    node.remove_all_pods();
    device.wait_until_home();
    let mut held = agent();
    held.take().expect("it runs").kill();
    // the pins of namespaces are mounts
    node.sh("umount /run/netdevice/netns/* 2>/dev/null || true; rm -rf /run/netdevice /run/cdi");
    *held = Some(crate::begin_agent());
    node.kubelet(Action::Start);
    drop(held);
    let again = |now: &Value| {
        container_id(now) != container_id(&before) && now["status"]["containerStatuses"][0]["ready"] == true
    };
    let found =
        e2e::eventually(std::time::Duration::from_secs(120), || Some(node.get(&["pod", "clboot0"])).filter(again));
    let after = found.unwrap_or_else(|| panic!("{}", node.kubectl(&["describe", "pod", "clboot0"])));
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert!(inside(&node, "clboot0", "net1").contains("10.75.0.1/24"));
    gone(&node, "clboot0", &device);
}

/// Signals in the middle of everything: Pods come and go while the driver is killed again and again.
#[test]
fn a_driver_that_is_killed_again_and_again_loses_no_device() {
    let node = alone();
    let device = node.add_device_at("clrepeat0", "198.51.100.73/24");
    node.wait_until_sliced("clrepeat0");
    node.apply(&ClaimSpec::device("clrepeat0").configure(json!({"name": "net1"})).template("clrepeat0"));
    let mut held = agent();
    for round in 0..4 {
        let name = format!("clrepeat0-{round}");
        node.apply(&ClaimPod::of_template(&name, "clrepeat0", Level::Container).manifest());
        // at another moment each time: after nothing, after the reservation, after the attachment
        let files = || node.claim_files().len();
        match round {
            0 => {}
            1 => drop(wait_for("the claim is prepared", files, |count| *count > 0)),
            _ => drop(wait_for("the device is away", || device.is_on_node(), |there| !there)),
        }
        if let Some(agent) = held.as_mut() {
            agent.signal(Signal::KILL);
            agent.wait();
        }
        *held = Some(start_agent());
        node.wait_long_until_ready(&name);
        assert!(inside(&node, &name, "net1").contains("net1"));
        node.delete(&[&format!("pod/{name}")]);
        device.wait_until_free();
    }
    drop(held);
    node.delete(&["resourceclaimtemplate/clrepeat0"]);
}
