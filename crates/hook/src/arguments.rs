//! Arguments, as the CDI document writes them: a verb, and devices by CDI name or id.

use std::{ffi::OsString, path::PathBuf};

use netdevice::{DeviceId, ResourceName, acquisition::ChildKind, cdi, exclusion::UplinkParents};
use store::{DEFAULT_STATE_DIR, journal::Action};

const HELP: &str = "\
netdevice-hook: moves network devices into a container and returns them to the host

usage: netdevice-hook attach|detach [FLAG]... DEVICE...

A container runtime starts it as an OCI hook with the OCI state on standard
input: attach at createRuntime, detach at poststop.

  DEVICE           a device id, or a CDI name: networking.k8s.io/netdevice=eth1
  -create KIND     attach: create the devices: macvlan/MODE, ipvlan/MODE or vlan/ID
  -uplink-parent   also on an interface that the node is connected by
  -claim UID       attach: what is reserved for this ResourceClaim; it is detached
                   with the Pod or the claim
  -state-dir DIR   directory of the records and of hook.log (default /run/netdevice)
  -help, -version

Exit status: 0 done, 1 failed (one line on standard error and in DIR/hook.log),
2 wrong arguments.
";

/// What this process is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Invocation {
    Print(&'static str),
    Run(Arguments),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) action: Action,
    pub(crate) state_dir: PathBuf,
    pub(crate) devices: Vec<Device>,
    /// What is created; none if the devices are moved.
    pub(crate) create: Option<ChildKind>,
    /// Whether it may be created on a link that the node is connected by.
    pub(crate) uplink_parents: UplinkParents,
    /// UID of the claim that the devices are attached for; none if they are the container's.
    pub(crate) claim: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) resource: Option<ResourceName>,
    pub(crate) id: DeviceId,
}

pub(crate) fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Invocation, String> {
    let mut action = None;
    let mut state_dir = PathBuf::from(DEFAULT_STATE_DIR);
    let (mut devices, mut claim, mut create) = (Vec::new(), None, None);
    let mut uplink_parents = UplinkParents::Refused;
    while let Some(argument) = arguments.next() {
        let text = argument.to_str().ok_or("an argument is not UTF-8: write a device by its id")?;
        match text.strip_prefix("--").or(text.strip_prefix('-')) {
            Some("help" | "h") => return Ok(Invocation::Print(HELP)),
            Some("version" | "V") => {
                return Ok(Invocation::Print(concat!("netdevice-hook ", env!("CARGO_PKG_VERSION"), "\n")));
            }
            Some("state-dir") => state_dir = arguments.next().ok_or("-state-dir needs a directory")?.into(),
            Some("create") => {
                let kind = arguments.next().and_then(|kind| kind.to_str()?.parse::<ChildKind>().ok());
                create = Some(kind.ok_or("-create needs macvlan/MODE, ipvlan/MODE or vlan/ID")?);
            }
            Some("uplink-parent") => uplink_parents = UplinkParents::Allowed,
            Some("claim") => {
                let uid = arguments.next().and_then(|uid| uid.into_string().ok());
                claim = Some(uid.ok_or("-claim needs the UID of a claim")?);
            }
            Some(flag) => match flag.strip_prefix("state-dir=") {
                Some(directory) => state_dir = directory.into(),
                None => return Err(format!("unknown flag {text}: see -help")),
            },
            None if action.is_none() => {
                action = Some(match text {
                    "attach" => Action::Attach,
                    "detach" => Action::Detach,
                    _ => return Err(format!("unknown verb {text:?}: attach or detach is expected, see -help")),
                });
            }
            None => {
                let (resource, id) = cdi::parse_name(text).map_err(|error| error.to_string())?;
                devices.push(Device { resource, id });
            }
        }
    }
    let action = action.ok_or("a verb is missing: attach or detach is expected, see -help")?;
    if devices.is_empty() {
        return Err("no device is named: see -help".into());
    }
    if claim.is_some() && action == Action::Detach {
        return Err("-claim is for attach: a claim's devices are detached with the pod or the claim".into());
    }
    Ok(Invocation::Run(Arguments { action, state_dir, devices, create, uplink_parents, claim }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_all(words: &[&str]) -> Result<Invocation, String> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn arguments_of_a_cdi_document_are_read() {
        let Ok(Invocation::Run(arguments)) =
            parse_all(&["attach", "-state-dir", "/run/x", "networking.k8s.io/netdevice=x:-a", "eth0"])
        else {
            panic!("they are right");
        };
        assert_eq!(arguments.action, Action::Attach);
        assert_eq!(arguments.state_dir, PathBuf::from("/run/x"));
        let ids: Vec<_> = arguments.devices.iter().map(|device| device.id.as_str()).collect();
        assert_eq!(ids, ["x:-a", "eth0"]);
        assert_eq!(arguments.claim, None);
        let Ok(Invocation::Run(arguments)) = parse_all(&["attach", "-claim", "0c1d", "eth0"]) else {
            panic!("they are right");
        };
        assert_eq!(arguments.claim.as_deref(), Some("0c1d"));
        let Ok(Invocation::Run(arguments)) = parse_all(&["attach", "-create", "vlan/7", "-uplink-parent", "eth0:1"])
        else {
            panic!("they are right");
        };
        assert_eq!(arguments.create.map(|kind| kind.to_string()).as_deref(), Some("vlan/7"));
        assert_eq!(arguments.uplink_parents, UplinkParents::Allowed);
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for words in [
            &[][..],
            &["attach"],
            &["take", "eth0"],
            &["attach", "-x", "eth0"],
            &["attach", "a/b"],
            &["detach", "-state-dir"],
            &["attach", "eth0", "-claim"],
            &["attach", "-create", "veth/x", "eth0:1"],
            &["attach", "eth0:1", "-create"],
            &["detach", "-claim", "0c1d", "eth0"],
        ] {
            assert!(parse_all(words).is_err(), "{words:?}");
        }
    }
}
