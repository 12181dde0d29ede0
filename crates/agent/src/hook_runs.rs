//! Checks whether the runtime runs the hook. Where CDI is off, containerd 1.7 starts a container and ignores its devices.
//!
//! A container to which a device was allocated has the environment variable of the Allocate answer, which names the device.
//! If a process with that variable was started after the Allocate call and no hook was run for the device, then the runtime
//! ignores the CDI file. This needs the right to read the environment of other processes; without it nothing is reported.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use device_plugin::Reservations;
use netdevice::DeviceId;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use wake::Ticks;

use crate::{metrics::Metrics, problem::Kind, view::Views};

/// How often this is checked while a device is allocated and not attached, and how long after Allocate for the first time.
const CHECK: Duration = Duration::from_secs(10);
/// Longest environment that is read, in bytes.
const MAX_ENVIRONMENT: usize = 256 << 10;
/// Ticks a second in `/proc/PID/stat` (`USER_HZ`): the same on every architecture that we are built for.
const TICKS: f64 = 100.0;

/// Checks until `shutdown`.
pub(crate) async fn run(
    reservations: Arc<Reservations>,
    views: Views,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let ticks = Ticks::every(CHECK);
    let mut before = BTreeMap::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = ticks.next() => {}
        }
        let view = views.borrow().clone();
        reservations.end_attached(&view);
        let now = SystemTime::now();
        let wanted: Vec<Wanted> = reservations
            .all()
            .into_iter()
            .filter_map(|(device, since)| {
                let age = now.duration_since(since).ok().filter(|age| *age >= CHECK)?;
                let resource = &view.devices().get(&device)?.resource;
                let variable = resource.environment_variable();
                Some(Wanted { text: format!("{resource}={device}"), variable, device, age })
            })
            .collect();
        let found = if wanted.is_empty() {
            BTreeMap::new()
        } else {
            spawn_blocking(move || find(Path::new("/proc"), &wanted)).await?
        };
        // a hook may have been run meanwhile
        let left: BTreeSet<DeviceId> = reservations.all().into_keys().collect();
        let is_certain = |(device, text): &(&DeviceId, &String)| {
            left.contains(*device) && before.contains_key(*device) && before[*device] == **text
        };
        let lines: Vec<String> = found.iter().filter(is_certain).map(|(_, text)| text.clone()).collect();
        if metrics.report(Kind::HookNotRun, lines.clone()) {
            lines.iter().for_each(|line| warn!("{line}"));
        }
        before = found;
    }
}

/// A device that was allocated.
struct Wanted {
    device: DeviceId,
    text: String,
    variable: String,
    /// How long ago.
    age: Duration,
}

/// The devices in the environment of a process, each with the text to report.
fn find(proc: &Path, wanted: &[Wanted]) -> BTreeMap<DeviceId, String> {
    let mut found = BTreeMap::new();
    let Some(uptime) = uptime(proc) else { return found };
    for entry in fs::read_dir(proc).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        // the process has ended, or this one may not read it
        let Ok(environment) = read(&entry.path().join("environ")) else { continue };
        for Wanted { device, text, variable, age } in wanted {
            if has(&environment, variable, device)
                && started(&entry.path()).is_some_and(|start| uptime - start < age.as_secs_f64())
            {
                found.entry(device.clone()).or_insert_with(|| {
                    format!(
                        "{text}: a container to which the device was allocated runs without it (process {pid}): the container runtime did not run the hook; check that CDI is enabled (containerd 1.7: enable_cdi = true)"
                    )
                });
            }
        }
    }
    found
}

fn has(environment: &[u8], variable: &str, device: &DeviceId) -> bool {
    let name = device.to_name();
    let value = |entry: &[u8]| entry.strip_prefix(variable.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec);
    let is_it = |word: &[u8]| word == name.as_bytes() || word == device.as_str().as_bytes();
    environment.split(|byte| *byte == 0).filter_map(value).any(|value| value.split(|byte| *byte == b' ').any(is_it))
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    store::read_limited(File::open(file)?, 4 << 10, MAX_ENVIRONMENT)
}

fn uptime(proc: &Path) -> Option<f64> {
    fs::read_to_string(proc.join("uptime")).ok()?.split_whitespace().next()?.parse().ok()
}

/// When a process was started, in seconds after the boot.
fn started(process: &Path) -> Option<f64> {
    let stat = read(&process.join("stat")).ok()?;
    // the name of the program may have any byte, and ends with the last parenthesis
    let after = stat.rsplit(|byte| *byte == b')').next()?;
    let start: f64 = std::str::from_utf8(after).ok()?.split_whitespace().nth(19)?.parse().ok()?;
    Some(start / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(proc: &Path, pid: &str, environment: &[u8], start: u64) {
        let directory = proc.join(pid);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("environ"), environment).unwrap();
        let stat = format!("{pid} (a) b) S 1 {} {start} 0 0", "0 ".repeat(17).trim());
        fs::write(directory.join("stat"), stat).unwrap();
    }

    #[test]
    fn a_process_that_should_have_the_device_is_found() {
        let root = tempfile::tempdir().unwrap();
        let proc = root.path();
        fs::write(proc.join("uptime"), "1000.50 99.0\n").unwrap();
        // 995 s after the boot, that is 5.5 s ago
        process(proc, "10", b"PATH=/bin\0NETWORKING_K8S_IO_NETDEVICE=eth1 eth2\0", 99_500);
        process(proc, "11", b"NETWORKING_K8S_IO_NETDEVICE=eth3", 50_000);
        process(proc, "12", b"XNETWORKING_K8S_IO_NETDEVICE=eth4\0A=NETWORKING_K8S_IO_NETDEVICE=eth4\0", 99_500);
        process(proc, "13", b"NETWORKING_K8S_IO_NETDEVICE=a\xff\0", 99_500);
        fs::create_dir(proc.join("self")).unwrap();
        let wanted: Vec<Wanted> = ["eth1", "eth2", "eth3", "eth4", "eth", "x:a:ff"]
            .map(|id| {
                let variable = "NETWORKING_K8S_IO_NETDEVICE".into();
                Wanted { device: id.parse().unwrap(), text: format!("r={id}"), variable, age: Duration::from_secs(30) }
            })
            .into();
        let found = find(proc, &wanted);
        let ids: Vec<&str> = found.keys().map(DeviceId::as_str).collect();
        assert_eq!(ids, ["eth1", "eth2", "x:a:ff"], "eth3 is of a container that was there before");
        assert!(
            found
                .values()
                .next()
                .unwrap()
                .starts_with("r=eth1: a container to which the device was allocated runs without it (process 10)")
        );
    }
}
