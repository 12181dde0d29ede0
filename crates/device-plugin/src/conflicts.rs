//! CDI files of other programs that name devices of the plugin's pool: then a runtime does not use the plugin's file.
//!
//! What the runtimes' library does (`cache.refresh` of container-device-interface): a device in two files of one directory
//! does not resolve, even if a directory of higher priority has it too. Otherwise the last directory
//! has priority. Subdirectories are not searched, files are `*.json` and `*.yaml`, and files that cannot be read are
//! ignored.
//!
//! A file of the original plugin or of an earlier netdevice in the plugin's directory is removed. No other file is changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use netdevice::{
    DeviceId, ResourceName,
    cdi_spec::{Author, MAX_DOCUMENT, Spec},
};

/// How long a file that was removed and written again is not removed: the program that writes it is running.
const REMOVE_AGAIN: Duration = Duration::from_secs(60);

/// Devices named in one message.
const NAMED: usize = 5;

/// Conflicts of other files with the plugin's devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Conflicts {
    /// Devices that do not resolve to the plugin's file, each with the reason.
    pub(crate) devices: BTreeMap<DeviceId, Arc<str>>,
    /// Files that seem to be for the plugin's devices and that a runtime ignores.
    pub(crate) ignored: Vec<String>,
}

impl Conflicts {
    /// The devices of `ours` that are in conflict, reason by reason, one line each.
    pub(crate) fn lines(&self, resource: &ResourceName, ours: &BTreeSet<DeviceId>) -> Vec<String> {
        let mut devices: BTreeMap<&str, Vec<&DeviceId>> = BTreeMap::new();
        for (device, reason) in self.devices.iter().filter(|(device, _)| ours.contains(*device)) {
            devices.entry(reason).or_default().push(device);
        }
        let line = |(reason, devices): (&str, Vec<&DeviceId>)| {
            let named: Vec<&str> = devices.iter().take(NAMED).map(|device| device.as_str()).collect();
            let more = match devices.len() - named.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("CDI conflict: {resource}={}{more}: {reason}", named.join(", "))
        };
        devices.into_iter().map(line).collect()
    }
}

/// Reads the CDI directories, and again only what changed.
#[derive(Debug)]
pub(crate) struct Scanner {
    resource: ResourceName,
    /// Directories that a runtime reads, the last one has priority.
    directories: Vec<PathBuf>,
    /// The plugin's file.
    ours: PathBuf,
    known: BTreeMap<PathBuf, (Identity, Arc<Content>)>,
    removed: BTreeMap<PathBuf, Instant>,
}

type Identity = [i64; 6];

/// What is in a file of another author.
#[derive(Debug)]
enum Content {
    /// A document of the plugin's CDI kind.
    Ours(Spec),
    /// Of another kind, or not a CDI document.
    Foreign,
    /// A runtime cannot read it, although it seems to be of the plugin's kind.
    Ignored(String),
}

/// A document of the plugin's CDI kind.
struct Found {
    path: PathBuf,
    priority: usize,
    content: Arc<Content>,
}

impl Scanner {
    pub(crate) fn new(resource: ResourceName, ours: PathBuf, directories: Vec<PathBuf>) -> Self {
        Self { resource, directories, ours, known: BTreeMap::new(), removed: BTreeMap::new() }
    }

    /// Reads all files but `own_names` in the plugin's directory, which are those of all pools.
    pub(crate) fn scan(&mut self, own_names: &BTreeSet<String>) -> Conflicts {
        let directories = self.by_priority();
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        let our_priority = directories.iter().position(|directory| directory.is_ours).unwrap_or(directories.len());
        for (priority, directory) in directories.iter().enumerate() {
            for (path, identity) in files(&directory.path) {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                if directory.is_ours && own_names.contains(&name) {
                    continue;
                }
                let content = match self.known.get(&path) {
                    Some((known, content)) if *known == identity => content.clone(),
                    _ => Arc::new(self.read(&path)),
                };
                if directory.is_ours && self.is_removed(&path, &content) {
                    continue;
                }
                seen.insert(path.clone());
                self.known.insert(path.clone(), (identity, content.clone()));
                found.push(Found { path, priority, content });
            }
        }
        self.known.retain(|path, _| seen.contains(path));
        conflicts(&self.resource, &found, our_priority)
    }

    /// Whether the files are those of the last scan, by their names, sizes and times: then a scan has the same result. No
    /// file is read, so this needs no thread of its own.
    pub(crate) fn is_up_to_date(&self, own_names: &BTreeSet<String>) -> bool {
        let mut known = 0;
        for directory in self.by_priority() {
            for (path, identity) in files(&directory.path) {
                let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
                if directory.is_ours && own_names.contains(&*name) {
                    continue;
                }
                if self.known.get(&path).is_none_or(|(known, _)| *known != identity) {
                    return false;
                }
                known += 1;
            }
        }
        known == self.known.len()
    }

