//! A kubelet that comes, goes, comes back, hangs and refuses.

use std::{
    fs,
    os::unix::net::UnixListener,
    time::{Duration, Instant},
};

use kubelet_stand_in::{Behaviour, Kubelet, KubeletState};

use crate::node::{Node, RESOURCE, eventually, listed};

fn registrations(state: &KubeletState) -> usize {
    state.resources.get(RESOURCE).map_or(0, |resource| resource.registrations)
}

#[tokio::test]
async fn the_plugin_serves_first_and_registers_then() {
    let node = Node::with_links(&["dummy0"]);
    let kubelet = node.kubelet();
    let plugin = node.start();
    let resource = listed(&kubelet, &["dummy0"]).await;
    assert!(resource.endpoint.starts_with("netdevice-") && !resource.endpoint.contains('/'), "{}", resource.endpoint);
    assert!(resource.has_preference);
    assert_eq!((plugin.stats.registrations(), plugin.stats.is_registered(), plugin.stats.listed()), (1, true, 1));
}

#[tokio::test]
async fn a_kubelet_that_is_not_there_is_waited_for() {
    let node = Node::with_links(&["dummy0"]);
    // neither the directory nor the one above it exists
    let mut config = node.config();
    config.paths.device_plugins = node.path("kubelet/plugins");
    config.timing.poll = Duration::from_secs(600);
    let plugin = node.start_with(config);
    eventually("the CDI file needs no kubelet", || node.cdi_devices() == ["dummy0"]).await;
    assert!(!plugin.stats.is_registered());
    let kubelet = Kubelet::start(&node.path("kubelet/plugins")).unwrap();
    listed(&kubelet, &["dummy0"]).await;
}

#[tokio::test]
async fn a_kubelet_that_restarts_ten_times_is_served_each_time_without_waiting_for_a_tick() {
    let mut node = Node::with_links(&["dummy0"]);
    node.timing.poll = Duration::from_secs(600);
    let mut kubelet = node.kubelet();
    let plugin = node.start();
    let mut endpoints = std::collections::BTreeSet::from([listed(&kubelet, &["dummy0"]).await.endpoint]);
    for _ in 0..10 {
        kubelet.start_again().unwrap();
        endpoints.insert(listed(&kubelet, &["dummy0"]).await.endpoint);
    }
    assert_eq!(endpoints.len(), 11, "each registration has a fresh socket");
    assert_eq!(node.sockets().len(), 1);
    assert!(plugin.stats.registrations() >= 11);
}

#[tokio::test]
async fn a_kubelet_that_was_down_for_a_while_is_met_with_a_fresh_socket() {
    let node = Node::with_links(&["dummy0"]);
    let mut kubelet = node.kubelet();
    let plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    kubelet.stop();
    eventually("the plugin sees it", || !plugin.stats.is_registered()).await;
    let expected = format!(
        "cannot connect to the kubelet at {}: Connection refused (os error 111)",
        node.path("plugins/kubelet.sock").display()
    );
    eventually("the reason is told", || plugin.stats.last_error().as_deref() == Some(&expected)).await;
    kubelet.start_again().unwrap();
    listed(&kubelet, &["dummy0"]).await;
    assert!(plugin.stats.is_registered());
}

#[tokio::test]
async fn a_kubelet_socket_that_is_replaced_leads_to_a_new_registration() {
    let node = Node::with_links(&["dummy0"]);
    let mut kubelet = node.kubelet();
    let _plugin = node.start();
    let first = listed(&kubelet, &["dummy0"]).await.endpoint;
    kubelet.replace_socket().unwrap();
    let again =
        |state: &KubeletState| state.resources[RESOURCE].endpoint != first && state.resources[RESOURCE].is_connected;
    kubelet.until("a fresh socket is registered", again).await;
    listed(&kubelet, &["dummy0"]).await;
}

#[tokio::test]
async fn a_plugin_socket_that_is_deleted_by_hand_is_made_anew() {
    let node = Node::with_links(&["dummy0"]);
    let kubelet = node.kubelet();
    let _plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    for _ in 0..3 {
        let before = registrations(&kubelet.state());
        fs::remove_file(&node.sockets()[0]).unwrap();
        kubelet.until("it is registered again", |state| registrations(state) > before).await;
        listed(&kubelet, &["dummy0"]).await;
        assert_eq!(registrations(&kubelet.state()), before + 1, "the end of the old stream did not end the new one");
    }
    kubelet.allocate(RESOURCE, &["dummy0"]).await.unwrap();
}

#[tokio::test]
async fn a_registration_that_hangs_is_abandoned_for_the_next_kubelet() {
    let mut node = Node::with_links(&["dummy0"]);
    node.timing.register = Duration::from_secs(600);
    let mut kubelet = node.kubelet();
    kubelet.behave(Behaviour::Hang);
    let _plugin = node.start();
    eventually("the plugin serves", || !node.sockets().is_empty()).await;
    kubelet.behave(Behaviour::Right);
    kubelet.replace_socket().unwrap();
    listed(&kubelet, &["dummy0"]).await;
}

#[tokio::test]
async fn a_registration_that_hangs_is_tried_again_after_its_deadline() {
    let mut node = Node::with_links(&["dummy0"]);
    node.timing.register = Duration::from_millis(100);
    let kubelet = node.kubelet();
    kubelet.behave(Behaviour::Hang);
    let plugin = node.start();
    let told = |text: &str| plugin.stats.last_error().is_some_and(|error| error.contains(text));
    eventually("it is said", || told("did not answer the registration within 100ms")).await;
    kubelet.behave(Behaviour::Right);
    listed(&kubelet, &["dummy0"]).await;
}

