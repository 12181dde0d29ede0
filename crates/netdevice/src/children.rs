//! What a pool offers in place of the links that it selects: devices that are created on them.

use std::num::NonZeroU16;

use serde::Deserialize;

use crate::{
    acquisition::{ChildKind, IpvlanMode, MacvlanMode, VlanId},
    id::DeviceId,
    name::InterfaceName,
};

/// Most devices of one link: as many as there are VLANs.
pub const MAX_CHILDREN: u16 = 4094;

/// The devices that are created on each link of a pool, numbered from 1. A link is their parent and stays on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ChildrenForm")]
pub struct Children {
    /// The kind of the first one. Those after it are of the same kind; VLANs have the ids that follow.
    first: ChildKind,
    count: NonZeroU16,
}

/// In the configuration: `{kind: macvlan, mode: bridge, count: 8}` or `{kind: vlan, id: 100, count: 8}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChildrenForm {
    kind: String,
    #[serde(default)]
    mode: Option<String>,
    #[serde(default)]
    id: Option<u16>,
    count: u32,
}

impl TryFrom<ChildrenForm> for Children {
    type Error = String;

    fn try_from(ChildrenForm { kind, mode, id, count }: ChildrenForm) -> Result<Self, String> {
        let mode = mode.as_deref();
        let first = match (kind.as_str(), mode, id) {
            ("macvlan", mode, None) => {
                let mode = mode.map_or(Some(MacvlanMode::Bridge), MacvlanMode::named);
                ChildKind::Macvlan { mode: mode.ok_or("`children.mode` of a macvlan is private, vepa or bridge")? }
            }
            ("ipvlan", mode, None) => {
                let mode = mode.map_or(Some(IpvlanMode::L2), IpvlanMode::named);
                ChildKind::Ipvlan { mode: mode.ok_or("`children.mode` of an ipvlan is l2, l3 or l3s")? }
            }
            ("macvlan" | "ipvlan", _, Some(_)) => return Err(format!("`children.id` is for vlan: a {kind} has none")),
            ("vlan", None, Some(id)) => ChildKind::Vlan {
                id: VlanId::try_from(id).map_err(|_| "`children.id` is the first VLAN, between 1 and 4094")?,
            },
            ("vlan", Some(_), _) => return Err("`children.mode` is for macvlan and ipvlan: a vlan has none".into()),
            ("vlan", None, None) => return Err("`children.id` is missing: the first VLAN".into()),
            _ => return Err(format!("`children.kind` is macvlan, ipvlan or vlan, not {kind:?}")),
        };
        let count = u16::try_from(count).ok().and_then(NonZeroU16::new).filter(|count| count.get() <= MAX_CHILDREN);
        let count = count.ok_or_else(|| format!("`children.count` must be between 1 and {MAX_CHILDREN}"))?;
        let children = Self { first, count };
        if children.kind(count).is_none() {
            return Err("`children`: the last VLAN would be above 4094: lower `id` or `count`".into());
        }
        Ok(children)
    }
}

impl Children {
    /// How many there are of each link.
    pub fn count(&self) -> NonZeroU16 {
        self.count
    }

    /// What is created first; the others differ in the VLAN's id at most.
    pub fn first(&self) -> ChildKind {
        self.first
    }

    /// What is created as the device of that number; none if there are not so many.
    pub fn kind(&self, number: NonZeroU16) -> Option<ChildKind> {
        if number > self.count {
            return None;
        }
        match self.first {
            ChildKind::Vlan { id } => {
                let id = u16::from(id).checked_add(number.get() - 1)?;
                Some(ChildKind::Vlan { id: VlanId::try_from(id).ok()? })
            }
            kind => Some(kind),
        }
    }

    /// What is created as this device; none if the pool has no such device.
    pub fn kind_of(&self, device: &DeviceId) -> Option<ChildKind> {
        self.kind(device.child()?)
    }

    /// The numbers whose device is of that kind: all, if none is named.
    pub fn numbers(&self, kind: Option<ChildKind>) -> impl Iterator<Item = NonZeroU16> + use<> {
        let children = *self;
        let is_suitable = move |number: &NonZeroU16| kind.is_none_or(|kind| children.kind(*number) == Some(kind));
        (1..=self.count.get()).filter_map(NonZeroU16::new).filter(is_suitable)
    }

    /// The devices of one link.
    pub fn devices<'a>(&self, parent: &'a InterfaceName) -> impl Iterator<Item = DeviceId> + use<'a> {
        self.numbers(None).map(move |number| DeviceId::child_of(parent, number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pools;

    fn children(text: &str) -> Result<Children, String> {
        let yaml = format!("pools:\n- {{resource: a.b/cc, select: {{names: [a]}}, children: {text}}}");
        let pools = Pools::from_yaml(&yaml).map_err(|error| error.to_string())?;
        Ok(pools.iter().next().unwrap().children.unwrap())
    }

    #[test]
    fn devices_are_numbered_and_vlans_have_the_ids_that_follow() {
        let kinds = |text: &str| {
            let children = children(text).unwrap();
            let numbers = children.numbers(None);
            numbers.map(|number| children.kind(number).unwrap().to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(kinds("{kind: macvlan, count: 2}"), "macvlan/bridge macvlan/bridge");
        assert_eq!(kinds("{kind: macvlan, mode: private, count: 1}"), "macvlan/private");
        assert_eq!(kinds("{kind: ipvlan, count: 1}"), "ipvlan/l2");
        assert_eq!(kinds("{kind: ipvlan, mode: l3s, count: 1}"), "ipvlan/l3s");
        assert_eq!(kinds("{kind: vlan, id: 4092, count: 3}"), "vlan/4092 vlan/4093 vlan/4094");
        let vlans = children("{kind: vlan, id: 100, count: 8}").unwrap();
        let number = |kind: &str| vlans.numbers(Some(kind.parse().unwrap())).map(NonZeroU16::get).collect::<Vec<_>>();
        assert_eq!((number("vlan/103"), number("vlan/108"), number("macvlan/bridge")), (vec![4], vec![], vec![]));
        let names: Vec<String> = children("{kind: macvlan, count: 2}")
            .unwrap()
            .devices(&"eth1".parse().unwrap())
            .map(String::from)
            .collect();
        assert_eq!(names, ["eth1:1", "eth1:2"]);
    }

    #[test]
    fn a_wrong_kind_mode_id_or_count_is_refused() {
        let table = [
            ("{kind: veth, count: 1}", "`children.kind` is macvlan, ipvlan or vlan, not \"veth\""),
            ("{kind: macvlan, mode: l2, count: 1}", "private, vepa or bridge"),
            ("{kind: ipvlan, mode: bridge, count: 1}", "l2, l3 or l3s"),
            ("{kind: macvlan, id: 1, count: 1}", "`children.id` is for vlan"),
            ("{kind: vlan, count: 1}", "`children.id` is missing"),
            ("{kind: vlan, id: 0, count: 1}", "between 1 and 4094"),
            ("{kind: vlan, id: 5, mode: l2, count: 1}", "a vlan has none"),
            ("{kind: vlan, id: 4000, count: 96}", "above 4094"),
            ("{kind: macvlan, count: 0}", "`children.count` must be between 1 and 4094"),
            ("{kind: macvlan, count: 4095}", "`children.count` must be between 1 and 4094"),
            ("{kind: macvlan}", "missing field `count`"),
            ("{kind: macvlan, count: 1, modes: x}", "unknown field `modes`"),
        ];
        for (text, part) in table {
            let error = children(text).unwrap_err();
            assert!(error.contains(part) && error.lines().count() == 1, "{text}: {error}");
        }
    }
}
