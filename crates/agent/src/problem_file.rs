//! The problems in a file for `netdevctl`, and those that no part of the agent reports.

use std::{sync::Arc, time::Duration};

use store::{Records, Waiting};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use wake::Ticks;

use crate::{descriptors, metrics::Metrics, problem::Kind};

/// How often problems that no part reports are checked.
const CHECK: Duration = Duration::from_secs(5);

/// Writes the problems for `netdevctl` when they change, and holds the lock that shows that an agent runs.
pub(crate) async fn run(records: Records, metrics: Arc<Metrics>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let ticks = Ticks::every(CHECK);
    let mut lock = None;
    let mut logged = None;
    loop {
        metrics.report(Kind::Descriptors, too_few(metrics.devices()));
        // when they cannot be read, the task that restores names logs it
        let waiting = records.waiting().unwrap_or_default();
        metrics.report(Kind::Name, waiting.iter().map(without_its_name).collect());
        let lines: Vec<String> = metrics.problems().iter().map(ToString::to_string).collect();
        // during an update the other agent writes too
        if lock.is_none() || records.problems().ok().as_ref() != Some(&lines) {
            let done = lock.take().map_or_else(|| records.lock_agent(), Ok).and_then(|held| {
                lock = Some(held);
                records.write_problems(&lines)
            });
            match done {
                Ok(()) => logged = None,
                Err(error) => {
                    let error = error.to_string();
                    if logged.as_ref() != Some(&error) {
                        warn!("cannot write the problems for netdevctl: {error}");
                        logged = Some(error);
                    }
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = metrics.reported() => {}
            () = ticks.next() => {}
        }
    }
}

fn without_its_name(waiting: &Waiting) -> String {
    let Waiting { device, present, .. } = waiting;
    format!(
        "device {device} is named {present} on the node because another interface has its name: rename or remove that interface"
    )
}

/// File descriptors of an agent without devices.
const OWN_DESCRIPTORS: usize = 100;

fn too_few(devices: usize) -> Vec<String> {
    too_few_descriptors(devices, descriptors::limit()).into_iter().collect()
}

/// A device in a Pod needs two descriptors: for the namespace and for the container's process.
fn too_few_descriptors(devices: usize, limit: usize) -> Option<String> {
    let needed = 2 * devices + OWN_DESCRIPTORS;
    (limit < needed).then(|| {
        format!(
            "the limit of open files is {limit}, and {devices} devices may need {needed}: raise it (LimitNOFILE= of the service or of the container runtime)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_too_low_for_the_devices_is_reported() {
        assert_eq!(too_few_descriptors(10, 1024), None);
        assert_eq!(too_few_descriptors(462, 1024), None);
        assert!(too_few_descriptors(520, 1024).unwrap().contains("520 devices may need 1140"));
    }

    #[tokio::test]
    async fn problems_are_written_for_netdevctl_as_they_appear_and_end() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        let (metrics, shutdown) = (Arc::new(Metrics::default()), CancellationToken::new());
        let running = run(records.clone(), metrics.clone(), shutdown.clone());
        let check = async {
            let seen = async |wanted: &[&str]| {
                while records.problems().unwrap() != wanted {
                    tokio::task::yield_now().await;
                }
            };
            let starting = "the interfaces of the node have not been read yet";
            seen(&[starting]).await;
            assert!(records.has_agent());
            metrics.report(Kind::Hook, vec!["the hook is not installed".into()]);
            seen(&[starting, "the hook is not installed"]).await;
            metrics.report(Kind::Hook, Vec::new());
            seen(&[starting]).await;
            shutdown.cancel();
        };
        let (ended, ()) = tokio::join!(running, check);
        ended.unwrap();
    }
}
