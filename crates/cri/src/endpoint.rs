//! Which sockets may be the runtime's.

use std::{
    ffi::OsStr,
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;

use crate::error::Error;

/// The environment variable that crictl, and the kubelet's tools, read.
pub const ENVIRONMENT: &str = "CONTAINER_RUNTIME_ENDPOINT";
/// The configuration file of crictl.
pub const CRICTL_CONFIGURATION: &str = "/etc/crictl.yaml";

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

/// A runtime's unix socket: an absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(PathBuf);

impl Endpoint {
    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(out)
    }
}

/// The text is not a unix socket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid runtime endpoint {0:?}: must be unix:///PATH or an absolute path")]
pub struct InvalidEndpoint(String);

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    /// Reads `unix:///path`, `unix:/path` or `/path`.
    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or(text);
        let is_path = path.starts_with('/') && !path.ends_with('/') && !path.contains('\0');
        if is_path { Ok(Self(path.into())) } else { Err(InvalidEndpoint(text.into())) }
    }
}

/// Who named an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// The environment variable [`ENVIRONMENT`].
    Environment,
    /// The configuration file of crictl.
    Crictl,
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => out.write_str("-runtime-endpoint"),
            Self::Environment => out.write_str(ENVIRONMENT),
            Self::Crictl => out.write_str(CRICTL_CONFIGURATION),
        }
    }
}

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
    /// The first that is named counts: on the command line, in the variable [`ENVIRONMENT`], in the text of
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
            _ => Ok(Self::Known(KNOWN.iter().map(|path| Endpoint(path.into())).collect())),
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
    fn an_endpoint_is_a_unix_socket_with_or_without_a_scheme() {
        for text in ["/run/a.sock", "unix:///run/a.sock", "unix:/run/a.sock"] {
            assert_eq!(endpoint(text).to_string(), "/run/a.sock");
        }
        for text in
            ["", "unix://", "run/a.sock", "unix://run/a.sock", "tcp://127.0.0.1:1", "npipe:////./pipe/x", "/run/"]
        {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert_eq!(error, format!("invalid runtime endpoint {text:?}: must be unix:///PATH or an absolute path"));
        }
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
