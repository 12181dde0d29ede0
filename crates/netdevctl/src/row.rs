//! The rows of `netdevctl ls`: one for each device.

use std::{collections::BTreeMap, fmt, path::Path};

use netdevice::{
    Acquisition, Attachment, Device, DeviceId, DeviceState, Form, Link, Owner, Phase, Pod, View,
    acquisition::ChildKind, children::Children, record::Reservations, selector::PHYSICAL,
};
use serde::Serialize;
use store::{RecordDirectory, Unreadable};

use crate::way::Way;

/// Where a device is, or why it is not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RowState {
    Offered,
    Reserved,
    Unhealthy,
    Attaching,
    Attached,
    Detaching,
    Orphaned,
    Unreadable,
    Quarantined,
    Excluded,
    Unselected,
    Parent,
    Renamed,
    Gone,
}

impl RowState {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 14] = [
        Self::Offered,
        Self::Reserved,
        Self::Unhealthy,
        Self::Attaching,
        Self::Attached,
        Self::Detaching,
        Self::Orphaned,
        Self::Unreadable,
        Self::Quarantined,
        Self::Excluded,
        Self::Unselected,
        Self::Parent,
        Self::Renamed,
        Self::Gone,
    ];
}

impl fmt::Display for RowState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Offered => "offered",
            Self::Reserved => "reserved",
            Self::Unhealthy => "unhealthy",
            Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Detaching => "detaching",
            Self::Orphaned => "orphaned",
            Self::Unreadable => "unreadable",
            Self::Quarantined => "quarantined",
            Self::Excluded => "excluded",
            Self::Unselected => "unselected",
            Self::Parent => "parent",
            Self::Renamed => "renamed",
            Self::Gone => "gone",
        })
    }
}

/// What is shown of a device; JSON and YAML omit what is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) device: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pool: Option<String>,
    pub(crate) state: RowState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) driver: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) numa_node: Option<u32>,
    /// Mb/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) speed: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pci_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    /// Index of the link, on the host or inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Pod>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) container: Option<String>,
    /// Who has reserved the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<String>,
    /// How it was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<Way>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name_inside: Option<String>,
}

/// Which links have a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those that are offered or attached.
    Devices,
    /// All of the host.
    All,
}

/// The rows of a node, by device.
pub(crate) fn rows(
    view: &View,
    unreadable: &[Unreadable],
    scope: Scope,
    is_orphan: impl Fn(&Attachment) -> bool,
) -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    if scope == Scope::All {
        rows.extend(view.snapshot.links().values().map(|link| Row::of_link(link, view)).map(by_device));
    }
    rows.extend(view.devices().values().filter_map(|device| Row::of_device(device, view, &is_orphan)).map(by_device));
    rows.extend(unreadable.iter().map(Row::of_unreadable).map(by_device));
    rows
}

/// Marks the devices on the host that are reserved, whether a pool selects them or not.
pub(crate) fn add_reserved(rows: &mut BTreeMap<String, Row>, view: &View, reservations: &Reservations) {
    for (device, reservation) in reservations.iter().filter(|(device, _)| !view.ledger.contains_key(*device)) {
        let Some(link) = view.snapshot.link_named(&device.to_name()) else { continue };
        let new = || match reservation.acquisition {
            Acquisition::Move => Row::on_host(link, RowState::Reserved),
            Acquisition::Create(kind) => Row::to_create(device, kind, link, RowState::Reserved),
        };
        let row = rows.entry(device.to_string()).or_insert_with(new);
        if matches!(row.state, RowState::Offered | RowState::Unhealthy | RowState::Unselected) {
            row.state = RowState::Reserved;
        }
        let owner = &reservation.owner;
        row.pool = row.pool.take().or_else(|| Some(reservation.resource.as_ref()?.to_string()));
        row.pod = owner.pod().cloned();
        row.owner = Some(if *owner == Owner::Kubelet { "kubelet".into() } else { owner.to_string() });
        row.reason = row.reason.take().or_else(|| Some(format!("it is reserved for {owner}, and not attached yet")));
    }
}

/// Adds or marks the devices that are on the host under another name than their own.
pub(crate) fn add_waiting(rows: &mut BTreeMap<String, Row>, view: &View, waiting: &BTreeMap<DeviceId, DeviceId>) {
    for (present, device) in waiting {
        let Some(link) = view.snapshot.link_named(&present.to_name()) else { continue };
        let row = rows.entry(present.to_string()).or_insert_with(|| Row::on_host(link, RowState::Renamed));
        if row.state == RowState::Unselected {
            row.state = RowState::Renamed;
        }
        row.reason = Some(format!("its own name is {device}: that name was taken when it returned from a pod"));
    }
}

/// What is offered on an interface in place of it.
fn offered_on(parent: &DeviceId, children: Children, view: &View) -> String {
    let in_use = view.ledger.keys().filter(|device| device.parent().as_ref() == Some(parent)).count();
    let (kind, count) = (children.first().name(), children.count());
    format!("devices of kind {kind} are created on it: {in_use} of {count} are in use")
}

fn by_device(row: Row) -> (String, Row) {
    (row.device.clone(), row)
}

