//! The text of a record's and of a reservation's file, in each version.

use serde::{Deserialize, Serialize};

use crate::{
    acquisition::{Acquired, Acquisition, ChildKind, Created, HomePlace, Moved, Recorded},
    configuration::SandboxConfiguration,
    exclusion::UplinkParents,
    id::DeviceId,
    json,
    owner::{HolderV1, Owner},
    record::{Attachment, Phase, Process, Reservation, SandboxPlace},
    resource::ResourceName,
    state::LinkState,
};

/// Newest version of records and reservations. A newer one is not read: its fields may have another meaning.
pub const RECORD_VERSION: u32 = CREATED_VERSION;
/// The version of records of created devices. A program that does not know it would look for the device on the host.
const CREATED_VERSION: u32 = 3;
/// The version of records of moved devices with an owner of any kind, and of reservations.
const OWNER_VERSION: u32 = 2;
/// The version of records with a holder instead of an owner. Records that a program of that version can use are written in
/// it: after a rollback, that program returns the devices to the host.
const HOLDER_VERSION: u32 = 1;

/// Longest record in bytes: enough for 10,000 routes.
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
    /// What is to be created. None: the device moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    create: Option<ChildKind>,
    #[serde(default, rename = "uplinkParent", skip_serializing_if = "std::ops::Not::not")]
    is_uplink_parent_allowed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    configuration: Option<SandboxConfiguration>,
    #[serde(default, rename = "ofOnePod", skip_serializing_if = "std::ops::Not::not")]
    is_of_one_pod: bool,
    since: u64,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON, or not a record.
    #[error("invalid record: {0}")]
    Form(serde_json::Error),
    /// Written by a later version of this program.
    #[error(
        "the record has version {0}, written by a newer netdevice: this program reads versions up to {RECORD_VERSION}"
    )]
    Newer(u32),
    /// Neither version 1 nor a later version.
    #[error("the record has neither owner nor holder")]
    NoOwner,
    /// Neither the host state of a moved device nor a created device.
    #[error("the record has neither the host state of the device nor what was created")]
    NoInverse,
    /// Its file has the name of another device.
    #[error("the record belongs to device {0}")]
    OtherDevice(DeviceId),
    /// Longer than any record that we write.
    #[error("the record is too long: {0} bytes, the limit is {MAX_RECORD}")]
    TooLarge(usize),
}

impl From<serde_json::Error> for RecordError {
    fn from(error: serde_json::Error) -> Self {
        Self::Form(error)
    }
}

impl RecordError {
    /// Whether no program can use the record, so that it goes to quarantine. A newer program can use its own.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Newer(_))
    }
}

impl Attachment {
    /// Reads the text of a record's file.
    ///
    /// # Errors
    ///
    /// The first reason why it cannot be used; the version is checked before the rest.
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
    /// The text of a record's file, in the lowest version whose programs can end the attachment.
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
    /// The first reason why it cannot be used; the version is checked before the rest.
    pub fn from_json(device: &DeviceId, text: &[u8]) -> Result<Self, RecordError> {
        let read: ReservationText = read_versioned(text, |read: &ReservationText| read.version)?;
        if read.device != *device {
            return Err(RecordError::OtherDevice(read.device));
        }
        Ok(Self {
            device: read.device,
            resource: read.resource,
            owner: read.owner,
            acquisition: read.create.map_or(Acquisition::Move, Acquisition::Create),
            uplink_parents: UplinkParents::allowed_if(read.is_uplink_parent_allowed),
            configuration: read.configuration,
            is_of_one_pod: read.is_of_one_pod,
            since: read.since,
        })
    }

    /// The text of a reservation's file.
    pub fn to_json(&self) -> Vec<u8> {
        let Self { device, resource, owner, acquisition, uplink_parents, configuration, is_of_one_pod, since } =
            self.clone();
        to_text(&ReservationText {
            version: OWNER_VERSION,
            device,
            resource,
            owner,
            create: acquisition.created(),
            is_uplink_parent_allowed: uplink_parents == UplinkParents::Allowed,
            configuration,
            is_of_one_pod,
            since,
        })
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
        // a newer one may have other fields
        Err(_) => serde_json::from_slice(text).map_or(0, |Version { version }| version),
    };
    if version > RECORD_VERSION { Err(RecordError::Newer(version)) } else { Ok(read?) }
}

fn to_text(form: &impl Serialize) -> Vec<u8> {
    // enough for most
    json::to_text(form, 8 << 10).expect("a record has only text keys")
}

/// The change that makes the text of a record in [`Phase::Attaching`] one in [`Phase::Attached`]: the offset, and the bytes
/// that replace as many others.
pub fn attached_in_place(text: &[u8]) -> Option<(u64, &'static [u8])> {
    const MEMBER: &[u8] = br#""phase":"attaching""#;
    const SAME: &[u8] = br#""phase":"attach"#;
    // only ids are before it, and they have no quotes
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
    fn a_reservation_says_what_it_allows_and_an_older_one_allows_nothing() {
        let device: DeviceId = "eth0".parse().unwrap();
        let older = Reservation {
            device: device.clone(),
            resource: None,
            owner: Owner::Kubelet,
            acquisition: Acquisition::Move,
            uplink_parents: UplinkParents::Refused,
            configuration: None,
            is_of_one_pod: false,
            since: 1,
        };
        let newer = Reservation { is_of_one_pod: true, uplink_parents: UplinkParents::Allowed, ..older.clone() };
        for (reservation, is_written) in [(older, false), (newer, true)] {
            let text = String::from_utf8(reservation.to_json()).unwrap();
            assert_eq!(text.contains("\"ofOnePod\":true"), is_written, "{text}");
            assert_eq!(text.contains("\"uplinkParent\":true"), is_written, "{text}");
            assert_eq!(Reservation::from_json(&device, text.as_bytes()).unwrap(), reservation);
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
