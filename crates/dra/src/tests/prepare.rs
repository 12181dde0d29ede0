use std::fs;

use netdevice::{Attachment, Owner, Phase, Pools, claims::DRIVER, exclusion::UplinkParents, fixture, owner::Request};
use serde_json::json;
use tokio::{
    task::yield_now,
    time::{Duration, Instant, sleep},
};

use super::world::{CACHED, ClaimForm, NODE, SILENT, World, claim_owner, path_of, path_of_pod, view, view_with};
use crate::settings::RuntimeState;

#[tokio::test]
async fn a_claim_is_reserved_and_has_a_cdi_file_before_the_answer() {
    let world = World::new();
    let results = &[("nic", "eth1"), ("other/vf", "eth2"), ("nic", "eth3")];
    let claim = ClaimForm { results, ..ClaimForm::default() };
    let devices = world.put_and_prepare(&claim).await.unwrap();
    let answer: Vec<_> = devices.iter().map(|it| (it.request_names.join(" "), it.device_name.as_str())).collect();
    assert_eq!(answer, [("nic".into(), "eth1"), ("other".into(), "eth2"), ("nic".into(), "eth3")]);
    assert!(devices.iter().all(|device| device.pool_name == NODE && device.share_id.is_none()));
    assert_eq!(devices[1].cdi_device_ids, [format!("{DRIVER}/claim=c1-other")]);
    assert_eq!(world.reserved().into_iter().collect::<Vec<_>>(), ["c1 eth1", "c1 eth2", "c1 eth3"]);
    let owner = world.records.reservation(&"eth2".parse().unwrap()).unwrap().owner;
    assert_eq!(owner.to_string(), "claim default/fast of pod default/web");
    let document = world.document("c1");
    let edits = &document["devices"][0]["containerEdits"];
    assert_eq!(document["devices"].as_array().unwrap().len(), 2);
    assert_eq!(edits["hooks"][0]["args"], json!(["netdevice-hook", "attach", "-claim", "c1", "eth1", "eth3"]));
    assert_eq!(edits["env"], json!(["NETDEVICE_CLAIM_FAST_NIC=eth1 eth3"]));
    let metadata = edits["mounts"][0]["hostPath"].as_str().unwrap();
    assert!(fs::read_to_string(metadata).unwrap().contains("\"name\":\"eth3\""));
}

#[tokio::test]
async fn a_cache_of_the_api_server_that_is_behind_does_not_decide() {
    let world = World::new();
    let cached = format!("{}{CACHED}", path_of_pod("web"));
    // not there yet, of an earlier Pod of that name, without the claim's name, and what the cache says of the network is true
    let earlier = json!({"metadata": {"uid": "earlier"}, "spec": {"hostNetwork": true}});
    let unnamed = json!({"metadata": {"uid": "uid-web"}, "spec": {"resourceClaims": [{"name": "fast"}],
        "containers": [{"resources": {"claims": [{"name": "fast"}]}}]}});
    for (status, text) in [(404, json!({})), (200, earlier), (200, unnamed), (500, json!({}))] {
        world.put(&cached, status, text.to_string());
        world.put_and_prepare(&ClaimForm::default()).await.unwrap();
        world.unprepare(&ClaimForm::default()).await.unwrap();
    }
    let host = json!({"metadata": {"uid": "uid-web"}, "spec": {"hostNetwork": true,
        "resourceClaims": [{"name": "fast", "resourceClaimName": "fast"}]}});
    world.put(&cached, 200, host.to_string());
    let refused = world.prepare(&ClaimForm::default()).await.unwrap_err();
    assert!(refused.contains("uses the host's network"), "{refused}");
    assert!(world.reserved().is_empty());
}

