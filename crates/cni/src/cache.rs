//! The cache of results, in libcni's place and form: `<directory>/results/<network>-<container>-<interface>`.
//!
//! An entry has one key more than libcni's, [`Marker`], which other programs ignore: who made the attachment, for which Pod,
//! and whether its ADD has ended. An entry is there before the first plugin runs: one whose ADD was killed is found, and
//! undone.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use netdevice::{InterfaceName, Pod, state::Route};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::{
    capability::CapabilityArguments,
    configuration::{ConfigurationError, NetworkList},
    load::MAX_CONFIGURATION,
    name::{ContainerId, NetworkName},
    result::{Addition, ResultError},
    target::Target,
    version::Version,
};

/// `kind` of an entry (`libcni.CNICacheV1`).
const KIND: &str = "cniCacheV1";
/// Most bytes of an entry: a configuration as base64, a result.
const MAX_ENTRY: usize = 4 << 20;
/// Usual bytes of one.
const USUAL: usize = 4096;

/// A directory of results.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
}

/// Files of a cache that no program of ours made, by name, with what changes when they are written again.
#[derive(Debug, Default)]
pub struct ForeignFiles(BTreeMap<OsString, (u64, i64, i64, u64)>);

fn identity(file: &fs::Metadata) -> (u64, i64, i64, u64) {
    (file.ino(), file.mtime(), file.mtime_nsec(), file.size())
}

/// One attachment, as it is in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheEntry {
    kind: String,
    container_id: String,
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    config: Vec<u8>,
    if_name: String,
    network_name: String,
    #[serde(default, rename = "netns", skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capability_args: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    #[serde(default, rename = "networking.k8s.io/netdevice", skip_serializing_if = "Option::is_none")]
    marker: Option<Marker>,
}

/// What this program adds to an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Marker {
    /// How far the attachment is.
    pub phase: Phase,
    /// The program that made it.
    pub by: String,
    /// The Pod.
    pub pod: Pod,
    /// The id of its sandbox.
    pub sandbox: String,
    /// When, in seconds since 1970.
    pub since: u64,
    /// The kernel's cookie of the network namespace, which is never used again before a reboot.
    pub cookie: u64,
    /// Which boot that was (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// What requested it, if a program is to compare it with what is requested later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<Requested>,
}

/// What an attachment was made for: an element of a Pod's annotation `k8s.v1.cni.cncf.io/networks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requested {
    /// `namespace/name` of the NetworkAttachmentDefinition.
    pub network: String,
    /// The element, without the interface.
    pub element: Value,
    /// The default routes that the interface took from others, which get them back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub displaced: Vec<Route>,
}

/// How far an attachment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Its plugins run, or were killed.
    Adding,
    /// It is complete.
    Added,
    /// Its plugins are called to delete it, or were killed then, or failed.
    Deleting,
}

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A file or directory.
    #[error("cannot access {}: {error}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// What is in it.
    #[error("{} is no result of libcni: {error}", path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        error: String,
    },
    /// The configuration in an entry.
    #[error("the cached configuration of network {network} is invalid: {error}")]
    Configuration {
        /// The network.
        network: String,
        /// What is wrong.
        error: ConfigurationError,
    },
    /// The result in an entry.
    #[error("the cached result of network {network} is invalid: {error}")]
    Result {
        /// The network.
        network: String,
        /// What is wrong.
        error: ResultError,
    },
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
    if bytes.len() > MAX_CONFIGURATION {
        Err(serde::de::Error::custom("the configuration is too long"))
    } else {
        Ok(bytes)
    }
}

impl CacheEntry {
    /// Of an attachment that is being made.
    pub(crate) fn new(list: &NetworkList, target: &Target, version: Version, marker: Option<Marker>) -> Self {
        let arguments = &target.arguments;
        let mut entry = Self {
            kind: KIND.into(),
            container_id: target.container.to_string(),
            config: list.text.clone(),
            if_name: target.interface.to_string(),
            network_name: list.name().to_string(),
            namespace: target.namespace.clone(),
            cni_args: (!arguments.is_empty()).then(|| arguments.clone()),
            capability_args: (!target.capabilities.is_empty()).then(|| target.capabilities.clone()),
            result: None,
            marker,
        };
        // never without a result: CRI-O, which deletes what a sandbox has by this cache, would fail to read it
        entry.set_result(&Addition::default(), version);
        entry
    }

    pub(crate) fn set_result(&mut self, addition: &Addition, version: Version) {
        self.result = serde_json::to_value(addition.in_version(version)).ok();
    }

    /// Whether its ADD or its DEL has not ended.
    pub fn is_unfinished(&self) -> bool {
        self.marker.as_ref().is_some_and(|marker| marker.phase != Phase::Added)
    }

