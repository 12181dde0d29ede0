//! The record of an attachment, and all records together: the ledger. A reservation is the right to a device that is not
//! attached yet.
//!
//! A record is on disk before the first change to a device. It is removed after the device is on the host again, complete.
//! Its host state is what is restored; nothing that a container does changes it.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    acquisition::{Acquired, Acquisition, Created, Moved, Recorded},
    configuration::SandboxConfiguration,
    encoded_name,
    exclusion::UplinkParents,
    id::DeviceId,
    name::InterfaceName,
    owner::Owner,
    resource::ResourceName,
    state::LinkState,
};

/// A process, identified uniquely: pids are reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid, as the hook saw it.
    pub pid: i32,
    /// When it started, in clock ticks since boot (`/proc/<pid>/stat`, field 22).
    pub start_time: u64,
}

/// The pid and mount namespace of a program, by inode: they decide which processes and mounts it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Viewpoint {
    /// Inode of `/proc/thread-self/ns/pid`.
    pub pid_namespace: u64,
    /// Inode of `/proc/thread-self/ns/mnt`.
    pub mount_namespace: u64,
}

/// The namespace that the device is attached to, and the device in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxPlace {
    /// `SO_NETNS_COOKIE`: never reused, so it alone identifies the namespace.
    pub cookie: u64,
    /// Inode of the namespace, used to find it. Inodes are reused.
    pub inode: u64,
    /// Id of the namespace in the host's (`RTM_NEWNSID`). If no namespace has that id, this one has ended; then another one
    /// may get the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nsid: Option<i32>,
    /// The namespaces of the program that attached the device. A program in others that does not find the namespace cannot
    /// conclude that it ended.
    pub seen_from: Viewpoint,
    /// Where the namespace was seen: `/proc/<pid>/ns/net`, `/run/netns/<name>`.
    pub paths: Vec<String>,
    /// Name of the device inside when it was attached, [encoded](encoded_name); a container may rename it.
    #[serde(with = "encoded_name::json")]
    pub name: InterfaceName,
    /// `ifi_index` inside, chosen before the move; a container cannot change it.
    pub ifindex: u32,
}

/// The phase of an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Started: the device may be on the host or in the sandbox, partly configured.
    Attaching,
    /// In the sandbox, complete.
    Attached,
    /// Being returned to the host.
    Detaching,
}

/// The right to a device that is not attached yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The device.
    pub device: DeviceId,
    /// The resource that the device was allocated as.
    pub resource: Option<ResourceName>,
    /// Who has the right to it.
    pub owner: Owner,
    /// How it comes into the sandbox.
    pub acquisition: Acquisition,
    /// Of a device that a claim has created: whether its pool allows the node's own links as parents.
    pub uplink_parents: UplinkParents,
    /// Its configuration in the sandbox. None: as on the host.
    pub configuration: Option<SandboxConfiguration>,
    /// Whether it is a claim's that was made for one Pod. False: another Pod may share the claim, or it is not known.
    pub is_of_one_pod: bool,
    /// When it was made: seconds since 1970.
    pub since: u64,
}

/// One attachment: a reservation that has a place.
///
/// `A` says how the device came there. A function that takes an `Attachment<Moved>` is never given a device that was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment<A = Acquired> {
    /// The device. Its id does not change when the interface is renamed.
    pub device: DeviceId,
    /// The resource that the device was allocated as.
    pub resource: Option<ResourceName>,
    /// Its phase.
    pub phase: Phase,
    /// Who has it.
    pub owner: Owner,
    /// First process of the owner's container. When it has exited, the device is due on the host, whether a hook is started or
    /// not. None of a sandbox: there its namespace's end counts.
    pub process: Option<Process>,
    /// Where it is.
    pub sandbox: SandboxPlace,
    /// The configuration that was requested. None: as on the host.
    pub configuration: Option<SandboxConfiguration>,
    /// How it came there, and so how the attachment ends.
    pub acquired: A,
    /// Why the device is in quarantine although its record is valid: what is on it that cannot be removed. Ignored in a
    /// record that an administrator put back.
    pub quarantined: Option<String>,
    /// When the attachment started: seconds since 1970.
    pub since: u64,
}

impl Attachment {
    /// As [`Attachment::host`], to be changed.
    pub fn host_mut(&mut self) -> Option<&mut LinkState> {
        match &mut self.acquired {
            Acquired::Moved(moved) => Some(&mut moved.host),
            Acquired::Created(_) => None,
        }
    }

    /// The same with its kind in the type.
    ///
    /// # Errors
    ///
    /// That of a device that was created.
    #[allow(clippy::result_large_err)] // neither is an error
    pub fn into_moved(self) -> Result<Attachment<Moved>, Attachment<Created>> {
        let (acquired, rest) = self.replace(());
        match acquired {
            Acquired::Moved(moved) => Ok(rest.replace(moved).1),
            Acquired::Created(created) => Err(rest.replace(created).1),
        }
    }
}

impl<A> Attachment<A> {
    fn replace<B>(self, acquired: B) -> (A, Attachment<B>) {
        let rest = Attachment {
            device: self.device,
            resource: self.resource,
            phase: self.phase,
            owner: self.owner,
            process: self.process,
            sandbox: self.sandbox,
            configuration: self.configuration,
            acquired,
            quarantined: self.quarantined,
            since: self.since,
        };
        (self.acquired, rest)
    }
}

impl<A: Recorded> Attachment<A> {
    /// What the device was on the host; none if it was created.
    pub fn host(&self) -> Option<&LinkState> {
        self.acquired.host()
    }

    /// What was created; none if the device was moved.
    pub fn created(&self) -> Option<&Created> {
        self.acquired.created()
    }

    /// Whether the device is destroyed with the sandbox's namespace although it has to be returned.
    pub fn needs_namespace(&self) -> bool {
        self.host().is_some_and(|host| host.hardware.is_none())
    }
}

/// The directory of records that cannot be used: `quarantine/<id>.<n>.json`, counted from 1.
pub const QUARANTINE: &str = "quarantine";

/// Name of the `number`-th record of a device in quarantine.
pub fn quarantined_name(device: &DeviceId, number: u32) -> String {
    format!("{device}.{number}.json")
}

/// The device of a record in quarantine. A device id may contain dots.
pub fn quarantined_device(file_name: &str) -> Option<DeviceId> {
    let (device, number) = file_name.strip_suffix(".json")?.rsplit_once('.')?;
    number.parse::<u32>().ok()?;
    device.parse().ok()
}

/// All records, by device. Ledgers share records, so that a copy with one change is cheap to make and to compare.
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
}
