//! CDI documents: they make a container runtime call our hook for a device.
//!
//! A document contains only hooks, so it does not depend on the properties of links. It has the lowest CDI version that its
//! contents need: a runtime ignores a file with a version that it does not know.

use std::{borrow::Cow, collections::BTreeSet, convert::Infallible, io::Read};

use serde::{Deserialize, Serialize};

use crate::{
    acquisition::ChildKind, children::Children, exclusion::UplinkParents, id::DeviceId, resource::ResourceName,
};

/// Seconds after which a runtime kills the hook. A move waits for one grace period of the kernel, and for those of all moves
/// before it: 30 s are a thousand grace periods.
pub(crate) const HOOK_TIMEOUT: u32 = 30;

/// The CDI document of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document<'a> {
    /// The pool's resource, which is the CDI kind.
    pub resource: &'a ResourceName,
    /// The hook's path on the host, absolute.
    pub hook: &'a str,
    /// Directory of the records on the host, for the hook. None: the default of the hook.
    pub state_dir: Option<&'a str>,
    /// All devices that must resolve.
    pub devices: &'a BTreeSet<DeviceId>,
    /// How the pool's devices are created; none if they are moved.
    pub creation: Option<Creation>,
}

/// How the devices of a pool are created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Creation {
    /// What is created on each interface.
    pub children: Children,
    /// Whether also on one that the node is connected by.
    pub uplink_parents: UplinkParents,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Device<'a> {
    name: &'a str,
    container_edits: Edits<'a>,
}