    pub(crate) fn set_phase(&mut self, phase: Phase) {
        if let Some(marker) = &mut self.marker {
            marker.phase = phase;
        }
    }

    /// The name of the network.
    pub fn network(&self) -> &str {
        &self.network_name
    }

    /// The id of the container, for Kubernetes the sandbox's.
    pub fn container(&self) -> &str {
        &self.container_id
    }

    /// The name of the interface in the container.
    pub fn interface(&self) -> &str {
        &self.if_name
    }

    /// The path of the network namespace; empty if the program that made the entry did not say.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Who made it, if it is a program of ours.
    pub fn marker(&self) -> Option<&Marker> {
        self.marker.as_ref()
    }

    /// Whether a Kubernetes runtime made it: it has the arguments that the kubelet's runtimes pass, and no marker of ours.
    pub fn is_of_runtime(&self) -> bool {
        let is_pod = |(key, _): &(String, String)| key.starts_with("K8S_POD_");
        self.marker.is_none() && self.cni_args.iter().flatten().any(is_pod)
    }

    /// The result, as in the file.
    pub fn result(&self) -> Option<&Value> {
        self.result.as_ref()
    }

    /// The configuration with which it was made: a list, or one plugin.
    ///
    /// # Errors
    ///
    /// When it is not valid.
    pub fn list(&self) -> Result<NetworkList, CacheError> {
        let invalid = |error| CacheError::Configuration { network: self.network_name.clone(), error };
        NetworkList::from_json(&self.config).map_err(invalid)
    }

    /// What it was made for.
    ///
    /// # Errors
    ///
    /// The part of the key that is not valid.
    pub fn target(&self) -> Result<Target, CacheError> {
        let invalid = |error: String| CacheError::Json { path: self.file_name().into(), error };
        let container: ContainerId = self.container_id.parse().map_err(|error| invalid(format!("{error}")))?;
        let interface: InterfaceName = self.if_name.parse().map_err(|error| invalid(format!("{error}")))?;
        let arguments = self.cni_args.clone().unwrap_or_default();
        let capabilities: CapabilityArguments = self.capability_args.clone().unwrap_or_default();
        Ok(Target { container, interface, namespace: self.namespace.clone(), arguments, capabilities })
    }

    /// The result in another version of the specification; none if there is none that can be read.
    pub fn result_in(&self, version: Version) -> Option<Value> {
        let (addition, _) = self.addition().ok()??;
        serde_json::to_value(addition.in_version(version)).ok()
    }

    /// The default routes that its interface took from others.
    pub fn displaced(&self) -> &[Route] {
        let requested = self.marker.as_ref().and_then(|marker| marker.requested.as_ref());
        requested.map_or(&[], |requested| &requested.displaced)
    }

    /// The result, and the version that it is in.
    pub(crate) fn addition(&self) -> Result<Option<(Addition, Version)>, CacheError> {
        let Some(result) = &self.result else { return Ok(None) };
        let invalid = |error| CacheError::Result { network: self.network_name.clone(), error };
        let version = result.get("cniVersion").and_then(Value::as_str);
        let version = Version::or_oldest(version).map_err(|error| invalid(error.into()))?;
        Ok(Some((Addition::from_value(result.clone(), version).map_err(invalid)?, version)))
    }

    fn file_name(&self) -> String {
        file_name(&self.network_name, &self.container_id, &self.if_name)
    }
}

fn file_name(network: &str, container: &str, interface: &str) -> String {
    format!("{network}-{container}-{interface}")
}

