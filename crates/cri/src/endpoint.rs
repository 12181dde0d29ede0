//! A runtime's socket, and who named it.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The environment variable that crictl, and the kubelet's tools, read.
pub const ENVIRONMENT: &str = "CONTAINER_RUNTIME_ENDPOINT";
/// The configuration file of crictl.
pub const CRICTL_CONFIGURATION: &str = "/etc/crictl.yaml";

/// A runtime's unix socket: an absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(PathBuf);

impl Endpoint {
    /// A path that is known to be one.
    pub(crate) fn known(path: &str) -> Self {
        Self(path.into())
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_unix_socket_with_or_without_a_scheme() {
        for text in ["/run/a.sock", "unix:///run/a.sock", "unix:/run/a.sock"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), "/run/a.sock");
        }
        for text in
            ["", "unix://", "run/a.sock", "unix://run/a.sock", "tcp://127.0.0.1:1", "npipe:////./pipe/x", "/run/"]
        {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert_eq!(error, format!("invalid runtime endpoint {text:?}: must be unix:///PATH or an absolute path"));
        }
    }
}
