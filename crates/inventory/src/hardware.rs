//! What sysfs says of the device behind a link. Whatever cannot be read is not known; nothing here fails.
//!
//! sysfs shows the network namespace of whoever mounted it, not that of the reader: a link is believed only if its
//! index is the one that rtnetlink told.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use netdevice::{
    InterfaceName, Link,
    link::{Hardware, VirtualFunction},
};

/// Reads hardware for one snapshot. It remembers the virtual functions of each physical function, so that 128 of them
/// are not listed 128 times.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    sysfs: &'a Path,
    physical_functions: HashMap<PathBuf, PhysicalFunction>,
}

#[derive(Debug)]
struct PhysicalFunction {
    address: Box<str>,
    name: Option<InterfaceName>,
    /// Index of each virtual function, by its folder.
    indexes: HashMap<PathBuf, u32>,
}

impl<'a> Reader<'a> {
    /// Reads below this folder, `/sys` on a node.
    pub(crate) fn new(sysfs: &'a Path) -> Self {
        Self { sysfs, physical_functions: HashMap::new() }
    }

    /// Reads the hardware of one link; none for a link without any, or of another namespace.
    pub(crate) fn read(&mut self, link: &Link) -> Option<Hardware> {
        let class = self.sysfs.join("class/net").join(OsStr::from_bytes(link.name.as_bytes()));
        if read_number(&class.join("ifindex")) != Some(i64::from(link.index)) {
            return None;
        }
        let device = fs::canonicalize(class.join("device")).ok()?;
        let pci = pci_function(&device);
        let numa_node = |folder: &Path| read_number(&folder.join("numa_node"));
        let numa = numa_node(&device).or_else(|| numa_node(device.parent()?));
        let id = |pci: &Path| Some((read_hex(&pci.join("vendor"))?, read_hex(&pci.join("device"))?));
        Some(Hardware {
            driver: link_target(&device.join("driver")),
            pci_address: pci.and_then(last_part),
            pci_id: pci.and_then(id),
            numa_node: numa.and_then(|node| node.try_into().ok()),
            virtual_function: pci.and_then(|pci| self.virtual_function(pci)),
            // -1 and EINVAL: there is no carrier, or the driver does not tell
            speed: read_number(&class.join("speed")).filter(|speed| *speed > 0).and_then(|speed| speed.try_into().ok()),
        })
    }

    fn virtual_function(&mut self, pci: &Path) -> Option<VirtualFunction> {
        let above = fs::canonicalize(pci.join("physfn")).ok()?;
        let above = self.physical_functions.entry(above).or_insert_with_key(|path| PhysicalFunction::read(path));
        Some(VirtualFunction {
            physical_function: above.address.clone(),
            physical_function_name: above.name.clone(),
            index: *above.indexes.get(pci)?,
        })
    }
}

impl PhysicalFunction {
    fn read(path: &Path) -> Self {
        let mut indexes = HashMap::new();
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("virtfn")).map(str::parse);
            if let (Some(Ok(index)), Ok(function)) = (number, fs::canonicalize(entry.path())) {
                indexes.insert(function, index);
            }
        }
        Self { address: last_part(path).unwrap_or_default(), name: interface_of(path), indexes }
    }
}

/// The interface of a physical function. In switchdev mode its folder has the representors of its virtual functions
/// too, which their port names tell (`pf0vf1`, `pf0sf2`; the uplink's is `p0`).
fn interface_of(pci: &Path) -> Option<InterfaceName> {
    let entries = fs::read_dir(pci.join("net")).ok()?.flatten();
    let is_representor = |folder: &Path| {
        let port = fs::read_to_string(folder.join("phys_port_name")).unwrap_or_default();
        port.contains("vf") || port.contains("sf")
    };
    let interfaces = entries.filter(|entry| !is_representor(&entry.path()));
    let names = interfaces.filter_map(|entry| InterfaceName::new(&entry.file_name().into_vec()).ok());
    names.min()
}

/// The PCI function: the device itself, or what is above a virtio device.
fn pci_function(device: &Path) -> Option<&Path> {
    let bus = |folder: &Path| link_target(&folder.join("subsystem"));
    match bus(device)?.as_ref() {
        "pci" => Some(device),
        "virtio" => device.parent().filter(|above| bus(above).as_deref() == Some("pci")),
        _ => None,
    }
}

fn link_target(path: &Path) -> Option<Box<str>> {
    last_part(&fs::read_link(path).ok()?)
}

fn last_part(path: &Path) -> Option<Box<str>> {
    path.file_name()?.to_str().map(Into::into)
}

fn read_number(path: &Path) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn read_hex(path: &Path) -> Option<u16> {
    u16::from_str_radix(fs::read_to_string(path).ok()?.trim().strip_prefix("0x")?, 16).ok()
}
