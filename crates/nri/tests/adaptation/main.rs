//! A plugin beside the real runtime's side of NRI: containerd's adaptation library, of several versions, without
//! containerd. Needs Go and the library's modules, so `hack/test nri-adaptation` runs these tests; elsewhere they count as
//! ignored.

#![allow(clippy::unwrap_used, reason = "what sets a test up fails with the test")]

mod adaptation;
#[path = "../runtime/plugin.rs"]
mod plugin;
#[path = "../runtime/rig.rs"]
#[allow(dead_code, reason = "the part of it for the stand-in")]
mod rig;

use std::time::Duration;

use adaptation::{Adaptation, Event, VERSIONS};
use plugin::{HOLD, REFUSE, Seen};
use prost::Message as _;
use proto::nri::{ConfigureResponse, FailurePolicy};
use rig::{Rig, Socket};

async fn started(version: &str, arguments: &[&str]) -> (Socket, Adaptation, Rig) {
    let socket = Socket::new();
    let adaptation = Adaptation::start(version, &socket.path(), arguments).await;
    let mut rig = Rig::external(&socket.path());
    rig.until_state(|state| state.runtime().is_some()).await;
    rig.until(|seen| *seen == Seen::Synchronized).await;
    (socket, adaptation, rig)
}

#[tokio::test]
#[ignore = "needs Go: hack/test nri-adaptation"]
async fn the_runtime_takes_what_configure_answers() {
    for version in VERSIONS {
        let (_socket, mut adaptation, rig) = started(version, &[]).await;
        let answer = ConfigureResponse::decode(&adaptation.called("Configure").await.answer[..]).unwrap();
        let failure_policy = Some(FailurePolicy { fail_request: true, keep_connected: true });
        assert_eq!(answer, ConfigureResponse { events: 15, failure_policy }, "{version}");
        let state = rig.state.borrow().clone();
        assert_eq!(state.runtime().unwrap().name, "nri-adaptation");
        assert_eq!(state.runtime().unwrap().request_timeout, Duration::from_secs(2));
        rig.stop().await;
    }
}

#[tokio::test]
#[ignore = "needs Go: hack/test nri-adaptation"]
async fn every_event_arrives_with_a_large_annotation() {
    for version in VERSIONS {
        let (_socket, mut adaptation, mut rig) = started(version, &[]).await;
        for what in ["run", "create", "stop", "remove"] {
            let done = adaptation.order(&format!(r#"{{"do": "{what}", "id": "a", "annotation": 10000}}"#)).await;
            assert_eq!(done.error, "", "{version}: {what}");
            let Seen::Began(began, pod) = rig.next().await else { panic!("{version}: not {what}") };
            assert_eq!((began, &pod.id[..], pod.annotations["large"].len()), (what, "a", 10_000), "{version}");
            assert_eq!(pod.network_namespace.as_deref(), Some("/var/run/netns/cni-a"));
            assert_eq!(rig.next().await, Seen::Done(what));
        }
        rig.stop().await;
    }
}

#[tokio::test]
#[ignore = "needs Go: hack/test nri-adaptation"]
async fn a_refusal_of_ten_kilobytes_fails_the_pod_with_a_short_line() {
    for version in VERSIONS {
        let (_socket, mut adaptation, rig) = started(version, &[]).await;
        let reason = "device eth2 is held ".repeat(500);
        for what in ["run", "create"] {
            let refused = adaptation
                .order(&format!(r#"{{"do": "{what}", "id": "a", "annotations": {{"{REFUSE}": "{reason}"}}}}"#))
                .await;
            assert!(refused.error.contains("device eth2 is held"), "{version}: {refused:?}");
            assert!(refused.error.len() < 1100, "{version}: {refused:?}");
        }
        assert_eq!(adaptation.order(r#"{"do": "run", "id": "b"}"#).await.error, "", "{version}: still connected");
        rig.stop().await;
    }
}

#[tokio::test]
#[ignore = "needs Go: hack/test nri-adaptation"]
async fn a_late_handler_fails_the_pod_and_the_plugin_stays() {
    for version in VERSIONS {
        // patient enough for a busy machine: how the deadline follows it is tested beside the stand-in
        let (_socket, mut adaptation, mut rig) = started(version, &["-request-timeout", "4s"]).await;
        let late = adaptation.order(&format!(r#"{{"do": "run", "id": "a", "annotations": {{"{HOLD}": ""}}}}"#)).await;
        assert!(late.error.contains("timed out: try again"), "{version}: {late:?}");
        let method = if version == VERSIONS[2] { "RunPodSandbox" } else { "StateChange" };
        let status = adaptation.called(method).await;
        assert_eq!(status.code, 4, "{version}: DEADLINE_EXCEEDED, {status:?}");
        assert_eq!(adaptation.order(r#"{"do": "stop", "id": "a"}"#).await.error, "");
        rig.until_began("stop").await;
        rig.plugin.held.add_permits(1);
        rig.until(|seen| *seen == Seen::Done("run")).await;
        assert_eq!(adaptation.order(r#"{"do": "run", "id": "b"}"#).await.error, "");
        rig.until_began("run").await;
        rig.stop().await;
    }
}

#[tokio::test]
#[ignore = "needs Go: hack/test nri-adaptation"]
async fn more_than_4_mib_of_pods_are_synchronized_in_parts() {
    for version in VERSIONS {
        let socket = Socket::new();
        let mut adaptation =
            Adaptation::start(version, &socket.path(), &["-pods", "1000", "-annotation", "10000"]).await;
        let mut rig = Rig::external(&socket.path());
        rig.until(|seen| matches!(seen, Seen::Synchronizing(pods, _) if pods.len() == 1000)).await;
        let told = adaptation.until(|event| event.what == "synchronized").await;
        assert_eq!(told, Event { what: "synchronized".into(), ..Event::default() }, "{version}");
        assert_eq!(adaptation.order(r#"{"do": "run", "id": "a"}"#).await.error, "");
        rig.until_began("run").await;
        rig.stop().await;
    }
}

#[tokio::test]
#[ignore = "needs Go: hack/test nri-adaptation"]
async fn a_runtime_that_is_killed_is_met_again() {
    for version in VERSIONS {
        let (socket, adaptation, mut rig) = started(version, &[]).await;
        drop(adaptation);
        rig.until(|seen| *seen == Seen::Disconnected).await;
        let mut adaptation = Adaptation::start(version, &socket.path(), &[]).await;
        rig.until(|seen| *seen == Seen::Synchronized).await;
        rig.until_state(|state| state.runtime().is_some()).await;
        adaptation.until(|event| event.what == "synchronized").await;
        assert_eq!(adaptation.order(r#"{"do": "run", "id": "a"}"#).await.error, "");
        rig.stop().await;
    }
}

#[tokio::test]
#[ignore = "needs Go: hack/test nri-adaptation"]
async fn requests_that_nobody_asked_for_do_not_come_and_nothing_is_deprecated() {
    // an UNIMPLEMENTED would make a new runtime fall back to StateChange
    let (_socket, mut adaptation, rig) = started(VERSIONS[2], &[]).await;
    for what in ["run", "stop", "remove"] {
        adaptation.order(&format!(r#"{{"do": "{what}", "id": "a"}}"#)).await;
    }
    rig.stop().await;
    let methods: Vec<&str> = adaptation.calls().collect();
    assert_eq!(methods, ["Configure", "Synchronize", "RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"]);
}
