//! Which sockets may be the runtime's.

use std::{ffi::OsStr, fs, io, path::Path};

use serde::Deserialize;

use crate::{
    endpoint::{CRICTL_CONFIGURATION, Endpoint, Origin},
    error::Error,
};

/// Where runtimes listen, the commonest first. `/run/k3s` is also that of RKE2.
const KNOWN: [&str; 9] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
    "/run/cri-dockerd.sock",
    // where /var/run is not a link to /run: a container that has only the one mounted
    "/var/run/containerd/containerd.sock",
    "/var/run/crio/crio.sock",
    "/var/run/cri-dockerd.sock",
];

/// The sockets to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidates {
    /// This one: it was named.
    One(Endpoint, Origin),
    /// In turn, until one answers.
    Known(Vec<Endpoint>),
}

/// The part of crictl's configuration that says where the runtime is.
#[derive(Debug, Default, Deserialize)]
struct CrictlConfiguration {
    #[serde(default, rename = "runtime-endpoint")]
    runtime_endpoint: Option<String>,
}

impl Candidates {
    /// The first that is named counts: on the command line, in the variable [`crate::ENVIRONMENT`], in the text of
    /// [`CRICTL_CONFIGURATION`]. An empty one is none.
    ///
    /// # Errors
    ///
    /// When what the environment or crictl's configuration names is not a unix socket, or the latter is not YAML.
    pub fn choose(
        flag: Option<&Endpoint>,
        environment: Option<&OsStr>,
        crictl_configuration: Option<&str>,
    ) -> Result<Self, Error> {
        if let Some(endpoint) = flag {
            return Ok(Self::One(endpoint.clone(), Origin::Flag));
        }
        let environment = environment.map(OsStr::to_string_lossy);
        if let Some(text) = environment.filter(|text| !text.is_empty()) {
            return Self::named(&text, Origin::Environment);
        }
        let configuration = crictl_configuration.map_or(Ok(None), configuration)?;
        match configuration.and_then(|configuration| configuration.runtime_endpoint) {
            Some(text) if !text.is_empty() => Self::named(&text, Origin::Crictl),
            _ => Ok(Self::Known(KNOWN.iter().map(|path| Endpoint::known(path)).collect())),
        }
    }

    /// As [`Candidates::choose`], with the configuration of crictl on this machine.
    ///
    /// # Errors
    ///
    /// As there, and when the file cannot be read.
    pub fn find(flag: Option<&Endpoint>, environment: Option<&OsStr>) -> Result<Self, Error> {
        let is_named = flag.is_some() || environment.is_some_and(|text| !text.is_empty());
        let configuration = if is_named { None } else { read_crictl_configuration(Path::new(CRICTL_CONFIGURATION))? };
        Self::choose(flag, environment, configuration.as_deref())
    }

    fn named(text: &str, origin: Origin) -> Result<Self, Error> {
        let endpoint = text.parse().map_err(|cause| Error::InvalidEndpoint { origin, cause })?;
        Ok(Self::One(endpoint, origin))
    }
}

/// An empty file is a valid one.
fn configuration(text: &str) -> Result<Option<CrictlConfiguration>, Error> {
    serde_saphyr::from_str(text).map_err(|cause| Error::CrictlConfiguration(Box::new(cause)))
}

/// The text of crictl's configuration; none when there is no such file.
///
/// # Errors
///
/// When it cannot be read.
pub fn read_crictl_configuration(file: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Error::CrictlConfigurationUnreadable { file: file.to_owned(), cause }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(path: &str) -> Endpoint {
        path.parse().unwrap()
    }

    fn one(path: &str, origin: Origin) -> Candidates {
        Candidates::One(endpoint(path), origin)
    }

    #[test]
    fn the_flag_counts_before_the_environment_and_that_before_crictls_configuration() {
        let (flag, environment, crictl) =
            (endpoint("/a"), OsStr::new("unix:///b"), "timeout: 10\nruntime-endpoint: unix:///c\ndebug: false\n");
        let choose = |flag, environment, crictl| Candidates::choose(flag, environment, crictl).unwrap();
        assert_eq!(choose(Some(&flag), Some(environment), Some(crictl)), one("/a", Origin::Flag));
        assert_eq!(choose(None, Some(environment), Some(crictl)), one("/b", Origin::Environment));
        assert_eq!(choose(None, Some(OsStr::new("")), Some(crictl)), one("/c", Origin::Crictl));
        for nothing in [
            None,
            Some(""),
            Some("# empty\n"),
            Some("timeout: 10\n"),
            Some("runtime-endpoint: \"\"\n"),
            Some("runtime-endpoint:\n"),
        ] {
            let Candidates::Known(known) = choose(None, None, nothing) else { panic!("{nothing:?}") };
            assert_eq!(known[0], endpoint("/run/containerd/containerd.sock"));
        }
    }

    #[test]
    fn a_wrong_name_is_refused_with_who_said_it() {
        let refused = |environment, crictl| Candidates::choose(None, environment, crictl).unwrap_err().to_string();
        assert_eq!(
            refused(Some(OsStr::new("tcp://x")), None),
            r#"CONTAINER_RUNTIME_ENDPOINT: invalid runtime endpoint "tcp://x": must be unix:///PATH or an absolute path"#
        );
        assert_eq!(
            refused(None, Some("runtime-endpoint: npipe:////./pipe/x")),
            r#"/etc/crictl.yaml: invalid runtime endpoint "npipe:////./pipe/x": must be unix:///PATH or an absolute path"#
        );
        for broken in ["runtime-endpoint: [", "- a", "runtime-endpoint: {a: b}"] {
            let error = refused(None, Some(broken));
            assert!(error.starts_with("invalid YAML in /etc/crictl.yaml: "), "{broken}: {error}");
        }
    }

    #[test]
    fn crictls_configuration_need_not_exist_but_must_be_readable() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read_crictl_configuration(&directory.path().join("crictl.yaml")).unwrap(), None);
        let error = read_crictl_configuration(directory.path()).unwrap_err().to_string();
        assert!(error.starts_with("cannot read ") && error.ends_with("pass -runtime-endpoint"), "{error}");
    }
}
