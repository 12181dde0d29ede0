//! What a container gets, and what the user reads when it gets nothing.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use device_plugin::RecordCheck;
use kubelet_stand_in::Kubelet;
use netdevice::Refusal;
use tonic::Code;

use crate::node::{Node, RESOURCE, eventually, listed, record};

fn names(answer: &proto::deviceplugin::ContainerAllocateResponse) -> Vec<&str> {
    answer.cdi_devices.iter().map(|device| device.name.as_str()).collect()
}

async fn refusal(kubelet: &Kubelet, ids: &[&str]) -> (Code, String) {
    let status = kubelet.allocate(RESOURCE, ids).await.unwrap_err();
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn defect_1_allocate_hands_out_exactly_the_ids_that_were_asked_for() {
    let node = Node::with_links(&["dummy0", "dummy1", "dummy2"]);
    let kubelet = node.kubelet();
    let plugin = node.start();
    listed(&kubelet, &["dummy0", "dummy1", "dummy2"]).await;
    let answer = kubelet.allocate(RESOURCE, &["dummy2", "dummy1"]).await.unwrap();
    assert_eq!(names(&answer), ["networking.k8s.io/netdevice=dummy2", "networking.k8s.io/netdevice=dummy1"]);
    assert_eq!(answer.envs["NETWORKING_K8S_IO_NETDEVICE"], "dummy2 dummy1");
    assert_eq!(plugin.stats.allocations(), 1);
}

#[tokio::test]
async fn defect_2_a_second_allocate_before_any_list_gives_the_second_device() {
    let node = Node::with_links(&["dummy0", "dummy1"]);
    let kubelet = node.kubelet();
    let _plugin = node.start();
    listed(&kubelet, &["dummy0", "dummy1"]).await;
    let (one, other) = tokio::join!(kubelet.allocate(RESOURCE, &["dummy0"]), kubelet.allocate(RESOURCE, &["dummy1"]));
    assert_eq!(names(&one.unwrap()), ["networking.k8s.io/netdevice=dummy0"]);
    assert_eq!(names(&other.unwrap()), ["networking.k8s.io/netdevice=dummy1"]);
}

#[tokio::test]
async fn what_cannot_be_handed_out_is_refused_with_the_reason() {
    let mut node = Node::with_links(&["dummy0", "dummy1", "dummy2", "dummy3", "eth0"]);
    node.make_uplink("dummy3");
    let kubelet = node.kubelet();
    let plugin = node.start();
    listed(&kubelet, &["dummy0", "dummy1", "dummy2"]).await;
    node.attach("dummy1", "web");
    node.remove("dummy2");
    let mut text = String::new();
    for ids in [
        &["eth7"][..],
        &["dummy2"],
        &["dummy3"],
        &["eth0"],
        &["dummy1"],
        &["dummy0", "eth7"],
        &["dummy1", "eth7"],
        &["dummy0", "dummy0"],
        &["no id"],
        &[""],
    ] {
        let (code, message) = refusal(&kubelet, ids).await;
        assert!(!message.ends_with('.') && message.lines().count() == 1, "{message}");
        text.push_str(&format!("{code:?}: {message}\n"));
    }
    insta::assert_snapshot!(text);
    assert_eq!((plugin.stats.allocations(), plugin.stats.failed_allocations()), (0, 10));
    assert!(plugin.stats.last_error().is_some());
}

#[tokio::test]
async fn allocate_waits_for_a_pod_that_is_on_its_way_out() {
    let mut node = Node::with_links(&["dummy0"]);
    node.timing.held_grace = Duration::from_secs(60);
    let kubelet = node.kubelet();
    let _plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    node.attach("dummy0", "web");
    let (answer, ()) = tokio::join!(kubelet.allocate(RESOURCE, &["dummy0"]), async {
        tokio::task::yield_now().await;
        node.detach("dummy0");
    });
    assert_eq!(names(&answer.unwrap()), ["networking.k8s.io/netdevice=dummy0"]);
}

#[tokio::test]
async fn defect_3_a_cdi_file_that_cannot_be_written_blocks_nothing() {
    let mut node = Node::with_links(&["dummy0"]);
    let kubelet = node.kubelet();
    let plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    // root ignores modes: a file where the directory was is an error for it too
    std::fs::remove_dir_all(node.path("run")).unwrap();
    std::fs::write(node.path("run"), "").unwrap();
    node.add("dummy1");
    listed(&kubelet, &[]).await;
    let (code, message) = refusal(&kubelet, &["dummy0"]).await;
    let file = node.cdi_file();
    let expected = format!(
        "device dummy0: its CDI file {} is not written yet: see the log of netdevice-agent on the node",
        file.display()
    );
    assert_eq!((code, message), (Code::Unavailable, expected));
    assert_ne!(plugin.stats.cdi_write_errors(), 0);
    assert!(plugin.stats.last_error().unwrap().contains("run/cdi"));

    std::fs::remove_file(node.path("run")).unwrap();
    listed(&kubelet, &["dummy0", "dummy1"]).await;
    kubelet.allocate(RESOURCE, &["dummy0"]).await.unwrap();
}

#[tokio::test]
async fn the_preferred_devices_are_on_one_numa_node() {
    let mut node = Node::with_links(&["dummy0"]);
    node.add_link("dummy1", 1, Some(0));
    node.add_link("dummy2", 1, Some(1));
    node.add_link("dummy3", 1, Some(1));
    let kubelet = node.kubelet();
    let _plugin = node.start();
    listed(&kubelet, &["dummy0", "dummy1", "dummy2", "dummy3"]).await;
    let answer = kubelet.allocate_any(RESOURCE, 2).await.unwrap();
    assert_eq!(answer.envs["NETWORKING_K8S_IO_NETDEVICE"], "dummy2 dummy3");
    let available = || vec!["dummy1".to_owned(), "dummy2".to_owned(), "dummy3".to_owned()];
    let chosen = kubelet.prefer(RESOURCE, available(), vec!["dummy1".into()], 2).await.unwrap();
    assert_eq!(chosen, ["dummy1", "dummy2"]);
    let status = kubelet.prefer(RESOURCE, available(), Vec::new(), 4).await.unwrap_err();
    assert_eq!(status.message(), "cannot choose 4 devices of 3 that are available: request fewer");
}

#[tokio::test]
async fn a_device_that_vanished_after_allocate_still_resolves() {
    let mut node = Node::with_links(&["dummy0", "dummy1"]);
    let kubelet = node.kubelet();
    let pods = kubelet_stand_in::PodResources::start(&node.path("pod-resources/kubelet.sock")).unwrap();
    pods.set_pods(RESOURCE, &[("web", &["dummy0"])]);
    let _plugin = node.start();
    listed(&kubelet, &["dummy0", "dummy1"]).await;
    kubelet.allocate(RESOURCE, &["dummy0"]).await.unwrap();
    node.remove("dummy0");
    node.remove("dummy1");
    listed(&kubelet, &[]).await;
    let file = node.cdi_file();
    eventually("only what nobody asked for is gone", || node.cdi_devices() == ["dummy0"]).await;
    pods.set_pods(RESOURCE, &[("other", &[])]);
    eventually("the file goes after the Pod", || !file.exists()).await;
}

/// The kubelet lost its checkpoint: all devices are free to it.
#[tokio::test]
async fn a_device_that_is_held_or_promised_is_preferred_last() {
    let mut node = Node::with_links(&["dummy0", "dummy1", "dummy2", "dummy3"]);
    let kubelet = node.kubelet();
    let _plugin = node.start();
    let all = ["dummy0", "dummy1", "dummy2", "dummy3"];
    listed(&kubelet, &all).await;
    let prefer = |size| kubelet.prefer(RESOURCE, all.map(str::to_owned).to_vec(), Vec::new(), size);
    // one in a Pod, one given to a container that is not started yet
    kubelet.allocate(RESOURCE, &["dummy0"]).await.unwrap();
    node.attach("dummy0", "web");
    kubelet.allocate(RESOURCE, &["dummy1"]).await.unwrap();
    assert_eq!(prefer(1).await.unwrap(), ["dummy2"]);
    assert_eq!(prefer(2).await.unwrap(), ["dummy2", "dummy3"]);
    assert_eq!(prefer(3).await.unwrap(), ["dummy1", "dummy2", "dummy3"]);
    assert_eq!(prefer(4).await.unwrap(), all);
    // the container of the second is started and ends, and the first comes home: all are free
    node.attach("dummy1", "other");
    prefer(1).await.unwrap();
    node.detach("dummy1");
    node.detach("dummy0");
    assert_eq!(prefer(1).await.unwrap(), ["dummy0"]);
}

#[tokio::test]
async fn what_an_annotation_took_a_moment_ago_is_refused_with_the_holder_and_not_preferred() {
    let node = Node::with_links(&["dummy0", "dummy1"]);
    let kubelet = node.kubelet();
    let mut config = node.config();
    let on_disk = Arc::new(Mutex::new(Some(record("dummy0", "annotated").owner)));
    let taken = on_disk.clone();
    config.record_check = RecordCheck::new(move |device| match &*taken.lock().unwrap() {
        Some(holder) if device.as_str() == "dummy0" => Err(Refusal::Held(holder.clone().into())),
        _ => Ok(()),
    });
    let _plugin = node.start_with(config);
    listed(&kubelet, &["dummy0", "dummy1"]).await;
    let available = vec!["dummy0".to_owned(), "dummy1".to_owned()];
    assert_eq!(kubelet.prefer(RESOURCE, available, Vec::new(), 1).await.unwrap(), ["dummy1"]);
    let (code, message) = refusal(&kubelet, &["dummy0"]).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(message.contains("it is held by pod default/annotated"), "{message}");
    // it came and went between two views
    *on_disk.lock().unwrap() = None;
    kubelet.allocate(RESOURCE, &["dummy0"]).await.unwrap();
}

#[tokio::test]
async fn allocate_waits_for_a_record_that_no_view_shows() {
    let mut node = Node::with_links(&["dummy0"]);
    node.timing.held_grace = Duration::from_secs(60);
    let kubelet = node.kubelet();
    let mut config = node.config();
    let looks = Arc::new(Mutex::new(0));
    let seen = looks.clone();
    config.record_check = RecordCheck::new(move |_| {
        let mut looks = seen.lock().unwrap();
        *looks += 1;
        if *looks > 3 { Ok(()) } else { Err(Refusal::Held(record("dummy0", "leaving").owner.into())) }
    });
    let _plugin = node.start_with(config);
    listed(&kubelet, &["dummy0"]).await;
    kubelet.allocate(RESOURCE, &["dummy0"]).await.unwrap();
    assert_eq!(*looks.lock().unwrap(), 4);
}
