//! Everything that exists, told by the runtime at the beginning.

use nri::{
    Container, PodSandbox,
    stand_in::{old_runtime, runtime},
};

use crate::{
    plugin::{HOLD, Seen},
    rig::{Rig, Socket, accept, container_of, pod, within},
};

fn many(count: usize, annotation: usize) -> (Vec<PodSandbox>, Vec<Container>) {
    let text = "x".repeat(annotation);
    let pods: Vec<PodSandbox> = (0..count).map(|number| pod(&number.to_string(), &[("large", &text)])).collect();
    let containers = pods.iter().map(container_of).collect();
    (pods, containers)
}

/// No synchronisation is done before a permit says so.
fn hold(rig: &Rig) {
    rig.plugin.synchronizing.forget_permits(usize::MAX);
}

#[tokio::test(start_paused = true)]
async fn a_message_of_nearly_4_mib_is_one_part() {
    let (mut rig, mut peer) = Rig::connected();
    peer.configure(runtime()).await.unwrap();
    let (pods, containers) = many(400, 10_000);
    assert_eq!(within(peer.synchronize(&pods, &containers)).await, Ok(1));
    rig.next().await;
    assert_eq!(rig.next().await, Seen::Synchronizing(pods, containers));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn more_than_4_mib_come_in_parts_and_are_handed_over_once() {
    for runtime in [old_runtime(), runtime()] {
        let (mut rig, mut peer) = Rig::connected();
        peer.configure(runtime).await.unwrap();
        let (pods, containers) = many(1000, 10_000);
        assert!(within(peer.synchronize(&pods, &containers)).await.unwrap() >= 3);
        rig.next().await;
        assert_eq!(rig.next().await, Seen::Synchronizing(pods, containers));
        assert_eq!(rig.next().await, Seen::Synchronized);
        rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_answered_while_handlers_and_the_plugin_itself_still_work() {
    let (mut rig, mut peer) = Rig::connected();
    hold(&rig);
    within(peer.start(runtime(), &[], &[])).await.unwrap();
    let (pods, containers) = many(300, 100);
    let held = pod("held", &[(HOLD, "")]);
    let mut waiting = Box::pin(peer.run_pod_sandbox(&held));
    tokio::select! {
        answered = &mut waiting => panic!("{answered:?}"),
        () = rig.until_began("run") => {}
    }
    assert_eq!(within(peer.synchronize(&pods, &containers)).await, Ok(1));
    peer.run_pod_sandbox(&pod("b", &[])).await.unwrap();
    rig.plugin.held.add_permits(1);
    waiting.await.unwrap();
    rig.plugin.synchronizing.add_permits(2);
    rig.until(|seen| matches!(seen, Seen::Synchronizing(pods, _) if pods.len() == 300)).await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn it_never_runs_twice_at_once_and_only_the_newest_waits() {
    let socket = Socket::new();
    let (mut rig, listener) = (Rig::external(&socket.path()), socket.listen());
    hold(&rig);
    for count in 1..=3 {
        let mut peer = accept(&listener).await;
        within(peer.start(runtime(), &many(count, 1).0, &[])).await.unwrap();
        if count == 1 {
            rig.until(|seen| matches!(seen, Seen::Synchronizing(pods, _) if pods.len() == 1)).await;
        }
    }
    rig.plugin.synchronizing.add_permits(2);
    let mut order = Vec::new();
    while order.len() < 3 {
        match rig.next().await {
            Seen::Synchronizing(pods, _) => order.push(pods.len()),
            Seen::Synchronized => order.push(0),
            _ => {}
        }
    }
    assert_eq!(order, [0, 3, 0]);
    rig.stop().await;
}
