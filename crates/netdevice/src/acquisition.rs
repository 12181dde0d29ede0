//! How a device comes into a sandbox, and so how the attachment ends: what was moved is returned to the host, what was created
//! is deleted.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{encoded_name, name::InterfaceName, state::LinkState};

/// How a device comes into a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquisition {
    /// The host's interface moves.
    Move,
    /// A link is created in the sandbox, on an interface of the host that stays there: its parent.
    Create(ChildKind),
}

impl Acquisition {
    /// What is created; none if the device moves.
    pub fn created(self) -> Option<ChildKind> {
        match self {
            Self::Move => None,
            Self::Create(kind) => Some(kind),
        }
    }
}

/// The kind of a link that is created on a parent, with the settings of that kind (`IFLA_INFO_KIND`, `IFLA_INFO_DATA`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChildKind {
    /// A hardware address of its own on the parent's wire.
    Macvlan {
        /// Which other macvlans of the parent it reaches.
        mode: MacvlanMode,
    },
    /// IP addresses of its own behind the parent's hardware address.
    Ipvlan {
        /// On which layer packets are exchanged with the parent.
        mode: IpvlanMode,
    },
    /// An IEEE 802.1Q VLAN of the parent.
    Vlan {
        /// Its number.
        id: VlanId,
    },
}

/// `IFLA_MACVLAN_MODE` (`include/uapi/linux/if_link.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// None of them.
    Private,
    /// All, through the switch that the parent is connected to.
    Vepa,
    /// All, directly.
    Bridge,
}

/// `IFLA_IPVLAN_MODE` (`include/uapi/linux/if_link.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    /// Frames: broadcast and multicast work.
    L2,
    /// Packets: the parent routes them.
    L3,
    /// As `l3`, with the host's netfilter.
    L3s,
}

/// Number of a VLAN, 1 to 4094: 0 marks a frame that has none, 4095 is reserved (IEEE 802.1Q).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct VlanId(u16);

/// A number that is not a VLAN's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the VLAN id must be between 1 and 4094")]
pub struct VlanIdError;

impl TryFrom<u16> for VlanId {
    type Error = VlanIdError;

    fn try_from(id: u16) -> Result<Self, Self::Error> {
        if (1..=4094).contains(&id) { Ok(Self(id)) } else { Err(VlanIdError) }
    }
}

impl From<VlanId> for u16 {
    fn from(id: VlanId) -> Self {
        id.0
    }
}

impl ChildKind {
    /// `IFLA_INFO_KIND`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Macvlan { .. } => "macvlan",
            Self::Ipvlan { .. } => "ipvlan",
            Self::Vlan { .. } => "vlan",
        }
    }
}

/// A text that is not a kind with its setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be macvlan/MODE, ipvlan/MODE or vlan/ID")]
pub struct ChildKindError;

/// The kind and its setting, as the hook's arguments have them: `macvlan/bridge`, `ipvlan/l2`, `vlan/100`.
impl fmt::Display for ChildKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Macvlan { mode } => write!(out, "macvlan/{}", mode.name()),
            Self::Ipvlan { mode } => write!(out, "ipvlan/{}", mode.name()),
            Self::Vlan { id } => write!(out, "vlan/{}", u16::from(*id)),
        }
    }
}

impl FromStr for ChildKind {
    type Err = ChildKindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, setting) = text.split_once('/').ok_or(ChildKindError)?;
        let found = match kind {
            "macvlan" => MacvlanMode::named(setting).map(|mode| Self::Macvlan { mode }),
            "ipvlan" => IpvlanMode::named(setting).map(|mode| Self::Ipvlan { mode }),
            "vlan" => setting.parse::<u16>().ok().and_then(|id| VlanId::try_from(id).ok()).map(|id| Self::Vlan { id }),
            _ => None,
        };
        found.ok_or(ChildKindError)
    }
}

impl MacvlanMode {
    const ALL: [Self; 3] = [Self::Private, Self::Vepa, Self::Bridge];

    /// The mode with that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// Its name for `ip link`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Bridge => "bridge",
        }
    }

    /// The kernel's number.
    pub fn number(self) -> u32 {
        match self {
            Self::Private => 1,
            Self::Vepa => 2,
            Self::Bridge => 4,
        }
    }
}

impl IpvlanMode {
    const ALL: [Self; 3] = [Self::L2, Self::L3, Self::L3s];

    /// The mode with that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// Its name for `ip link`.
    pub fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::L3s => "l3s",
        }
    }

    /// The kernel's number.
    pub fn number(self) -> u16 {
        match self {
            Self::L2 => 0,
            Self::L3 => 1,
            Self::L3s => 2,
        }
    }
}

/// How a device came into its sandbox, with what is needed for the inverse.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // most are moved; a ledger shares its records
pub enum Acquired {
    /// It was moved and is returned.
    Moved(Moved),
    /// It was created and is deleted.
    Created(Created),
}

/// A device that was moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// What it was on the host, and shall be again.
    pub host: LinkState,
    /// Where it is going, once it is on its way to the host.
    pub home: Option<HomePlace>,
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

/// A device that was created in its sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// Name of the parent on the host, [encoded](encoded_name).
    #[serde(with = "encoded_name::json")]
    pub parent: InterfaceName,
    /// `ifi_index` of the parent on the host.
    pub parent_index: u32,
    /// What was created on it.
    pub kind: ChildKind,
}

/// What any record says of how its device was acquired.
pub trait Recorded {
    /// What the device was on the host; none if it was created.
    fn host(&self) -> Option<&LinkState>;
    /// Where it is going, once it is on its way to the host.
    fn home(&self) -> Option<&HomePlace>;
    /// What was created; none if the device was moved.
    fn created(&self) -> Option<&Created>;
}

impl Recorded for Moved {
    fn host(&self) -> Option<&LinkState> {
        Some(&self.host)
    }

    fn home(&self) -> Option<&HomePlace> {
        self.home.as_ref()
    }

    fn created(&self) -> Option<&Created> {
        None
    }
}

impl Recorded for Created {
    fn host(&self) -> Option<&LinkState> {
        None
    }

    fn home(&self) -> Option<&HomePlace> {
        None
    }

    fn created(&self) -> Option<&Created> {
        Some(self)
    }
}

impl Recorded for Acquired {
    fn host(&self) -> Option<&LinkState> {
        self.any().host()
    }

    fn home(&self) -> Option<&HomePlace> {
        self.any().home()
    }

    fn created(&self) -> Option<&Created> {
        self.any().created()
    }
}

impl Acquired {
    fn any(&self) -> &dyn Recorded {
        match self {
            Self::Moved(moved) => moved,
            Self::Created(created) => created,
        }
    }
}

impl From<Moved> for Acquired {
    fn from(moved: Moved) -> Self {
        Self::Moved(moved)
    }
}

impl From<Created> for Acquired {
    fn from(created: Created) -> Self {
        Self::Created(created)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_written_with_its_setting_and_read_again() {
        for text in
            ["macvlan/private", "macvlan/vepa", "macvlan/bridge", "ipvlan/l2", "ipvlan/l3", "ipvlan/l3s", "vlan/7"]
        {
            assert_eq!(text.parse::<ChildKind>().unwrap().to_string(), text);
        }
        for text in
            ["", "macvlan", "macvlan/", "macvlan/l2", "ipvlan/bridge", "vlan/0", "vlan/4095", "vlan/x", "veth/x"]
        {
            assert_eq!(text.parse::<ChildKind>(), Err(ChildKindError), "{text}");
        }
    }
}
