//! When a Pod is refused that does not get its devices: as soon as its sandbox runs, or with its first container.

use std::fmt;

/// Where a refusal does least harm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The sandbox: the Pod fails at once.
    #[default]
    Sandbox,
    /// The container: this containerd forgets the pause process of a sandbox that a plugin refused, and with it the
    /// network namespace (containerd#13355, mended in 2.2.6 and 2.3.3).
    Container,
}

/// What is different from runtime to runtime.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) stage: Stage,
    /// containerd names no network namespace for a Pod on the node's own network. CRI-O names one, and may forget that of
    /// another Pod.
    pub(super) none_is_host_network: bool,
}

impl Peer {
    /// A runtime by what it says of itself.
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
    /// The stage for a runtime by what it says of itself, such as "containerd" and "v2.1.5".
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
