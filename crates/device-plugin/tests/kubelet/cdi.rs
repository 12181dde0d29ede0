//! The CDI file: there before the kubelet hears of a device, whole, and again there whatever becomes of it.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use crate::node::{Node, RESOURCE, eventually, listed};

#[tokio::test]
async fn the_file_is_there_before_the_kubelet_hears_of_the_device() {
    let mut node = Node::with_links(&["dummy0"]);
    let kubelet = node.kubelet();
    let _plugin = node.start();
    for at in 1..30 {
        let name = format!("dummy{at}");
        node.add(&name);
        let has = |state: &kubelet_stand_in::KubeletState| {
            state.resources.get(RESOURCE).is_some_and(|resource| resource.ids().contains(&name.as_str()))
        };
        kubelet.until("the device is listed", has).await;
        assert!(node.cdi_devices().contains(&name));
    }
}

#[tokio::test]
async fn defect_17_the_file_asks_for_the_least_version_and_a_missing_directory_is_made() {
    let node = Node::with_links(&["dummy0"]);
    let kubelet = node.kubelet();
    let _plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    assert!(fs::read_to_string(node.cdi_file()).unwrap().contains("\"cdiVersion\": \"0.3.0\""));
    assert_eq!(fs::metadata(node.path("run/cdi")).unwrap().permissions().mode() & 0o777, 0o755);
    let others = fs::read_dir(node.path("run/cdi")).unwrap().count() - 1;
    assert_eq!(others, 0, "no temporary file stays");
}

#[tokio::test]
async fn the_file_goes_with_the_last_device_and_stays_at_shutdown() {
    let mut node = Node::with_links(&["dummy0"]);
    let kubelet = node.kubelet();
    let plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    node.remove("dummy0");
    listed(&kubelet, &[]).await;
    let file = node.cdi_file();
    eventually("the file goes", || !file.exists()).await;
    node.add("dummy1");
    listed(&kubelet, &["dummy1"]).await;
    plugin.shut_down().await;
    assert_eq!(node.cdi_devices(), ["dummy1"]);
}

#[tokio::test]
async fn a_file_that_is_right_is_not_written_again() {
    let mut node = Node::with_links(&["dummy0"]);
    let kubelet = node.kubelet();
    let plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    let modified = || fs::metadata(node.cdi_file()).unwrap().modified().unwrap();
    let first = modified();
    plugin.shut_down().await;
    let _plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    assert_eq!(modified(), first);
    node.add_link("dummy0", 0, None);
    kubelet.until("the device is down", |state| state.resources[RESOURCE].available().is_empty()).await;
    assert_eq!(fs::metadata(node.cdi_file()).unwrap().modified().unwrap(), first);
}

#[tokio::test]
async fn a_file_that_somebody_deletes_or_edits_is_written_again() {
    let node = Node::with_links(&["dummy0"]);
    let kubelet = node.kubelet();
    let _plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    let right = fs::read(node.cdi_file()).unwrap();
    fs::remove_file(node.cdi_file()).unwrap();
    eventually("it is there again", || fs::read(node.cdi_file()).is_ok_and(|text| text == right)).await;
    fs::write(node.cdi_file(), "{}").unwrap();
    eventually("it is right again", || fs::read(node.cdi_file()).is_ok_and(|text| text == right)).await;
    fs::remove_dir_all(node.path("run")).unwrap();
    eventually("its directorys are there again", || fs::read(node.cdi_file()).is_ok_and(|text| text == right)).await;
}

#[tokio::test]
async fn two_instances_that_write_different_files_do_not_race() {
    let mut node = Node::with_links(&["dummy0"]);
    node.timing.poll = Duration::from_millis(500);
    let kubelet = node.kubelet();
    let mut other = node.config();
    other.paths.hook = "/other/netdevice-hook".into();
    let (one, two) = (node.start(), node.start_with(other));
    listed(&kubelet, &["dummy0"]).await;
    let file = node.cdi_file();
    let mut writes = std::collections::BTreeSet::new();
    let began = std::time::Instant::now();
    eventually("two seconds went by", || {
        writes.insert(fs::metadata(&file).and_then(|metadata| metadata.modified()).unwrap());
        began.elapsed() > Duration::from_secs(2)
    })
    .await;
    // 0, 10, 20, 40, ... 320 ms of pause, then 500 ms, for each of both, however long it took
    let most = 2 * (9 + usize::try_from(began.elapsed().as_millis() / 500).unwrap());
    assert!(writes.len() <= most, "{} writes, at most {most} were expected", writes.len());
    drop((one, two));
}

