//! What the agent found or did, and the Events for it.

use link::Skipped;
use netdevice::{DeviceId, InterfaceName, Pod};

/// Longest note in bytes; the API server refuses more than 1024.
const MAX_NOTE: usize = 1000;

/// What the agent found or did that is worth an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Occurrence {
    /// A device no longer exists.
    Lost { device: DeviceId, pod: Option<Pod> },
    /// The agent returned a device to the host because no hook did.
    Returned { device: DeviceId, pod: Option<Pod>, left_out: String },
    /// A device returned to the host under another name.
    Renamed { device: DeviceId, pod: Option<Pod>, name: InterfaceName },
    /// An invalid record was moved to the quarantine.
    RecordQuarantined { device: DeviceId, file: String, reason: String },
    /// An interface of a Pod that runs was plugged or unplugged, or was not.
    Network(dynamic_networks::Report),
    /// A Pod does not get what its annotation asks for.
    InjectionRefused { pod: Pod, reason: String },
    /// A Pod does not get the device of a claim.
    ClaimNotAttached { pod: Pod, reason: String },
    /// A Pod got the device of a claim after it had started.
    ClaimAttachedLate { device: DeviceId, pod: Pod, claim: String },
    /// The API server does not take the status of a claim.
    ClaimStatusNotWritten { pod: Pod, claim: String, reason: String },
}

/// Who reports what this agent does with devices.
const CONTROLLER: &str = "netdevice";
/// Who reports what it does with the networks of running Pods: as in the program that it replaces.
const NETWORKS: &str = "pod-networks-updates";

/// What an Event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Subject {
    Pod { namespace: String, name: String, uid: String },
    Node(String),
}

impl Subject {
    fn pod(Pod { namespace, name, uid }: &Pod) -> Self {
        Self::Pod { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() }
    }
}

/// How an Event is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Severity {
    Normal,
    Warning,
}

/// An Event to post. Equal reports are repetitions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Report {
    pub(super) subject: Subject,
    /// Who reports.
    pub(super) controller: &'static str,
    pub(super) reason: &'static str,
    pub(super) action: &'static str,
    pub(super) severity: Severity,
    pub(super) note: String,
}

impl Occurrence {
    /// A device was returned to the host, under its name or another one.
    pub(crate) fn returned(
        device: DeviceId,
        pod: Option<Pod>,
        renamed: Option<InterfaceName>,
        skipped: &[Skipped],
    ) -> Self {
        match renamed {
            Some(name) => Self::Renamed { device, pod, name },
            None => {
                let left_out: Vec<String> = skipped.iter().map(ToString::to_string).collect();
                Self::Returned { device, pod, left_out: left_out.join("; ") }
            }
        }
    }

    /// The Events to post: changes of the node are also posted for the Node, which outlives the Pod.
    pub(super) fn reports(&self, node: Option<&str>) -> Vec<Report> {
        let on_node = || node.map(|node| Subject::Node(node.to_owned()));
        let subjects: Vec<Subject> = match self {
            Self::Lost { pod, .. } | Self::Renamed { pod, .. } => {
                pod.as_ref().map(Subject::pod).into_iter().chain(on_node()).collect()
            }
            Self::Returned { pod, .. } => pod.as_ref().map(Subject::pod).or_else(on_node).into_iter().collect(),
            Self::RecordQuarantined { .. } => on_node().into_iter().collect(),
            Self::InjectionRefused { pod, .. }
            | Self::ClaimNotAttached { pod, .. }
            | Self::ClaimAttachedLate { pod, .. }
            | Self::ClaimStatusNotWritten { pod, .. }
            | Self::Network(dynamic_networks::Report { pod, .. }) => {
                vec![Subject::pod(pod)]
            }
        };
        let (reason, action, severity) = self.kind();
        let note = one_line(&self.note());
        let controller = if matches!(self, Self::Network(_)) { NETWORKS } else { CONTROLLER };
        let report = |subject| Report { subject, controller, reason, action, severity, note: note.clone() };
        subjects.into_iter().map(report).collect()
    }

    fn kind(&self) -> (&'static str, &'static str, Severity) {
        match self {
            Self::Lost { .. } => ("DeviceLost", "Detach", Severity::Warning),
            Self::Returned { .. } => ("DeviceBroughtHome", "Detach", Severity::Normal),
            Self::Renamed { .. } => ("DeviceRenamed", "Detach", Severity::Warning),
            Self::RecordQuarantined { .. } => ("DeviceRecordQuarantined", "Quarantine", Severity::Warning),
            Self::InjectionRefused { .. } => ("InjectionRefused", "Attach", Severity::Warning),
            Self::ClaimNotAttached { .. } => ("ClaimNotAttached", "Attach", Severity::Warning),
            Self::ClaimStatusNotWritten { .. } => ("ClaimStatusNotWritten", "Attach", Severity::Warning),
            Self::ClaimAttachedLate { .. } => ("ClaimAttachedLate", "Attach", Severity::Warning),
            Self::Network(report) => {
                let severity = if report.is_warning { Severity::Warning } else { Severity::Normal };
                (report.reason, "Attach", severity)
            }
        }
    }

