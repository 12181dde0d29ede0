//! A CDI file that is found in our place: whoever wrote it, devices are read from it or none.

use std::collections::BTreeSet;

use netdevice::{DeviceId, ResourceName, cdi};

pub fn run(bytes: &[u8]) {
    let resource = ResourceName::default();
    let devices: BTreeSet<DeviceId> = cdi::read_devices(bytes, &resource);
    let document = cdi::Document {
        resource: &resource,
        hook: "/var/lib/netdevice/netdevice-hook",
        state_dir: None,
        devices: &devices,
        creation: None,
    };
    match document.to_json() {
        None => assert!(devices.is_empty()),
        Some(text) => assert_eq!(cdi::read_devices(text.as_bytes(), &resource), devices),
    }
}
