//! CDI documents: what makes a container runtime call our hook for a device.
//!
//! A document names hooks only, so what a link looks like does not touch it. It asks for the least CDI version that
//! its contents need: a runtime drops a whole file whose version it does not know.

use std::{borrow::Cow, collections::BTreeSet, io::Read};

use serde::{Deserialize, Serialize, Serializer};

use crate::{id::DeviceId, resource::ResourceName};

/// Seconds after which a runtime ends the hook. A move waits for one grace period of the kernel, and for those of all
/// moves before it: 30 s are a thousand times that.
const HOOK_TIMEOUT: u32 = 30;

/// The CDI document of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document<'a> {
    /// The pool's resource, which is the CDI kind.
    pub resource: &'a ResourceName,
    /// The hook's path on the host, absolute.
    pub hook: &'a str,
    /// Folder of the records on the host, for the hook; the hook's own default if none.
    pub state_dir: Option<&'a str>,
    /// All devices that must resolve.
    pub devices: &'a BTreeSet<DeviceId>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    cdi_version: &'static str,
    kind: &'a str,
    devices: Devices<'a>,
}

/// Made one by one while they are written: a document of 10,000 devices has some 9 MB.
struct Devices<'a>(&'a Document<'a>);

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
    /// Never empty: without it the hook would get the shim's whole environment.
    env: [&'static str; 1],
    timeout: u32,
}

/// The name under which CDI knows a device: `vendor/class=device`.
pub fn qualified_name(resource: &ResourceName, device: &DeviceId) -> String {
    format!("{resource}={device}")
}

/// Takes a qualified name apart; a name without a resource is a device id alone.
///
/// # Errors
///
/// When a part breaks the rules of its kind.
pub fn parse_name(name: &str) -> Result<(Option<ResourceName>, DeviceId), NameError> {
    match name.split_once('=') {
        Some((resource, device)) => Ok((Some(resource.parse()?), device.parse()?)),
        None => Ok((None, name.parse()?)),
    }
}

/// Why a text names no device.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// The part before `=`.
    #[error(transparent)]
    Resource(#[from] crate::resource::ResourceNameError),
    /// The device.
    #[error(transparent)]
    Device(#[from] crate::id::DeviceIdError),
}

/// Name of a pool's file in the CDI folder, `vendor-class.json`.
pub fn file_name(resource: &ResourceName) -> String {
    format!("{}-{}.json", resource.vendor(), resource.class())
}

/// The devices that a document names, whoever wrote it; none if it is not a document of this kind. It is read as it
/// comes: the text of a large one is never in memory as a whole.
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
    /// The document's text; none for no devices: CDI wants at least one in a file.
    pub fn to_json(&self) -> Option<String> {
        if self.devices.is_empty() {
            return None;
        }
        let mut text = serde_json::to_string_pretty(self).expect("a document has only text keys");
        text.push('\n');
        Some(text)
    }

    /// The same text piece by piece, one a device: serialising each of them anew takes ten times as long, and a pool is
    /// written whenever a link comes or goes.
    ///
    /// # Errors
    ///
    /// Those of `write`.
    pub fn for_each_piece<E>(&self, mut write: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        let Some((head, device, tail)) = self.template() else {
            return self.to_json().map_or(Ok(()), |text| write(&text));
        };
        write(&head)?;
        let mut piece = String::new();
        for (at, id) in self.devices.iter().enumerate() {
            piece.clear();
            piece.push_str(if at == 0 { "" } else { "," });
            for (at, part) in device.iter().enumerate() {
                piece.push_str(if at == 0 { "" } else { id.as_str() });
                piece.push_str(part);
            }
            write(&piece)?;
        }
        write(&tail)
    }

    /// The text before the devices, that of a device around its id, and the text behind; none if there is no device, or
    /// one of our paths looks like an id in the text. Ids need no escapes.
    fn template(&self) -> Option<(String, Vec<String>, String)> {
        const PLACE: &str = "placeholder.dev";
        self.devices.first()?;
        let only = BTreeSet::from([PLACE.parse::<DeviceId>().ok()?]);
        let one = Document { devices: &only, ..self.clone() };
        let spec = Spec { cdi_version: self.minimum_version(), kind: self.resource.as_str(), devices: Devices(&one) };
        let text = serde_json::to_string_pretty(&spec).expect("a document has only text keys") + "\n";
        let begin = text.find("\"devices\": [")? + "\"devices\": [".len();
        let end = text.rfind("\n  ]")?;
        let device: Vec<String> = text.get(begin..end)?.split(PLACE).map(str::to_owned).collect();
        // the name, and an argument of each hook
        (device.len() == 4).then(|| (text[..begin].to_owned(), device, text[end..].to_owned()))
    }

    fn device<'b>(&'b self, device: &'b DeviceId) -> Device<'b> {
        let hook = |hook_name, verb: &'static str| {
            let mut args = vec!["netdevice-hook".into(), verb.into()];
            if let Some(folder) = self.state_dir {
                args.extend(["-state-dir".into(), folder.into()]);
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
        Device { name: device.as_str(), container_edits: Edits { hooks } }
    }

    /// CDI `MinimumRequiredVersion`: hooks and environment are of 0.3.0, a device name that begins with a digit needs
    /// 0.5.0, a dot in the class 0.6.0.
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

/// The document as CDI wants it; [`Document::to_json`] knows that one without devices is none.
impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let (cdi_version, kind) = (self.minimum_version(), self.resource.as_str());
        Spec { cdi_version, kind, devices: Devices(self) }.serialize(out)
    }
}

impl Serialize for Devices<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(self.0.devices.iter().map(|device| self.0.device(device)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(resource: &str, devices: &[&str]) -> Option<String> {
        let resource = resource.parse().unwrap();
        let devices = devices.iter().map(|device| device.parse().unwrap()).collect();
        Document { resource: &resource, hook: "/opt/netdevice/netdevice-hook", state_dir: None, devices: &devices }
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
    fn pieces_make_the_same_text() {
        let resource = "networking.k8s.io/netdevice".parse().unwrap();
        for ids in ["", "eth0", "0eth eth0 x:-a", "placeholder.dev"] {
            for hook in ["/opt/\"devices\": [/hook", "/placeholder.dev", "/hook\\\n  ]"] {
                for state_dir in [None, Some("/run/é")] {
                    let devices = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
                    let document = Document { resource: &resource, hook, state_dir, devices: &devices };
                    let mut text = String::new();
                    let done: Result<(), ()> = document.for_each_piece(|piece| {
                        text.push_str(piece);
                        Ok(())
                    });
                    assert_eq!((done, text), (Ok(()), document.to_json().unwrap_or_default()));
                }
            }
        }
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
