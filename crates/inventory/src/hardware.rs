//! What sysfs says about the device of a link. What cannot be read is unknown; nothing here fails.
//!
//! sysfs shows the network namespace of the process that mounted it, not that of the reader: a link counts only if its
//! index is the one from rtnetlink.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use netdevice::{
    InterfaceName, Link,
    link::{Hardware, VirtualFunction, pcie_root},
};

/// Reads hardware for one snapshot. It keeps the virtual functions of each physical function, so that 128 of them are not
/// listed 128 times.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    sysfs: &'a Path,
    physical_functions: HashMap<PathBuf, PhysicalFunction>,
}

#[derive(Debug)]
struct PhysicalFunction {
    address: Box<str>,
    name: Option<InterfaceName>,
    /// Index of each virtual function, by its directory.
    indexes: HashMap<PathBuf, u32>,
}

impl<'a> Reader<'a> {
    /// Reads below this directory, `/sys` on a node.
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
        // -1 and EINVAL: no carrier, or unknown to the driver
        let speed = read_number(&class.join("speed")).filter(|speed| *speed > 0);
        Some(Hardware { speed: speed.and_then(|speed| speed.try_into().ok()), ..self.read_device(&device) })
    }

    /// What a device says itself, in whichever network namespace its interface is: all but the speed.
    pub(crate) fn read_device(&mut self, device: &Path) -> Hardware {
        let pci = pci_function(device);
        let numa_node = |folder: &Path| read_number(&folder.join("numa_node"));
        let numa = numa_node(device).or_else(|| numa_node(device.parent()?));
        let id = |pci: &Path| Some((read_hex(&pci.join("vendor"))?, read_hex(&pci.join("device"))?));
        Hardware {
            driver: link_target(&device.join("driver")),
            pci_address: pci.and_then(last_part),
            pcie_root: device.to_str().filter(|_| pci.is_some()).and_then(pcie_root).map(Into::into),
            pci_id: pci.and_then(id),
            numa_node: numa.and_then(|node| node.try_into().ok()),
            virtual_function: pci.and_then(|pci| self.virtual_function(pci)),
            speed: None,
        }
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

/// The interface of a physical function. In switchdev mode its directory has the representors of its virtual functions
/// too, which have port names such as `pf0vf1` and `pf0sf2`; the uplink's is `p0`.
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use netdevice::fixture;
    use tempfile::TempDir;

    use super::*;

    /// A sysfs as the kernel lays it out.
    struct Sysfs(TempDir);

    impl Sysfs {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, path: &str, text: &str) -> &Self {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn link(&self, path: &str, target: &str) -> &Self {
            let (path, target) = (self.0.path().join(path), self.0.path().join(target));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::create_dir_all(&target).unwrap();
            symlink(target, path).unwrap();
            self
        }

        /// An interface of a device of that bus.
        fn interface(&self, device: &str, bus: &str, name: &str, index: u32) -> &Self {
            self.file(&format!("{device}/net/{name}/ifindex"), &format!("{index}\n"))
                .link(&format!("{device}/net/{name}/device"), device)
                .link(&format!("class/net/{name}"), &format!("{device}/net/{name}"))
                .bus(device, bus)
        }

        fn bus(&self, device: &str, bus: &str) -> &Self {
            if !self.0.path().join(device).join("subsystem").exists() {
                self.link(&format!("{device}/subsystem"), &format!("bus/{bus}"));
            }
            self
        }

        fn read(&self, index: u32, name: &[u8]) -> Option<Hardware> {
            let link = Link { name: InterfaceName::new(name).unwrap(), kind: None, ..fixture::link(index, "any") };
            Reader::new(self.0.path()).read(&link)
        }
    }

    const PF: &str = "devices/pci0000:00/0000:3b:00.0";
    const VF: &str = "devices/pci0000:00/0000:3b:10.5";

    #[test]
    fn a_card_tells_what_it_is() {
        let sysfs = Sysfs::new();
        sysfs
            .interface(PF, "pci", "enp59s0f0", 7)
            .link(&format!("{PF}/driver"), "bus/pci/drivers/ice")
            .file(&format!("{PF}/vendor"), "0x8086\n")
            .file(&format!("{PF}/device"), "0x1592\n")
            .file(&format!("{PF}/numa_node"), "1\n")
            .file(&format!("{PF}/net/enp59s0f0/speed"), "100000\n");
        let expected = Hardware {
            driver: Some("ice".into()),
            pci_address: Some("0000:3b:00.0".into()),
            pcie_root: Some("pci0000:00".into()),
            pci_id: Some((0x8086, 0x1592)),
            numa_node: Some(1),
            virtual_function: None,
            speed: Some(100_000),
        };
        assert_eq!(sysfs.read(7, b"enp59s0f0"), Some(expected));
    }

    #[test]
    fn a_link_of_another_namespace_or_without_a_device_has_no_hardware() {
        let sysfs = Sysfs::new();
        sysfs.interface(PF, "pci", "eth0", 2).file("class/net/tap0/ifindex", "3\n");
        assert_eq!(sysfs.read(9, b"eth0"), None, "the index is another link's");
        assert_eq!(sysfs.read(3, b"tap0"), None);
        assert_eq!(sysfs.read(2, b"eth1"), None);
    }

    #[test]
    fn what_is_missing_or_odd_is_not_known() {
        let sysfs = Sysfs::new();
        sysfs
            .interface(PF, "pci", "eth0", 2)
            .file(&format!("{PF}/numa_node"), "-1\n")
            .file(&format!("{PF}/vendor"), "rubbish")
            .file(&format!("{PF}/net/eth0/speed"), "-1\n");
        let expected = Hardware {
            pci_address: Some("0000:3b:00.0".into()),
            pcie_root: Some("pci0000:00".into()),
            ..Hardware::default()
        };
        assert_eq!(sysfs.read(2, b"eth0"), Some(expected));
    }

    #[test]
    fn a_virtio_card_is_found_one_level_below_its_pci_function() {
        let sysfs = Sysfs::new();
        let device = format!("{PF}/virtio0");
        sysfs
            .bus(PF, "pci")
            .interface(&device, "virtio", "eth0", 2)
            .link(&format!("{device}/driver"), "bus/virtio/drivers/virtio_net")
            .file(&format!("{PF}/vendor"), "0x1af4\n")
            .file(&format!("{PF}/device"), "0x1041\n")
            .file(&format!("{PF}/numa_node"), "0\n");
        let hardware = sysfs.read(2, b"eth0").unwrap();
        assert_eq!(hardware.driver.as_deref(), Some("virtio_net"));
        assert_eq!(hardware.pci_address.as_deref(), Some("0000:3b:00.0"));
        assert_eq!((hardware.pci_id, hardware.numa_node), (Some((0x1af4, 0x1041)), Some(0)));
    }

    #[test]
    fn a_usb_card_is_no_pci_function_of_its_controller() {
        let sysfs = Sysfs::new();
        sysfs.bus(PF, "pci").interface(&format!("{PF}/usb1"), "usb", "usb0", 2);
        assert_eq!(sysfs.read(2, b"usb0").unwrap().pci_address, None);
    }

    #[test]
    fn a_virtual_function_names_its_physical_function_and_no_representor() {
        let sysfs = Sysfs::new();
        sysfs
            .interface(PF, "pci", "enp59s0f0", 7)
            .interface(PF, "pci", "a-representor", 8)
            .file(&format!("{PF}/net/a-representor/phys_port_name"), "pf0vf5\n")
            .file(&format!("{PF}/net/enp59s0f0/phys_port_name"), "p0\n")
            .interface(VF, "pci", "vf5", 9)
            .link(&format!("{VF}/physfn"), PF)
            .link(&format!("{PF}/virtfn5"), VF);
        let function = sysfs.read(9, b"vf5").unwrap().virtual_function.unwrap();
        assert_eq!((&*function.physical_function, function.index), ("0000:3b:00.0", 5));
        assert_eq!(function.physical_function_name, Some("enp59s0f0".try_into().unwrap()));
        fs::remove_dir_all(sysfs.0.path().join(PF).join("net")).unwrap();
        let function = sysfs.read(9, b"vf5").unwrap().virtual_function.unwrap();
        assert_eq!(function.physical_function_name, None, "the physical function is in another namespace");
    }

    #[test]
    fn names_need_not_be_text() {
        let sysfs = Sysfs::new();
        let folder = sysfs.0.path().join("class/net").join(OsStr::from_bytes(b"a\xff"));
        fs::create_dir_all(folder.join("device")).unwrap();
        fs::write(folder.join("ifindex"), "4\n").unwrap();
        assert!(sysfs.read(4, b"a\xff").is_some());
    }
}
