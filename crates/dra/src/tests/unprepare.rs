use std::fs;

use netdevice::{Attachment, fixture};

use super::world::{ClaimForm, World, claim_owner};

#[tokio::test]
async fn a_claim_ends_with_all_that_belongs_to_it_and_nothing_else() {
    let world = World::new();
    world.put_pod("web", &["fast", "other"], false);
    let (claim, other) = (
        ClaimForm { results: &[("a", "eth1"), ("b", "eth2")], ..ClaimForm::default() },
        ClaimForm { uid: "c2", name: "other", results: &[("nic", "eth3")], ..ClaimForm::default() },
    );
    world.put_and_prepare(&claim).await.unwrap();
    world.put_and_prepare(&other).await.unwrap();
    // the claim may be deleted by then
    world.delete(&claim);
    for _ in 0..2 {
        world.unprepare(&claim).await.unwrap();
        assert_eq!(world.reserved().into_iter().collect::<Vec<_>>(), ["c2 eth3"]);
        assert!(!world.cdi_file("c1").exists() && world.cdi_file("c2").exists());
        let metadata = world.paths().plugin.join("dra-device-metadata");
        let left: Vec<_> = fs::read_dir(metadata).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["default_other"]);
    }
    world.unprepare(&ClaimForm { uid: "../unknown", ..ClaimForm::default() }).await.unwrap();
}

#[tokio::test]
async fn one_instance_ends_what_another_one_prepared() {
    let world = World::new();
    let claim = ClaimForm::default();
    world.put_and_prepare(&claim).await.unwrap();
    // each call is answered by a driver of its own
    world.unprepare(&claim).await.unwrap();
    assert!(world.reserved().is_empty());
    world.prepare(&claim).await.unwrap();
    assert_eq!(world.reserved().len(), 1);
}

#[tokio::test]
async fn a_device_of_another_claim_stays_where_it_is() {
    let world = World::new();
    let record = Attachment { owner: claim_owner("c9", "other"), ..fixture::record("eth1") };
    world.records.write(&record).unwrap();
    world.unprepare(&ClaimForm::default()).await.unwrap();
    assert!(world.records.read(&"eth1".parse().unwrap()).unwrap().is_some());
}

#[tokio::test]
async fn a_claim_ends_although_the_record_of_its_device_is_in_quarantine() {
    let world = World::new();
    let claim = ClaimForm::default();
    world.put_and_prepare(&claim).await.unwrap();
    fs::write(world.records.directory().join("eth1.json"), "no record").unwrap();
    for _ in 0..2 {
        world.unprepare(&claim).await.unwrap();
        assert!(world.reserved().is_empty() && !world.cdi_file("c1").exists());
        assert_eq!(world.records.list().unwrap().1.len(), 1, "it stays there");
    }
}