impl Cache {
    /// The cache below a directory, such as `/var/lib/cni`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    fn results(&self) -> PathBuf {
        self.directory.join("results")
    }

    fn path(&self, network: &NetworkName, target: &Target) -> PathBuf {
        let interface = target.interface.to_string();
        self.results().join(file_name(network.as_str(), target.container.as_str(), &interface))
    }

    /// The entry of an attachment, if there is one.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn read(&self, network: &NetworkName, target: &Target) -> Result<Option<CacheEntry>, CacheError> {
        read(&self.path(network, target))
    }

    /// All entries, and the files that cannot be read as one.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read. One that does not exist has no entries.
    pub fn list(&self) -> Result<(Vec<CacheEntry>, Vec<CacheError>), CacheError> {
        self.list_where(|_, _| true)
    }

    /// The entries of one container. Other files are not read: a node has two for each Pod.
    ///
    /// # Errors
    ///
    /// Those of [`Cache::list`].
    pub fn list_of(&self, container: &ContainerId) -> Result<Vec<CacheEntry>, CacheError> {
        let part = format!("-{container}-");
        let (mut entries, _) = self.list_where(|name, _| name.to_str().is_some_and(|name| name.contains(&part)))?;
        // a network may have a name that looks like it
        entries.retain(|entry| entry.container_id == container.as_str());
        Ok(entries)
    }

    /// The entries that programs of ours made. Files of others that have not changed since the last time are not read again: a
    /// node has two for each Pod.
    ///
    /// # Errors
    ///
    /// Those of [`Cache::list`].
    pub fn list_own(&self, foreign: &mut ForeignFiles) -> Result<(Vec<CacheEntry>, Vec<CacheError>), CacheError> {
        let (known, mut now) = (std::mem::take(&mut foreign.0), BTreeMap::new());
        let (mut entries, unreadable) = self.list_where(|name, file| {
            let identity = identity(file);
            let is_known = known.get(name) == Some(&identity);
            now.insert(name.to_owned(), identity);
            !is_known
        })?;
        entries.retain(|entry| entry.marker.is_some());
        for entry in &entries {
            now.remove(OsStr::new(&entry.file_name()));
        }
        foreign.0 = now;
        Ok((entries, unreadable))
    }

    fn list_where(
        &self,
        mut is_wanted: impl FnMut(&OsStr, &fs::Metadata) -> bool,
    ) -> Result<(Vec<CacheEntry>, Vec<CacheError>), CacheError> {
        let (mut entries, mut unreadable) = (Vec::new(), Vec::new());
        let directory = self.results();
        let failed = |error| CacheError::Io { path: directory.clone(), error };
        let files = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((entries, unreadable)),
            files => files.map_err(failed)?,
        };
        for file in files {
            let file = file.map_err(failed)?;
            // one that is gone meanwhile is none
            let Ok(metadata) = file.metadata() else { continue };
            let name = file.file_name();
            if name.as_encoded_bytes().starts_with(b".") || !metadata.is_file() || !is_wanted(&name, &metadata) {
                continue;
            }
            match read(&file.path()) {
                Ok(entry) => entries.extend(entry),
                Err(error) => unreadable.push(error),
            }
        }
        entries.sort_by_key(CacheEntry::file_name);
        Ok((entries, unreadable))
    }

    /// Writes an entry, as a whole.
    pub(crate) fn write(&self, entry: &CacheEntry) -> Result<(), CacheError> {
        let directory = self.results();
        let (path, beside) = (directory.join(entry.file_name()), directory.join(format!(".{}.new", entry.file_name())));
        let write = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            let text = serde_json::to_vec(entry)?;
            store::replace(&path, &beside, 0o600, |mut file| io::Write::write_all(&mut file, &text))
        };
        write().map_err(|error| CacheError::Io { path: path.clone(), error })
    }

    /// Keeps the default routes that an attachment is about to take from others.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or written.
    pub fn set_displaced(&self, network: &NetworkName, target: &Target, routes: Vec<Route>) -> Result<(), CacheError> {
        let Some(mut entry) = self.read(network, target)? else { return Ok(()) };
        if let Some(requested) = entry.marker.as_mut().and_then(|marker| marker.requested.as_mut()) {
            requested.displaced = routes;
        }
        self.write(&entry)
    }

    /// Removes the entry of an attachment that has ended, if it is there.
    ///
    /// # Errors
    ///
    /// When the file cannot be removed.
    pub fn forget(&self, network: &NetworkName, target: &Target) -> Result<(), CacheError> {
        self.remove(network, target)
    }

    /// Removes an entry, if it is there.
    pub(crate) fn remove(&self, network: &NetworkName, target: &Target) -> Result<(), CacheError> {
        remove(self.path(network, target))
    }

    /// As [`Cache::remove`], for an entry whose key may not be valid.
    pub(crate) fn remove_entry(&self, entry: &CacheEntry) -> Result<(), CacheError> {
        remove(self.results().join(entry.file_name()))
    }
}

