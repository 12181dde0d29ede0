//! The process is killed between any two changes of Prepare and Unprepare. Another instance goes on: it completes the work, or
//! ends it and leaves nothing.

use std::{
    env, fs,
    path::Path,
    process::{Command, abort},
    sync::atomic::{AtomicIsize, Ordering::Relaxed},
};

use super::world::{ClaimForm, World};

/// Where the process to be killed works, what it does, and at which step it is killed, counted from 0.
const VARIABLES: [&str; 3] = ["NETDEVICE_TEST_DIRECTORY", "NETDEVICE_TEST_WORK", "NETDEVICE_TEST_STEP"];

/// Steps until the process is killed. Below 0: it is not.
static LEFT: AtomicIsize = AtomicIsize::new(-1);

/// Kills the process at its step: nothing is dropped, as with SIGKILL.
pub(crate) fn step() {
    if LEFT.load(Relaxed) >= 0 && LEFT.fetch_sub(1, Relaxed) == 0 {
        abort();
    }
}

fn claim() -> ClaimForm<'static> {
    ClaimForm { results: &[("a", "eth1"), ("b", "eth2")], ..ClaimForm::default() }
}

#[tokio::test]
#[ignore = "the process that is killed: the test below starts it"]
async fn killed() {
    let [directory, work, step] = VARIABLES.map(|name| env::var(name).unwrap_or_default());
    let world = World::at(directory.into());
    world.put_claim(&claim());
    LEFT.store(step.parse().unwrap_or(-1), Relaxed);
    match work.as_str() {
        "prepare" => drop(world.prepare(&claim()).await.unwrap()),
        _ => world.unprepare(&claim()).await.unwrap(),
    }
}

/// Whether it was killed.
fn run(directory: &Path, work: &str, step: isize) -> bool {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "--ignored", "tests::killed::killed"]);
    for (name, value) in VARIABLES.into_iter().zip([directory.to_str().unwrap(), work, &step.to_string()]) {
        command.env(name, value);
    }
    let said = command.output().unwrap();
    // killed by a signal: no code
    assert!(said.status.code().is_none_or(|code| code == 0), "{said:?}");
    said.status.code().is_none()
}

/// What is on disk of the claim: the reservations, its CDI file, its metadata.
fn left(world: &World) -> (usize, bool, usize) {
    let metadata = fs::read_dir(world.paths().plugin.join("dra-device-metadata"));
    (world.reserved().len(), world.cdi_file("c1").exists(), metadata.map_or(0, Iterator::count))
}

#[tokio::test]
async fn a_killed_instance_leaves_nothing_half_done_for_ever() {
    for work in ["prepare", "unprepare"] {
        for next in ["prepare", "unprepare"] {
            let mut steps = 0;
            loop {
                let world = World::new();
                world.put_claim(&claim());
                if work == "unprepare" {
                    world.prepare(&claim()).await.unwrap();
                }
                if !run(&world.directory, work, steps) {
                    break;
                }
                let case = format!("killed in {work} at step {steps}, then {next}");
                // the answer was not given, so that the kubelet repeats the call
                if next == "prepare" {
                    let devices = world.prepare(&claim()).await.unwrap();
                    assert_eq!((devices.len(), left(&world)), (2, (2, true, 1)), "{case}");
                } else {
                    world.unprepare(&claim()).await.unwrap();
                    assert_eq!(left(&world), (0, false, 0), "{case}");
                }
                steps += 1;
            }
            assert!(steps >= 4, "{work} has only {steps} steps");
        }
    }
}