#[tokio::test]
async fn everything_is_written_anew_by_each_call() {
    let world = World::new();
    let parameters = Some(json!({"name": "net1", "addresses": ["10.0.0.2/24"], "mtu": 1400}));
    let claim = ClaimForm { parameters, ..ClaimForm::default() };
    let first = world.put_and_prepare(&claim).await.unwrap();
    assert_eq!(world.document("c1")["devices"][0]["containerEdits"]["env"][0], "NETDEVICE_CLAIM_FAST_NIC=net1");
    // a reboot
    fs::remove_dir_all(world.records.directory()).unwrap();
    fs::remove_dir_all(world.paths().cdi).unwrap();
    assert_eq!(world.prepare(&claim).await.unwrap(), first);
    assert!(world.cdi_file("c1").exists());
    let configuration = world.records.reservation(&"eth1".parse().unwrap()).unwrap().configuration.unwrap();
    assert_eq!(configuration.mtu, Some(1400));
    // and while it is attached
    let attached = Attachment { owner: claim_owner("c1", "fast"), ..fixture::record("eth1") };
    world.records.write(&attached).unwrap();
    fs::remove_file(world.cdi_file("c1")).unwrap();
    assert_eq!(world.prepare(&claim).await.unwrap(), first);
    assert!(world.cdi_file("c1").exists());
}

#[tokio::test]
async fn what_does_not_pass_is_refused_at_once_with_what_to_do() {
    let world = World::new();
    world.put_pod("host", &["fast"], true);
    world.put_pod("bare", &[], false);
    let form = ClaimForm::default;
    let parameters = |value| Some(value);
    let table = [
        (ClaimForm { uid: "../x", ..form() }, "\"../x\" is not the UID of a claim"),
        (
            ClaimForm { parameters: parameters(json!({"mtuu": 1})), ..form() },
            "device eth1: invalid parameters of the claim",
        ),
        (ClaimForm { parameters: parameters(json!({"mtuu": 1})), ..form() }, "mtu"),
        (ClaimForm { parameters: parameters(json!({"name": "eth0"})), ..form() }, "device eth1: eth0 is the pod's own"),
        (
            ClaimForm {
                parameters: parameters(json!({"name": "net1"})),
                results: &[("a", "eth1"), ("b", "eth2")],
                ..form()
            },
            "device eth2: the pod has device eth1 under the name net1, too",
        ),
        (ClaimForm { pod: "host", ..form() }, "pod default/host uses the host's network"),
        (
            ClaimForm { pod: "bare", ..form() },
            "no container of pod default/bare names the claim in resources.claims, and netdevice-agent runs without -nri",
        ),
        (ClaimForm { pod: "gone", ..form() }, "the pod default/gone does not exist"),
    ];
    for (claim, expected) in table {
        let error = world.put_and_prepare(&claim).await.unwrap_err();
        assert!(error.contains(expected) && error.lines().count() == 1, "{error}\n{expected}");
        assert!(!world.cdi_file("c1").exists());
    }
    // what could be reserved before another one failed stays, for the next call
    world.runtime.lock().unwrap().clone_from(&RuntimeState::Connected);
    world.put_and_prepare(&ClaimForm { pod: "bare", ..form() }).await.unwrap();
}

