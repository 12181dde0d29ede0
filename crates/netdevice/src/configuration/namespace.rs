//! What a configuration adds to the Pod's namespace beside the device: routing rules, a VRF, and permanent neighbours. In a record
//! each is one line of text.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::IpPrefix;
use crate::{
    bytes::HardwareAddress,
    encoded_name,
    sandbox_name::SandboxInterfaceName,
    state::{Attribute, NEIGHBOUR_PERMANENT, Neighbour},
};

/// A routing rule: packets from or to a network are routed by a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SandboxRule {
    /// Its place among the rules; the main table is looked up at 32766.
    pub priority: u32,
    /// Source of the packets.
    pub from: Option<IpPrefix>,
    /// Destination of the packets, of the same family.
    pub to: Option<IpPrefix>,
    /// The table.
    pub table: u32,
}

impl SandboxRule {
    /// Whether it is an IPv6 rule.
    pub fn is_ipv6(&self) -> bool {
        self.from.or(self.to).is_some_and(|prefix| prefix.address().is_ipv6())
    }
}

/// A VRF (virtual routing and forwarding): the device and the routes through it use a table of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vrf {
    /// Name of the VRF's link.
    pub name: SandboxInterfaceName,
    /// Its table.
    pub table: u32,
}

/// A permanent neighbour.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SandboxNeighbour {
    /// Its IP address.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: HardwareAddress,
}

impl SandboxNeighbour {
    /// As the kernel keeps it.
    pub(crate) fn to_neighbour(&self) -> Neighbour {
        let address = match self.address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        Neighbour {
            family: if self.address.is_ipv4() { 2 } else { 10 },
            state: NEIGHBOUR_PERMANENT,
            flags: 0,
            attributes: vec![
                Attribute { kind: 1, value: address },
                Attribute { kind: 2, value: self.mac.as_bytes().to_vec() },
            ],
        }
    }
}

impl fmt::Display for SandboxRule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} lookup {}", self.priority, self.table)?;
        if let Some(from) = self.from {
            write!(out, " from {from}")?;
        }
        if let Some(to) = self.to {
            write!(out, " to {to}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Vrf {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.table, encoded_name::encode(self.name.as_interface_name()))
    }
}

impl fmt::Display for SandboxNeighbour {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.address, self.mac)
    }
}

/// A line of a record that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid rule, VRF or neighbour")]
pub struct LineError;

fn word<T: FromStr>(word: Option<&str>) -> Result<T, LineError> {
    word.and_then(|word| word.parse().ok()).ok_or(LineError)
}

impl FromStr for SandboxRule {
    type Err = LineError;

    fn from_str(line: &str) -> Result<Self, LineError> {
        let mut words = line.split(' ');
        let mut rule = Self { priority: word(words.next())?, from: None, to: None, table: 0 };
        while let Some(key) = words.next() {
            match key {
                "lookup" => rule.table = word(words.next())?,
                "from" => rule.from = Some(word(words.next())?),
                "to" => rule.to = Some(word(words.next())?),
                _ => return Err(LineError),
            }
        }
        Ok(rule)
    }
}

impl FromStr for Vrf {
    type Err = LineError;

    fn from_str(line: &str) -> Result<Self, LineError> {
        let (table, name) = line.split_once(' ').ok_or(LineError)?;
        let name = encoded_name::decode(name).map_err(|_| LineError)?;
        Ok(Self { name: SandboxInterfaceName::try_from(name).map_err(|_| LineError)?, table: word(Some(table))? })
    }
}

impl FromStr for SandboxNeighbour {
    type Err = LineError;

    fn from_str(line: &str) -> Result<Self, LineError> {
        let (address, mac) = line.split_once(' ').ok_or(LineError)?;
        Ok(Self { address: word(Some(address))?, mac: word(Some(mac))? })
    }
}

macro_rules! as_text {
    ($($kind:ty),*) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

as_text!(SandboxRule, Vrf, SandboxNeighbour);
