//! A disk that hangs: no other claim waits for it, and what it still does is done under the claim's lock.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::world::{ClaimForm, World};

/// `O_NONBLOCK`.
const NO_WAITING: i32 = 0o4000;

/// A file of the claim `fast` that is not read to its end before it is released: a FIFO.
struct Hanging {
    path: PathBuf,
    writer: Arc<Mutex<Option<File>>>,
    is_released: Arc<AtomicBool>,
}

/// The other end of the FIFO, if it is being read.
fn writer(path: &Path) -> Option<File> {
    OpenOptions::new().write(true).custom_flags(NO_WAITING).open(path).ok()
}

impl Hanging {
    /// The metadata file, which is compared before it is written. It is released by itself after a while, so that a test fails
    /// that would hang with it.
    fn new(world: &World) -> Self {
        let directory = world.paths().plugin.join("dra-device-metadata/default_fast/nic");
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("metadata.json");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let hanging = Self { path, writer: Arc::default(), is_released: Arc::default() };
        let (path, held, is_released) = (hanging.path.clone(), hanging.writer.clone(), hanging.is_released.clone());
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(20));
            if !is_released.swap(true, Relaxed) {
                drop(writer(&path));
                held.lock().unwrap().take();
            }
        });
        hanging
    }

    /// Waits until it is being read.
    async fn is_read(&self) {
        loop {
            if let Some(writer) = writer(&self.path) {
                *self.writer.lock().unwrap() = Some(writer);
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn release(&self) {
        self.is_released.store(true, Relaxed);
        self.writer.lock().unwrap().take();
    }
}

#[tokio::test]
async fn a_claim_whose_disk_hangs_holds_up_no_other_claim() {
    let world = World::new();
    world.put_pod("web", &["fast", "other"], false);
    let hanging = Hanging::new(&world);
    let other = ClaimForm { uid: "c2", name: "other", results: &[("nic", "eth2")], ..ClaimForm::default() };
    let work = async {
        hanging.is_read().await;
        world.put_and_prepare(&other).await.unwrap();
        world.unprepare(&other).await.unwrap();
        assert!(!hanging.is_released.load(Relaxed), "it was done meanwhile");
        hanging.release();
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
    tokio::select! {
        prepared = world.prepare(&claim) => panic!("{prepared:?}"),
        () = hanging.is_read() => {}
    }
    let release = async {
        sleep(Duration::from_millis(100)).await;
        assert_eq!(world.reserved().len(), 1, "the claim is locked");
        hanging.release();
    };
    let (unprepared, ()) = tokio::join!(world.unprepare(&claim), release);
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
    let prepared = world.driver().prepare(&claim.asked(), Instant::now() + Duration::from_secs(2)).await;
    let (error, pod) = prepared.unwrap_err();
    assert!(error.to_string().starts_with("the node's disk or kernel does not answer"), "{error}");
    assert!(pod.is_some() && !hanging.is_released.load(Relaxed));
    hanging.is_read().await;
    hanging.release();
    world.prepare(&claim).await.unwrap();
}
