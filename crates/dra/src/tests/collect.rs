use std::fs;

use netdevice::{Attachment, fixture};
use store::journal;

use super::world::{ClaimForm, World, claim_owner, path_of};

/// When the claims of a test are old enough.
fn later() -> u64 {
    journal::now() + 400
}

fn two() -> (ClaimForm<'static>, ClaimForm<'static>) {
    let other = ClaimForm { uid: "c2", name: "other", results: &[("nic", "eth3")], ..ClaimForm::default() };
    (ClaimForm::default(), other)
}

#[tokio::test]
async fn a_claim_that_is_gone_and_was_never_unprepared_ends() {
    let world = World::new();
    world.put_pod("web", &["fast", "other"], false);
    let (claim, other) = two();
    world.put_and_prepare(&claim).await.unwrap();
    world.put_and_prepare(&other).await.unwrap();
    world.delete(&claim);
    // the kubelet may still unprepare it
    world.driver().collect(journal::now()).await;
    assert_eq!(world.reserved().len(), 2);
    world.driver().collect(later()).await;
    assert_eq!(world.reserved().into_iter().collect::<Vec<_>>(), ["c2 eth3"]);
    assert!(!world.cdi_file("c1").exists() && world.cdi_file("c2").exists());
    let metadata = fs::read_dir(world.paths().plugin.join("dra-device-metadata")).unwrap();
    assert_eq!(metadata.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["default_other"]);
    // an API server that does not answer says nothing
    world.put(&path_of(&other), 503, "");
    world.driver().collect(later()).await;
    assert_eq!(world.reserved().len(), 1);
    // the claim of that name is another one
    world.put_claim(&ClaimForm { uid: "c3", ..other });
    world.driver().collect(later()).await;
    assert!(world.reserved().is_empty() && !world.cdi_file("c2").exists());
}

#[tokio::test]
async fn a_claim_that_is_gone_keeps_a_device_in_a_sandbox() {
    let world = World::new();
    let claim = ClaimForm::default();
    world.put_and_prepare(&claim).await.unwrap();
    world.delete(&claim);
    world.records.write(&Attachment { owner: claim_owner("c1", "fast"), ..fixture::record("eth1") }).unwrap();
    world.driver().collect(later()).await;
    assert!(world.cdi_file("c1").exists() && world.reserved().len() == 1);
}

#[tokio::test]
async fn a_cdi_file_without_reservation_ends_with_its_claim_and_not_with_the_next_one_of_that_name() {
    let world = World::new();
    let claim = ClaimForm { results: &[("!look", "eth1")], ..ClaimForm::default() };
    world.put_and_prepare(&claim).await.unwrap();
    world.driver().collect(later()).await;
    assert!(world.cdi_file("c1").exists());
    let next = ClaimForm { uid: "c2", ..claim };
    world.put_and_prepare(&next).await.unwrap();
    world.driver().collect(later()).await;
    assert!(!world.cdi_file("c1").exists() && world.cdi_file("c2").exists());
    let document = world.document("c2");
    let metadata = document["devices"][0]["containerEdits"]["mounts"][0]["hostPath"].as_str().unwrap();
    assert!(fs::read_to_string(metadata).unwrap().contains("\"uid\":\"c2\""));
}
