//! The record of an attachment, and all records together: the ledger.
//!
//! A record is on disk before the first change to a device and goes when the device is home, complete. What it says
//! of the host is what we restore; nothing that a container does inside changes it.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{configuration::SandboxConfiguration, id::DeviceId, json, resource::ResourceName, state::LinkState};

/// Version of the record's form. A newer one is not read: it may mean something that we would get wrong.
pub const RECORD_VERSION: u32 = 1;

/// Longest record in bytes: 10,000 routes have room.
pub const MAX_RECORD: usize = 8 << 20;

/// The Pod that a sandbox belongs to, as the runtime names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID: the same name may come again as another Pod.
    pub uid: String,
}

/// Who has the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Container whose start attached the device, and whose end detaches it. The sandbox's own id where the device is the
    /// sandbox's.
    pub container: String,
    /// Id of the Pod's sandbox; none without Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// The Pod; none without Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
}

impl Holder {
    /// Whether the sandbox itself has the device, from before its first container to after its last one.
    pub fn is_sandbox(&self) -> bool {
        self.sandbox.as_ref() == Some(&self.container)
    }

    /// Whether the device is in the sandbox with that id, for itself or for one of its containers.
    pub fn is_in_sandbox(&self, sandbox: &str) -> bool {
        self.container == sandbox || self.sandbox.as_deref() == Some(sandbox)
    }

    /// Whether both are of one Pod, so that one may take over from the other.
    pub fn is_same_pod(&self, other: &Self) -> bool {
        match (&self.pod, &other.pod) {
            (Some(pod), Some(other)) => {
                pod.uid == other.uid && pod.namespace == other.namespace && pod.name == other.name
            }
            _ => self.container == other.container,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |id: &str| id.chars().take(13).collect::<String>();
        match (&self.pod, &self.sandbox) {
            (Some(pod), Some(sandbox)) => {
                write!(out, "pod {}/{} (sandbox {})", pod.namespace, pod.name, short(sandbox))
            }
            (Some(pod), None) => write!(out, "pod {}/{}", pod.namespace, pod.name),
            (None, _) => write!(out, "container {}", short(&self.container)),
        }
    }
}

/// A process that no other can be taken for: pids are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid, as the hook saw it.
    pub pid: i32,
    /// When it started, in clock ticks since boot (`/proc/<pid>/stat`, field 22).
    pub start_time: u64,
}

/// From where an actor sees the processes and mounts that keep a namespace alive: inodes of its own namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Viewpoint {
    /// Inode of `/proc/self/ns/pid`.
    pub pid_namespace: u64,
    /// Inode of `/proc/self/ns/mnt`.
    pub mount_namespace: u64,
}

/// The namespace that the device went to, and what it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxPlace {
    /// `SO_NETNS_COOKIE`: never used again, so this alone decides whether a namespace is the one.
    pub cookie: u64,
    /// Inode of the namespace, to look for it; reused after its end.
    pub inode: u64,
    /// Id of the namespace in the host's (`RTM_NEWNSID`). No namespace with that id means that this one ended; another
    /// one may get the id after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nsid: Option<i32>,
    /// From where the namespace was seen. Who looks from elsewhere and does not find it cannot say that it ended.
    pub seen_from: Viewpoint,
    /// Where the namespace was seen: `/proc/<pid>/ns/net`, `/run/netns/<name>`.
    pub paths: Vec<String>,
    /// Name of the device inside when it was attached; a container may rename it.
    pub name: DeviceId,
    /// `ifi_index` inside, chosen before the move; a container cannot change it.
    pub ifindex: u32,
}

/// What a device is to be on the host, decided and written down before it moves home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomePlace {
    /// Its old name, or `nd<ifindex>` where that is taken.
    pub name: DeviceId,
    /// Its old index, or another one where that is taken.
    pub ifindex: u32,
}

/// How far an attachment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Begun: the device may be on the host or in the sandbox, in part.
    Attaching,
    /// In the sandbox, complete.
    Attached,
    /// On its way home.
    Detaching,
}

/// One attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// The device; its id stays, whatever is renamed.
    pub device: DeviceId,
    /// The resource that the device was handed out as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceName>,
    /// How far the attachment is.
    pub phase: Phase,
    /// Who has it.
    pub holder: Holder,
    /// First process of the holder's container. When it has ended, the device is due home, whether a hook comes or not.
    /// None of a sandbox: there its namespace's end counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Where it is.
    pub sandbox: SandboxPlace,
    /// How the Pod asked for it to be there; none where it goes as it is on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<SandboxConfiguration>,
    /// Where it is going, once it is on its way home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<HomePlace>,
    /// Why the device was quarantined though its record can be followed: what is on it that cannot be taken off. Ignored
    /// in a record that somebody put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<String>,
    /// What it was on the host, and shall be again.
    pub host: LinkState,
    /// When the attachment began: seconds since 1970.
    pub since: u64,
}

