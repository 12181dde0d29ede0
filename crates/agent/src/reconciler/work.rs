//! The work on one device: blocking, on a thread of its own.

use std::sync::Arc;

use link::{Diagnosis, Repair, RouteSocket};
use netdevice::{Attachment, DeviceId, Ledger, Owner, Phase, owner::Request};
use store::{Namespace, Records};

/// Why a device is returned to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Its container ended, and the runtime runs the hook only when it removes that container: CRI-O, whose order is
    /// StopContainer, StopPodSandbox, RemoveContainer.
    ContainerEnded,
    /// Its Pod ended, for which a command or a claim had attached it: no hook returns it, nor does an event of a runtime without
    /// NRI.
    PodEnded,
    /// The hook, or the runtime's event at the end of the sandbox, should have returned it.
    NotReturned,
}

impl Cause {
    fn of(record: &Attachment, diagnosis: Diagnosis) -> Self {
        let has_ended = matches!(diagnosis, Diagnosis::HolderEnded | Diagnosis::SandboxEnded);
        let is_claim = matches!(record.owner, Owner::Claim { .. });
        if record.phase == Phase::Attached && has_ended && (is_by_pod(record) || is_claim) {
            return Self::PodEnded;
        }
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

/// Whether a Pod that ran requested the device, by a command or by its networks: no event of a runtime without NRI returns it.
pub(super) fn is_by_pod(record: &Attachment) -> bool {
    matches!(record.owner.request(), Some(Request::Command | Request::Networks { .. }))
}

/// A device to check.
#[derive(Debug, Clone)]
pub(super) struct Check {
    pub(super) device: DeviceId,
    /// Whether this process has seen a mount of the sandbox's namespace, so that it would see that the mount is gone.
    pub(super) saw_mounts: bool,
}

/// The result of a check.
#[derive(Debug)]
pub(super) struct Diagnosed {
    pub(super) check: Check,
    pub(super) diagnosis: Diagnosis,
}

/// Whether only its mounts show that a record's holder has ended.
pub(super) fn ends_with_its_mounts(record: &Attachment) -> bool {
    record.process.is_none() && record.owner.outlives_containers()
}

/// Compares a record with the kernel. `saw_mounts` is set once a mount of its namespace is seen here.
fn diagnose(record: &Attachment, saw_mounts: &mut bool, host: &mut RouteSocket) -> Diagnosis {
    let diagnosis = link::diagnose(record, host);
    if diagnosis == Diagnosis::Healthy && ends_with_its_mounts(record) {
        if *saw_mounts && link::sees_no_mounts(record) {
            return Diagnosis::HolderEnded;
        }
        *saw_mounts = *saw_mounts || link::sees_mounts(record);
    }
    diagnosis
}

/// Checks devices of the ledger.
///
/// # Errors
///
/// When no socket can be opened.
pub(super) fn diagnose_all(ledger: &Ledger, checks: Vec<Check>) -> std::io::Result<Vec<Diagnosed>> {
    let is_complete = |record: &Arc<Attachment>| record.phase == Phase::Attached;
    // an attachment that is not complete is recognised without the kernel
    let needs_kernel = checks.iter().any(|check| ledger.get(&check.device).is_some_and(is_complete));
    let mut host = needs_kernel.then(RouteSocket::open).transpose()?;
    let check = |mut check: Check| {
        let record = ledger.get(&check.device)?;
        let diagnosis = match &mut host {
            Some(host) => diagnose(record, &mut check.saw_mounts, host),
            None => Diagnosis::Unfinished,
        };
        Some(Diagnosed { check, diagnosis })
    };
    Ok(checks.into_iter().filter_map(check).collect())
}

/// A device to return to the host.
#[derive(Debug)]
pub(super) struct RepairOrder {
    pub(super) check: Check,
    /// The owner, if its Pod no longer exists: then its processes do not matter.
    pub(super) gone: Option<Owner>,
    /// Its namespace, if that is kept open.
    pub(super) sandbox: Option<Arc<Namespace>>,
}

/// Returns a device to the host, if that is still due: another attachment may have begun since.
pub(super) fn repair(records: &Records, order: RepairOrder) -> Result<(Repair, Cause), link::Error> {
    let RepairOrder { check: Check { device, mut saw_mounts }, gone, sandbox } = order;
    let mut cause = Cause::NotReturned;
    let is_due = |now: &Attachment, host: &mut RouteSocket| {
        let diagnosis = diagnose(now, &mut saw_mounts, host);
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
            // the kubelet no longer knows its Pod
            ("container", crio, Phase::Attached, Diagnosis::Healthy, Cause::NotReturned),
            ("container", containerd, Phase::Attached, Diagnosis::HolderEnded, Cause::NotReturned),
            ("sandbox", crio, Phase::Attached, Diagnosis::HolderEnded, Cause::NotReturned),
        ];
        for (container, paths, phase, diagnosis, cause) in table {
            assert_eq!(Cause::of(&record(container, paths, phase), diagnosis), cause, "{container} {paths:?}");
        }
    }

    #[test]
    fn what_a_command_attached_is_returned_ordinarily_when_the_pod_ends() {
        let by_command = |phase| {
            let mut record = record("sandbox", &["/proc/7/ns/net"], phase);
            record.owner = Owner::Sandbox { id: "s".into(), pod: None, by: Request::Command };
            record
        };
        let cause = |phase, diagnosis| Cause::of(&by_command(phase), diagnosis);
        assert_eq!(cause(Phase::Attached, Diagnosis::HolderEnded), Cause::PodEnded);
        assert_eq!(cause(Phase::Attached, Diagnosis::SandboxEnded), Cause::PodEnded);
        assert_eq!(cause(Phase::Attaching, Diagnosis::Unfinished), Cause::NotReturned, "the command was killed");
    }
}
