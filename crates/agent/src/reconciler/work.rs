//! What is done to one device: blocking, on a thread of its own.

use std::sync::Arc;

use link::{Diagnosis, Repair, RouteSocket};
use netdevice::{Attachment, DeviceId, Ledger, Owner, Phase};
use store::{Namespace, Records};

/// Why a device is returned to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Its container ended, and the runtime runs the hook only when it removes that container: CRI-O, whose order is
    /// StopContainer, StopPodSandbox, RemoveContainer.
    ContainerEnded,
    /// The hook or the sandbox's end should have done it.
    NotReturned,
}

impl Cause {
    fn of(record: &Attachment, diagnosis: Diagnosis) -> Self {
        let has_ended = matches!(diagnosis, Diagnosis::HolderEnded | Diagnosis::SandboxEnded);
        // containerd names a container's namespace by its sandbox's process, CRI-O by a mount
        let is_mounted = record.sandbox.paths.iter().any(|path| !path.starts_with("/proc/"));
        let is_container = record.owner.sandbox().is_some() && !record.owner.outlives_containers();
        if record.phase == Phase::Attached && has_ended && is_mounted && is_container {
            Self::ContainerEnded
        } else {
            Self::NotReturned
        }
    }
}

/// A device to look at.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) device: DeviceId,
    /// Whether this process has seen a mount of the sandbox's namespace, so that it would see that the mount is gone.
    pub(super) saw_mounts: bool,
}

/// What a look at a device found.
#[derive(Debug)]
pub(super) struct Diagnosed {
    pub(super) subject: Subject,
    pub(super) diagnosis: Diagnosis,
}

/// Whether only its mounts show that a record's holder has ended.
pub(super) fn is_known_by_mounts(record: &Attachment) -> bool {
    record.process.is_none() && record.owner.outlives_containers()
}

/// Compares a record with the kernel. `saw_mounts` is set once a mount of its namespace is seen here.
fn diagnose(record: &Attachment, saw_mounts: &mut bool, home: &mut RouteSocket) -> Diagnosis {
    let diagnosis = link::diagnose(record, home);
    if diagnosis == Diagnosis::Healthy && is_known_by_mounts(record) {
        if *saw_mounts && link::sees_no_mounts(record) {
            return Diagnosis::HolderEnded;
        }
        *saw_mounts = *saw_mounts || link::sees_mounts(record);
    }
    diagnosis
}

/// Looks at devices of the ledger.
///
/// # Errors
///
/// Without a socket nothing is known.
pub(super) fn look(ledger: &Ledger, subjects: Vec<Subject>) -> std::io::Result<Vec<Diagnosed>> {
    let is_complete = |record: &Arc<Attachment>| record.phase == Phase::Attached;
    // half an attachment shows without the kernel
    let is_asked = subjects.iter().any(|subject| ledger.get(&subject.device).is_some_and(is_complete));
    let mut home = is_asked.then(RouteSocket::open).transpose()?;
    let look = |mut subject: Subject| {
        let record = ledger.get(&subject.device)?;
        let diagnosis = match &mut home {
            Some(home) => diagnose(record, &mut subject.saw_mounts, home),
            None => Diagnosis::Unfinished,
        };
        Some(Diagnosed { subject, diagnosis })
    };
    Ok(subjects.into_iter().filter_map(look).collect())
}

/// A device to return to the host.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) subject: Subject,
    /// Its Pod is gone, whatever its processes do: who that was.
    pub(super) gone: Option<Owner>,
    /// Its namespace, if that is kept open.
    pub(super) sandbox: Option<Arc<Namespace>>,
}

/// Returns a device to the host, if it is due still: another attachment may have begun since.
pub(super) fn repair(records: &Records, order: Order) -> Result<(Repair, Cause), link::Error> {
    let Order { subject: Subject { device, mut saw_mounts }, gone, sandbox } = order;
    let mut cause = Cause::NotReturned;
    let is_due = |now: &Attachment, home: &mut RouteSocket| {
        let diagnosis = diagnose(now, &mut saw_mounts, home);
        cause = Cause::of(now, diagnosis);
        gone.as_ref() == Some(&now.owner) || diagnosis != Diagnosis::Healthy
    };
    let repair = link::repair(records, &device, sandbox.as_deref(), is_due)?;
    Ok((repair, cause))
}

#[cfg(test)]
mod tests {
    use netdevice::fixture;

    use super::*;

    fn record(container: &str, paths: &[&str], phase: Phase) -> Attachment {
        let mut record = Attachment { phase, ..fixture::record("dev0") };
        record.owner = fixture::owner(container);
        record.sandbox.paths = paths.iter().map(|path| (*path).to_owned()).collect();
        record
    }

    #[test]
    fn only_a_container_whose_runtime_runs_hooks_late_has_ended_ordinarily() {
        let crio = &["/proc/7/ns/net", "/var/run/netns/a3"][..];
        let containerd = &["/proc/7/ns/net", "/proc/5/ns/net"][..];
        let table = [
            ("container", crio, Phase::Attached, Diagnosis::HolderEnded, Cause::ContainerEnded),
            ("container", crio, Phase::Attached, Diagnosis::SandboxEnded, Cause::ContainerEnded),
            ("container", crio, Phase::Detaching, Diagnosis::Unfinished, Cause::NotReturned),
            // its Pod is gone, says the kubelet
            ("container", crio, Phase::Attached, Diagnosis::Healthy, Cause::NotReturned),
            ("container", containerd, Phase::Attached, Diagnosis::HolderEnded, Cause::NotReturned),
            ("sandbox", crio, Phase::Attached, Diagnosis::HolderEnded, Cause::NotReturned),
        ];
        for (container, paths, phase, diagnosis, cause) in table {
            assert_eq!(Cause::of(&record(container, paths, phase), diagnosis), cause, "{container} {paths:?}");
        }
    }
}
