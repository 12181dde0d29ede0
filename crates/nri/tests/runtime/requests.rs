//! Requests, their answers and their deadlines.

use std::time::Duration;

use nri::{
    Runtime,
    stand_in::{DEADLINE_EXCEEDED, Failure, Peer, UNKNOWN, old_runtime, runtime},
};

use crate::{
    plugin::{HOLD, PANIC, REFUSE, Seen},
    rig::{Rig, container_of, pod, within},
};

/// The methods of the Plugin service beside those that the tests call by name.
const OTHERS: [&str; 12] = [
    "Shutdown",
    "UpdatePodSandbox",
    "PostUpdatePodSandbox",
    "PostCreateContainer",
    "StartContainer",
    "PostStartContainer",
    "UpdateContainer",
    "PostUpdateContainer",
    "StopContainer",
    "RemoveContainer",
    "StateChange",
    "ValidateContainerAdjustment",
];

async fn started(runtime: Runtime) -> (Rig, Peer) {
    let (mut rig, mut peer) = Rig::connected();
    within(peer.start(runtime, &[], &[])).await.unwrap();
    rig.until(|seen| *seen == Seen::Synchronized).await;
    (rig, peer)
}

fn code_of(result: Result<(), Failure>) -> i32 {
    match result {
        Err(Failure::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn old_and_new_runtimes_reach_the_same_handlers() {
    for runtime in [old_runtime(), runtime()] {
        let (mut rig, peer) = started(runtime).await;
        let pod = pod("a", &[("netdevices.nri.containerd.io", "- name: eth2")]);
        peer.run_pod_sandbox(&pod).await.unwrap();
        peer.create_container(&pod, &container_of(&pod)).await.unwrap();
        peer.stop_pod_sandbox(&pod).await.unwrap();
        peer.remove_pod_sandbox(&pod).await.unwrap();
        for name in ["run", "create", "stop", "remove"] {
            assert_eq!(rig.next().await, Seen::Began(name, pod.clone()));
            assert_eq!(rig.next().await, Seen::Done(name));
        }
        rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_method_that_does_not_concern_us_is_agreed_to() {
    let (rig, peer) = started(runtime()).await;
    for method in OTHERS {
        assert_eq!(peer.call(method, Vec::new()).await.as_deref(), Ok(&[][..]), "{method}");
    }
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_method_or_a_service_of_another_time_is_unimplemented() {
    let (rig, peer) = started(runtime()).await;
    let unimplemented = 12;
    assert_eq!(code_of(peer.call("Frobnicate", Vec::new()).await.map(drop)), unimplemented);
    let elsewhere = peer.call_service("nri.pkg.api.v2.Plugin", "Configure", Vec::new()).await;
    assert_eq!(code_of(elsewhere.map(drop)), unimplemented);
    peer.run_pod_sandbox(&pod("a", &[])).await.unwrap();
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_ten_kilobytes_arrives_as_one_short_line() {
    for runtime in [old_runtime(), runtime()] {
        let (rig, peer) = started(runtime).await;
        let reason = "device\neth2 is held ".repeat(600);
        let Err(Failure::Refused { code, message }) = peer.run_pod_sandbox(&pod("a", &[(REFUSE, &reason)])).await
        else {
            panic!("the Pod runs");
        };
        assert_eq!(code, UNKNOWN);
        assert!(message.len() < 1024 && !message.contains('\n') && message.starts_with("device eth2"), "{message}");
        peer.run_pod_sandbox(&pod("b", &[])).await.unwrap();
        rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn annotations_of_ten_kilobytes_arrive_whole() {
    let (mut rig, peer) = started(runtime()).await;
    let large = pod("a", &[("netdevices.nri.containerd.io", &"x".repeat(10_000))]);
    peer.run_pod_sandbox(&large).await.unwrap();
    assert_eq!(rig.next().await, Seen::Began("run", large));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn requests_at_once_do_not_wait_for_each_other() {
    let (mut rig, peer) = started(runtime()).await;
    let (held, free) = (pod("a", &[(HOLD, "")]), pod("b", &[]));
    let mut waiting = Box::pin(peer.run_pod_sandbox(&held));
    tokio::select! {
        answered = &mut waiting => panic!("{answered:?}"),
        () = rig.until_began("run") => {}
    }
    peer.run_pod_sandbox(&free).await.unwrap();
    rig.plugin.held.add_permits(1);
    waiting.await.unwrap();
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_is_late_is_answered_for_and_not_dropped() {
    for runtime in [old_runtime(), runtime()] {
        let (mut rig, peer) = started(runtime).await;
        let late = peer.run_pod_sandbox(&pod("a", &[(HOLD, "")])).await;
        assert_eq!(code_of(late), DEADLINE_EXCEEDED);
        peer.stop_pod_sandbox(&pod("a", &[])).await.unwrap();
        rig.plugin.held.add_permits(1);
        rig.until(|seen| *seen == Seen::Done("run")).await;
        peer.run_pod_sandbox(&pod("b", &[])).await.unwrap();
        rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_follows_what_the_runtime_allows() {
    for (allowed, expected) in [(500, 200), (2000, 1500), (30_000, 1500)] {
        let allowed = Duration::from_millis(allowed);
        let (rig, peer) = started(Runtime { request_timeout: allowed, ..runtime() }).await;
        peer.run_pod_sandbox(&pod("a", &[])).await.unwrap();
        assert_eq!(*rig.plugin.had.lock().unwrap(), Some(Duration::from_millis(expected)), "of {allowed:?}");
        let late = peer.run_pod_sandbox(&pod("a", &[(HOLD, "")])).await;
        assert_eq!(code_of(late), DEADLINE_EXCEEDED, "of {allowed:?}");
        rig.plugin.held.add_permits(1);
        rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_fails_its_request_only() {
    let (rig, peer) = started(runtime()).await;
    let internal = 13;
    assert_eq!(code_of(peer.run_pod_sandbox(&pod("a", &[(PANIC, "")])).await), internal);
    peer.run_pod_sandbox(&pod("b", &[])).await.unwrap();
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_before_the_shutdown_is_answered() {
    let (mut rig, peer) = started(runtime()).await;
    let held = pod("a", &[(HOLD, "")]);
    let mut waiting = Box::pin(peer.run_pod_sandbox(&held));
    tokio::select! {
        answered = &mut waiting => panic!("{answered:?}"),
        () = rig.until_began("run") => {}
    }
    rig.shutdown.cancel();
    rig.plugin.held.add_permits(1);
    waiting.await.unwrap();
    rig.end().await.unwrap();
}
