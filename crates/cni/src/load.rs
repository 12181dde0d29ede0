//! Where configurations are: a file, standard input, or by name in a directory of networks, as libcni finds them.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::configuration::{ConfigurationError, NetworkList, Plugin, PluginFiles};

/// Most bytes of a configuration.
pub(crate) const MAX_CONFIGURATION: usize = 1 << 20;
/// Usual bytes of one.
const USUAL: usize = 4096;

/// Why a network cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file or directory.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// What is in it.
    #[error("{}: {error}", path.display())]
    Configuration {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        error: ConfigurationError,
    },
    /// No file has a network of that name.
    #[error("no network {name:?} in {}, which has {}", directory.display(), known(networks))]
    Unknown {
        /// The name.
        name: String,
        /// Where it was looked for.
        directory: PathBuf,
        /// The names that are there.
        networks: Vec<String>,
    },
}

fn known(networks: &[String]) -> String {
    if networks.is_empty() { "none".into() } else { networks.join(", ") }
}

/// Reads a configuration, of which nothing but the length is checked.
///
/// # Errors
///
/// When it cannot be read or is too long.
pub fn read_configuration(from: impl Read) -> io::Result<Vec<u8>> {
    store::read_limited(from, USUAL, MAX_CONFIGURATION)
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let read = File::open(path).and_then(read_configuration);
    read.map_err(|error| LoadError::Read { path: path.to_owned(), error })
}

/// Loads the configuration of a file: a list, or one plugin. A list's plugins may also be in files of their own, in the
/// directory beside it that has the network's name.
///
/// # Errors
///
/// When it cannot be read or is not valid.
pub fn load_file(path: &Path) -> Result<NetworkList, LoadError> {
    let invalid = |error| LoadError::Configuration { path: path.to_owned(), error };
    let (list, files) = NetworkList::read(&read(path)?).map_err(invalid)?;
    let further = match (files, path.parent()) {
        (PluginFiles::Follow, Some(directory)) => load_plugins(&directory.join(list.name().as_str()))?,
        _ => Vec::new(),
    };
    list.completed(further).map_err(invalid)
}

/// The plugins in a directory's `*.conf`, in the order of their names. A directory that does not exist has none.
fn load_plugins(directory: &Path) -> Result<Vec<Plugin>, LoadError> {
    let plugin = |path: PathBuf| {
        let text = read(&path)?;
        let object = serde_json::from_slice(&text).map_err(|error| ConfigurationError::Json(error.to_string()));
        object.and_then(Plugin::new).map_err(|error| LoadError::Configuration { path, error })
    };
    list(directory, &["conf"])?.into_iter().map(plugin).collect()
}

/// The files of a directory with one of these endings, sorted.
fn list(directory: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, LoadError> {
    let failed = |error| LoadError::Read { path: directory.to_owned(), error };
    let entries = match fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let has_ending = path.extension().and_then(OsStr::to_str).is_some_and(|ending| endings.contains(&ending));
        if has_ending && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Loads a network by its name: from the first `*.conflist` that has it, else from the first `*.conf` or `*.json`.
///
/// # Errors
///
/// When no file has it. A file before it that cannot be read is an error too, as for libcni.
pub fn load_by_name(directory: &Path, name: &str) -> Result<NetworkList, LoadError> {
    let mut networks = Vec::new();
    for endings in [&["conflist"][..], &["conf", "json"]] {
        for path in list(directory, endings)? {
            let network = load_file(&path)?;
            if network.name().as_str() == name {
                return Ok(network);
            }
            networks.push(network.name().to_string());
        }
    }
    Err(LoadError::Unknown { name: name.into(), directory: directory.to_owned(), networks })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        directory
    }

    fn kinds(list: &NetworkList) -> Vec<&str> {
        list.plugins().iter().map(Plugin::kind).collect()
    }

    #[test]
    fn a_network_is_found_by_its_name_lists_first() {
        let directory = directory(&[
            ("10-a.conf", r#"{"name":"a","type":"single"}"#),
            ("20-a.conflist", r#"{"name":"a","plugins":[{"type":"listed"}]}"#),
            ("30-b.json", r#"{"name":"b","type":"json"}"#),
            ("README", "no configuration"),
            ("deeper/c.conf", r#"{"name":"c","type":"deeper"}"#),
        ]);
        assert_eq!(kinds(&load_by_name(directory.path(), "a").unwrap()), ["listed"]);
        assert_eq!(kinds(&load_by_name(directory.path(), "b").unwrap()), ["json"]);
        let error = load_by_name(directory.path(), "c").unwrap_err().to_string();
        assert!(error.ends_with("which has a, a, b"), "{error}");
        let error = load_by_name(&directory.path().join("none"), "c").unwrap_err().to_string();
        assert!(error.ends_with("which has none"), "{error}");
    }

    #[test]
    fn a_malformed_file_before_the_network_is_an_error() {
        let directory = directory(&[("1.conf", "{"), ("2.conf", r#"{"name":"a","type":"p"}"#)]);
        let error = load_by_name(directory.path(), "a").unwrap_err().to_string();
        assert!(error.contains("1.conf: invalid JSON"), "{error}");
    }

    #[test]
    fn plugins_may_be_in_files_of_their_own() {
        let directory = directory(&[
            ("n.conflist", r#"{"name":"n","cniVersion":"1.1.0","plugins":[{"type":"first"}]}"#),
            ("inline.conflist", r#"{"name":"n","loadOnlyInlinedPlugins":true,"plugins":[{"type":"first"}]}"#),
            ("empty.conflist", r#"{"name":"empty","cniVersion":"1.1.0"}"#),
            ("n/20.conf", r#"{"type":"third"}"#),
            ("n/10.conf", r#"{"type":"second"}"#),
            ("n/x.json", r#"{"type":"none"}"#),
        ]);
        let list = load_file(&directory.path().join("n.conflist")).unwrap();
        assert_eq!(kinds(&list), ["first", "second", "third"]);
        assert_eq!(kinds(&NetworkList::from_json(&list.text).unwrap()), ["first", "second", "third"]);
        assert_eq!(kinds(&load_file(&directory.path().join("inline.conflist")).unwrap()), ["first"]);
        let error = load_file(&directory.path().join("empty.conflist")).unwrap_err().to_string();
        assert!(error.ends_with(r#""plugins" is empty"#), "{error}");
    }
}
