//! CDI documents of other programs, read as the runtimes' library reads them (`pkg/cdi` of container-device-interface):
//! JSON or YAML whatever the extension, no unknown fields, all or nothing.

use std::{collections::BTreeSet, path::Path};

use serde::{Deserialize, Deserializer, de::IgnoredAny};

use crate::resource::ResourceName;

/// Longest document that is read, in bytes. Runtimes read longer ones; tools write some kilobytes.
pub const MAX_DOCUMENT: usize = 4 << 20;

/// The parts of a document that matter to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// `vendor/class`.
    pub kind: String,
    /// Names of its devices.
    pub devices: BTreeSet<String>,
    /// The program that wrote it.
    pub author: Author,
}

/// The program that wrote a document, recognised by the edits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// network-device-plugin: it only starts `ifnetns` and `ifup`.
    OriginalPlugin,
    /// A netdevice agent: it only starts `netdevice-hook`.
    Netdevice,
    /// Another program.
    Other,
}

/// Why a runtime ignores a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Not a CDI document.
    #[error("{0}")]
    Form(String),
    /// The version does not have the form `1.2.3`.
    #[error("invalid cdiVersion {0:?}")]
    Version(String),
    /// A device is listed twice.
    #[error("device {0:?} is listed twice")]
    SameDevice(String),
    /// A device that changes nothing.
    #[error("device {0:?} has no edits")]
    NoEdits(String),
    /// A text longer than the limit.
    #[error("it is too long: the limit is {MAX_DOCUMENT} bytes")]
    TooLarge,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    #[allow(dead_code, reason = "an optional field")]
    annotations: IgnoredAny,
    #[serde(default, deserialize_with = "nullable")]
    devices: Vec<Device>,
    #[serde(default, deserialize_with = "nullable")]
    container_edits: Edits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    #[allow(dead_code, reason = "an optional field")]
    annotations: IgnoredAny,
    #[serde(default, deserialize_with = "nullable")]
    container_edits: Edits,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Edits {
    #[serde(deserialize_with = "nullable")]
    env: Vec<IgnoredAny>,
    #[serde(deserialize_with = "nullable")]
    device_nodes: Vec<IgnoredAny>,
    #[serde(deserialize_with = "nullable")]
    net_devices: Vec<IgnoredAny>,
    #[serde(deserialize_with = "nullable")]
    mounts: Vec<IgnoredAny>,
    #[serde(deserialize_with = "nullable")]
    hooks: Vec<Hook>,
    intel_rdt: Option<IgnoredAny>,
    #[serde(deserialize_with = "nullable")]
    additional_gids: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Hook {
    #[allow(dead_code, reason = "a required field")]
    hook_name: String,
    path: String,
    #[serde(default, deserialize_with = "nullable")]
    args: Vec<String>,
    #[serde(default)]
    #[allow(dead_code, reason = "an optional field")]
    env: IgnoredAny,
    #[serde(default)]
    #[allow(dead_code, reason = "an optional field")]
    timeout: IgnoredAny,
}

/// For Go, null is a missing value.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Spec {
    /// Reads a document.
    ///
    /// # Errors
    ///
    /// Why a runtime ignores it.
    pub fn read(text: &str) -> Result<Self, SpecError> {
        if text.len() > MAX_DOCUMENT {
            return Err(SpecError::TooLarge);
        }
        let document = match serde_json::from_str::<Document>(text) {
            Ok(document) => document,
            // a text that begins as JSON and is invalid JSON is YAML for the library, too
            Err(_) => from_yaml(text)?,
        };
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let version = document.cdi_version.as_str();
        if version.split('.').count() != 3 || !version.split('.').all(is_number) {
            return Err(SpecError::Version(document.cdi_version));
        }
        let author = author(&document);
        let mut devices = BTreeSet::new();
        for device in document.devices {
            if device.container_edits.is_empty() {
                return Err(SpecError::NoEdits(device.name));
            }
            if !devices.insert(device.name.clone()) {
                return Err(SpecError::SameDevice(device.name));
            }
        }
        Ok(Self { kind: document.kind, devices, author })
    }

    /// Whether an invalid text seems to be a document of this kind.
    pub fn seems_to_be_of(text: &str, kind: &ResourceName) -> bool {
        let escaped = kind.as_str().replace('/', "\\/");
        text.contains(kind.as_str()) || text.contains(&escaped)
    }
}

fn from_yaml(text: &str) -> Result<Document, SpecError> {
    serde_saphyr::from_str(text).map_err(|error| {
        // the first line has the reason and the position; the lines after it show the text around it
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        SpecError::Form(first.strip_prefix("error: ").unwrap_or(first).to_owned())
    })
}

impl Edits {
    fn is_empty(&self) -> bool {
        self.hooks.is_empty() && self.has_hooks_only()
    }

    fn has_hooks_only(&self) -> bool {
        let lists = [&self.env, &self.device_nodes, &self.net_devices, &self.mounts, &self.additional_gids];
        lists.iter().all(|list| list.is_empty()) && self.intel_rdt.is_none()
    }
}

