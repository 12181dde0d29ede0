//! Which device a command means.

use netdevice::{DeviceId, InterfaceName, Ledger, Snapshot};

use crate::explain::find;

/// The name on the host of the device that is called so: by its id, by the name or an alternative name of an interface, also of
/// one that is in a Pod. None if the text cannot be a name.
pub(super) fn host_name(device: &str, snapshot: &Snapshot, ledger: &Ledger) -> Option<InterfaceName> {
    let id = device.parse::<DeviceId>().ok();
    let named = device.parse::<InterfaceName>().ok();
    let of_record = id.iter().cloned().chain(named.iter().map(DeviceId::from)).find(|id| ledger.contains_key(id));
    let of_link = || find(device, snapshot).map(|link| link.name.clone());
    let by_altname = || {
        let mut records = ledger.values().filter_map(|record| Some((record.host()?, record)));
        let has = records.find(|(host, _)| host.altnames.iter().any(|name| name.as_bytes() == device.as_bytes()));
        has.map(|(_, record)| record.device.to_name())
    };
    of_record.map(|id| id.to_name()).or_else(of_link).or_else(by_altname).or(named)
}
