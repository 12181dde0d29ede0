//! The text of a record's and of a reservation's file, in each version.

use serde::{Deserialize, Serialize};

use crate::{
    acquisition::{Acquired, Created, HomePlace, Moved, Recorded},
    configuration::SandboxConfiguration,
    id::DeviceId,
    json,
    owner::{HolderV1, Owner},
    record::{Attachment, Phase, Process, Reservation, SandboxPlace},
    resource::ResourceName,
    state::LinkState,
};

/// Newest version of the form of records and reservations. A newer one is not read: it may mean something that we would get
/// wrong.
pub const RECORD_VERSION: u32 = CREATED_VERSION;
/// The version of records of devices that were created. A program that does not know them would look for the device on the
/// host.
const CREATED_VERSION: u32 = 3;
/// The version of records that name an owner of any kind, of a device that was moved. Reservations have it, too.
const OWNER_VERSION: u32 = 2;
/// The version of records that name a holder in place of an owner. What such a program can follow is written so that it can:
/// after an update that was taken back, it brings the devices to the host.
const HOLDER_VERSION: u32 = 1;

/// Longest record in bytes: 10,000 routes have room.
pub const MAX_RECORD: usize = 8 << 20;

/// A record's text. Of version 1 `holder` is there, of version 2 `owner`; of version 3 there may be `created` in place of `host`.
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
    host: Option<LinkState>,
    created: Option<Created>,
    since: u64,
}

/// The same as it is written.
#[derive(Serialize)]
struct Text<'a> {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<HolderV1>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a Owner>,
    device: &'a DeviceId,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<&'a ResourceName>,
    phase: Phase,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<Process>,
    sandbox: &'a SandboxPlace,
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration: Option<&'a SandboxConfiguration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    home: Option<&'a HomePlace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantined: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a LinkState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<&'a Created>,
    since: u64,
}

/// A reservation's text.
#[derive(Serialize, Deserialize)]
struct ReservationText {
    version: u32,
    device: DeviceId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource: Option<ResourceName>,
    owner: Owner,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    configuration: Option<SandboxConfiguration>,
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
    /// It says neither what the device was on the host nor what was created.
    #[error("the record says neither how to return the device nor what was created")]
    NoInverse,
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
        let acquired = match (form.host, form.created) {
            (Some(host), None) => Acquired::from(Moved { host, home: form.home }),
            (None, Some(created)) => created.into(),
            _ => return Err(RecordError::NoInverse),
        };
        Ok(Self {
            device: form.device,
            resource: form.resource,
            owner,
            configuration: form.configuration,
            since: form.since,
            phase: form.phase,
            process: form.process,
            sandbox: form.sandbox,
            acquired,
            quarantined: form.quarantined,
        })
    }
}

impl<A: Recorded> Attachment<A> {
    /// The text of a record's file, in the form of the lowest version whose programs can end the attachment.
    pub fn to_json(&self) -> Vec<u8> {
        let holder = HolderV1::of(&self.owner);
        let version = match (&holder, self.created()) {
            (_, Some(_)) => CREATED_VERSION,
            (None, None) => OWNER_VERSION,
            (Some(_), None) => HOLDER_VERSION,
        };
        to_text(&Text {
            version,
            owner: holder.is_none().then_some(&self.owner),
            holder,
            device: &self.device,
            resource: self.resource.as_ref(),
            phase: self.phase,
            process: self.process,
            sandbox: &self.sandbox,
            configuration: self.configuration.as_ref(),
            home: self.acquired.home(),
            quarantined: self.quarantined.as_deref(),
            host: self.host(),
            created: self.created(),
            since: self.since,
        })
    }
}

impl Reservation {
    /// Reads the text of a reservation's file.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being followed; the version is looked at before the rest.
    pub fn from_json(device: &DeviceId, text: &[u8]) -> Result<Self, RecordError> {
        let ReservationText { device: of, resource, owner, configuration, since, .. } =
            read_versioned(text, |read: &ReservationText| read.version)?;
        if of != *device {
            return Err(RecordError::OtherDevice(of));
        }
        Ok(Self { device: of, resource, owner, configuration, since })
    }

    /// The text of a reservation's file.
    pub fn to_json(&self) -> Vec<u8> {
        let Self { device, resource, owner, configuration, since } = self.clone();
        to_text(&ReservationText { version: OWNER_VERSION, device, resource, owner, configuration, since })
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::{
        acquisition::{ChildKind, MacvlanMode},
        fixture,
        owner::Request,
    };

    #[test]
    fn only_a_newer_version_is_not_the_last_word() {
        let device: DeviceId = "eth0".parse().unwrap();
        for (text, is_final) in [
            ("", true),
            ("{", true),
            ("{}", true),
            ("{\"version\":1}", true),
            ("{\"version\":4}", false),
            ("{\"version\":4294967295,\"a\":[]}", false),
            ("{\"version\":4294967296}", true),
            ("{\"version\":4", true),
        ] {
            assert_eq!(Attachment::from_json(&device, text.as_bytes()).unwrap_err().is_final(), is_final, "{text}");
        }
    }

    #[test]
    fn a_record_has_the_lowest_version_whose_programs_can_end_the_attachment() {
        let version = |record: &Attachment| {
            let text: serde_json::Value = serde_json::from_slice(&record.to_json()).unwrap();
            (text["version"].as_u64().unwrap(), text.get("host").is_some(), text.get("created").is_some())
        };
        let moved = fixture::record("eth0");
        assert_eq!(version(&moved), (1, true, false));
        let owner = Owner::Sandbox { id: "s".into(), pod: None, by: Request::Command };
        assert_eq!(version(&Attachment { owner, ..moved.clone() }), (2, true, false));
        let kind = ChildKind::Macvlan { mode: MacvlanMode::Bridge };
        let creation = Created { parent: "eth0".try_into().unwrap(), parent_index: 2, kind };
        let device = DeviceId::child_of(&creation.parent, NonZeroU16::MIN);
        let created = Attachment { acquired: creation.into(), device, ..moved };
        assert_eq!(version(&created), (3, false, true));
        assert_eq!(Attachment::from_json(&created.device, &created.to_json()).unwrap(), created);
        // neither a way back nor a link to delete
        let text = String::from_utf8(created.to_json()).unwrap().replace("\"created\"", "\"other\"");
        let error = Attachment::from_json(&created.device, text.as_bytes()).unwrap_err();
        assert!(matches!(error, RecordError::NoInverse) && error.is_final());
    }
}
