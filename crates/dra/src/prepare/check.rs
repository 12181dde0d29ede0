//! Whether a device may be given to a claim, and can be what the claim says.

use std::collections::BTreeMap;

use netdevice::{
    Acquisition, DeviceId, InterfaceName, Link, Owner, SandboxConfiguration, View, claims::slice::DeviceName,
    pool::Offer,
};

use super::{Subject, Wanted};
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
        if matches!(wanted.acquisition, Acquisition::Create(_)) {
            let Some(pool) = view.pools.of(link) else { return Err(soon(DeviceError::NotSelected)) };
            if pool.offer != Offer::Claims {
                return Err(never(DeviceError::NotByClaims(pool.resource.clone())));
            }
            if let Some(exclusion) = view.parent_exclusion(link, pool) {
                return Err(soon(DeviceError::Excluded(exclusion)));
            }
            check_ethtool(view, link, wanted).map_err(never)?;
            return check_mtu_of(Some(link.as_ref()), wanted.configuration.as_ref()).map_err(never);
        }
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
        for wanted in wanted.iter().filter(|wanted| !wanted.allocation.is_admin) {
            let Ok(name) = wanted.allocation.device.parse::<DeviceName>() else { continue };
            let device = name.device();
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
