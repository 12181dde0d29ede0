//! The record of an attachment, and all records together: the ledger. A reservation is the right to a device that has not
//! moved yet.
//!
//! A record is on disk before the first change to a device and is removed when the device is back on the host, complete.
//! What it says of the host is what is restored; nothing that a container does inside changes it.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    configuration::SandboxConfiguration,
    encoded_name,
    id::DeviceId,
    json,
    name::InterfaceName,
    owner::{HolderV1, Owner},
    resource::ResourceName,
    state::LinkState,
};

/// Newest version of the form of records and reservations. A newer one is not read: it may mean something that we would get
/// wrong.
pub const RECORD_VERSION: u32 = 2;
/// The version of records that name a holder in place of an owner. What such a program can follow is written so that it can:
/// after an update that was taken back, it brings the devices to the host.
const HOLDER_VERSION: u32 = 1;

/// Longest record in bytes: 10,000 routes have room.
pub const MAX_RECORD: usize = 8 << 20;

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
    /// Name of the device inside when it was attached, [encoded](encoded_name); a container may rename it.
    #[serde(with = "encoded_name::json")]
    pub name: InterfaceName,
    /// `ifi_index` inside, chosen before the move; a container cannot change it.
    pub ifindex: u32,
}

/// What a device is to be on the host, decided and written down before it moves home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomePlace {
    /// Its old name, or `nd<ifindex>` where that is taken; [encoded](encoded_name).
    #[serde(with = "encoded_name::json")]
    pub name: InterfaceName,
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

/// The right to a device that is not in a sandbox yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The device.
    pub device: DeviceId,
    /// The resource that the device was handed out as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceName>,
    /// Who has the right to it.
    pub owner: Owner,
    /// How it is to be in the sandbox; none where it goes as it is on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<SandboxConfiguration>,
    /// When it began: seconds since 1970.
    pub since: u64,
}

/// One attachment: a reservation that has a place. [`Attachment::to_json`] makes a record's text of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attachment {
    /// The device; its id stays, whatever is renamed.
    pub device: DeviceId,
    /// The resource that the device was handed out as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceName>,
    /// How far it is.
    pub phase: Phase,
    /// Who has it.
    #[serde(skip)]
    pub owner: Owner,
    /// First process of the owner's container. When it has ended, the device is due on the host, whether a hook comes or not.
    /// None of a sandbox: there its namespace's end counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Where it is.
    pub sandbox: SandboxPlace,
    /// How it was asked to be there; none where it goes as it is on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration: Option<SandboxConfiguration>,
    /// Where it is going, once it is on its way to the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<HomePlace>,
    /// Why the device was quarantined though its record can be followed: what is on it that cannot be removed. Ignored in a
    /// record that somebody put back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<String>,
    /// What it was on the host, and shall be again.
    pub host: LinkState,
    /// When the attachment began: seconds since 1970.
    pub since: u64,
}

/// A record's text as it is read. Of version 1 `holder` is there, of version 2 `owner`.
#[derive(Deserialize)]
struct Form {
    version: u32,
    device: DeviceId,
    resource: Option<ResourceName>,
    phase: Phase,
    holder: Option<HolderV1>,
    owner: Option<Owner>,
    process: Option<Process>,
    sandbox: SandboxPlace,
    configuration: Option<SandboxConfiguration>,
    home: Option<HomePlace>,
    quarantined: Option<String>,
    host: LinkState,
    since: u64,
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
    /// Neither in the form of version 1 nor of version 2.
    #[error("the record says neither owner nor holder")]
    NoOwner,
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

impl Attachment {
    /// Reads the text of a record's file.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being followed; the version is looked at before the rest.
    pub fn from_json(device: &DeviceId, text: &[u8]) -> Result<Self, RecordError> {
        let form: Form = read_versioned(text, |form: &Form| form.version)?;
        if form.device != *device {
            return Err(RecordError::OtherDevice(form.device));
        }
        let owner = form.owner.or(form.holder.map(Owner::from)).ok_or(RecordError::NoOwner)?;
        Ok(Self {
            device: form.device,
            resource: form.resource,
            owner,
            configuration: form.configuration,
            since: form.since,
            phase: form.phase,
            process: form.process,
            sandbox: form.sandbox,
            host: form.host,
            home: form.home,
            quarantined: form.quarantined,
        })
    }

    /// The text of a record's file: in the form of version 1 where a program of that version can follow it.
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Text<'a> {
            version: u32,
            #[serde(skip_serializing_if = "Option::is_none")]
            holder: Option<HolderV1>,
            #[serde(skip_serializing_if = "Option::is_none")]
            owner: Option<&'a Owner>,
            #[serde(flatten)]
            attachment: &'a Attachment,
        }
        let holder = HolderV1::of(&self.owner);
        let version = if holder.is_some() { HOLDER_VERSION } else { RECORD_VERSION };
        let owner = holder.is_none().then_some(&self.owner);
        to_text(&Text { version, holder, owner, attachment: self })
    }
}

/// A reservation's text.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    reservation: T,
}

impl Reservation {
    /// Reads the text of a reservation's file.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being followed; the version is looked at before the rest.
    pub fn from_json(device: &DeviceId, text: &[u8]) -> Result<Self, RecordError> {
        let read: Versioned<Self> = read_versioned(text, |read: &Versioned<Self>| read.version)?;
        let reservation = read.reservation;
        if reservation.device == *device { Ok(reservation) } else { Err(RecordError::OtherDevice(reservation.device)) }
    }

    /// The text of a reservation's file.
    pub fn to_json(&self) -> Vec<u8> {
        to_text(&Versioned { version: RECORD_VERSION, reservation: self })
    }
}

fn read_versioned<T: for<'de> Deserialize<'de>>(text: &[u8], version_of: fn(&T) -> u32) -> Result<T, RecordError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    if text.len() > MAX_RECORD {
        return Err(RecordError::TooLarge(text.len()));
    }
    let read: Result<T, _> = serde_json::from_slice(text);
    let version = match &read {
        Ok(read) => version_of(read),
        // a newer one may have another form
        Err(_) => serde_json::from_slice(text).map_or(0, |Version { version }| version),
    };
    if version > RECORD_VERSION { Err(RecordError::Newer(version)) } else { Ok(read?) }
}

fn to_text(form: &impl Serialize) -> Vec<u8> {
    // most have room
    json::to_text(form, 8 << 10).expect("a record has only text keys")
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
pub type Ledger = BTreeMap<DeviceId, Arc<Attachment>>;

/// All reservations, by device.
pub type Reservations = BTreeMap<DeviceId, Reservation>;

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
            ("{\"version\":3}", false),
            ("{\"version\":4294967295,\"a\":[]}", false),
            ("{\"version\":4294967296}", true),
            ("{\"version\":3", true),
        ] {
            assert_eq!(Attachment::from_json(&device, text.as_bytes()).unwrap_err().is_final(), is_final, "{text}");
        }
    }
}
