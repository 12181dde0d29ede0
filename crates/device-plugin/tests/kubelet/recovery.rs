//! What an instance knows of what an earlier one handed out.

use kubelet_stand_in::PodResources;

use crate::node::{Node, RESOURCE, eventually, listed};

#[tokio::test]
async fn what_pods_have_resolves_after_a_restart_although_its_link_is_gone() {
    let node = Node::with_links(&["dummy1"]);
    let pods = PodResources::start(&node.path("pod-resources/kubelet.sock")).unwrap();
    pods.set_pods(RESOURCE, &[("web", &["dummy0"])]);
    let kubelet = node.kubelet();
    let _plugin = node.start();
    eventually("the Pod's device resolves", || node.cdi_devices() == ["dummy0", "dummy1"]).await;
    listed(&kubelet, &["dummy1"]).await;
}

#[tokio::test]
async fn a_kubelet_that_knows_no_pods_yet_makes_nothing_forgotten() {
    let mut node = Node::with_links(&["dummy0", "dummy1"]);
    let pods = PodResources::start(&node.path("pod-resources/kubelet.sock")).unwrap();
    let kubelet = node.kubelet();
    let plugin = node.start();
    listed(&kubelet, &["dummy0", "dummy1"]).await;
    plugin.shut_down().await;
    node.remove("dummy0");
    let _plugin = node.start();
    listed(&kubelet, &["dummy1"]).await;
    let mut answers = pods.answers();
    let seen = *answers.borrow();
    answers.wait_for(|answers| *answers >= seen + 4).await.unwrap();
    assert_eq!(node.cdi_devices(), ["dummy0", "dummy1"]);
    pods.set_pods(RESOURCE, &[("other", &["dummy1"])]);
    eventually("what no Pod has is forgotten", || node.cdi_devices() == ["dummy1"]).await;
}

#[tokio::test]
async fn without_a_kubelet_the_file_is_kept_all_the_same() {
    let mut node = Node::with_links(&["dummy0", "dummy1"]);
    let plugin = node.start();
    eventually("the file is written", || node.cdi_devices() == ["dummy0", "dummy1"]).await;
    node.remove("dummy0");
    eventually("the file follows", || node.cdi_devices() == ["dummy1"]).await;
    plugin.shut_down().await;
    node.add("dummy2");
    node.remove("dummy1");
    let _plugin = node.start();
    eventually("what an earlier instance wrote is forgotten in the end", || node.cdi_devices() == ["dummy2"]).await;
}