/// Why a text is no record that we can follow.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON, or not of a record's form.
    #[error("the record cannot be read: {0}")]
    Form(#[from] serde_json::Error),
    /// Written by a later version of this program.
    #[error("the record has version {0}: this program reads up to {RECORD_VERSION}, a newer netdevice wrote it")]
    Newer(u32),
    /// Its file is named after another device.
    #[error("the record is of device {0}")]
    OtherDevice(DeviceId),
    /// Larger than any record that we write.
    #[error("the record has {0} bytes: more than {MAX_RECORD} are not read")]
    TooLarge(usize),
}

impl RecordError {
    /// Whether nobody will ever follow the record, so that it may be put aside. A newer program follows its own.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Newer(_))
    }
}

impl Record {
    /// Reads the text of a record's file.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being followed; the version is looked at before the rest.
    pub fn from_json(device: &DeviceId, text: &[u8]) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        if text.len() > MAX_RECORD {
            return Err(RecordError::TooLarge(text.len()));
        }
        let read: Result<Self, _> = serde_json::from_slice(text);
        let version = match &read {
            Ok(record) => record.version,
            // a newer one may have another form
            Err(_) => serde_json::from_slice(text).map_or(0, |Version { version }| version),
        };
        if version > RECORD_VERSION {
            return Err(RecordError::Newer(version));
        }
        let record = read?;
        if record.device == *device { Ok(record) } else { Err(RecordError::OtherDevice(record.device)) }
    }

    /// The text of a record's file.
    pub fn to_json(&self) -> Vec<u8> {
        // most have room
        json::to_text(self, 8 << 10).expect("a record has only text keys")
    }
}

/// What turns the text of a record that is [`Phase::Attaching`] into one that is [`Phase::Attached`]: where it goes, and
/// some bytes that take the place of as many others.
pub fn attached_in_place(text: &[u8]) -> Option<(u64, &'static [u8])> {
    const MEMBER: &[u8] = br#""phase":"attaching""#;
    const SAME: &[u8] = br#""phase":"attach"#;
    // before it there are ids, which have no quotes
    let at = text.windows(MEMBER.len()).position(|window| window == MEMBER)?;
    Some((u64::try_from(at + SAME.len()).ok()?, br#"ed" "#))
}

/// Where a record is put that cannot be followed: `quarantine/<id>.<n>.json`, counted from 1.
pub const QUARANTINE: &str = "quarantine";

/// Name of the `number`-th file in quarantine that was the record of a device.
pub fn quarantined_name(device: &DeviceId, number: u32) -> String {
    format!("{device}.{number}.json")
}

/// The device whose record a file in quarantine was. A device id may have dots, and ends no number.
pub fn quarantined_device(file_name: &str) -> Option<DeviceId> {
    let (device, number) = file_name.strip_suffix(".json")?.rsplit_once('.')?;
    number.parse::<u32>().ok()?;
    device.parse().ok()
}

/// All records, by device. They are shared: a ledger that differs in one record from another is cheap to make and to compare.
pub type Ledger = BTreeMap<DeviceId, Arc<Record>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_quarantine_tells_whose_record_it_was() {
        for (device, number) in [("eth0", 1), ("eth0.100", 12), ("x:a:5f", 3), ("0", u32::MAX)] {
            let device: DeviceId = device.parse().unwrap();
            assert_eq!(quarantined_device(&quarantined_name(&device, number)), Some(device));
        }
        for name in ["eth0.json", "eth0.1", "eth0..json", "eth0.-1.json", ".1.json", "a/b.1.json", "hook.log", ""] {
            assert_eq!(quarantined_device(name), None, "{name}");
        }
    }

    #[test]
    fn only_a_newer_version_is_not_the_last_word() {
        let device: DeviceId = "eth0".parse().unwrap();
        for (text, is_final) in [
            ("", true),
            ("{", true),
            ("{}", true),
            ("{\"version\":1}", true),
            ("{\"version\":2}", false),
            ("{\"version\":4294967295,\"a\":[]}", false),
            ("{\"version\":4294967296}", true),
            ("{\"version\":2", true),
        ] {
            assert_eq!(Record::from_json(&device, text.as_bytes()).unwrap_err().is_final(), is_final, "{text}");
        }
    }
}
