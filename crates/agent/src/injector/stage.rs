//! When a Pod that does not get its devices is refused: with its sandbox, or with its first container.

use std::fmt;

/// What is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The sandbox: the Pod fails at once.
    #[default]
    Sandbox,
    /// The container: these versions of containerd leak the pause process and network namespace of a sandbox that a plugin
    /// refused (containerd#13355, fixed in 2.2.6 and 2.3.3).
    Container,
}

/// Differences between runtimes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) stage: Stage,
    /// containerd passes no network namespace for a Pod on the node's own network. CRI-O passes one, and may omit that of
    /// another Pod.
    pub(super) none_is_host_network: bool,
}

impl Peer {
    /// By the runtime's name and version.
    pub(super) fn of(runtime: &str, version: &str) -> Self {
        Self { stage: Stage::of(runtime, version), none_is_host_network: runtime == "containerd" }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Sandbox => "sandbox",
            Self::Container => "first container",
        })
    }
}

impl Stage {
    /// The stage for a runtime, by its name and version, such as "containerd" and "v2.1.5".
    pub(crate) fn of(runtime: &str, version: &str) -> Self {
        if runtime != "containerd" {
            return Self::Sandbox;
        }
        let version = version.strip_prefix('v').unwrap_or(version);
        let mut parts = version.split(['.', '-', '+', '~']).map(|part| part.parse::<u32>().ok());
        match [parts.next().flatten(), parts.next().flatten(), parts.next().flatten()] {
            [Some(2), Some(0 | 1), _] => Self::Container,
            [Some(2), Some(2), patch] if patch.is_none_or(|patch| patch < 6) => Self::Container,
            [Some(2), Some(3), patch] if patch.is_none_or(|patch| patch < 3) => Self::Container,
            _ => Self::Sandbox,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_refused_where_the_runtime_cleans_up_after_it() {
        let table = [
            ("containerd", "1.7.24~ds1", Stage::Sandbox),
            ("containerd", "v1.7.27", Stage::Sandbox),
            ("containerd", "v2.0.0", Stage::Container),
            ("containerd", "2.1.9+unknown", Stage::Container),
            ("containerd", "v2.2.5", Stage::Container),
            ("containerd", "v2.2.6", Stage::Sandbox),
            ("containerd", "v2.2.0-rc.1", Stage::Container),
            ("containerd", "v2.3.2", Stage::Container),
            ("containerd", "v2.3.3", Stage::Sandbox),
            ("containerd", "v2.3.x", Stage::Container),
            ("containerd", "v2.4.0-beta.0", Stage::Sandbox),
            ("containerd", "v3.0.0", Stage::Sandbox),
            ("cri-o", "1.35.0", Stage::Sandbox),
            ("containerd", "", Stage::Sandbox),
        ];
        for (runtime, version, stage) in table {
            assert_eq!(Stage::of(runtime, version), stage, "{runtime} {version}");
        }
    }
}
