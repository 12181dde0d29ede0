//! What a runtime should not do, and what becomes of it.

use nri::{
    Config,
    stand_in::{Failure, Listener, Peer, runtime},
};
use prost::Message as _;
use tokio::{io::AsyncWriteExt as _, net::UnixStream, task::JoinSet};

use crate::{
    plugin::{HOLD, Seen},
    rig::{Rig, Socket, accept, pod, within},
};

async fn started() -> (Socket, Listener, Rig, Peer) {
    let socket = Socket::new();
    let (mut rig, listener) = (Rig::external(&socket.path()), socket.listen());
    let mut peer = accept(&listener).await;
    within(peer.start(runtime(), &[], &[])).await.unwrap();
    rig.until(|seen| *seen == Seen::Synchronized).await;
    (socket, listener, rig, peer)
}

/// The plugin comes again, and works.
async fn comes_again(rig: &mut Rig, listener: &Listener) {
    rig.until(|seen| *seen == Seen::Disconnected).await;
    let mut peer = accept(listener).await;
    within(peer.start(runtime(), &[], &[])).await.unwrap();
    within(peer.run_pod_sandbox(&pod("again", &[]))).await.unwrap();
}

fn frame(id: u32, payload: &[u8]) -> Vec<u8> {
    [&id.to_be_bytes()[..], &(payload.len() as u32).to_be_bytes(), payload].concat()
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_too_long_ends_the_connection() {
    let (_socket, listener, mut rig, peer) = started().await;
    peer.send_raw([1u32.to_be_bytes(), u32::MAX.to_be_bytes()].concat()).await;
    within(peer.ended()).await;
    comes_again(&mut rig, &listener).await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn half_a_frame_and_the_end_lead_to_a_new_connection() {
    let (_socket, listener, mut rig, peer) = started().await;
    peer.send_raw([0, 0, 0, 1, 0, 0, 16, 0, 1, 2, 3].to_vec()).await;
    drop(peer);
    comes_again(&mut rig, &listener).await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn frames_of_no_connection_and_empty_frames_are_nothing() {
    let (_socket, _listener, rig, peer) = started().await;
    peer.send_raw([frame(0, b"reserved"), frame(3, b"unknown"), frame(1, b""), frame(2, b"")].concat()).await;
    peer.run_pod_sandbox(&pod("a", &[])).await.unwrap();
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_long_is_skipped() {
    let (_socket, _listener, rig, peer) = started().await;
    let length = (4 << 20) + 1;
    let header = [&(length as u32).to_be_bytes()[..], &[0, 0, 0x7f, 1, 1, 0]].concat();
    peer.send_raw(
        [frame(1, &header), frame(1, &vec![7; length / 2]), frame(1, &vec![7; length - length / 2])].concat(),
    )
    .await;
    peer.run_pod_sandbox(&pod("a", &[])).await.unwrap();
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn messages_without_sense_are_survived() {
    let (_socket, _listener, rig, peer) = started().await;
    let no_request = [&4u32.to_be_bytes()[..], &[0, 0, 0x7f, 1, 1, 0], &[255; 4]].concat();
    let data_of_a_stream = [&4u32.to_be_bytes()[..], &[0, 0, 0x7f, 3, 3, 1], b"data"].concat();
    let unasked_answer = [&0u32.to_be_bytes()[..], &[0, 0, 0x7f, 5, 2, 0]].concat();
    for message in [no_request, data_of_a_stream, unasked_answer] {
        peer.send_raw([frame(1, &message), frame(2, &message)].concat()).await;
    }
    peer.run_pod_sandbox(&pod("a", &[])).await.unwrap();
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn three_hundred_requests_at_once_are_answered() {
    let (_socket, _listener, mut rig, peer) = started().await;
    let peer = std::sync::Arc::new(peer);
    let mut calls = JoinSet::new();
    for number in 0..300 {
        let peer = peer.clone();
        calls.spawn(async move { peer.run_pod_sandbox(&pod(&number.to_string(), &[])).await });
    }
    assert!(within(calls.join_all()).await.iter().all(Result::is_ok));
    for _ in 0..300 {
        rig.until(|seen| *seen == Seen::Done("run")).await;
    }
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn three_hundred_frames_of_one_request_are_one_request() {
    let (_socket, _listener, mut rig, peer) = started().await;
    let payload = vec![b' '; 290];
    let message = [&300u32.to_be_bytes()[..], &[0, 0, 0x7f, 1, 1, 0], &payload[..], &[0; 10]].concat();
    let frames: Vec<u8> = message.iter().flat_map(|byte| frame(1, &[*byte])).collect();
    peer.send_raw(frames).await;
    peer.run_pod_sandbox(&pod("a", &[])).await.unwrap();
    rig.until_began("run").await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_killed_in_mid_request_drops_no_handler() {
    let (_socket, listener, mut rig, peer) = started().await;
    let held = pod("a", &[(HOLD, "")]);
    tokio::select! {
        answered = peer.run_pod_sandbox(&held) => panic!("{answered:?}"),
        () = rig.until_began("run") => {}
    }
    drop(peer);
    comes_again(&mut rig, &listener).await;
    rig.until(|seen| *seen == Seen::Done("run")).await;
    rig.plugin.held.add_permits(1);
    rig.until(|seen| *seen == Seen::Done("run")).await;
    rig.stop().await;
}

/// A message of ttrpc in a frame.
fn message(connection: u32, stream: u32, kind: u8, data: &[u8]) -> Vec<u8> {
    frame(connection, &[&(data.len() as u32).to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0], data].concat())
}

fn request(stream: u32, method: &str) -> Vec<u8> {
    let (service, method) = (proto::nri::PLUGIN_SERVICE.into(), method.into());
    let request = proto::ttrpc::Request { service, method, ..Default::default() };
    message(1, stream, 1, &request.encode_to_vec())
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_reads_no_answer_is_read_on_both_connections() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let config = Config::connected("netdevice", "10", ours.into_std().unwrap()).unwrap();
    let mut rig = Rig::start(config);
    let many = |count: u32| (0..count).flat_map(|_| request(1, "Shutdown")).collect::<Vec<u8>>();
    // far more answers than fit in the socket and in the plugin's queue
    within(theirs.write_all(&many(30_000))).await.unwrap();
    let registered = message(2, 1, 2, b"");
    let start = [request(1, "Configure"), request(3, "Synchronize"), registered].concat();
    within(theirs.write_all(&start)).await.unwrap();
    rig.until_state(|state| state.runtime().is_some()).await;
    // more than it keeps in mind
    within(theirs.write_all(&many(50_000))).await.unwrap();
    drop(theirs);
    rig.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_stops_closes_the_connection() {
    let (_socket, _listener, rig, peer) = started().await;
    rig.stop().await;
    within(peer.ended()).await;
    assert_eq!(peer.run_pod_sandbox(&pod("a", &[])).await, Err(Failure::Ended));
}