fn author(document: &Document) -> Author {
    let does = |is_ours: fn(&Hook) -> bool| {
        let edits = || document.devices.iter().map(|device| &device.container_edits);
        let mut hooks = edits().flat_map(|edits| &edits.hooks);
        document.container_edits.is_empty()
            && !document.devices.is_empty()
            && edits().all(|edits| edits.has_hooks_only() && !edits.hooks.is_empty())
            && hooks.all(is_ours)
    };
    fn program(hook: &Hook) -> Option<&str> {
        Path::new(&hook.path).file_name()?.to_str()
    }
    let is_original: fn(&Hook) -> bool = |hook| matches!(program(hook), Some("ifnetns" | "ifup"));
    let is_netdevice: fn(&Hook) -> bool = |hook| {
        let verb = hook.args.get(1).map(String::as_str);
        hook.args.first().is_some_and(|name| name == "netdevice-hook") && matches!(verb, Some("attach" | "detach"))
    };
    let moves = |hook: &Hook| program(hook) == Some("ifnetns");
    if does(is_netdevice) {
        Author::Netdevice
    } else if does(is_original) && document.devices.iter().all(|device| device.container_edits.hooks.iter().any(moves))
    {
        Author::OriginalPlugin
    } else {
        Author::Other
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cdi;

    /// As network-device-plugin writes it.
    const ORIGINAL: &str = "---\ncdiVersion: 0.6.0\nkind: networking.k8s.io/netdevice\ncontainerEdits: {}\ndevices:\n\
        - name: d0\n  containerEdits:\n    hooks:\n    - {hookName: createRuntime, path: /opt/cdi/bin/ifnetns, args: [d0]}\n\
        \x20   - {hookName: createContainer, path: /opt/cdi/bin/ifup, args: [d0, 10.0.0.1/24]}\n";

    fn of(text: &str) -> (String, Vec<String>, Author) {
        let Spec { kind, devices, author } = Spec::read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        (kind, devices.into_iter().collect(), author)
    }

    fn is(devices: &[&str], author: Author) -> (String, Vec<String>, Author) {
        let devices = devices.iter().map(|device| (*device).to_owned()).collect();
        ("networking.k8s.io/netdevice".to_owned(), devices, author)
    }

    fn json(devices: &str) -> String {
        format!(r#"{{"cdiVersion": "0.5.0", "kind": "networking.k8s.io\/netdevice", "devices": [{devices}]}}"#)
    }

    #[test]
    fn documents_are_read_whoever_wrote_them() {
        assert_eq!(of(ORIGINAL), is(&["d0"], Author::OriginalPlugin));
        let resource = ResourceName::default();
        let devices = ["eth0", "x:-a"].map(|id| id.parse().unwrap()).into();
        for state_dir in [None, Some("/run/elsewhere")] {
            let ours = cdi::Document {
                resource: &resource,
                hook: "/opt/of-old/hook",
                state_dir,
                devices: &devices,
                creation: None,
            };
            assert_eq!(of(&ours.to_json().unwrap()), is(&["eth0", "x:-a"], Author::Netdevice));
        }
        let node = r#"{"name": "d0", "containerEdits": {"env": null, "deviceNodes": [{"path": "/dev/x"}]}}"#;
        assert_eq!(of(&json(node)), is(&["d0"], Author::Other));
    }

    /// Only what does nothing else may be taken for the work of the original plugin, and be removed.
    #[test]
    fn what_does_anything_else_is_of_somebody_else() {
        let hook = |path: &str| format!(r#"{{"hookName": "createRuntime", "path": "{path}", "args": ["a"]}}"#);
        let device = |name: &str, edits: &str| format!(r#"{{"name": "{name}", "containerEdits": {{{edits}}}}}"#);
        let hooks = |paths: &[&str]| {
            let hooks: Vec<String> = paths.iter().map(|path| hook(path)).collect();
            format!(r#""hooks": [{}]"#, hooks.join(","))
        };
        let table = [
            (device("a", &hooks(&["/opt/cdi/bin/ifnetns", "/opt/cdi/bin/ifup"])), Author::OriginalPlugin),
            (device("a", &hooks(&["/opt/cdi/bin/ifup"])), Author::Other),
            (device("a", &hooks(&["/opt/cdi/bin/ifnetns", "/opt/mine"])), Author::Other),
            (device("a", &format!("{}, \"env\": [\"A=b\"]", hooks(&["/opt/cdi/bin/ifnetns"]))), Author::Other),
            (device("a", &hooks(&["/usr/bin/netdevice-hook"])), Author::Other),
            ([device("a", &hooks(&["/opt/cdi/bin/ifnetns"])), device("b", &hooks(&["/b"]))].join(","), Author::Other),
        ];
        for (devices, author) in table {
            assert_eq!(of(&json(&devices)).2, author, "{devices}");
        }
        assert_eq!(of(&ORIGINAL.replace("containerEdits: {}", "containerEdits: {env: [A=b]}")).2, Author::Other);
    }

    #[test]
    fn what_a_runtime_ignores_is_refused_with_the_reason() {
        let kind = ResourceName::default();
        let empty = r#"{"name": "a", "containerEdits": {}}"#;
        let twice = r#"{"name": "a", "containerEdits": {"env": ["A=b"]}}"#;
        let table = [
            (String::new(), "unexpected end of input", false),
            ("{".to_owned(), "", false),
            (ORIGINAL.replace("0.6.0", "six"), "invalid cdiVersion \"six\"", true),
            (ORIGINAL.replace("containerEdits: {}", "nonsense: 1"), "unknown field `nonsense`", true),
            (ORIGINAL.replace("kind: ", "kindness: "), "unknown field `kindness`", true),
            (json(empty), "device \"a\" has no edits", true),
            (json(&[twice, twice].join(",")), "device \"a\" is listed twice", true),
            (" ".repeat(MAX_DOCUMENT + 1), "too long", false),
        ];
        for (text, part, seems_ours) in table {
            let error = Spec::read(&text).unwrap_err().to_string();
            assert!(error.contains(part) && error.lines().count() == 1, "{text}: {error}");
            assert_eq!(Spec::seems_to_be_of(&text, &kind), seems_ours, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            let _ = Spec::read(&text);
        }
    }
}
