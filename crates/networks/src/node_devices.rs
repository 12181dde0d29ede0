//! The devices of the node that plugins would take: checked by the rules of every other way to a device, and locked.

use std::{
    fs,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use cni::{NodeDevice, Selector};
use netdevice::{DeviceId, InterfaceName, Link, Owner, Snapshot, exclusion::Exclusions};
use store::{Lock, Records};

use crate::error::Error;

/// Checks that plugins may take these devices. Nobody else attaches them while the locks are held.
pub(crate) fn lock(
    records: &Records,
    devices: &[NodeDevice],
    owner: &Owner,
    snapshot: &Snapshot,
    sysfs: &Path,
) -> Result<Vec<Lock>, Error> {
    let exclusions = Exclusions::find(snapshot);
    let mut locks: Vec<(DeviceId, Lock)> = Vec::new();
    for NodeDevice { plugin, selector } in devices {
        check_holder(records, plugin, selector, owner)?;
        let links = snapshot.links().values().filter(|link| is_selected(link, selector, sysfs));
        for link in links {
            if let Some(exclusion) = exclusions.of(link, snapshot) {
                return Err(Error::Excluded { plugin: plugin.clone(), link: link.name.clone(), exclusion });
            }
            let device = DeviceId::from(&link.name);
            if locks.iter().any(|(locked, _)| *locked == device) {
                continue;
            }
            let held = |error| Error::Held { plugin: plugin.clone(), device: device.clone(), error: Box::new(error) };
            let busy = || Error::Busy { plugin: plugin.clone(), device: device.clone() };
            let lock = records.try_lock(&device).map_err(held)?.ok_or_else(busy)?;
            records.check_reservation(&device, owner, &lock).map_err(held)?;
            records.check_children(&device, &lock).map_err(held)?;
            locks.push((device, lock));
        }
    }
    Ok(locks.into_iter().map(|(_, lock)| lock).collect())
}

/// Checks that no other owner has the device of that name: one that is in a Pod is no interface of the node.
fn check_holder(records: &Records, plugin: &str, selector: &Selector, owner: &Owner) -> Result<(), Error> {
    let Selector::Name(name) = selector else { return Ok(()) };
    let Ok(name) = name.parse::<InterfaceName>() else { return Ok(()) };
    let device = DeviceId::from(&name);
    let error = match records.read(&device) {
        Ok(Some(record)) if record.owner != *owner => store::Error::Held(record.owner.into()),
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    Err(Error::Held { plugin: plugin.into(), device, error: Box::new(error) })
}

/// The links that a selector matches, by name.
#[must_use]
pub fn find_links(snapshot: &Snapshot, selector: &Selector, sysfs: &Path) -> Vec<InterfaceName> {
    let selected = snapshot.links().values().filter(|link| is_selected(link, selector, sysfs));
    selected.map(|link| link.name.clone()).collect()
}

fn is_selected(link: &Arc<Link>, selector: &Selector, sysfs: &Path) -> bool {
    match selector {
        Selector::Name(name) => {
            let name = name.as_bytes();
            link.name.as_bytes() == name || link.altnames.iter().any(|other| other.as_bytes() == name)
        }
        Selector::HardwareAddress(address) => {
            let mac = link.mac.as_ref().map(|mac| mac.to_string());
            mac.is_some_and(|mac| digits(&mac) == digits(address))
        }
        Selector::KernelPath(path) => is_below(link, &cleaned(Path::new(path)), sysfs),
        Selector::Device(name) => ["bus/pci/devices", "bus/auxiliary/devices"]
            .iter()
            .any(|bus| is_below(link, &cleaned(&sysfs.join(bus).join(name.trim_start_matches('/'))), sysfs)),
    }
}

/// The hex digits of an address, however it is written.
fn digits(text: &str) -> String {
    text.chars().filter(char::is_ascii_hexdigit).map(|digit| digit.to_ascii_lowercase()).collect()
}

/// Whether the device of a link, in sysfs, is that of a path or below it.
fn is_below(link: &Link, parent: &Path, sysfs: &Path) -> bool {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let own = fs::canonicalize(sysfs.join("class/net").join(OsStr::from_bytes(link.name.as_bytes())));
    let parent = fs::canonicalize(parent);
    matches!((own, parent), (Ok(own), Ok(parent)) if own.starts_with(&parent))
}

/// A path without `.` and `..`, as the plugins compute it: by its text.
fn cleaned(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                cleaned.pop();
            }
            other => cleaned.push(other),
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use netdevice::fixture;

    use super::*;

    fn selected(selector: &Selector, sysfs: &Path) -> bool {
        let mut link = fixture::link(2, "eth0");
        link.mac = "02:00:00:00:00:0a".parse().ok();
        is_selected(&Arc::new(link), selector, sysfs)
    }

    #[test]
    fn an_interface_is_found_however_it_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let sysfs = directory.path();
        let device = sysfs.join("devices/pci0000:00/0000:00:03.0/virtio0/net/eth0");
        fs::create_dir_all(&device).unwrap();
        for folder in ["class/net", "bus/pci/devices"] {
            fs::create_dir_all(sysfs.join(folder)).unwrap();
        }
        std::os::unix::fs::symlink(&device, sysfs.join("class/net/eth0")).unwrap();
        let function = sysfs.join("devices/pci0000:00/0000:00:03.0");
        std::os::unix::fs::symlink(function, sysfs.join("bus/pci/devices/0000:00:03.0")).unwrap();
        let path = |path: &str| Selector::KernelPath(sysfs.join(path).display().to_string());
        let yes = [
            Selector::Name("eth0".into()),
            Selector::HardwareAddress("02-00-00-00-00-0A".into()),
            Selector::HardwareAddress("0200.0000.000a".into()),
            Selector::Device("0000:00:03.0".into()),
            Selector::Device("./x/../0000:00:03.0".into()),
            path("devices/pci0000:00/0000:00:03.0/virtio0"),
            path("devices/x/../pci0000:00"),
        ];
        for selector in yes {
            assert!(selected(&selector, sysfs), "{selector:?}");
        }
        let no = [
            Selector::Name("eth1".into()),
            Selector::HardwareAddress("02:00:00:00:00:0b".into()),
            Selector::Device("0000:00:04.0".into()),
            path("devices/pci0000:01"),
        ];
        for selector in no {
            assert!(!selected(&selector, sysfs), "{selector:?}");
        }
    }
}
