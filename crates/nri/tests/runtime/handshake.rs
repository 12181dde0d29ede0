//! Registration, configuration, and the end of a connection.

use std::time::Duration;

use nri::{
    ConnectionState,
    stand_in::{Configured, old_runtime, runtime},
};
use tokio::time::Instant;

use crate::{
    plugin::Seen,
    rig::{Rig, Socket, accept, pod, within},
};

#[tokio::test(start_paused = true)]
async fn a_plugin_says_who_it_is_and_what_it_wants() {
    let (mut rig, mut peer) = Rig::connected();
    let registration = within(peer.registration()).await.unwrap();
    assert_eq!((&registration.name[..], &registration.index[..]), ("netdevice", "10"));
    assert!(registration.nri_version.starts_with("v0.12"));
    peer.accept(&registration).await;
    let configured = peer.configure(runtime()).await.unwrap();
    // the four events that a plugin cannot do without, in bits that NRI 0.8 knows
    assert_eq!(configured, Configured { events: 15, fail_request: true, keep_connected: true });
    assert_eq!(rig.next().await, Seen::Configured(runtime()));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn configure_is_answered_before_the_registration_is() {
    let (mut rig, mut peer) = Rig::connected();
    let registration = within(peer.registration()).await.unwrap();
    peer.configure(old_runtime()).await.unwrap();
    peer.synchronize(&[], &[]).await.unwrap();
    peer.run_pod_sandbox(&pod("a", &[])).await.unwrap();
    assert_eq!(*rig.state.borrow(), ConnectionState::Registering);
    peer.accept(&registration).await;
    let active = rig.until_state(|state| state.runtime().is_some()).await;
    assert_eq!(active.runtime(), Some(&old_runtime()));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_plugin_is_active_once_it_is_synchronized() {
    let socket = Socket::new();
    let listener = socket.listen();
    let mut rig = Rig::external(&socket.path());
    let mut peer = accept(&listener).await;
    let registration = within(peer.registration()).await.unwrap();
    peer.accept(&registration).await;
    peer.configure(runtime()).await.unwrap();
    assert_eq!(*rig.state.borrow(), ConnectionState::Registering);
    peer.synchronize(&[], &[]).await.unwrap();
    rig.until_state(|state| state.runtime().is_some()).await;
    rig.stop().await;
}

/// Up to NRI 0.6 such plugins are told of new Pods only.
#[tokio::test(start_paused = true)]
async fn a_plugin_that_the_runtime_started_is_active_once_it_is_configured() {
    let (mut rig, mut peer) = Rig::connected();
    let registration = within(peer.registration()).await.unwrap();
    peer.accept(&registration).await;
    assert_eq!(*rig.state.borrow(), ConnectionState::Registering);
    peer.configure(old_runtime()).await.unwrap();
    rig.until_state(|state| state.runtime().is_some()).await;
    peer.run_pod_sandbox(&pod("a", &[])).await.unwrap();
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_the_runtime_started_ends_with_it() {
    let (mut rig, mut peer) = Rig::connected();
    peer.start(runtime(), &[], &[]).await.unwrap();
    drop(peer);
    rig.until(|seen| *seen == Seen::Disconnected).await;
    rig.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_connects_by_itself_waits_for_the_runtime() {
    let socket = Socket::new();
    let mut rig = Rig::external(&socket.path());
    let state = rig.until_state(|state| matches!(state, ConnectionState::Disconnected(_))).await;
    assert!(matches!(&state, ConnectionState::Disconnected(reason) if reason.contains("cannot connect")), "{state:?}");
    let mut peer = accept(&socket.listen()).await;
    peer.start(runtime(), &[], &[]).await.unwrap();
    rig.until_state(|state| state.runtime().is_some()).await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_was_started_anew_is_met_with_everything_anew() {
    let socket = Socket::new();
    let (mut rig, first) = (Rig::external(&socket.path()), socket.listen());
    let mut peer = accept(&first).await;
    peer.start(old_runtime(), &[], &[]).await.unwrap();
    drop((peer, first));
    let mut peer = accept(&socket.listen()).await;
    peer.start(runtime(), &[pod("a", &[])], &[]).await.unwrap();
    let configured = |seen: &Seen| matches!(seen, Seen::Configured(_));
    rig.until(configured).await;
    rig.until(|seen| *seen == Seen::Disconnected).await;
    rig.until(configured).await;
    rig.until(|seen| matches!(seen, Seen::Synchronizing(pods, _) if pods.len() == 1)).await;
    let state = rig.until_state(|state| state.runtime().is_some()).await;
    assert_eq!(state.runtime(), Some(&runtime()));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_registration_closes_the_connection_and_is_told() {
    let socket = Socket::new();
    let (mut rig, listener) = (Rig::external(&socket.path()), socket.listen());
    let mut peer = accept(&listener).await;
    let registration = within(peer.registration()).await.unwrap();
    peer.refuse(&registration, "invalid plugin index").await;
    within(peer.ended()).await;
    let state = rig.until_state(|state| matches!(state, ConnectionState::Disconnected(_))).await;
    assert_eq!(
        state,
        ConnectionState::Disconnected("the runtime refused the registration: invalid plugin index".into())
    );
    accept(&listener).await.start(runtime(), &[], &[]).await.unwrap();
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn attempts_go_on_for_ever_and_get_rare() {
    let socket = Socket::new();
    let (rig, listener) = (Rig::external(&socket.path()), socket.listen());
    let mut attempts = Vec::new();
    while attempts.len() < 20 {
        let mut peer = listener.accept().await.unwrap();
        let registration = peer.registration().await.unwrap();
        attempts.push(Instant::now());
        peer.refuse(&registration, "no").await;
        peer.ended().await;
    }
    let pauses: Vec<Duration> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let between = |from, to, pause: &Duration| (Duration::from_millis(from)..Duration::from_millis(to)).contains(pause);
    assert!(between(100, 130, &pauses[0]), "{pauses:?}");
    assert!(pauses[8..].iter().all(|pause| between(4000, 5010, pause)), "{pauses:?}");
    rig.stop().await;
}

/// What a runtime does before it falls silent, and what is then said of it.
#[tokio::test(start_paused = true)]
async fn a_runtime_that_falls_silent_is_given_up_and_met_again() {
    let table =
        [(0, 10, "did not answer the registration"), (1, 10, "did not configure"), (2, 60, "did not list its pods")];
    for (steps, seconds, words) in table {
        let socket = Socket::new();
        let (mut rig, listener) = (Rig::external(&socket.path()), socket.listen());
        let mut peer = listener.accept().await.unwrap();
        let registration = peer.registration().await.unwrap();
        if steps > 0 {
            peer.accept(&registration).await;
        }
        if steps > 1 {
            peer.configure(runtime()).await.unwrap();
        }
        let began = Instant::now();
        peer.ended().await;
        assert_eq!(began.elapsed().as_secs(), seconds, "{words}");
        let state = rig.until_state(|state| matches!(state, ConnectionState::Disconnected(_))).await;
        assert!(matches!(&state, ConnectionState::Disconnected(reason) if reason.contains(words)), "{state:?}");
        accept(&listener).await.start(runtime(), &[], &[]).await.unwrap();
        rig.until_state(|state| state.runtime().is_some()).await;
        rig.stop().await;
    }
}