#[derive(Serialize)]
struct Edits<'a> {
    hooks: [Hook<'a>; 2],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Hook<'a> {
    hook_name: &'static str,
    path: &'a str,
    args: Vec<Cow<'a, str>>,
    /// Never empty: otherwise the hook gets the whole environment of the shim.
    env: [&'static str; 1],
    timeout: u32,
}

/// The CDI name of a device: `vendor/class=device`.
pub fn qualified_name(resource: &ResourceName, device: &DeviceId) -> String {
    format!("{resource}={device}")
}

/// Parses a CDI name. A name without a resource is only a device id.
///
/// # Errors
///
/// When a part is invalid.
pub fn parse_name(name: &str) -> Result<(Option<ResourceName>, DeviceId), NameError> {
    match name.split_once('=') {
        Some((resource, device)) => Ok((Some(resource.parse()?), device.parse()?)),
        None => Ok((None, name.parse()?)),
    }
}

/// Why a CDI name is invalid.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// The part before `=`.
    #[error(transparent)]
    Resource(#[from] crate::resource::ResourceNameError),
    /// The device.
    #[error(transparent)]
    Device(#[from] crate::id::DeviceIdError),
}

/// Name of a pool's file in the CDI directory, `vendor-class.json`.
pub fn file_name(resource: &ResourceName) -> String {
    format!("{}-{}.json", resource.vendor(), resource.class())
}

/// The devices of a document of any program; none if it has another kind. It is read as a stream: the text of a large one
/// is never in memory as a whole.
pub fn read_devices(document: impl Read, kind: &ResourceName) -> BTreeSet<DeviceId> {
    #[derive(Deserialize)]
    struct Spec {
        kind: String,
        devices: Vec<Device>,
    }
    #[derive(Deserialize)]
    struct Device {
        name: String,
    }
    let spec: Option<Spec> = serde_json::from_reader(document).ok();
    let devices = spec.filter(|spec| spec.kind == kind.as_str()).map(|spec| spec.devices);
    devices.into_iter().flatten().filter_map(|device| device.name.parse().ok()).collect()
}

impl Document<'_> {
    /// The text of the document; none without devices: CDI needs at least one in a file.
    pub fn to_json(&self) -> Option<String> {
        let mut text = String::new();
        let Ok(()) = self.for_each_piece(|piece| {
            text.push_str(piece);
            Ok::<_, Infallible>(())
        });
        (!text.is_empty()).then_some(text)
    }

    /// The same text in pieces, one line for each device: a document of 10,000 devices has about 4 MB. Serialising each device
    /// would take ten times as long, and a pool is written whenever a link is added or removed.
    ///
    /// # Errors
    ///
    /// Those of `write`.
    pub fn for_each_piece<E>(&self, mut write: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        if self.devices.is_empty() {
            return Ok(());
        }
        let (version, kind) = (self.minimum_version(), self.resource);
        write(&format!("{{\n  \"cdiVersion\": \"{version}\",\n  \"kind\": \"{kind}\",\n  \"devices\": ["))?;
        let template = self.template();
        let mut piece = String::new();
        for (at, id) in self.devices.iter().enumerate() {
            piece.clear();
            piece.push_str(if at == 0 { "\n    " } else { ",\n    " });
            match template.as_ref().filter(|_| id.child().is_none()) {
                Some(template) => template.iter().enumerate().for_each(|(at, part)| {
                    piece.push_str(if at == 0 { "" } else { id.as_str() });
                    piece.push_str(part);
                }),
                None => piece.push_str(&self.device(id)),
            }
            write(&piece)?;
        }
        write("\n  ]\n}\n")
    }

    /// The text of a device around its id; none if one of our paths contains the placeholder. Ids need no escapes.
    fn template(&self) -> Option<Vec<String>> {
        const PLACE: &str = "placeholder.dev";
        let device: Vec<String> = self.device(&PLACE.parse().ok()?).split(PLACE).map(str::to_owned).collect();
        // the name, and an argument of each hook
        (device.len() == 4).then_some(device)
    }

    fn device(&self, device: &DeviceId) -> String {
        // what the pool does not offer any longer can only be detached
        let created: Option<ChildKind> = self.creation.and_then(|creation| creation.children.kind_of(device));
        let hook = |hook_name, verb: &'static str| {
            let mut args: Vec<Cow<'_, str>> = vec!["netdevice-hook".into(), verb.into()];
            if let Some(folder) = self.state_dir {
                args.extend(["-state-dir".into(), folder.into()]);
            }
            if let Some(kind) = created.filter(|_| verb == "attach") {
                args.extend(["-create".into(), kind.to_string().into()]);
                if self.creation.is_some_and(|creation| creation.uplink_parents == UplinkParents::Allowed) {
                    args.push("-uplink-parent".into());
                }
            }
            args.push(qualified_name(self.resource, device).into());
            Hook {
                hook_name,
                path: self.hook,
                args,
                env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                timeout: HOOK_TIMEOUT,
            }
        };
        let hooks = [hook("createRuntime", "attach"), hook("poststop", "detach")];
        let device = Device { name: device.as_str(), container_edits: Edits { hooks } };
        serde_json::to_string(&device).expect("a device has only text keys")
    }

    /// CDI `MinimumRequiredVersion`: hooks and environment need 0.3.0, a device name that begins with a digit 0.5.0, a dot in
    /// the class 0.6.0.
    fn minimum_version(&self) -> &'static str {
        let begins_with_digit = |device: &DeviceId| device.as_str().starts_with(|first: char| first.is_ascii_digit());
        if self.resource.class().contains('.') {
            "0.6.0"
        } else if self.devices.iter().any(begins_with_digit) {
            "0.5.0"
        } else {
            "0.3.0"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(resource: &str, devices: &[&str]) -> Option<String> {
        let resource = resource.parse().unwrap();
        let devices = devices.iter().map(|device| device.parse().unwrap()).collect();
        Document {
            resource: &resource,
            hook: "/opt/netdevice/netdevice-hook",
            state_dir: None,
            devices: &devices,
            creation: None,
        }
        .to_json()
    }

    #[test]
    fn a_document_names_hooks_only() {
        insta::assert_snapshot!(text("networking.k8s.io/netdevice", &["dummy0"]).unwrap());
    }

    #[test]
    fn the_version_is_the_least_that_the_contents_need() {
        let version = |resource, devices| {
            let text = text(resource, devices).unwrap();
            let document: serde_json::Value = serde_json::from_str(&text).unwrap();
            document["cdiVersion"].as_str().unwrap().to_owned()
        };
        assert_eq!(version("a.b/cc", &["eth0", "x:-a"]), "0.3.0");
        assert_eq!(version("a.b/cc", &["eth0", "0eth"]), "0.5.0");
        assert_eq!(version("a.b/cc.d", &["eth0"]), "0.6.0");
    }

    #[test]
    fn every_device_is_a_line_whatever_our_paths_look_like() {
        let resource = "networking.k8s.io/netdevice".parse().unwrap();
        for ids in ["eth0", "0eth eth0 x:-a", "placeholder.dev"] {
            for hook in ["/opt/\"devices\": [/hook", "/placeholder.dev", "/hook\\\n  ]"] {
                for state_dir in [None, Some("/run/é")] {
                    let devices = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
                    let document = Document { resource: &resource, hook, state_dir, devices: &devices, creation: None };
                    let text = document.to_json().unwrap();
                    let lines: Vec<String> = devices.iter().map(|id| format!("    {}", document.device(id))).collect();
                    assert!(text.ends_with(&format!("[\n{}\n  ]\n}}\n", lines.join(",\n"))), "{text}");
                    assert_eq!(read_devices(text.as_bytes(), &resource), devices);
                }
            }
        }
    }

    #[test]
    fn a_device_that_is_created_names_its_kind_for_attach() {
        let resource = "networking.k8s.io/netdevice".parse().unwrap();
        let pools = crate::Pools::from_yaml(
            "pools: [{resource: a.b/cc, select: {names: [eth]}, children: {kind: vlan, id: 100, count: 8}}]",
        );
        let children = pools.unwrap().iter().next().unwrap().children.unwrap();
        // one that moves, from before the pool was changed, and one that is not offered any longer
        let devices = ["eth1:3", "eth2", "eth1:9"].iter().map(|device| device.parse().unwrap()).collect();
        let hook = "/opt/netdevice/netdevice-hook";
        let creation = Some(Creation { children, uplink_parents: UplinkParents::Allowed });
        let text =
            Document { resource: &resource, hook, state_dir: None, devices: &devices, creation }.to_json().unwrap();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let arguments = |device: usize, hook: usize| {
            let hooks = &document["devices"][device]["containerEdits"]["hooks"];
            let words = hooks[hook]["args"].as_array().unwrap();
            words.iter().skip(1).map(|word| word.as_str().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(arguments(0, 0), "attach -create vlan/102 -uplink-parent networking.k8s.io/netdevice=eth1:3");
        assert_eq!(arguments(0, 1), "detach networking.k8s.io/netdevice=eth1:3");
        assert_eq!(arguments(1, 0), "attach networking.k8s.io/netdevice=eth1:9");
        assert_eq!(arguments(2, 0), "attach networking.k8s.io/netdevice=eth2");
    }

    #[test]
    fn no_devices_make_no_document() {
        assert_eq!(text("a.b/cc", &[]), None);
    }

    #[test]
    fn qualified_names_are_taken_apart() {
        let (resource, device) = parse_name("networking.k8s.io/netdevice=x:a:5f").unwrap();
        assert_eq!(qualified_name(&resource.unwrap(), &device), "networking.k8s.io/netdevice=x:a:5f");
        assert_eq!(parse_name("eth0").unwrap().0, None);
        assert!(parse_name("x=eth0").is_err());
    }
}