#[tokio::test]
async fn a_kubelet_that_refuses_is_asked_again_and_its_reason_is_told() {
    let node = Node::with_links(&["dummy0"]);
    let kubelet = node.kubelet();
    kubelet.behave(Behaviour::Refuse("not today".into()));
    let plugin = node.start();
    let expected = "the kubelet refused the registration: not today";
    eventually("it is said", || plugin.stats.last_error().as_deref() == Some(expected)).await;
    kubelet.behave(Behaviour::Right);
    listed(&kubelet, &["dummy0"]).await;
}

#[tokio::test]
async fn defects_4_and_5_a_stream_that_the_kubelet_closes_ends_and_leads_to_a_registration() {
    let mut node = Node::with_links(&["dummy0"]);
    // no tick comes, and pauses grow without limit
    node.timing.poll = Duration::from_secs(600);
    let kubelet = node.kubelet();
    kubelet.behave(Behaviour::CloseStreams);
    let _plugin = node.start();
    let began = Instant::now();
    let seen = kubelet.until("it registers again at once", |state| registrations(state) >= 4).await;
    assert!(seen.resources[RESOURCE].lists.len() >= 3);
    eventually("half a second went by", || began.elapsed() > Duration::from_millis(500)).await;
    // 0, 10, 20, 40, ... ms of pause, however long it took: not a hot loop
    let (seen, passed) = (registrations(&kubelet.state()), began.elapsed().as_millis());
    let most = 3 + usize::try_from((passed / 10).ilog2()).unwrap();
    assert!(seen <= most, "{seen} registrations in {passed} ms");
    // between two registrations: one that is under way would stay
    let is_between = |state: &KubeletState| {
        let resource = &state.resources[RESOURCE];
        !resource.is_connected && resource.lists.len() == resource.registrations
    };
    let before = registrations(&kubelet.until("a stream is closed", is_between).await);
    kubelet.behave(Behaviour::Right);
    kubelet.until("it registers once more", |state| registrations(state) > before).await;
    listed(&kubelet, &["dummy0"]).await;
}

#[tokio::test]
async fn the_end_of_an_old_instance_does_not_cut_the_new_one_off_for_long() {
    let node = Node::with_links(&["dummy0"]);
    let kubelet = node.kubelet();
    let old = node.start();
    let first = listed(&kubelet, &["dummy0"]).await.endpoint;
    let new = node.start();
    let both = |state: &KubeletState| state.resources[RESOURCE].endpoint != first;
    let second = kubelet.until("the new instance registers", both).await.resources[RESOURCE].endpoint.clone();
    listed(&kubelet, &["dummy0"]).await;
    assert_eq!(node.sockets().len(), 2, "the new instance leaves the socket of the old one alone");
    old.shut_down().await;
    let again = |state: &KubeletState| {
        let resource = &state.resources[RESOURCE];
        resource.endpoint != first && resource.endpoint != second && resource.is_connected
    };
    let state = kubelet.until("the new instance registers again", again).await;
    assert!(state.resources[RESOURCE].lists.iter().all(|list| list.len() == 1), "nobody sent a shorter list");
    listed(&kubelet, &["dummy0"]).await;
    kubelet.allocate(RESOURCE, &["dummy0"]).await.unwrap();
    assert!(new.stats.registrations() >= 2);
}

#[tokio::test]
async fn defect_13_shutdown_ends_the_plugin_and_removes_its_socket_and_nothing_else() {
    let node = Node::with_links(&["dummy0"]);
    let kubelet = node.kubelet();
    let plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    let stats = plugin.stats.clone();
    plugin.shut_down().await;
    let state = kubelet.until("the stream ends", |state| !state.resources[RESOURCE].is_connected).await;
    assert_eq!(state.resources[RESOURCE].lists.len(), 1, "no shorter list was sent");
    assert!(node.sockets().is_empty() && node.cdi_file().exists());
    assert!(!stats.is_registered());
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_kubelet_that_is_absent_or_hangs() {
    let node = Node::with_links(&["dummy0"]);
    let plugin = node.start();
    eventually("the file is written", || node.cdi_file().exists()).await;
    plugin.shut_down().await;
    let kubelet = node.kubelet();
    kubelet.behave(Behaviour::Hang);
    let plugin = node.start();
    eventually("the plugin serves", || !node.sockets().is_empty()).await;
    plugin.shut_down().await;
    assert!(node.sockets().is_empty());
}

#[tokio::test]
async fn sockets_of_killed_instances_are_removed_at_start() {
    let node = Node::with_links(&["dummy0"]);
    let kubelet = node.kubelet();
    let stale = node.path("plugins/netdevice-old-1234.sock");
    drop(UnixListener::bind(&stale).unwrap());
    let live = UnixListener::bind(node.path("plugins/netdevice-live-1234.sock")).unwrap();
    let _plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    assert!(!stale.exists());
    assert_eq!(node.sockets().len(), 2);
    drop(live);
}

#[tokio::test]
async fn a_burst_of_changes_ends_with_the_right_list() {
    let mut node = Node::new();
    let kubelet = node.kubelet();
    let _plugin = node.start();
    listed(&kubelet, &[]).await;
    let names: Vec<String> = (0..300).map(|at| format!("dummy{at:03}")).collect();
    for name in &names {
        node.add(name);
        tokio::task::yield_now().await;
    }
    for name in &names[..299] {
        node.remove(name);
        tokio::task::yield_now().await;
    }
    listed(&kubelet, &["dummy299"]).await;
    eventually("the file is right", || node.cdi_devices() == ["dummy299"]).await;
}
