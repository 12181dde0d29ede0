//! The CDI document of a claim: a device for each request, whose hook makes sure that the container has the network devices.

use std::fmt::Write as _;

use serde::Serialize;

use super::DRIVER;
use crate::{cdi::HOOK_TIMEOUT, id::DeviceId};

/// CDI `MinimumRequiredVersion` of a device name that begins with a digit, as a UID may.
const VERSION: &str = "0.5.0";
/// The class of the CDI kind, whose vendor is the driver.
const CLASS: &str = "claim";

/// The document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document<'a> {
    /// UID of the claim.
    pub uid: &'a str,
    /// The hook's path on the host, absolute.
    pub hook: &'a str,
    /// Directory of the records on the host, for the hook. None: the default of the hook.
    pub state_dir: Option<&'a str>,
    /// The requests with devices of ours.
    pub requests: &'a [Request],
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its name, without subrequest.
    pub name: String,
    /// The devices that containers with the request must have; none of those for administration.
    pub devices: Vec<DeviceId>,
    /// Environment variables, `NAME=value`.
    pub environment: Vec<String>,
    /// A file that containers with the request see, read-only.
    pub file: Option<File>,
}

/// A file of the host in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// On the host, absolute.
    pub host: String,
    /// In the container, absolute.
    pub container: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    cdi_version: &'static str,
    kind: String,
    devices: Vec<Device<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Device<'a> {
    name: String,
    container_edits: Edits<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Edits<'a> {
    env: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    mounts: Option<[Mount<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hooks: Option<[Hook<'a>; 1]>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Mount<'a> {
    host_path: &'a str,
    container_path: &'a str,
    options: [&'static str; 4],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Hook<'a> {
    hook_name: &'static str,
    path: &'a str,
    args: Vec<&'a str>,
    /// Never empty: otherwise the hook gets the whole environment of the shim.
    env: [&'static str; 1],
    timeout: u32,
}

/// The CDI name of a request of a claim, without its subrequest.
pub fn qualified_name(uid: &str, request: &str) -> String {
    format!("{DRIVER}/{CLASS}={}", device_name(uid, request))
}

fn device_name(uid: &str, request: &str) -> String {
    format!("{uid}-{request}")
}

/// Name of a claim's file in the CDI directory, `vendor-class_transient.json`.
pub fn file_name(uid: &str) -> String {
    format!("{DRIVER}-{CLASS}_{uid}.json")
}

/// The claim of a file in the CDI directory; none if it is another one's.
pub fn uid_of(file_name: &str) -> Option<&str> {
    file_name.strip_prefix(DRIVER)?.strip_prefix('-')?.strip_prefix(CLASS)?.strip_prefix('_')?.strip_suffix(".json")
}

/// The environment variable that lists the interfaces of a request in the Pod: `NETDEVICE_CLAIM_<CLAIM>_<REQUEST>`, in upper
/// case, with `_` for every character that is not a letter or digit.
pub fn environment_variable(claim: &str, request: &str) -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
    format!("netdevice_claim_{claim}_{request}").chars().map(letter).collect()
}

impl Document<'_> {
    /// The text of the document; none without requests: CDI needs at least one device in a file.
    pub fn to_json(&self) -> Option<String> {
        if self.requests.is_empty() {
            return None;
        }
        let spec = Spec {
            cdi_version: VERSION,
            kind: format!("{DRIVER}/{CLASS}"),
            devices: self.requests.iter().map(|request| self.device(request)).collect(),
        };
        let mut text = serde_json::to_string_pretty(&spec).expect("a document has only text keys");
        let _ = text.write_char('\n');
        Some(text)
    }

    fn device<'a>(&'a self, request: &'a Request) -> Device<'a> {
        let Request { name, devices, environment, file } = request;
        let mut args = vec!["netdevice-hook", "attach", "-claim", self.uid];
        if let Some(directory) = self.state_dir {
            args.extend(["-state-dir", directory]);
        }
        args.extend(devices.iter().map(DeviceId::as_str));
        let hook = Hook {
            hook_name: "createRuntime",
            path: self.hook,
            args,
            env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            timeout: HOOK_TIMEOUT,
        };
        let mount = |file: &'a File| Mount {
            host_path: &file.host,
            container_path: &file.container,
            options: ["ro", "nosuid", "nodev", "bind"],
        };
        Device {
            name: device_name(self.uid, name),
            container_edits: Edits {
                env: environment,
                mounts: file.as_ref().map(|file| [mount(file)]),
                hooks: (!devices.is_empty()).then_some([hook]),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdi_spec::Spec;

    #[test]
    fn each_request_has_a_device_with_one_hook() {
        let request = |name: &str, devices: &[&str]| Request {
            name: name.into(),
            devices: devices.iter().map(|id| id.parse().unwrap()).collect(),
            environment: vec![format!("{}=net1", environment_variable("web.fast", name))],
            file: (name == "nic").then(|| File { host: "/var/lib/m.json".into(), container: "/var/run/m.json".into() }),
        };
        let requests = [request("nic", &["eth1", "x:-a"]), request("admin", &[])];
        let document = Document { uid: "0c1d", hook: "/opt/hook", state_dir: Some("/run/x"), requests: &requests };
        let text = document.to_json().unwrap();
        insta::assert_snapshot!(text);
        let spec = Spec::read(&text).unwrap();
        let names: Vec<String> = spec.devices.iter().map(|name| format!("{}={name}", spec.kind)).collect();
        assert_eq!(names, ["admin", "nic"].map(|request| qualified_name("0c1d", request)));
        assert_eq!(Document { requests: &[], ..document }.to_json(), None);
    }

    #[test]
    fn the_claim_of_a_file_is_known_by_its_name() {
        assert_eq!(uid_of(&file_name("0c1d")), Some("0c1d"));
        for other in ["networking.k8s.io-netdevice.json", "netdevice.networking.k8s.io-claim.json"] {
            assert_eq!(uid_of(other), None);
        }
    }
}
