//! An API server that is slow, or refuses the agent for a while: Prepare answers before the kubelet gives up, and in the end the
//! status is written. Each test has the cluster alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use e2e::{ClaimPod, ClaimSpec, Device, Level, Node, eventually, wait_for_object};
use serde_json::{Value, json};

use crate::{agent, alone, arguments, inside, start_agent};

/// Where the slow way to the API server begins.
const PORT: u16 = 8443;
/// How long each piece takes on it, in milliseconds.
const DELAY: u32 = 700;
/// The kubelet gives up after 45 s, and calls again after 3 to 5 s in this cluster.
const CALL: Duration = Duration::from_secs(60);

/// A device in a slice, and a claim for it.
#[track_caller]
fn claimed<'n>(node: &'n Node, name: &str, address: &str) -> Device<'n> {
    let device = node.add_device_at(name, "198.51.100.74/24");
    node.wait_until_sliced(name);
    node.apply(&ClaimSpec::device(name).configure(json!({"name": "net1", "addresses": [address]})).claim(name));
    device
}

/// The Pod runs with its device, the claim says so, and then everything ends.
#[track_caller]
fn ends_well(node: &Node, name: &str, address: &str, device: &Device<'_>) {
    node.wait_long_until_ready(name);
    assert!(inside(node, name, "net1").contains(address));
    let look = || node.get(&["resourceclaim", name])["status"]["devices"][0].clone();
    let is_written = |device: &Value| {
        device["networkData"]["ips"] == json!([address])
            && device["conditions"].as_array().into_iter().flatten().any(|it| it["status"] == "True")
    };
    let written = eventually(Duration::from_secs(150), || Some(look()).filter(is_written));
    assert!(written.is_some(), "{:#}", look());
    node.delete(&[&format!("pod/{name}"), &format!("resourceclaim/{name}")]);
    device.wait_until_free();
}

/// Waits for words in the Events of a Pod, as long as one call of the kubelet may take and another one.
#[track_caller]
fn wait_for_refusal(node: &Node, pod: &str, words: &str) {
    let seen = eventually(2 * CALL, || node.pod_events(pod).contains(words).then_some(()));
    assert!(seen.is_some(), "no event of {pod} has {words:?}:\n{}", node.pod_events(pod));
    assert!(!node.pod_events(pod).contains("DeadlineExceeded"), "{}", node.pod_events(pod));
}

/// The agent's way to it is slow. Another writer changes the claim between the agent's GET and PATCH: 409.
#[test]
fn an_api_server_that_is_slow_and_a_claim_that_others_write_delay_the_status_and_nothing_else() {
    let node = alone();
    let relay = node.slow_api_server(PORT, DELAY);
    let mut held = agent();
    assert!(held.take().expect("it runs").stop().success());
    let slow = node.claims_agent_by(PORT, &arguments().iter().map(String::as_str).collect::<Vec<_>>());
    slow.wait_until_connected();
    slow.wait_for_output("claims: registered with the kubelet");
    let device = claimed(&node, "clslow0", "10.76.0.1/24");
    node.apply(&ClaimPod::new("clslow0", "clslow0", Level::Pod).manifest());
    let look = || node.get(&["resourceclaim", "clslow0"]);
    wait_for_object("the claim is allocated", look, |claim| !claim["status"]["allocation"].is_null());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let annotation = format!("round={round}");
                node.kubectl(&["annotate", "--overwrite", "resourceclaim", "clslow0", &annotation]);
            }
        });
        let conflict = eventually(CALL, || slow.output().contains("the API server answered 409").then_some(()));
        is_over.store(true, Ordering::Relaxed);
        assert!(conflict.is_some(), "{}", slow.output());
    });
    ends_well(&node, "clslow0", "10.76.0.1/24", &device);
    assert!(slow.stop().success());
    drop(relay);
    *held = Some(start_agent());
}

/// The agent's token has expired: 401 for each of its requests.
#[test]
fn a_token_that_is_refused_is_named_before_the_kubelet_gives_up_and_the_next_one_is_read() {
    let node = alone();
    let device = claimed(&node, "clexpired0", "10.76.0.3/24");
    let mut held = agent();
    assert!(held.take().expect("it runs").stop().success());
    node.write_agent_token("not-a-token");
    *held = Some(start_agent());
    drop(held);
    node.apply(&ClaimPod::new("clexpired0", "clexpired0", Level::Container).manifest());
    wait_for_refusal(&node, "clexpired0", "it answered with status 401");
    assert!(device.is_on_node());
    node.write_agent_token(&node.agent_token(node.name()));
    ends_well(&node, "clexpired0", "10.76.0.3/24", &device);
}
