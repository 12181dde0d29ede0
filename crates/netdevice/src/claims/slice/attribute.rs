//! Attributes of devices in ResourceSlices: by them a claim selects a device.
//!
//! A selector that reads an attribute which a device lacks is an error that ends the whole allocation. So every device has the
//! same attributes, with a neutral value where it has nothing, except for the common ones: there, equal values mean something.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    bytes::HardwareAddress,
    link::{Hardware, Link},
    resource::ResourceName,
    snapshot::Snapshot,
};

/// Longest string in an attribute, in bytes (`DeviceAttributeMaxValueLength`).
pub const MAX_STRING: usize = 64;

/// The value of an attribute, in the form of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Attribute {
    /// Text of at most [`MAX_STRING`] bytes.
    String(String),
    /// A number.
    Int(i64),
    /// True or false.
    Bool(bool),
}

/// Attributes by name. A name without a domain is in the driver's domain.
pub type Attributes = BTreeMap<&'static str, Attribute>;

impl Attribute {
    /// The text, if it is short enough; otherwise its beginning.
    fn text(text: &str) -> Self {
        let mut end = text.len().min(MAX_STRING);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self::String(text[..end].into())
    }

    fn of(text: Option<impl AsRef<str>>) -> Self {
        Self::text(text.as_ref().map_or("", AsRef::as_ref))
    }

    fn number(number: Option<impl Into<i64>>, unknown: i64) -> Self {
        Self::Int(number.map_or(unknown, Into::into))
    }

    /// Name of the type in the API.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "string",
            Self::Int(_) => "int",
            Self::Bool(_) => "bool",
        }
    }
}

/// The attributes of a link of a pool. `speed` was known earlier: a link without a carrier has none.
pub(crate) fn attributes(link: &Link, pool: &ResourceName, snapshot: &Snapshot, speed: Option<u32>) -> Attributes {
    let none = Hardware::default();
    let hardware = link.hardware.as_deref().unwrap_or(&none);
    let function = hardware.virtual_function.as_ref();
    let physical_function = function.and_then(|function| function.physical_function_name.as_ref());
    let parent = link.parent.filter(|_| link.link_netnsid.is_none()).and_then(|parent| snapshot.link(parent));
    let id = |id: fn((u16, u16)) -> u16| Attribute::of(hardware.pci_id.map(id).map(|id| format!("{id:04x}")));
    let mut attributes = Attributes::from([
        ("alias", Attribute::of(link.alias.as_ref().map(ToString::to_string))),
        ("altNames", alternative_names(link)),
        ("driver", Attribute::of(hardware.driver.as_deref())),
        ("ifName", Attribute::text(&link.name.to_string())),
        ("kind", Attribute::text(link.kind.as_deref().unwrap_or("physical"))),
        ("mac", Attribute::of(link.mac.as_ref().map(HardwareAddress::to_string).filter(|mac| mac.len() <= MAX_STRING))),
        ("mtu", Attribute::Int(link.mtu.into())),
        ("numaNode", Attribute::number(hardware.numa_node, -1)),
        ("parent", Attribute::of(parent.map(|parent| parent.name.to_string()))),
        ("pciAddress", Attribute::of(hardware.pci_address.as_deref())),
        ("pciDevice", id(|(_, device)| device)),
        ("pciVendor", id(|(vendor, _)| vendor)),
        ("physicalFunction", Attribute::of(function.map(|function| &*function.physical_function))),
        ("pool", Attribute::text(if pool.as_str().len() <= MAX_STRING { pool.as_str() } else { pool.class() })),
        ("speed", Attribute::number(hardware.speed.or(speed), 0)),
        ("state", Attribute::text(if link.is_up() { "up" } else { "down" })),
        ("vfIndex", Attribute::number(function.map(|function| function.index), -1)),
        ("virtual", Attribute::Bool(link.hardware.is_none())),
        ("virtualFunctionOf", Attribute::of(physical_function.map(ToString::to_string))),
    ]);
    if let Some(address) = &hardware.pci_address {
        attributes.insert("resource.kubernetes.io/pciBusID", Attribute::text(address));
    }
    if let Some(root) = &hardware.pcie_root {
        attributes.insert("resource.kubernetes.io/pcieRoot", Attribute::text(root));
    }
    if let Some(node) = hardware.numa_node {
        attributes.insert("resource.kubernetes.io/numaNode", Attribute::Int(node.into()));
    }
    attributes
}

