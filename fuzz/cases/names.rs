//! Names and ids: what is read and printed is read as the same.

use netdevice::{DeviceId, HardwareAddress, InterfaceName, ResourceName, SandboxInterfaceName, cdi};

pub fn run(bytes: &[u8]) {
    if let Ok(name) = InterfaceName::new(bytes) {
        assert_eq!(name.as_bytes(), bytes);
        let id = DeviceId::from(&name);
        assert_eq!(id.to_name(), name);
        assert_eq!(id.as_str().parse::<DeviceId>().as_ref(), Ok(&id));
        if let Ok(inside) = SandboxInterfaceName::try_from(name.clone()) {
            assert_eq!(*inside.as_interface_name(), name);
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(id) = text.parse::<DeviceId>() {
        assert_eq!(id.as_str(), text);
        assert_eq!(DeviceId::from(&id.to_name()), id);
    }
    if let Ok(resource) = text.parse::<ResourceName>() {
        assert_eq!(format!("{}/{}", resource.vendor(), resource.class()), text);
        let _ = (resource.environment_variable(), cdi::file_name(&resource));
    }
    if let Ok((Some(resource), id)) = cdi::parse_name(text) {
        assert_eq!(cdi::qualified_name(&resource, &id), text);
    }
    if let Ok(address) = text.parse::<HardwareAddress>() {
        assert_eq!(address.to_string().parse::<HardwareAddress>().as_ref(), Ok(&address));
    }
}