    /// The directories that a runtime reads, each once: of two paths to one directory the later one counts.
    fn by_priority(&self) -> Vec<Directory> {
        let our_directory = self.ours.parent().unwrap_or(Path::new("/"));
        let ours = directory_identity(our_directory);
        let mut all: Vec<Directory> = Vec::new();
        for path in &self.directories {
            let identity = directory_identity(path);
            let is_ours = path == our_directory || identity.is_some() && identity == ours;
            all.retain(|other| identity.is_none() || other.identity != identity);
            all.push(Directory { path: path.clone(), identity, is_ours });
        }
        if !all.iter().any(|directory| directory.is_ours) {
            // the plugin writes there because the runtime reads there
            all.push(Directory { path: our_directory.to_owned(), identity: ours, is_ours: true });
        }
        all
    }

    fn read(&self, path: &Path) -> Content {
        // the library does not read a file that is not UTF-8 either
        let text = match File::open(path).and_then(|file| store::read_text_limited(file, MAX_DOCUMENT)) {
            Ok(text) => text,
            // it was removed, or is being written
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Content::Foreign,
            Err(error) if path.file_name().is_some_and(|name| self.is_named_like_ours(&name.to_string_lossy())) => {
                return Content::Ignored(error.to_string());
            }
            Err(_) => return Content::Foreign,
        };
        match Spec::read(&text) {
            Ok(spec) if spec.kind == self.resource.as_str() => Content::Ours(spec),
            Ok(_) => Content::Foreign,
            Err(error) if Spec::seems_to_be_of(&text, &self.resource) => Content::Ignored(error.to_string()),
            Err(_) => Content::Foreign,
        }
    }

    fn is_named_like_ours(&self, name: &str) -> bool {
        name.starts_with(&format!("{}-{}", self.resource.vendor(), self.resource.class()))
    }

    /// Removes a file of the original plugin or of an earlier version of this one.
    fn is_removed(&mut self, path: &Path, content: &Content) -> bool {
        let Content::Ours(spec) = content else { return false };
        let author = match spec.author {
            Author::OriginalPlugin => "network-device-plugin",
            Author::Netdevice => "an earlier netdevice",
            Author::Other => return false,
        };
        if self.removed.get(path).is_some_and(|removed| removed.elapsed() < REMOVE_AGAIN) {
            return false;
        }
        match fs::remove_file(path) {
            Ok(()) => {
                let file = path.display();
                tracing::warn!(
                    resource = %self.resource,
                    "removed the CDI file {file} of {author}: it named devices of this pool, and the runtime resolves no device that two files name"
                );
                self.removed.insert(path.to_owned(), Instant::now());
                true
            }
            Err(error) => {
                tracing::debug!("cannot remove {}: {error}", path.display());
                error.kind() == io::ErrorKind::NotFound
            }
        }
    }
}

struct Directory {
    path: PathBuf,
    identity: Option<(u64, u64)>,
    is_ours: bool,
}

fn directory_identity(path: &Path) -> Option<(u64, u64)> {
    let directory = fs::metadata(path).ok()?;
    Some((directory.dev(), directory.ino()))
}

/// The files of a directory that the library reads.
fn files(directory: &Path) -> Vec<(PathBuf, Identity)> {
    let paths = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<(PathBuf, Identity)> = paths
        .filter(|path| is_document(path))
        .filter_map(|path| {
            let file = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
            let (device, inode) = (file.dev().cast_signed(), file.ino().cast_signed());
            let identity =
                [device, inode, file.size().cast_signed(), file.mtime(), file.mtime_nsec(), file.ctime_nsec()];
            Some((path, identity))
        })
        .collect();
    files.sort();
    files
}

/// Whether the library reads a file of that name.
pub(crate) fn is_document(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json" || extension == "yaml")
}

fn conflicts(resource: &ResourceName, found: &[Found], our_priority: usize) -> Conflicts {
    let mut files: BTreeMap<DeviceId, BTreeMap<usize, Vec<&Path>>> = BTreeMap::new();
    let mut ignored = Vec::new();
    for Found { path, priority, content } in found {
        match &**content {
            Content::Foreign => {}
            Content::Ignored(reason) => ignored.push(format!(
                "the CDI file {} seems to be for {resource}, and the runtime ignores it: {reason}",
                path.display()
            )),
            Content::Ours(spec) => {
                let ids = spec.devices.iter().filter_map(|device| device.parse::<DeviceId>().ok());
                ids.for_each(|id| files.entry(id).or_default().entry(*priority).or_default().push(path));
            }
        }
    }
    let mut reasons: BTreeMap<String, Arc<str>> = BTreeMap::new();
    let mut devices = BTreeMap::new();
    for (device, by_priority) in files {
        if let Some(reason) = reason(&by_priority, our_priority) {
            let reason = reasons.entry(reason).or_insert_with_key(|reason| reason.as_str().into()).clone();
            devices.insert(device, reason);
        }
    }
    Conflicts { devices, ignored }
}