#[tokio::test]
async fn a_claim_that_is_not_the_one_the_kubelet_means_is_refused() {
    let world = World::new();
    let claim = ClaimForm::default();
    world.put_claim(&ClaimForm { uid: "c2", ..ClaimForm::default() });
    let error = world.prepare(&claim).await.unwrap_err();
    assert_eq!(
        error,
        "claim default/fast was deleted and created anew (it has UID c2, the pod's has c1): delete the pod"
    );
    world.delete(&claim);
    assert_eq!(
        world.prepare(&claim).await.unwrap_err(),
        "the claim default/fast does not exist any longer: delete the pod if it is still there"
    );
    let mut object = claim.object();
    object["status"] = json!({});
    world.put(&path_of(&claim), 200, object.to_string());
    assert!(world.prepare(&claim).await.unwrap_err().starts_with("the claim is not allocated"));
    world.put(&path_of(&claim), 403, "{}");
    assert!(world.prepare(&claim).await.unwrap_err().contains("apply the rights of install-dra.yaml"));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_gone_or_not_selected_is_refused_after_a_moment() {
    let world = World::new();
    for (device, expected) in [
        ("eth9", "device eth9: the node has no such interface any longer: delete the pod"),
        ("wlan1", "device wlan1: no pool of the node selects it any longer"),
    ] {
        let claim = ClaimForm { results: &[("nic", device)], ..ClaimForm::default() };
        let error = world.put_and_prepare(&claim).await.unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[tokio::test]
async fn an_mtu_over_that_of_the_parent_is_refused() {
    let world = World::new();
    let parent = fixture::link(2, "eth1");
    let vlan = netdevice::Link { kind: Some("vlan".into()), parent: Some(2), ..fixture::link(3, "eth2") };
    world.views.send_replace(view(vec![parent, vlan]));
    let parameters = Some(json!({"mtu": 9000}));
    let claim = ClaimForm { parameters, results: &[("nic", "eth2")], ..ClaimForm::default() };
    let error = world.put_and_prepare(&claim).await.unwrap_err();
    assert_eq!(error, "device eth2: mtu 9000 is larger than the 1500 of eth1: set a smaller mtu");
}

#[tokio::test]
async fn a_device_that_is_created_has_a_number_which_it_keeps() {
    let world = World::new();
    world.put_pod("web", &["fast", "other"], false);
    let create = |name: &str| Some(json!({"create": {"kind": "macvlan"}, "name": name}));
    let claim = ClaimForm { parameters: create("net1"), ..ClaimForm::default() };
    let other = ClaimForm { uid: "c2", name: "other", parameters: create("net2"), ..ClaimForm::default() };
    for _ in 0..2 {
        world.put_and_prepare(&claim).await.unwrap();
        world.put_and_prepare(&other).await.unwrap();
        assert_eq!(world.reserved().into_iter().collect::<Vec<_>>(), ["c1 eth1:1", "c2 eth1:2"]);
    }
    let args = world.document("c2")["devices"][0]["containerEdits"]["hooks"][0]["args"].clone();
    assert_eq!(args, json!(["netdevice-hook", "attach", "-claim", "c2", "eth1:2"]));
    assert!(world.records.reservation(&"eth1:1".parse().unwrap()).unwrap().acquisition.created().is_some());
    world.unprepare(&claim).await.unwrap();
    assert_eq!(world.reserved().into_iter().collect::<Vec<_>>(), ["c2 eth1:2"]);
}

#[tokio::test]
async fn a_device_that_is_created_may_have_an_uplink_as_its_parent_if_the_pool_allows_it_at_prepare() {
    let world = World::new();
    let parameters = Some(json!({"create": {"kind": "macvlan"}}));
    let claim = ClaimForm { parameters, ..ClaimForm::default() };
    for (more, uplinks) in [("", UplinkParents::Refused), (", allowUplinkParent: true", UplinkParents::Allowed)] {
        let yaml = format!("pools: [{{resource: a.b/cc, offer: claims, select: {{names: [^eth]}}{more}}}]");
        world.views.send_replace(view_with(Pools::from_yaml(&yaml).unwrap(), vec![fixture::link(2, "eth1")]));
        world.put_and_prepare(&claim).await.unwrap();
        let reservation = world.records.reservation(&"eth1:1".parse().unwrap()).unwrap();
        assert_eq!(reservation.uplink_parents, uplinks);
    }
}

#[tokio::test]
async fn the_end_of_another_claim_is_waited_for() {
    let world = World::new();
    let (claim, other) = (ClaimForm::default(), ClaimForm { uid: "c0", name: "before", ..ClaimForm::default() });
    world.put_claim(&claim);
    world.put_claim(&other);
    world.reserve("eth1", claim_owner("c0", "before"));
    let waiting = world.prepare(&claim);
    let unprepared = async {
        while !world.records.directory().join("lock/claim c1").exists() {
            yield_now().await;
        }
        assert_eq!(world.reserved().into_iter().collect::<Vec<_>>(), ["c0 eth1"]);
        world.unprepare(&other).await.unwrap();
    };
    let (prepared, ()) = tokio::join!(waiting, unprepared);
    prepared.unwrap();
    assert_eq!(world.reserved().into_iter().collect::<Vec<_>>(), ["c1 eth1"]);
}

#[tokio::test]
async fn a_claim_that_is_gone_keeps_no_device() {
    let world = World::new();
    world.reserve("eth1", claim_owner("c0", "before"));
    world.put_and_prepare(&ClaimForm::default()).await.unwrap();
    assert_eq!(world.reserved().into_iter().collect::<Vec<_>>(), ["c1 eth1"]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_stays_with_its_holder_is_refused_with_the_holders_name() {
    let world = World::new();
    world.put_claim(&ClaimForm { uid: "c0", name: "before", ..ClaimForm::default() });
    world.reserve("eth1", claim_owner("c0", "before"));
    let error = world.put_and_prepare(&ClaimForm::default()).await.unwrap_err();
    assert_eq!(
        error,
        "device eth1: it is held by claim default/before of pod default/old: delete that pod or choose another device (waited 40 s)"
    );
    // a Pod that has it by annotation does not end by itself
    let by_annotation =
        Owner::Sandbox { id: "s1".into(), pod: claim_owner("c0", "before").pod().cloned(), by: Request::Annotation };
    let record = Attachment { owner: by_annotation, phase: Phase::Attached, ..fixture::record("eth2") };
    world.records.write(&record).unwrap();
    let claim = ClaimForm { uid: "c2", name: "fast", results: &[("nic", "eth2")], ..ClaimForm::default() };
    let error = world.put_and_prepare(&claim).await.unwrap_err();
    assert!(error.starts_with("device eth2: it is held by pod default/old") && !error.contains("waited"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_busy_or_refuses_the_token_is_waited_for_and_named_in_time() {
    for status in [503, 429, 401] {
        let world = World::new();
        let claim = ClaimForm::default();
        world.put(&path_of(&claim), status, "");
        let waiting = world.prepare(&claim);
        let back = async {
            while !world.records.directory().join("lock/claim c1").exists() {
                yield_now().await;
            }
            world.put_claim(&claim);
        };
        let (prepared, ()) = tokio::join!(waiting, back);
        prepared.unwrap();
        world.put(&path_of(&claim), status, "");
        let began = Instant::now();
        let error = world.prepare(&claim).await.unwrap_err();
        assert!(error.ends_with(&format!("from the API server: it answered with status {status}")), "{error}");
        assert!((35..45).contains(&began.elapsed().as_secs()), "the kubelet waits for 45 s");
    }
}

#[tokio::test]
async fn administration_reserves_and_moves_nothing() {
    let world = World::new();
    world.reserve("eth1", claim_owner("c0", "before"));
    let claim = ClaimForm { results: &[("!look", "eth1")], pod: "host", ..ClaimForm::default() };
    world.put_pod("host", &[], true);
    let devices = world.put_and_prepare(&claim).await.unwrap();
    assert_eq!(devices[0].device_name, "eth1");
    assert_eq!(world.reserved().into_iter().collect::<Vec<_>>(), ["c0 eth1"]);
    assert!(world.document("c1")["devices"][0]["containerEdits"].get("hooks").is_none());
}

#[tokio::test]
async fn a_pod_that_may_not_be_read_is_treated_as_one_that_names_no_claim() {
    let world = World::new();
    world.put(&path_of_pod("web"), 403, "{}");
    let error = world.put_and_prepare(&ClaimForm::default()).await.unwrap_err();
    assert!(error.contains("netdevice-agent runs without -nri"), "{error}");
    *world.runtime.lock().unwrap() = RuntimeState::Connected;
    world.prepare(&ClaimForm::default()).await.unwrap();
}

#[tokio::test]
async fn parameters_that_are_not_utf_8_are_refused_or_read_and_never_fatal() {
    let world = World::new();
    let claim = ClaimForm { parameters: Some(json!({"name": "MARK"})), ..ClaimForm::default() };
    let mut text = claim.object().to_string().into_bytes();
    let at = text.windows(4).position(|window| window == b"MARK").unwrap();
    text[at] = 0xff;
    world.put(&path_of(&claim), 200, text);
    let _ = world.prepare(&claim).await;
}

#[tokio::test(start_paused = true)]
async fn the_view_may_follow_a_device_that_was_held_for_long() {
    let world = World::new();
    world.views.send_replace(view(Vec::new()));
    let record = Attachment { owner: claim_owner("c0", "before"), ..fixture::record("eth1") };
    world.records.write(&record).unwrap();
    world.put_claim(&ClaimForm::default());
    let claim = ClaimForm::default();
    let returned = async {
        sleep(Duration::from_secs(5)).await;
        world.records.remove(&record.device).unwrap();
        sleep(Duration::from_millis(500)).await;
        world.views.send_replace(view(vec![fixture::link(2, "eth1")]));
    };
    let (prepared, ()) = tokio::join!(world.prepare(&claim), returned);
    prepared.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_cannot_be_written_is_reported_at_once() {
    let world = World::new();
    fs::remove_dir_all(world.records.directory()).unwrap();
    fs::write(world.records.directory(), "").unwrap();
    let began = Instant::now();
    let claim = ClaimForm::default();
    for error in [world.put_and_prepare(&claim).await.unwrap_err(), world.unprepare(&claim).await.unwrap_err()] {
        assert!(error.starts_with("cannot lock the claim in ") && error.contains("can write"), "{error}");
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_silent_is_reported_before_the_kubelet_gives_up() {
    let world = World::new();
    let claim = ClaimForm::default();
    world.put(&path_of(&claim), SILENT, "");
    let began = Instant::now();
    let error = world.prepare(&claim).await.unwrap_err();
    assert!(error.starts_with("the API server did not answer in time"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(44));
    // another claim's holder is silent, and there is no time for one more claim
    let other = ClaimForm { uid: "c0", name: "before", ..ClaimForm::default() };
    world.put(&path_of(&other), SILENT, "");
    world.reserve("eth1", claim_owner("c0", "before"));
    let began = Instant::now();
    let error = world.put_and_prepare(&claim).await.unwrap_err();
    assert!(
        error.contains("it is held by claim default/before") && began.elapsed() < Duration::from_secs(44),
        "{error}"
    );
    let late = world.driver().prepare(&claim.asked(), Instant::now()).await.unwrap_err().0;
    assert!(late.to_string().contains("took all of its time"), "{late}");
}

#[tokio::test]
async fn a_claim_that_is_reserved_for_no_pod_is_refused() {
    let world = World::new();
    *world.runtime.lock().unwrap() = RuntimeState::Connected;
    let claim = ClaimForm::default();
    let mut object = claim.object();
    object["status"]["reservedFor"] = json!([]);
    world.put(&path_of(&claim), 200, object.to_string());
    let error = world.prepare(&claim).await.unwrap_err();
    assert!(error.starts_with("request nic: the claim is reserved for no pod by name: name it in"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_allocated_again_keeps_no_device_of_the_earlier_allocation() {
    let world = World::new();
    let earlier = ClaimForm { results: &[("nic", "eth1"), ("nic", "eth2")], ..ClaimForm::default() };
    world.put_and_prepare(&earlier).await.unwrap();
    let again = ClaimForm { results: &[("nic", "eth2"), ("nic", "eth3")], ..ClaimForm::default() };
    world.put_and_prepare(&again).await.unwrap();
    assert_eq!(world.reserved().into_iter().collect::<Vec<_>>(), ["c1 eth2", "c1 eth3"]);
    // a sandbox has a device
    let attached = Attachment { owner: claim_owner("c1", "fast"), ..fixture::record("eth2") };
    world.records.write(&attached).unwrap();
    let third = ClaimForm { results: &[("nic", "eth1")], ..ClaimForm::default() };
    let error = world.put_and_prepare(&third).await.unwrap_err();
    assert!(error.starts_with("device eth2: claim default/fast of pod default/old still has it from"), "{error}");
    assert!(world.reserved().contains("c1 eth2"));
    let gone = async {
        sleep(Duration::from_secs(2)).await;
        world.records.remove(&attached.device).unwrap();
    };
    let (prepared, ()) = tokio::join!(world.prepare(&third), gone);
    prepared.unwrap();
    assert_eq!(world.reserved().into_iter().collect::<Vec<_>>(), ["c1 eth1"]);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_allocated_another_device_keeps_no_right_to_this_one() {
    let world = World::new();
    world.put_claim(&ClaimForm { uid: "c0", name: "before", results: &[("nic", "eth3")], ..ClaimForm::default() });
    world.reserve("eth1", claim_owner("c0", "before"));
    world.put_and_prepare(&ClaimForm::default()).await.unwrap();
    assert_eq!(world.reserved().into_iter().collect::<Vec<_>>(), ["c1 eth1"]);
}