#[tokio::test]
async fn devices_whose_file_cannot_be_written_are_not_listed_but_held_ones_are() {
    let mut node = Node::with_links(&["dummy0", "dummy1"]);
    node.attach("dummy0", "web");
    fs::write(node.path("run"), "").unwrap();
    let kubelet = node.kubelet();
    let plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    assert_ne!(plugin.stats.cdi_write_errors(), 0);
    fs::remove_file(node.path("run")).unwrap();
    listed(&kubelet, &["dummy0", "dummy1"]).await;
}

#[tokio::test]
async fn what_a_killed_instance_left_half_written_is_removed() {
    let node = Node::with_links(&["dummy0"]);
    fs::create_dir_all(node.path("run/cdi")).unwrap();
    let (ours, foreign) =
        (node.path("run/cdi/spec.networking.k8s.io-netdevice.json.77.tmp"), node.path("run/cdi/spec.x.tmp"));
    fs::write(&ours, "{").unwrap();
    fs::write(&foreign, "{").unwrap();
    let kubelet = node.kubelet();
    let _plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    assert!(!ours.exists() && foreign.exists());
}

/// Its own process in a mount namespace of its own, so that nothing is left mounted.
#[test]
fn a_full_and_a_read_only_directory_are_waited_out() {
    let directory = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=64k tmpfs \"$FOLDER\" && exec \"$0\" --ignored --exact cdi::in_a_small_mount";
    let ran = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-ec", script])
        .arg(std::env::current_exe().unwrap())
        .env("FOLDER", directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
#[ignore = "run by a_full_and_a_read_only_directory_are_waited_out"]
async fn in_a_small_mount() {
    let mount = std::path::PathBuf::from(std::env::var_os("FOLDER").unwrap());
    let remount = |options: &str| {
        let options = format!("remount,{options}");
        let done = std::process::Command::new("mount").args(["-o", &options]).arg(&mount).status();
        assert!(done.unwrap().success());
    };
    let mut node = Node::with_links(&["dummy0"]);
    let mut config = node.config();
    config.paths.cdi = mount.clone();
    let kubelet = node.kubelet();
    let plugin = node.start_with(config);
    listed(&kubelet, &["dummy0"]).await;
    let file = mount.join("networking.k8s.io-netdevice.json");
    let before = fs::read(&file).unwrap();

    let full = mount.join("full");
    fs::write(&full, vec![0; 65536]).unwrap_err();
    node.add("dummy1");
    let told = |text: &str| plugin.stats.last_error().is_some_and(|error| error.ends_with(text));
    eventually("the disk is full", || told("No space left on device (os error 28)")).await;
    listed(&kubelet, &["dummy0"]).await;
    assert_eq!(fs::read(&file).unwrap(), before);
    fs::remove_file(&full).unwrap();
    listed(&kubelet, &["dummy0", "dummy1"]).await;

    remount("ro");
    node.add("dummy2");
    eventually("the directory is read-only", || told("Read-only file system (os error 30)")).await;
    listed(&kubelet, &["dummy0", "dummy1"]).await;
    remount("rw");
    listed(&kubelet, &["dummy0", "dummy1", "dummy2"]).await;
    assert_eq!(fs::read_dir(&mount).unwrap().count(), 1, "no temporary file stays");
}

fn foreign(devices: &[&str], hook: &str) -> String {
    let device = |name: &&str| {
        format!(
            "- name: {name}\n  containerEdits: {{hooks: [{{hookName: createRuntime, path: {hook}, args: [{name}]}}]}}\n"
        )
    };
    let devices: String = devices.iter().map(device).collect();
    format!("---\ncdiVersion: 0.6.0\nkind: {RESOURCE}\ndevices:\n{devices}")
}

#[tokio::test]
async fn the_file_of_the_original_plugin_is_replaced_before_the_kubelet_hears_of_a_device() {
    let node = Node::with_links(&["dummy0"]);
    fs::create_dir_all(node.path("run/cdi")).unwrap();
    let (left, other) = (node.path("run/cdi/networking.k8s.io-netdevice.yaml"), node.path("run/cdi/nvidia.yaml"));
    fs::write(&left, foreign(&["dummy0", "dummy9"], "/opt/cdi/bin/ifnetns")).unwrap();
    fs::write(&other, foreign(&["gpu0"], "/usr/bin/nvidia-ctk")).unwrap();
    let kubelet = node.kubelet();
    let plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    assert!(!left.exists() && other.exists());
    assert_eq!(plugin.stats.cdi_report(), Default::default());
    kubelet.allocate(RESOURCE, &["dummy0"]).await.unwrap();
}

#[tokio::test]
async fn a_device_that_another_file_names_is_not_offered_until_that_file_is_gone() {
    let mut node = Node::with_links(&["dummy0", "dummy1", "dummy2"]);
    node.timing.poll = Duration::from_secs(600);
    node.attach("dummy2", "web");
    let kubelet = node.kubelet();
    let plugin = node.start();
    listed(&kubelet, &["dummy0", "dummy1", "dummy2"]).await;
    let other = node.path("run/cdi/other.yaml");
    fs::write(&other, foreign(&["dummy0", "dummy2"], "/usr/bin/other")).unwrap();
    // what a Pod has stays listed: a kubelet that restarts would reject that Pod
    listed(&kubelet, &["dummy1", "dummy2"]).await;
    let report = plugin.stats.cdi_report();
    let expected = format!(
        "CDI conflict: {RESOURCE}=dummy0, dummy2: {} names it too, so the runtime resolves neither and no Pod with it starts: remove that file",
        other.display()
    );
    assert_eq!((report.devices, report.conflicts), (2, vec![expected]));
    let error = kubelet.allocate(RESOURCE, &["dummy0"]).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
    assert!(error.message().starts_with(&format!("device dummy0: the CDI file {} names it too", other.display())));
    kubelet.allocate(RESOURCE, &["dummy1"]).await.unwrap();
    fs::remove_file(&other).unwrap();
    listed(&kubelet, &["dummy0", "dummy1", "dummy2"]).await;
    assert_eq!(plugin.stats.cdi_report(), Default::default());
}

#[tokio::test]
async fn a_directory_that_comes_before_ours_and_one_that_does_not_are_told_apart() {
    let mut node = Node::with_links(&["dummy0"]);
    node.timing.poll = Duration::from_secs(600);
    let kubelet = node.kubelet();
    let mut config = node.config();
    config.paths.cdi_spec_dirs = vec![node.path("etc/cdi"), node.path("run/cdi"), node.path("late/cdi")];
    let plugin = node.start_with(config);
    listed(&kubelet, &["dummy0"]).await;
    // made while the plugin runs, and ours wins
    fs::create_dir_all(node.path("etc/cdi")).unwrap();
    fs::write(node.path("etc/cdi/early.yaml"), foreign(&["dummy0"], "/usr/bin/other")).unwrap();
    fs::create_dir_all(node.path("late/cdi")).unwrap();
    fs::write(node.path("late/cdi/late.yaml"), foreign(&["dummy0"], "/usr/bin/other")).unwrap();
    listed(&kubelet, &[]).await;
    let lines = plugin.stats.cdi_report().conflicts;
    assert!(
        lines.len() == 1 && lines[0].contains("late/cdi/late.yaml names it too and is in a CDI directory of higher")
    );
    fs::remove_file(node.path("late/cdi/late.yaml")).unwrap();
    listed(&kubelet, &["dummy0"]).await;
}

#[tokio::test]
async fn a_broken_file_is_told_and_does_no_harm() {
    let node = Node::with_links(&["dummy0"]);
    fs::create_dir_all(node.path("run/cdi")).unwrap();
    fs::write(node.path("run/cdi/broken.yaml"), foreign(&["dummy0"], "/x").replace("hooks", "hucks")).unwrap();
    let kubelet = node.kubelet();
    let plugin = node.start();
    listed(&kubelet, &["dummy0"]).await;
    let report = plugin.stats.cdi_report();
    assert!(report.conflicts.is_empty() && report.ignored[0].contains("run/cdi/broken.yaml"), "{report:?}");
    assert!(report.ignored[0].contains("unknown field `hucks`"), "{report:?}");
    kubelet.allocate(RESOURCE, &["dummy0"]).await.unwrap();
}
