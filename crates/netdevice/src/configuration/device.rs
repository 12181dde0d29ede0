//! What an annotation or a claim says of a device, field by field, before it is complete.

use std::collections::BTreeMap;

use super::{
    IpPrefix, MIN_IPV6_MTU, SandboxConfiguration, SandboxNeighbour, SandboxRoute, SandboxRule, Vrf,
    fields::{FieldError, Key, Spelling},
    read::{MTU, NAME, NEIGHBOURS, ROUTES, SYSCTLS, VRF},
};
use crate::{
    acquisition::{Acquisition, ChildKind},
    bytes::HardwareAddress,
    sandbox_name::SandboxInterfaceName,
};

/// How a device is to be in a Pod. A field that is none was not written: `false` and 0 are values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceConfiguration {
    /// What is created on the device, which stays on the host then.
    pub create: Option<ChildKind>,
    /// Its name in the Pod.
    pub name: Option<SandboxInterfaceName>,
    /// Its addresses.
    pub addresses: Option<Vec<IpPrefix>>,
    /// Routes through it.
    pub routes: Option<Vec<SandboxRoute>>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Hardware address.
    pub mac: Option<HardwareAddress>,
    /// Whether it keeps what it has on the host.
    pub inherit: Option<bool>,
    /// Routing rules.
    pub rules: Option<Vec<SandboxRule>>,
    /// Permanent neighbours.
    pub neighbours: Option<Vec<SandboxNeighbour>>,
    /// The VRF that it is a port of.
    pub vrf: Option<Vrf>,
    /// Settings of the interface.
    pub sysctls: BTreeMap<String, String>,
    /// Length of the transmit queue in packets.
    pub tx_queue_length: Option<u32>,
    /// Sizes of offloaded packets, by attribute.
    pub offload_sizes: BTreeMap<u16, u32>,
    /// Features of the driver.
    pub features: BTreeMap<String, String>,
    /// Private flags of the driver.
    pub private_flags: BTreeMap<String, String>,
}

fn both<K: Ord, V>(mut first: BTreeMap<K, V>, later: BTreeMap<K, V>) -> BTreeMap<K, V> {
    first.extend(later);
    first
}

impl DeviceConfiguration {
    /// This configuration, with each field that is written in `later` replaced. Lists, `create` and `vrf` are replaced whole;
    /// of settings, features and flags each one is a field.
    #[must_use]
    pub fn merged(self, later: Self) -> Self {
        Self {
            create: later.create.or(self.create),
            name: later.name.or(self.name),
            addresses: later.addresses.or(self.addresses),
            routes: later.routes.or(self.routes),
            mtu: later.mtu.or(self.mtu),
            mac: later.mac.or(self.mac),
            inherit: later.inherit.or(self.inherit),
            rules: later.rules.or(self.rules),
            neighbours: later.neighbours.or(self.neighbours),
            vrf: later.vrf.or(self.vrf),
            sysctls: both(self.sysctls, later.sysctls),
            tx_queue_length: later.tx_queue_length.or(self.tx_queue_length),
            offload_sizes: both(self.offload_sizes, later.offload_sizes),
            features: both(self.features, later.features),
            private_flags: both(self.private_flags, later.private_flags),
        }
    }

    /// How the device comes into the Pod, and how it is there.
    ///
    /// # Errors
    ///
    /// When fields contradict each other.
    pub(crate) fn resolve_as(self, spelling: Spelling) -> Result<(Acquisition, SandboxConfiguration), FieldError> {
        let refuse = |key: Key, rule: String| FieldError { path: key.name(spelling).into(), rule };
        let configuration = SandboxConfiguration {
            name: self.name,
            addresses: self.addresses.unwrap_or_default(),
            routes: self.routes.unwrap_or_default(),
            mtu: self.mtu,
            mac: self.mac,
            inherit: self.inherit.unwrap_or(false),
            rules: self.rules.unwrap_or_default(),
            neighbours: self.neighbours.unwrap_or_default(),
            vrf: self.vrf,
            sysctls: self.sysctls,
            tx_queue_length: self.tx_queue_length,
            offload_sizes: self.offload_sizes,
            features: self.features,
            private_flags: self.private_flags,
        };
        let has_ipv6 = configuration.addresses.iter().any(|prefix| prefix.address().is_ipv6());
        if has_ipv6 && configuration.mtu.is_some_and(|mtu| mtu < MIN_IPV6_MTU) {
            return Err(refuse(MTU, format!("must be at least {MIN_IPV6_MTU} with an IPv6 address")));
        }
        if let Some(kind) = self.create {
            configuration.check_created(kind)?;
        }
        let no_ipv6 = configuration.setting("ipv6/conf/disable_ipv6") == Some(1);
        if has_ipv6 && no_ipv6 {
            return Err(refuse(SYSCTLS, "disable_ipv6 is set, and there is an IPv6 address".into()));
        }
        if configuration.vrf.is_some() && configuration.vrf.as_ref().map(|vrf| &vrf.name) == configuration.name.as_ref()
        {
            return Err(refuse(VRF, format!("its name must not be the {} of the device", NAME.name(spelling))));
        }
        let has = |address| configuration.addresses.iter().any(|prefix| prefix.address() == address);
        for (at, route) in configuration.routes.iter().enumerate() {
            let refuse = |rule: &str| Err(refuse(ROUTES, rule.into()).inside(at));
            if !configuration.inherit && route.source.is_some_and(|source| !has(source)) {
                return refuse("its source must be one of the addresses");
            }
            if no_ipv6 && route.to.address().is_ipv6() {
                return refuse("disable_ipv6 is set, and it is an IPv6 route");
            }
        }
        if no_ipv6 && configuration.neighbours.iter().any(|neighbour| neighbour.address.is_ipv6()) {
            return Err(refuse(NEIGHBOURS, "disable_ipv6 is set, and there is an IPv6 neighbour".into()));
        }
        Ok((self.create.map_or(Acquisition::Move, Acquisition::Create), configuration))
    }
}

impl SandboxConfiguration {
    /// Checks that a device of that kind, which is created, can be so.
    ///
    /// # Errors
    ///
    /// The setting that it cannot have.
    pub fn check_created(&self, kind: ChildKind) -> Result<(), FieldError> {
        match (kind, &self.mac) {
            (ChildKind::Ipvlan { .. }, Some(_)) => {
                let rule = "an ipvlan has the hardware address of its parent".into();
                Err(FieldError { path: "mac".into(), rule })
            }
            _ => Ok(()),
        }
    }
}