impl Row {
    fn new(device: String, state: RowState) -> Self {
        Self {
            device,
            pool: None,
            state,
            reason: None,
            driver: None,
            numa_node: None,
            speed: None,
            pci_address: None,
            kind: None,
            index: None,
            mac: None,
            mtu: None,
            pod: None,
            container: None,
            owner: None,
            by: None,
            name_inside: None,
        }
    }

    fn of_device(device: &Device, view: &View, is_orphan: impl Fn(&Attachment) -> bool) -> Option<Self> {
        let mut row = match &device.state {
            DeviceState::Offered { link, healthy } => {
                let state = if *healthy { RowState::Offered } else { RowState::Unhealthy };
                let link = view.snapshot.link(*link)?;
                match device.form {
                    Form::Link => Self::on_host(link, state),
                    Form::Child(kind) => Self::to_create(&device.id, kind, link, state),
                    Form::Parent(children) => {
                        Self { reason: Some(offered_on(&device.id, children, view)), ..Self::on_host(link, state) }
                    }
                }
            }
            DeviceState::Held(..) => Self::of_record(view.ledger.get(&device.id)?, is_orphan),
        };
        row.pool = Some(device.resource.to_string());
        Some(row)
    }

    fn of_link(link: &Link, view: &View) -> Self {
        let explanation = view.explain(link);
        match explanation.exclusion {
            Some(exclusion) => {
                let mut row = Self::on_host(link, RowState::Excluded);
                row.reason = Some(exclusion.to_string());
                row
            }
            None => match explanation.children {
                Some(children) => Self {
                    pool: explanation.pool.map(|pool| pool.to_string()),
                    reason: Some(offered_on(&DeviceId::from(&link.name), children, view)),
                    ..Self::on_host(link, RowState::Parent)
                },
                None => Self::on_host(link, RowState::Unselected),
            },
        }
    }

    /// A device that does not exist before a Pod gets it.
    fn to_create(device: &DeviceId, kind: ChildKind, parent: &Link, state: RowState) -> Self {
        let parent = Self::on_host(parent, state);
        Self {
            kind: Some(kind.name().into()),
            numa_node: parent.numa_node,
            mtu: parent.mtu,
            ..Self::new(device.to_string(), state)
        }
    }

    fn on_host(link: &Link, state: RowState) -> Self {
        let hardware = link.hardware.as_deref();
        Self {
            driver: hardware.and_then(|hardware| hardware.driver.as_deref().map(Into::into)),
            numa_node: hardware.and_then(|hardware| hardware.numa_node),
            speed: hardware.and_then(|hardware| hardware.speed),
            pci_address: hardware.and_then(|hardware| hardware.pci_address.as_deref().map(Into::into)),
            kind: Some(link.kind.as_deref().unwrap_or(PHYSICAL).into()),
            index: Some(link.index),
            mac: link.mac.as_ref().map(ToString::to_string),
            mtu: Some(link.mtu),
            ..Self::new(DeviceId::from(&link.name).to_string(), state)
        }
    }

    fn of_record(record: &Attachment, is_orphan: impl Fn(&Attachment) -> bool) -> Self {
        let state = match record.phase {
            Phase::Attaching => RowState::Attaching,
            Phase::Detaching => RowState::Detaching,
            Phase::Attached if is_orphan(record) => RowState::Orphaned,
            Phase::Attached => RowState::Attached,
        };
        let host = record.host();
        let hardware = host.and_then(|host| host.hardware.as_ref());
        let kind = match record.created() {
            Some(created) => created.kind.name(),
            None => host.and_then(|host| host.kind.as_deref()).unwrap_or(PHYSICAL),
        };
        let (container, pod) = (record.owner.id().to_owned(), record.owner.pod().cloned());
        Self {
            numa_node: hardware.and_then(|hardware| hardware.numa_node),
            // the device's own directory stays on the host while its interface is away
            driver: hardware.and_then(|hardware| driver_of(Path::new(&hardware.path))),
            kind: Some(kind.into()),
            index: Some(record.sandbox.ifindex),
            mac: host.and_then(|host| host.mac.as_ref()).map(ToString::to_string),
            mtu: host.map(|host| host.mtu),
            pod,
            container: Some(container),
            by: Some(Way::of(&record.owner)),
            name_inside: Some(record.sandbox.name.to_string()),
            ..Self::new(record.device.to_string(), state)
        }
    }

    fn of_unreadable(file: &Unreadable) -> Self {
        let path = file.path.display().to_string();
        let device = file.device.as_ref().map_or_else(|| path.clone(), ToString::to_string);
        let state = match file.place {
            RecordDirectory::Records => RowState::Unreadable,
            RecordDirectory::Quarantine => RowState::Quarantined,
        };
        Self { reason: Some(format!("{path}: {}", file.reason)), ..Self::new(device, state) }
    }

    /// The row of a device that is no longer there.
    pub(crate) fn gone(device: &str) -> Self {
        Self::new(device.to_owned(), RowState::Gone)
    }

    /// `namespace/pod`; the container without Kubernetes; or who has reserved the device.
    pub(crate) fn holder(&self) -> Option<String> {
        let pod = self.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name));
        let container = || self.container.as_ref().map(|id| id.chars().take(13).collect());
        pod.or_else(container).or_else(|| self.owner.clone())
    }
}

fn driver_of(device: &Path) -> Option<String> {
    let target = std::fs::read_link(device.join("driver")).ok()?;
    target.file_name()?.to_str().map(Into::into)
}
