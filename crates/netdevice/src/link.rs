//! A link of the host in the inventory: only what selection, health and exclusion need.

use std::sync::Arc;

use crate::{
    bytes::{HardwareAddress, KernelString},
    name::InterfaceName,
    state::{HardwarePlace, LinkState},
};

/// The flags of `ifi_flags` that we use (`include/uapi/linux/if.h`).
pub mod flags {
    /// Administratively up.
    pub const UP: u32 = 1;
    /// The driver reports more.
    pub const DEBUG: u32 = 1 << 2;
    /// A loopback interface: bit 3.
    pub const LOOPBACK: u32 = 1 << 3;
    /// No trailers.
    pub const NOTRAILERS: u32 = 1 << 5;
    /// No address resolution.
    pub const NOARP: u32 = 1 << 7;
    /// Receives every frame.
    pub const PROMISC: u32 = 1 << 8;
    /// Receives every multicast frame.
    pub const ALLMULTI: u32 = 1 << 9;
    /// Supports multicast.
    pub const MULTICAST: u32 = 1 << 12;
    /// The medium can be selected.
    pub const PORTSEL: u32 = 1 << 13;
    /// The medium is selected automatically.
    pub const AUTOMEDIA: u32 = 1 << 14;
    /// Addresses go with the link.
    pub const DYNAMIC: u32 = 1 << 15;
    /// The lower layer is up: there is a carrier.
    pub const LOWER_UP: u32 = 1 << 16;
}

/// A host interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// `ifi_index`, unique in its namespace.
    pub index: u32,
    /// `IFLA_IFNAME`.
    pub name: InterfaceName,
    /// `IFLA_ALT_IFNAME`, each up to 127 bytes.
    pub altnames: Box<[KernelString]>,
    /// `IFLA_IFALIAS`, up to 255 bytes.
    pub alias: Option<KernelString>,
    /// `IFLA_INFO_KIND`: `dummy`, `vlan`, …; none for a physical device.
    pub kind: Option<Box<str>>,
    /// `IFLA_ADDRESS`.
    pub mac: Option<HardwareAddress>,
    /// `ifi_flags`, see [`flags`].
    pub flags: u32,
    /// `IFLA_MTU` in bytes.
    pub mtu: u32,
    /// `IFLA_MASTER`: the bridge, bond or VRF that this link is a port of.
    pub master: Option<u32>,
    /// The link below, of the same namespace: `IFLA_LINK` of a VLAN, macvlan or the like.
    pub parent: Option<u32>,
    /// `IFLA_LINK_NETNSID`: the link below (or a veth's peer) is in another namespace, with this id here.
    pub link_netnsid: Option<i32>,
    /// `IFLA_NETNS_IMMUTABLE`: whether the kernel refuses to move the link to another namespace. None if neither the
    /// kernel (before Linux 6.15) nor the link's type reports it; then [`crate::exclusion`] uses kind and name.
    pub netns_immutable: Option<bool>,
    /// The hardware of the link, from sysfs; none for a virtual link.
    pub hardware: Option<Arc<Hardware>>,
}

impl Link {
    /// Whether the link is administratively up.
    pub fn is_up(&self) -> bool {
        self.flags & flags::UP != 0
    }

    /// Whether the lower layer is up.
    pub fn has_carrier(&self) -> bool {
        self.flags & flags::LOWER_UP != 0
    }

    /// Whether this is a loopback interface.
    pub fn is_loopback(&self) -> bool {
        self.flags & flags::LOOPBACK != 0
    }

    /// The link that has this state, without its hardware.
    pub fn of(state: &LinkState) -> Self {
        Self {
            index: state.index,
            name: state.name.clone(),
            altnames: state.altnames.clone().into(),
            alias: state.alias.clone(),
            kind: state.kind.as_deref().map(Into::into),
            mac: state.mac.clone(),
            flags: state.flags,
            mtu: state.mtu,
            master: state.master,
            parent: state.parent,
            link_netnsid: state.link_netnsid,
            netns_immutable: state.netns_immutable,
            hardware: None,
        }
    }

