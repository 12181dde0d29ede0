//! What the kubelet is told of the devices.

use std::time::Duration;

use netdevice::link::flags;

use crate::node::{Node, RESOURCE, eventually, health, listed};

#[tokio::test]
async fn the_first_list_has_every_device_with_health_and_numa_node() {
    let mut node = Node::with_links(&["dummy0", "eth0"]);
    node.add_link("dummy1", 0, Some(1));
    node.add_bytes(b"dummy\xff", flags::UP, None);
    let kubelet = node.kubelet();
    let _plugin = node.start();
    let resource = listed(&kubelet, &["dummy0", "dummy1", "x:dummy:ff"]).await;
    insta::assert_debug_snapshot!(resource.devices());
}

#[tokio::test]
async fn defect_6_the_last_device_is_withdrawn_by_an_empty_list() {
    let mut node = Node::with_links(&["dummy0"]);
    let kubelet = node.kubelet();
    let _plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    node.remove("dummy0");
    assert_eq!(listed(&kubelet, &[]).await.lists.len(), 2);
}

#[tokio::test]
async fn a_node_without_devices_registers_with_an_empty_list() {
    let mut node = Node::new();
    let kubelet = node.kubelet();
    let _plugin = node.start();
    listed(&kubelet, &[]).await;
    node.add("dummy0");
    listed(&kubelet, &["dummy0"]).await;
}

#[tokio::test]
async fn only_changes_of_the_own_pool_are_sent() {
    let mut node = Node::with_links(&["dummy0"]);
    let kubelet = node.kubelet();
    let _plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    node.add("eth0");
    node.add("eth1");
    node.remove("eth0");
    node.add("dummy1");
    assert_eq!(listed(&kubelet, &["dummy0", "dummy1"]).await.lists.len(), 2);
}

#[tokio::test]
async fn defect_14_an_attached_device_stays_listed_and_healthy() {
    let mut node = Node::with_links(&["dummy0", "dummy1"]);
    let kubelet = node.kubelet();
    let plugin = node.start();
    listed(&kubelet, &["dummy0", "dummy1"]).await;
    kubelet.allocate(RESOURCE, &["dummy0"]).await.unwrap();
    node.attach("dummy0", "web");
    node.add_link("dummy1", 0, None);
    let unhealthy =
        |state: &kubelet_stand_in::KubeletState| health(&state.resources[RESOURCE])["dummy1"] == "Unhealthy";
    let state = kubelet.until("dummy1 is down", unhealthy).await;
    assert_eq!(health(&state.resources[RESOURCE])["dummy0"], "Healthy");
    assert_eq!(node.cdi_devices(), ["dummy0", "dummy1"]);
    // and an instance that starts now says the same
    plugin.shut_down().await;
    let _plugin = node.start();
    let resource = listed(&kubelet, &["dummy0", "dummy1"]).await;
    assert_eq!(health(&resource)["dummy0"], "Healthy");
}

#[tokio::test]
async fn defect_19_a_link_is_listed_without_waiting_for_a_tick() {
    let mut node = Node::with_links(&["dummy0"]);
    node.timing.poll = Duration::from_secs(600);
    let kubelet = node.kubelet();
    let _plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    // no tick comes while this is waited for
    node.add("dummy1");
    listed(&kubelet, &["dummy0", "dummy1"]).await;
}

#[tokio::test]
async fn defect_16_each_pool_is_a_resource_of_its_own() {
    let mut node = Node::with_links(&["dummy0", "eth0"]);
    node.set_pools(
        "{resource: networking.k8s.io/netdevice, select: {names: [dummy]}}, {resource: example.com/fast, select: {names: [eth]}}",
    );
    let kubelet = node.kubelet();
    let _plugin = node.start();
    let mut fast = node.config();
    fast.resource = "example.com/fast".parse().unwrap();
    let _fast = node.start_with(fast);
    listed(&kubelet, &["dummy0"]).await;
    let has_fast = |state: &kubelet_stand_in::KubeletState| {
        state.resources.get("example.com/fast").is_some_and(|resource| resource.ids() == ["eth0"])
    };
    kubelet.until("the second pool is listed", has_fast).await;
    let answer = kubelet.allocate("example.com/fast", &["eth0"]).await.unwrap();
    assert_eq!(answer.envs["EXAMPLE_COM_FAST"], "eth0");
}

#[tokio::test]
async fn a_pool_that_is_removed_is_withdrawn_and_its_plugin_ends() {
    let mut node = Node::with_links(&["dummy0"]);
    let kubelet = node.kubelet();
    let mut plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    node.set_pools("{resource: example.com/other, select: {names: [x]}}");
    plugin.ended().await;
    let ended = |state: &kubelet_stand_in::KubeletState| !state.resources[RESOURCE].is_connected;
    let state = kubelet.until("the stream ends", ended).await;
    assert_eq!(state.resources[RESOURCE].lists.last(), Some(&Vec::new()));
    assert!(!node.cdi_file().exists() && node.sockets().is_empty());
}

#[tokio::test]
async fn the_plugin_of_a_removed_pool_stays_until_the_last_pod_is_gone() {
    let mut node = Node::with_links(&["dummy0", "dummy1"]);
    let kubelet = node.kubelet();
    let mut plugin = node.start();
    listed(&kubelet, &["dummy0", "dummy1"]).await;
    node.attach("dummy0", "web");
    node.set_pools("{resource: example.com/other, select: {names: [x]}}");
    listed(&kubelet, &["dummy0"]).await;
    // a list without a device may be sent before the file is written
    eventually("the file follows", || node.cdi_devices() == ["dummy0"]).await;
    let resources: Vec<String> =
        device_plugin::resources(&node.view().borrow()).iter().map(ToString::to_string).collect();
    assert_eq!(resources, ["example.com/other", RESOURCE]);
    node.detach("dummy0");
    plugin.ended().await;
    assert!(!node.cdi_file().exists());
}

#[tokio::test]
async fn ten_thousand_devices_fit_into_one_list() {
    let mut node = Node::new();
    for at in 0..10_000 {
        // the longest ids that there are
        node.add_bytes(format!("dummy____{at:05}_").as_bytes(), flags::UP, Some(7));
    }
    let kubelet = node.kubelet();
    let _plugin = node.start();
    let all = |state: &kubelet_stand_in::KubeletState| {
        state.resources.get(RESOURCE).is_some_and(|resource| resource.devices().len() == 10_000)
    };
    kubelet.until("all are listed", all).await;
}
