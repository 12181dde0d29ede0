//! Whether a device may be given to a claim, and can be what the claim says.

use std::collections::BTreeMap;

use netdevice::{
    DeviceId, InterfaceName, Link, Owner, Pool, SandboxConfiguration, View, choice::check_kind,
    claims::slice::DeviceName, pool::Offer,
};

use super::{Subject, Wanted, reserve::children_on};
use crate::{
    driver::Driver,
    error::{DeviceError, PrepareError},
    obstacle::{Obstacle, Passes},
};

/// The interface of the Pod itself, in every runtime.
const POD_INTERFACE: &str = "eth0";

impl Driver {
    /// Checks that a device on the host may be given, and can be configured as it is wanted.
    pub(super) fn check(&self, view: &View, device: &DeviceId, wanted: &Wanted) -> Result<(), Obstacle> {
        let never = |error| Obstacle::new(device, Passes::Never, error);
        let soon = |error| Obstacle::new(device, Passes::Soon, error);
        if view.unknown.contains(device) {
            return Err(never(DeviceError::Unknown));
        }
        let Some(link) = view.snapshot.link_named(&device.to_name()) else {
            return Err(soon(DeviceError::NotThere));
        };
        match view.devices().get(device) {
            Some(found) if found.offer != Offer::Claims => {
                return Err(never(DeviceError::NotByClaims(found.resource.clone())));
            }
            Some(found) if found.owner().is_some() => return Err(soon(DeviceError::Returning)),
            Some(_) => {}
            None => {
                let error = view.explain(link).exclusion.map_or(DeviceError::NotSelected, DeviceError::Excluded);
                return Err(soon(error));
            }
        }
        check_ethtool(view, link, wanted).map_err(never)?;
        check_mtu(view, link, wanted.configuration.as_ref()).map_err(never)
    }

    /// Checks that what is wanted may be created on an interface, and can be so. Returns the pool of the interface.
    pub(super) fn check_parent<'v>(
        &self,
        view: &'v View,
        parent: &DeviceId,
        wanted: &Wanted,
    ) -> Result<&'v Pool, Obstacle> {
        let never = |error| Obstacle::new(parent, Passes::Never, error);
        let soon = |error| Obstacle::new(parent, Passes::Soon, error);
        if view.unknown.contains(parent) {
            return Err(never(DeviceError::Unknown));
        }
        let link = view.snapshot.link_named(&parent.to_name()).ok_or_else(|| soon(DeviceError::NotThere))?;
        let pool = view.pools.of(link).ok_or_else(|| soon(DeviceError::NotSelected))?;
        if pool.offer != Offer::Claims {
            return Err(never(DeviceError::NotByClaims(pool.resource.clone())));
        }
        if let Some(exclusion) = view.parent_exclusion(link, pool) {
            return Err(soon(DeviceError::Excluded(exclusion)));
        }
        let requested = wanted.acquisition.created();
        check_kind(pool, requested).map_err(|error| never(error.into()))?;
        let kind = requested.or(pool.children.map(|children| children.first()));
        let configuration = wanted.configuration.as_ref();
        if let Some((kind, configuration)) = kind.zip(configuration) {
            configuration.check_created(kind).map_err(|error| never(error.into()))?;
        }
        check_ethtool(view, link, wanted).map_err(never)?;
        check_mtu_of(Some(link.as_ref()), configuration).map_err(never)?;
        Ok(pool)
    }

    /// Checks that no two devices of the Pod have one name, as far as Prepare knows them, nor that of its own interface.
    pub(super) fn check_names(&self, subject: &Subject, wanted: &[Wanted]) -> Result<(), PrepareError> {
        let reservations = self.settings.records.reservations().unwrap_or_default().into_values();
        let of_others = reservations.filter(|reservation| {
            matches!(reservation.owner, Owner::Claim { .. })
                && !reservation.owner.is_claim(&subject.claim.uid)
                && subject.pod.is_some()
                && reservation.owner.pod() == subject.pod.as_ref()
        });
        let mut names: BTreeMap<InterfaceName, DeviceId> = of_others
            .map(|reservation| {
                let host = reservation.device.to_name();
                let inside = reservation.configuration.as_ref().map(|it| it.name_inside(&host).clone());
                (inside.unwrap_or(host), reservation.device)
            })
            .collect();
        let view = self.settings.views.borrow().clone();
        for wanted in wanted.iter().filter(|wanted| !wanted.allocation.is_admin) {
            let Ok(name) = wanted.allocation.device.parse::<DeviceName>() else { continue };
            let is_named = wanted.configuration.as_ref().is_some_and(|configuration| configuration.name.is_some());
            let device = match &wanted.device {
                Some(device) => device.clone(),
                // its name depends on its number
                None if !is_named && children_on(&view, &name.device()).is_some() => continue,
                None => name.device(),
            };
            let name = wanted.name_inside(&device);
            if name.as_bytes() == POD_INTERFACE.as_bytes() {
                return Err(wanted.error(DeviceError::PodInterface(name.to_string())));
            }
            if let Some(other) = names.insert(name.clone(), device) {
                return Err(wanted.error(DeviceError::SameName { name: name.to_string(), other }));
            }
        }
        Ok(())
    }
}

/// Checks that the pool of the device allows what is requested of the driver.
fn check_ethtool(view: &View, link: &Link, wanted: &Wanted) -> Result<(), DeviceError> {
    let Some((pool, configuration)) = view.pools.of(link).zip(wanted.configuration.as_ref()) else { return Ok(()) };
    Ok(pool.check_ethtool(configuration)?)
}

/// A virtual function has at most the MTU of its physical function, and what is built on an interface that of the interface.
fn check_mtu(view: &View, link: &Link, configuration: Option<&SandboxConfiguration>) -> Result<(), DeviceError> {
    let function = link.hardware.as_ref().and_then(|hardware| hardware.virtual_function.as_ref());
    let physical = function.and_then(|function| function.physical_function_name.as_ref());
    let physical = physical.and_then(|name| view.snapshot.link_named(name));
    let is_bounded = matches!(link.kind.as_deref(), Some("vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap"));
    let parent = link.parent.filter(|_| is_bounded).and_then(|parent| view.snapshot.link(parent));
    check_mtu_of(physical.or(parent).map(|limit| &**limit), configuration)
}

/// Checks the MTU against that of the interface below.
fn check_mtu_of(limit: Option<&Link>, configuration: Option<&SandboxConfiguration>) -> Result<(), DeviceError> {
    let Some(asked) = configuration.and_then(|configuration| configuration.mtu) else { return Ok(()) };
    match limit.filter(|limit| asked > limit.mtu) {
        None => Ok(()),
        Some(limit) => Err(DeviceError::Mtu { asked, most: limit.mtu, of: limit.name.to_string() }),
    }
}
