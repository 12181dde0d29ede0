//! The device metadata file of a request (KEP 5304): what a container can read of its devices.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use netdevice::claims::{DRIVER, claim::Claim, document::File};
use serde::Serialize;

use crate::{cdi_file, settings::Paths};

/// Versions of the object, newest first: a reader takes the first one that it knows.
const VERSIONS: [&str; 2] = ["metadata.resource.k8s.io/v1beta1", "metadata.resource.k8s.io/v1alpha1"];
/// Where containers find it.
const IN_CONTAINERS: &str = "/var/run/kubernetes.io/dra-device-attributes";

/// A device in the file.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    pub(crate) driver: &'static str,
    pub(crate) pool: String,
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) network_data: Option<NetworkData>,
}

/// What an interface is in the Pod, as far as Prepare knows it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NetworkData {
    pub(crate) interface_name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ips: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hardware_address: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Object<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: ObjectMeta<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_claim_name: Option<&'a str>,
    requests: [Request<'a>; 1],
}

#[derive(Serialize)]
struct ObjectMeta<'a> {
    name: &'a str,
    namespace: &'a str,
    uid: &'a str,
}

#[derive(Serialize)]
struct Request<'a> {
    name: &'a str,
    devices: &'a [Device],
}

fn directory(paths: &Paths) -> PathBuf {
    paths.plugin.join("dra-device-metadata")
}

fn claim_directory(paths: &Paths, namespace: &str, name: &str) -> PathBuf {
    // neither contains "_" or "/"
    directory(paths).join(format!("{namespace}_{name}"))
}

fn text(claim: &Claim, request: &str, devices: &[Device]) -> String {
    let object = |api_version| Object {
        api_version,
        kind: "DeviceMetadata",
        metadata: ObjectMeta { name: &claim.name, namespace: &claim.namespace, uid: &claim.uid },
        pod_claim_name: claim.pod_claim_name.as_deref(),
        requests: [Request { name: request, devices }],
    };
    let line = |version| serde_json::to_string(&object(version)).expect("an object has only text keys") + "\n";
    VERSIONS.into_iter().map(line).collect()
}

/// Writes the file of a request, unless it has that text already: containers may have it mounted. Says where it is.
///
/// # Errors
///
/// When the disk does not take it.
pub(crate) fn write(paths: &Paths, claim: &Claim, request: &str, devices: &[Device]) -> io::Result<File> {
    let path = claim_directory(paths, &claim.namespace, &claim.name).join(request).join("metadata.json");
    let text = text(claim, request, devices);
    if fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
        cdi_file::replace(&path, &path.with_extension("new"), text.as_bytes())?;
    }
    let of_claim = match &claim.pod_claim_name {
        Some(name) => format!("resourceclaimtemplates/{name}"),
        None => format!("resourceclaims/{}", claim.name),
    };
    Ok(File {
        host: path.to_string_lossy().into_owned(),
        container: format!("{IN_CONTAINERS}/{of_claim}/{request}/{DRIVER}-metadata.json"),
    })
}

/// Namespace and name of the claim whose file this is.
pub(crate) fn claim_of(path: &str) -> Option<(String, String)> {
    let (namespace, name) = Path::new(path).parent()?.parent()?.file_name()?.to_str()?.split_once('_')?;
    Some((namespace.to_owned(), name.to_owned()))
}

/// Whether the directory has files of another claim: the next one of that name may be prepared already.
fn is_of_another(directory: &Path, uid: &str) -> bool {
    let uid = format!("\"uid\":\"{uid}\"");
    let requests = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut texts = requests.filter_map(|request| fs::read_to_string(request.path().join("metadata.json")).ok());
    texts.any(|text| !text.contains(&uid))
}

/// Removes the files of the claim with that UID.
///
/// # Errors
///
/// When they are there and cannot be removed.
pub(crate) fn remove(paths: &Paths, namespace: &str, name: &str, uid: &str) -> io::Result<()> {
    // from the kubelet, and part of a path
    if [namespace, name].iter().any(|part| part.is_empty() || part.contains('/') || part.starts_with('.')) {
        return Ok(());
    }
    let directory = claim_directory(paths, namespace, name);
    if is_of_another(&directory, uid) {
        return Ok(());
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use netdevice::claims::claim::Claim;

    use super::*;

    #[test]
    fn a_container_reads_the_devices_of_its_request() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths { plugin: root.path().into(), ..Paths::of_kubelet(root.path()) };
        let claim = Claim {
            uid: "0c1d".into(),
            namespace: "default".into(),
            name: "web-fast-1".into(),
            pod_claim_name: Some("fast".into()),
            is_of_one_pod: true,
            is_extended_resource: false,
            reserved_for: Vec::new(),
            allocations: Vec::new(),
        };
        let network_data =
            NetworkData { interface_name: "net1".into(), ips: vec!["10.0.0.2/24".into()], hardware_address: None };
        let device =
            Device { driver: DRIVER, pool: "node-1".into(), name: "eth1".into(), network_data: Some(network_data) };
        let file = write(&paths, &claim, "nic", std::slice::from_ref(&device)).unwrap();
        assert_eq!(
            file.container,
            "/var/run/kubernetes.io/dra-device-attributes/resourceclaimtemplates/fast/nic/netdevice.networking.k8s.io-metadata.json"
        );
        let text = fs::read_to_string(&file.host).unwrap();
        let versions: Vec<serde_json::Value> =
            serde_json::Deserializer::from_str(&text).into_iter().collect::<Result<_, _>>().unwrap();
        assert_eq!(versions.len(), 2);
        assert_eq!(versions[0]["requests"][0]["devices"][0]["networkData"]["ips"][0], "10.0.0.2/24");
        remove(&paths, "default", "web-fast-1", "another").unwrap();
        assert!(root.path().join("dra-device-metadata/default_web-fast-1").exists());
        remove(&paths, "default", "web-fast-1", "0c1d").unwrap();
        remove(&paths, "default", "web-fast-1", "0c1d").unwrap();
        remove(&paths, "..", "../x", "0c1d").unwrap();
        assert!(!root.path().join("dra-device-metadata/default_web-fast-1").exists());
    }
}