fn remove(path: PathBuf) -> Result<(), CacheError> {
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CacheError::Io { path, error }),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<Option<CacheEntry>, CacheError> {
    let failed = |error| CacheError::Io { path: path.to_owned(), error };
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    let text = store::read_limited(file, USUAL, MAX_ENTRY).map_err(failed)?;
    let invalid = |error: String| CacheError::Json { path: path.to_owned(), error };
    let entry: CacheEntry = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
    if entry.kind == KIND { Ok(Some(entry)) } else { Err(invalid(format!("kind {:?}", entry.kind))) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list() -> NetworkList {
        NetworkList::from_json(br#"{"name":"n","cniVersion":"0.4.0","plugins":[{"type":"p"}]}"#).unwrap()
    }

    fn target() -> Target {
        let mut target = Target::new("s1".parse().unwrap(), "net1".parse().unwrap(), "/run/netns/a");
        target.arguments = vec![("K".into(), "v".into())];
        target.capabilities.insert("mac".into(), json!("02:00:00:00:00:01"));
        target
    }

    fn marker() -> Marker {
        let pod = Pod { namespace: "default".into(), name: "p".into(), uid: "u".into() };
        Marker {
            phase: Phase::Adding,
            by: "if-inject".into(),
            pod,
            sandbox: "s1".into(),
            since: 1,
            cookie: 7,
            boot: "b".into(),
            requested: None,
        }
    }

    #[test]
    fn an_entry_has_libcnis_form_and_a_marker() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path().join("cni"));
        let (list, target) = (list(), target());
        let mut entry = CacheEntry::new(&list, &target, Version::V0_4_0, Some(marker()));
        cache.write(&entry).unwrap();
        let path = directory.path().join("cni/results/n-s1-net1");
        let text: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let expected = json!({
            "kind": "cniCacheV1", "containerId": "s1", "ifName": "net1", "networkName": "n", "netns": "/run/netns/a",
            "config": STANDARD.encode(&list.text), "cniArgs": [["K", "v"]], "capabilityArgs": {"mac": "02:00:00:00:00:01"},
            "result": {"cniVersion": "0.4.0", "dns": {}},
            "networking.k8s.io/netdevice": {"phase": "adding", "by": "if-inject", "sandbox": "s1", "since": 1, "cookie": 7, "boot": "b",
                "pod": {"namespace": "default", "name": "p", "uid": "u"}},
        });
        assert_eq!(text, expected);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        entry.set_phase(Phase::Added);
        cache.write(&entry).unwrap();
        let read = cache.read(list.name(), &target).unwrap().unwrap();
        assert_eq!((&read, read.target().unwrap(), read.list().unwrap()), (&entry, target.clone(), list.clone()));
        assert!(!read.is_of_runtime());
        cache.remove(list.name(), &target).unwrap();
        cache.remove(list.name(), &target).unwrap();
        assert_eq!(cache.read(list.name(), &target).unwrap(), None);
    }

    #[test]
    fn what_libcni_wrote_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let results = directory.path().join("results");
        fs::create_dir(&results).unwrap();
        let text = r#"{"kind":"cniCacheV1","containerId":"3f2a","config":"eyJuYW1lIjoibiIsInR5cGUiOiJwIn0=","ifName":"eth0","networkName":"n","cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAME","web"]],"result":{"cniVersion":"1.0.0","dns":{}}}"#;
        fs::write(results.join("n-3f2a-eth0"), text).unwrap();
        fs::write(results.join("broken"), "{").unwrap();
        fs::write(results.join("other"), r#"{"kind":"x","containerId":"","config":null,"ifName":"","networkName":""}"#)
            .unwrap();
        fs::write(results.join(".n-x-y.new"), "").unwrap();
        let (entries, unreadable) = Cache::new(directory.path()).list().unwrap();
        assert_eq!((entries.len(), unreadable.len()), (1, 2));
        assert!(entries[0].is_of_runtime());
        assert_eq!(entries[0].list().unwrap().plugins()[0].kind(), "p");
        assert_eq!(entries[0].addition().unwrap().unwrap().1, Version::V1_0_0);
        assert!(Cache::new("/nonexistent").list().unwrap().0.is_empty());

        // of one container
        let cache = Cache::new(directory.path());
        fs::write(results.join("a-3f2a-b-9c-net1"), text.replace("3f2a", "9c").replace("eth0", "net1")).unwrap();
        let of = |container: &str| cache.list_of(&container.parse().unwrap()).unwrap();
        assert_eq!(of("3f2a").iter().map(CacheEntry::interface).collect::<Vec<_>>(), ["eth0"]);
        assert_eq!((of("9c").len(), of("none").len()), (1, 0));
        fs::remove_file(results.join("a-3f2a-b-9c-net1")).unwrap();

        // files of others are read once
        let mut foreign = ForeignFiles::default();
        let counts = |(entries, unreadable): (Vec<CacheEntry>, Vec<CacheError>)| (entries.len(), unreadable.len());
        assert_eq!(counts(cache.list_own(&mut foreign).unwrap()), (0, 2));
        assert_eq!(counts(cache.list_own(&mut foreign).unwrap()), (0, 0));
        cache.write(&CacheEntry::new(&list(), &target(), Version::V0_4_0, Some(marker()))).unwrap();
        for _ in 0..2 {
            assert_eq!(counts(cache.list_own(&mut foreign).unwrap()), (1, 0));
        }
        fs::write(results.join("broken"), "{{").unwrap();
        assert_eq!(counts(cache.list_own(&mut foreign).unwrap()), (1, 1));
    }
}