    /// The link as it was on the host when it was recorded. A record has not all of its hardware: `hardware`, if it is known.
    pub fn recorded(host: &LinkState, hardware: Option<Arc<Hardware>>) -> Self {
        let at_its_place = || host.hardware.as_ref().map(|place| Arc::new(Hardware::at(place)));
        Self { hardware: hardware.or_else(at_its_place), ..Self::of(host) }
    }
}

/// The hardware of a link, from `/sys/class/net/<name>/device`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hardware {
    /// Name of the driver, from the link `device/driver`.
    pub driver: Option<Box<str>>,
    /// PCI address `dddd:bb:dd.f`, also of the PCI function above a virtio device.
    pub pci_address: Option<Box<str>>,
    /// The root of the PCI hierarchy that it is in, `pci0000:00`.
    pub pcie_root: Option<Box<str>>,
    /// PCI vendor and device id.
    pub pci_id: Option<(u16, u16)>,
    /// NUMA node; none if the platform has none (-1 in sysfs).
    pub numa_node: Option<u32>,
    /// Name of the physical function's interface and the index of this virtual function below it. The name is
    /// missing while that interface is in another namespace.
    pub virtual_function: Option<VirtualFunction>,
    /// Speed in Mb/s as reported by the driver; none without a carrier, or if the driver does not report it.
    pub speed: Option<u32>,
}

impl Hardware {
    /// What the position in sysfs alone says.
    pub fn at(place: &HardwarePlace) -> Self {
        Self {
            pci_address: place.path.rsplit('/').find(|part| is_pci_address(part)).map(Into::into),
            pcie_root: pcie_root(&place.path).map(Into::into),
            numa_node: place.numa_node,
            ..Self::default()
        }
    }
}

/// The part of a path below `/sys/devices` that is the root of a PCI hierarchy: `pci0000:00`.
pub fn pcie_root(path: &str) -> Option<&str> {
    path.split('/').find(|part| {
        let domain_and_bus = part.strip_prefix("pci").and_then(|rest| rest.split_once(':'));
        domain_and_bus.is_some_and(|(domain, bus)| is_hexadecimal(domain, 4..=8) && is_hexadecimal(bus, 2..=2))
    })
}

/// `0000:3b:00.0`.
fn is_pci_address(part: &str) -> bool {
    let Some((slot, function)) = part.rsplit_once('.') else { return false };
    let mut fields = slot.splitn(3, ':');
    let mut next = |digits| fields.next().is_some_and(|field| is_hexadecimal(field, digits));
    next(4..=8) && next(2..=2) && next(2..=2) && is_hexadecimal(function, 1..=1)
}

fn is_hexadecimal(text: &str, digits: std::ops::RangeInclusive<usize>) -> bool {
    digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// An SR-IOV virtual function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualFunction {
    /// PCI address of the physical function.
    pub physical_function: Box<str>,
    /// Interface name of the physical function, if that interface is in the host's namespace.
    pub physical_function_name: Option<InterfaceName>,
    /// Index of the virtual function, counted from 0.
    pub index: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_in_sysfs_says_where_a_card_is() {
        let at = |path: &str| {
            let hardware = Hardware::at(&HardwarePlace { path: path.into(), numa_node: Some(1) });
            (hardware.pci_address.map(String::from), hardware.pcie_root.map(String::from))
        };
        let known = |address: &str, root: &str| (Some(address.to_owned()), Some(root.to_owned()));
        let card = "/sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0";
        assert_eq!(at(card), known("0000:3b:00.0", "pci0000:3a"));
        assert_eq!(at(&format!("{card}/virtio0")), known("0000:3b:00.0", "pci0000:3a"));
        assert_eq!(at("/sys/devices/pci10000:00/10000:01:02.3"), known("10000:01:02.3", "pci10000:00"));
        assert_eq!(at("/sys/devices/platform/soc/fd580000.ethernet"), (None, None));
    }
}
