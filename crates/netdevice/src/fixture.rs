//! A link and a record for the tests of all crates: a test then sets only what matters to it. No program calls this.

use crate::{
    Attachment, DeviceId, InterfaceName, Link, LinkState, Owner, Phase,
    acquisition::Moved,
    link::flags,
    owner::Request,
    record::{SandboxPlace, Viewpoint},
};

/// A dummy link that is up and has no address.
///
/// # Panics
///
/// When `name` is not an interface name.
pub fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.try_into().expect("an interface name"),
        altnames: Box::default(),
        alias: None,
        kind: Some("dummy".into()),
        mac: None,
        flags: flags::UP,
        mtu: 1500,
        master: None,
        parent: None,
        link_netnsid: None,
        netns_immutable: None,
        hardware: None,
    }
}

/// The record of a device that is attached to container `container` of sandbox `sandbox`, of no Pod, and that was up on the
/// host.
///
/// # Panics
///
/// When `name` is not an interface name.
pub fn record(name: &str) -> Attachment {
    let name = InterfaceName::try_from(name).expect("an interface name");
    Attachment {
        device: DeviceId::from(&name),
        resource: None,
        phase: Phase::Attached,
        owner: owner("container"),
        process: None,
        sandbox: SandboxPlace {
            cookie: 7,
            inode: 7,
            nsid: None,
            seen_from: Viewpoint { pid_namespace: 1, mount_namespace: 2 },
            paths: Vec::new(),
            name: name.clone(),
            ifindex: 7,
        },
        configuration: None,
        acquired: Moved { host: LinkState { flags: flags::UP, ..LinkState::new(name, 7) }, home: None }.into(),
        quarantined: None,
        since: 0,
    }
}

/// A container of that id in sandbox `sandbox`; or the sandbox itself, by annotation, if that is its id.
pub fn owner(id: &str) -> Owner {
    match id {
        "sandbox" => Owner::Sandbox { id: id.into(), pod: None, by: Request::Annotation },
        _ => Owner::Container { id: id.into(), sandbox: Some("sandbox".into()), pod: None },
    }
}
