//! What an annotation or a claim says of a device, field by field, before it is complete.

use super::{
    IpPrefix, MIN_IPV6_MTU, SandboxConfiguration, SandboxRoute,
    fields::{FieldError, Key, Spelling},
    read::{MAC, MTU},
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
}

impl DeviceConfiguration {
    /// This configuration, with each field that is written in `later` replaced. Lists and `create` are replaced whole.
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
        };
        let has_ipv6 = configuration.addresses.iter().any(|prefix| prefix.address().is_ipv6());
        if has_ipv6 && configuration.mtu.is_some_and(|mtu| mtu < MIN_IPV6_MTU) {
            return Err(refuse(MTU, format!("must be at least {MIN_IPV6_MTU} with an IPv6 address")));
        }
        if matches!(self.create, Some(ChildKind::Ipvlan { .. })) && configuration.mac.is_some() {
            return Err(refuse(MAC, "an ipvlan has the hardware address of its parent".into()));
        }
        Ok((self.create.map_or(Acquisition::Move, Acquisition::Create), configuration))
    }
}