/// Why a device that these files name does not resolve to the plugin's file; none if it does.
fn reason(files: &BTreeMap<usize, Vec<&Path>>, our_priority: usize) -> Option<String> {
    let list = |paths: &[&Path]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ");
    let beside_ours = files.get(&our_priority);
    let above = files.range(our_priority + 1..).next_back();
    let twice = files.iter().find(|(_, paths)| paths.len() > 1);
    match (beside_ours, twice, above) {
        (Some(paths), ..) => {
            let names = if paths.len() == 1 { "names" } else { "name" };
            let file = if paths.len() == 1 { "that file" } else { "those files" };
            Some(format!(
                "{} {names} it too, so the runtime resolves neither and no Pod with it starts: remove {file}",
                list(paths)
            ))
        }
        (None, Some((_, paths)), _) => Some(format!(
            "{} both name it, so the runtime does not resolve it and no Pod with it starts: remove those files",
            list(paths)
        )),
        (None, None, Some((_, paths))) => Some(format!(
            "{} names it too and is in a CDI directory of higher priority, so the runtime uses that file: remove it",
            list(paths)
        )),
        (None, None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Node {
        root: tempfile::TempDir,
        scanner: Scanner,
    }

    impl Node {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let directories = ["etc", "run"].map(|name| root.path().join(name));
            directories.iter().for_each(|directory| fs::create_dir(directory).unwrap());
            let ours = directories[1].join("networking.k8s.io-netdevice.json");
            let scanner = Scanner::new(ResourceName::default(), ours, directories.into());
            Self { root, scanner }
        }

        fn write(&self, path: &str, devices: &[&str]) {
            let device = |name: &&str| format!("{{name: '{name}', containerEdits: {{env: [A=b]}}}}");
            let devices: Vec<String> = devices.iter().map(device).collect();
            let text =
                format!("cdiVersion: 0.5.0\nkind: networking.k8s.io/netdevice\ndevices: [{}]\n", devices.join(", "));
            fs::write(self.root.path().join(path), text).unwrap();
        }

        fn lines(&mut self) -> Vec<String> {
            let root = format!("{}/", self.root.path().display());
            let own = BTreeSet::from(["networking.k8s.io-netdevice.json".to_owned()]);
            let ours = ["a", "b", "c"].map(|id| id.parse().unwrap()).into();
            let conflicts = self.scanner.scan(&own);
            let lines = conflicts.lines(&ResourceName::default(), &ours).into_iter().chain(conflicts.ignored);
            lines.map(|line| line.replace(&root, "")).collect()
        }
    }

    #[test]
    fn a_scan_is_up_to_date_until_a_file_of_others_comes_changes_or_goes() {
        let mut node = Node::new();
        let own = BTreeSet::from(["networking.k8s.io-netdevice.json".to_owned()]);
        assert!(node.scanner.is_up_to_date(&own), "there is no file");
        node.write("etc/one.yaml", &["a"]);
        for change in ["it came", "it changed", "another one came", "one went", "the plugin wrote its own"] {
            let is_change = match change {
                "it came" => true,
                "it changed" => {
                    node.write("etc/one.yaml", &["a", "b"]);
                    true
                }
                "another one came" => {
                    node.write("run/two.json", &["c"]);
                    true
                }
                "one went" => {
                    fs::remove_file(node.root.path().join("run/two.json")).unwrap();
                    true
                }
                _ => {
                    node.write("run/networking.k8s.io-netdevice.json", &["a"]);
                    false
                }
            };
            assert_eq!(node.scanner.is_up_to_date(&own), !is_change, "{change}");
            node.lines();
            assert!(node.scanner.is_up_to_date(&own), "{change}");
        }
    }

    #[test]
    fn priorities_are_those_of_the_library() {
        let mut node = Node::new();
        node.write("run/networking.k8s.io-netdevice.json", &["a", "b"]);
        node.write("etc/one.yaml", &["a", "z"]);
        assert_eq!(node.lines(), [""; 0], "ours comes first, and z is none of ours");
        node.write("run/two.json", &["a"]);
        assert_eq!(
            node.lines(),
            [
                "CDI conflict: networking.k8s.io/netdevice=a: run/two.json names it too, so the runtime resolves neither and no Pod with it starts: remove that file"
            ]
        );
        fs::remove_file(node.root.path().join("run/two.json")).unwrap();
        node.write("etc/two.json", &["z", "a", "b"]);
        assert_eq!(
            node.lines(),
            [
                "CDI conflict: networking.k8s.io/netdevice=a: etc/one.yaml and etc/two.json both name it, so the runtime does not resolve it and no Pod with it starts: remove those files"
            ]
        );
        node.scanner.directories.reverse();
        node.write("etc/two.json", &["b"]);
        assert!(node.lines()[0].contains("=a: etc/one.yaml names it too and is in a CDI directory of higher priority"));
        assert!(node.lines()[1].contains("=b: etc/two.json names it too"));
    }

    #[test]
    fn what_the_library_does_not_read_is_no_conflict() {
        let mut node = Node::new();
        let path = |name: &str| node.root.path().join(name);
        fs::create_dir(path("run/below.json")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("run/pipe.json"), rustix::fs::Mode::RUSR).unwrap();
        for name in ["run/x.yml", "run/x.JSON", "run/spec.1.tmp", "run/below.json/x.json"] {
            node.write(name, &["a"]);
        }
        fs::write(path("run/other.json"), r#"{"cdiVersion": "0.5.0", "kind": "a.b/cc", "devices": []}"#).unwrap();
        fs::write(path("run/binary.json"), b"\xff\xfe").unwrap();
        fs::write(path("run/half.json"), "{").unwrap();
        assert_eq!(node.lines(), [""; 0]);
        // broken, but who put it there meant something by it
        fs::write(node.root.path().join("run/broken.json"), r#"{"kind": "networking.k8s.io/netdevice""#).unwrap();
        let lines = node.lines();
        assert!(lines[0].starts_with("the CDI file run/broken.json seems to be for networking.k8s.io/netdevice, and"));
        assert_eq!(lines.len(), 1);
    }

    #[test]
    fn links_to_one_directory_count_once() {
        let mut node = Node::new();
        let root = node.root.path().to_owned();
        std::os::unix::fs::symlink(root.join("run"), root.join("var-run")).unwrap();
        node.scanner.directories = vec![root.join("var-run"), root.join("etc"), root.join("run")];
        node.write("run/two.json", &["a"]);
        let lines = node.lines();
        assert!(lines.len() == 1 && lines[0].contains("=a: run/two.json names it too"), "{lines:?}");
    }

    #[test]
    fn many_devices_are_counted() {
        let mut node = Node::new();
        let names: Vec<String> = (0..9).map(|at| format!("d{at}")).collect();
        node.write("run/two.json", &names.iter().map(String::as_str).collect::<Vec<_>>());
        let own = BTreeSet::new();
        let ours = names.iter().map(|name| name.parse().unwrap()).collect();
        let lines = node.scanner.scan(&own).lines(&ResourceName::default(), &ours);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("CDI conflict: networking.k8s.io/netdevice=d0, d1, d2, d3, d4 and 4 more: "));
    }

    const ORIGINAL: &str = "cdiVersion: 0.6.0\nkind: networking.k8s.io/netdevice\ndevices:\n- name: a\n  \
        containerEdits: {hooks: [{hookName: createRuntime, path: /opt/cdi/bin/ifnetns, args: [a]}]}\n";

    #[test]
    fn what_the_original_plugin_left_is_removed_and_what_it_goes_on_writing_is_told() {
        let mut node = Node::new();
        let path = |name: &str| node.root.path().join(name);
        let (ours, elsewhere) = (path("run/networking.k8s.io-netdevice.yaml"), path("etc/other.yaml"));
        fs::write(&ours, ORIGINAL).unwrap();
        fs::write(&elsewhere, ORIGINAL).unwrap();
        assert_eq!(node.lines(), [""; 0]);
        assert!(!ours.exists() && elsewhere.exists(), "only our own directory is tidied");
        fs::write(&ours, ORIGINAL).unwrap();
        assert!(node.lines()[0].contains("=a: run/networking.k8s.io-netdevice.yaml names it too"));
        assert!(ours.exists());
        node.scanner.removed.clear();
        assert_eq!(node.lines(), [""; 0]);
        assert!(!ours.exists());
    }

    #[test]
    fn a_file_that_changed_is_read_again() {
        let mut node = Node::new();
        node.write("run/two.json", &["a"]);
        assert_eq!(node.lines().len(), 1);
        node.write("run/two.json", &["z"]);
        assert_eq!(node.lines(), [""; 0]);
        assert_eq!(node.scanner.known.len(), 1);
        fs::remove_file(node.root.path().join("run/two.json")).unwrap();
        node.lines();
        assert!(node.scanner.known.is_empty());
    }
}
