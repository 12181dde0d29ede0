//! A disk that hangs: no other claim waits for it, and what it still does is done under the claim's lock.

use std::{
    fs::OpenOptions,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::world::{ClaimForm, World};

/// A file of the claim `fast` that nobody can read until it is opened for writing: a FIFO.
struct Hanging {
    path: PathBuf,
    is_open: Arc<AtomicBool>,
}

impl Hanging {
    /// The metadata file, which is compared before it is written. It opens by itself after a while, so that a test fails that
    /// hangs with it.
    fn new(world: &World) -> Self {
        let directory = world.paths().plugin.join("dra-device-metadata/default_fast/nic");
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("metadata.json");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let hanging = Self { path, is_open: Arc::default() };
        let (path, is_open) = (hanging.path.clone(), hanging.is_open.clone());
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(20));
            if !is_open.swap(true, Relaxed) {
                drop(OpenOptions::new().write(true).open(path));
            }
        });
        hanging
    }

    fn open(&self) {
        if !self.is_open.swap(true, Relaxed) {
            drop(OpenOptions::new().write(true).open(&self.path).unwrap());
        }
    }

    fn is_open(&self) -> bool {
        self.is_open.load(Relaxed)
    }
}

#[tokio::test]
async fn a_claim_whose_disk_hangs_holds_up_no_other_claim() {
    let world = World::new();
    world.put_pod("web", &["fast", "other"], false);
    let hanging = Hanging::new(&world);
    let other = ClaimForm { uid: "c2", name: "other", results: &[("nic", "eth2")], ..ClaimForm::default() };
    let work = async {
        while world.reserved().is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
        world.put_and_prepare(&other).await.unwrap();
        world.unprepare(&other).await.unwrap();
        assert!(!hanging.is_open(), "it was done meanwhile");
        hanging.open();
    };
    let claim = ClaimForm::default();
    let (prepared, ()) = tokio::join!(world.put_and_prepare(&claim), work);
    prepared.unwrap();
    assert!(std::fs::read_to_string(&hanging.path).unwrap().contains("\"name\":\"eth1\""));
}

#[tokio::test]
async fn a_call_that_the_kubelet_gave_up_goes_on_to_its_end_and_the_next_one_waits_for_that() {
    let (world, claim) = (World::new(), ClaimForm::default());
    world.put_claim(&claim);
    let hanging = Hanging::new(&world);
    let is_reserved = async {
        while world.reserved().is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        prepared = world.prepare(&claim) => panic!("{prepared:?}"),
        () = is_reserved => {}
    }
    let open = async {
        sleep(Duration::from_millis(100)).await;
        assert_eq!(world.reserved().len(), 1, "the claim is locked");
        hanging.open();
    };
    let (unprepared, ()) = tokio::join!(world.unprepare(&claim), open);
    unprepared.unwrap();
    assert!(world.reserved().is_empty() && !world.cdi_file("c1").exists() && !hanging.path.exists());
    world.prepare(&claim).await.unwrap();
    assert!(world.cdi_file("c1").exists() && hanging.path.is_file());
}

#[tokio::test]
async fn a_disk_that_hangs_too_long_is_the_answer() {
    let (world, claim) = (World::new(), ClaimForm::default());
    world.put_claim(&claim);
    let hanging = Hanging::new(&world);
    let prepared = world.driver().prepare(&claim.asked(), Instant::now() + Duration::from_millis(100)).await;
    let (error, pod) = prepared.unwrap_err();
    assert!(error.to_string().starts_with("the node's disk or kernel does not answer"), "{error}");
    assert!(pod.is_some() && !hanging.is_open());
    hanging.open();
    world.prepare(&claim).await.unwrap();
}