/// The alternative names that fit, whole, with commas between them.
fn alternative_names(link: &Link) -> Attribute {
    let mut text = String::new();
    for name in link.altnames.iter().map(ToString::to_string) {
        let separator = if text.is_empty() { "" } else { "," };
        if text.len() + separator.len() + name.len() <= MAX_STRING {
            text.push_str(separator);
            text.push_str(&name);
        }
    }
    Attribute::String(text)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use proptest::prelude::*;

    use super::*;
    use crate::{KernelString, fixture, link::VirtualFunction};

    fn card() -> Link {
        let function = VirtualFunction {
            physical_function: "0000:3b:00.0".into(),
            physical_function_name: Some("enp59s0f0".try_into().unwrap()),
            index: 5,
        };
        let hardware = Hardware {
            driver: Some("iavf".into()),
            pci_address: Some("0000:3b:01.5".into()),
            pcie_root: Some("pci0000:3a".into()),
            pci_id: Some((0x8086, 0x1889)),
            numa_node: Some(1),
            virtual_function: Some(function),
            speed: None,
        };
        Link {
            altnames: [KernelString::new(b"fast"), KernelString::new(b"enp59s0f0v5")].into(),
            alias: Some(KernelString::new(b"rack 7")),
            kind: None,
            mac: Some("02:fc:00:00:00:01".parse().unwrap()),
            hardware: Some(Arc::new(hardware)),
            ..fixture::link(9, "vf5")
        }
    }

    fn of(link: &Link) -> Attributes {
        attributes(link, &ResourceName::default(), &Snapshot::default(), Some(25_000))
    }

    #[test]
    fn a_virtual_function_says_all_that_is_known_of_it() {
        let json = serde_json::to_value(of(&card())).unwrap();
        let expected = serde_json::json!({
            "alias": {"string": "rack 7"},
            "altNames": {"string": "fast,enp59s0f0v5"},
            "driver": {"string": "iavf"},
            "ifName": {"string": "vf5"},
            "kind": {"string": "physical"},
            "mac": {"string": "02:fc:00:00:00:01"},
            "mtu": {"int": 1500},
            "numaNode": {"int": 1},
            "parent": {"string": ""},
            "pciAddress": {"string": "0000:3b:01.5"},
            "pciDevice": {"string": "1889"},
            "pciVendor": {"string": "8086"},
            "physicalFunction": {"string": "0000:3b:00.0"},
            "pool": {"string": "networking.k8s.io/netdevice"},
            "resource.kubernetes.io/numaNode": {"int": 1},
            "resource.kubernetes.io/pciBusID": {"string": "0000:3b:01.5"},
            "resource.kubernetes.io/pcieRoot": {"string": "pci0000:3a"},
            "speed": {"int": 25000},
            "state": {"string": "up"},
            "vfIndex": {"int": 5},
            "virtual": {"bool": false},
            "virtualFunctionOf": {"string": "enp59s0f0"},
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_virtual_link_has_the_same_attributes_but_for_the_common_ones() {
        let common = "resource.kubernetes.io/";
        let keys = |link: &Link| of(link).into_keys().filter(|key| !key.starts_with(common)).collect::<BTreeSet<_>>();
        let dummy = fixture::link(3, "dummy0");
        assert_eq!(keys(&dummy), keys(&card()));
        assert!(of(&dummy).keys().all(|key| !key.starts_with(common)));
        let neutral = [of(&dummy)["vfIndex"].clone(), of(&dummy)["numaNode"].clone(), of(&dummy)["virtual"].clone()];
        assert_eq!(neutral, [Attribute::Int(-1), Attribute::Int(-1), Attribute::Bool(true)]);
    }

    #[test]
    fn a_parent_is_named_if_it_is_a_link_of_the_node() {
        let mut snapshot = Snapshot::default();
        snapshot.insert_link(Arc::new(fixture::link(4, "lower")));
        let upper = Link { parent: Some(4), ..fixture::link(5, "upper") };
        let parent = |link: &Link| attributes(link, &ResourceName::default(), &snapshot, None)["parent"].clone();
        assert_eq!(parent(&upper), Attribute::String("lower".into()));
        assert_eq!(parent(&Link { link_netnsid: Some(0), ..upper }), Attribute::String(String::new()));
    }

    /// The rows of the table in `docs/claims.md`: name, type.
    fn documented() -> BTreeSet<(String, String)> {
        let page = include_str!("../../../../../docs/claims.md");
        let section = page.split("## Attributes").nth(1).unwrap().split("\n## ").next().unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        let cells =
            rows.map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect::<Vec<_>>());
        cells.map(|cells| (cells[0].clone(), cells[1].clone())).collect()
    }

    #[test]
    fn the_documents_list_every_attribute_with_its_type() {
        let published = of(&card()).into_iter().map(|(name, value)| (name.to_owned(), value.kind().to_owned()));
        assert_eq!(documented(), published.collect());
    }

    proptest! {
        #[test]
        fn no_value_is_longer_than_the_api_takes(
            alias in prop::collection::vec(any::<u8>(), 0..255),
            altnames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..127), 0..4),
            mac in prop::collection::vec(any::<u8>(), 1..=32),
            name in prop::collection::vec(any::<u8>(), 1..=15),
            pool in "[a-z]{2}(\\.[a-z]{1,30}){1,6}/[a-z]{2,63}",
        ) {
            let link = Link {
                alias: Some(KernelString::new(&alias)),
                altnames: altnames.iter().map(|name| KernelString::new(name)).collect(),
                mac: HardwareAddress::new(&mac),
                name: crate::InterfaceName::new(&name).unwrap_or_else(|_| "eth0".try_into().unwrap()),
                ..card()
            };
            let attributes = attributes(&link, &pool.parse().unwrap(), &Snapshot::default(), None);
            prop_assert!(attributes.len() <= 32);
            for (name, value) in attributes {
                let (domain, own) = name.split_once('/').unwrap_or(("", name));
                prop_assert!(own.len() <= 32 && domain.len() <= 63, "{}", name);
                if let Attribute::String(text) = value {
                    prop_assert!(text.len() <= MAX_STRING, "{}: {}", name, text);
                }
            }
        }
    }
}