    fn note(&self) -> String {
        match self {
            Self::Lost { device, pod } => {
                let holder = of(pod.as_ref());
                format!(
                    "network device {device}{holder} was lost: it was deleted, unplugged or switched off while it was attached"
                )
            }
            Self::Returned { device, pod, left_out } => {
                let left_out = if left_out.is_empty() { String::new() } else { format!("; not restored: {left_out}") };
                let holder = of(pod.as_ref());
                format!("the agent returned network device {device}{holder} to the node because no hook did{left_out}")
            }
            Self::Renamed { device, pod, name } => {
                let holder = of(pod.as_ref());
                format!(
                    "network device {device}{holder} returned to the node as {name} because another interface has its name"
                )
            }
            Self::RecordQuarantined { device, file, reason } => format!(
                "network device {device} is in quarantine, it is neither moved nor offered: check that the interface is on the node with the right settings, then remove {file}: {reason}"
            ),
            Self::InjectionRefused { reason, .. } | Self::ClaimNotAttached { reason, .. } => reason.clone(),
            Self::ClaimStatusNotWritten { claim, reason, .. } => {
                format!("the status of claim {claim} does not show its devices: {reason}")
            }
            Self::ClaimAttachedLate { device, claim, .. } => format!(
                "network device {device} of {claim} was attached after the pod had started: netdevice-agent was not connected to the container runtime"
            ),
            Self::Network(report) => report.note.clone(),
        }
    }
}

fn of(pod: Option<&Pod>) -> String {
    pod.map(|pod| format!(" of pod {}/{}", pod.namespace, pod.name)).unwrap_or_default()
}

/// The text without line ends and other control characters, and not longer than a note may be.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for character in text.chars().map(|character| if character.is_control() { ' ' } else { character }) {
        if line.len() + character.len_utf8() > MAX_NOTE - '…'.len_utf8() {
            line.push('…');
            break;
        }
        line.push(character);
    }
    line
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::events) fn pod() -> Pod {
        Pod { namespace: "default".into(), name: "web".into(), uid: "0a1b".into() }
    }

    pub(in crate::events) fn refused(reason: &str) -> Occurrence {
        Occurrence::InjectionRefused { pod: pod(), reason: reason.into() }
    }

    fn device() -> DeviceId {
        "eth2".parse().unwrap()
    }

    fn on(occurrence: &Occurrence, node: Option<&str>) -> Vec<(&'static str, Severity, bool)> {
        let reports = occurrence.reports(node).into_iter();
        reports.map(|it| (it.reason, it.severity, matches!(it.subject, Subject::Pod { .. }))).collect()
    }

    #[test]
    fn each_occurrence_has_its_reason_and_its_objects() {
        use Severity::{Normal, Warning};
        let node = Some("node-1");
        let lost = |pod| Occurrence::Lost { device: device(), pod };
        assert_eq!(on(&lost(Some(pod())), node), [("DeviceLost", Warning, true), ("DeviceLost", Warning, false)]);
        assert_eq!(on(&lost(None), node), [("DeviceLost", Warning, false)]);
        assert_eq!(on(&lost(None), None), [], "without the node's name there is nothing to post to");
        let returned = Occurrence::returned(device(), Some(pod()), None, &[]);
        assert_eq!(on(&returned, node), [("DeviceBroughtHome", Normal, true)]);
        let name = InterfaceName::try_from("nd7").unwrap();
        let renamed = Occurrence::returned(device(), Some(pod()), Some(name), &[]);
        assert_eq!(on(&renamed, None), [("DeviceRenamed", Warning, true)]);
        let file = "/run/netdevice/quarantine/eth2.json".to_owned();
        let quarantined = Occurrence::RecordQuarantined { device: device(), file, reason: "invalid JSON".into() };
        assert_eq!(on(&quarantined, node), [("DeviceRecordQuarantined", Warning, false)]);
        assert_eq!(on(&refused("no such device"), node), [("InjectionRefused", Warning, true)]);
        let late = Occurrence::ClaimAttachedLate { device: device(), pod: pod(), claim: "claim default/fast".into() };
        assert_eq!(on(&late, node), [("ClaimAttachedLate", Warning, true)]);
        let not = Occurrence::ClaimNotAttached { pod: pod(), reason: "no such device".into() };
        assert_eq!(on(&not, node), [("ClaimNotAttached", Warning, true)]);
    }

    #[test]
    fn the_reference_has_every_reason() {
        let reference = include_str!("../../../../docs/reference.md");
        let name = InterfaceName::try_from("nd7").unwrap();
        let occurrences = [
            Occurrence::Lost { device: device(), pod: None },
            Occurrence::Returned { device: device(), pod: None, left_out: String::new() },
            Occurrence::Renamed { device: device(), pod: None, name },
            Occurrence::RecordQuarantined { device: device(), file: String::new(), reason: String::new() },
            refused(""),
            Occurrence::ClaimNotAttached { pod: pod(), reason: String::new() },
            Occurrence::ClaimAttachedLate { device: device(), pod: pod(), claim: String::new() },
            Occurrence::ClaimStatusNotWritten { pod: pod(), claim: String::new(), reason: String::new() },
        ];
        for (reason, _, severity) in occurrences.iter().map(Occurrence::kind) {
            let row = format!("| `{reason}` | {severity:?} |");
            assert!(reference.contains(&row), "docs/reference.md has no {row}");
        }
    }

    #[test]
    fn a_note_names_the_device_and_the_pod() {
        let name = InterfaceName::try_from("nd7").unwrap();
        let renamed = Occurrence::Renamed { device: device(), pod: Some(pod()), name };
        let expected =
            "network device eth2 of pod default/web returned to the node as nd7 because another interface has its name";
        assert_eq!(renamed.reports(None)[0].note, expected);
    }

    #[test]
    fn a_note_is_one_line_that_the_api_server_takes() {
        let note = |text: &str| refused(text).reports(None).remove(0).note;
        assert_eq!(note("two\nlines\tand a tab"), "two lines and a tab");
        let long = note(&"ä".repeat(5000));
        assert!(long.len() <= 1000 && long.ends_with("ä…"), "{} bytes", long.len());
    }
}
