//! Problems that prevent Pods from getting devices, or may: for `/readyz`, the metrics and `netdevctl explain`.
//!
//! Each part of the agent reports and logs its own problems. A report is valid until that part reports again.

use std::fmt;

/// Kinds of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// The agent has just started.
    Starting,
    /// The hook is not installed, or the runtime cannot start it.
    Hook,
    /// A resource is not registered with the kubelet.
    Registration,
    /// Another CDI file names the same devices.
    CdiConflict,
    /// A CDI file seems to be for the offered devices, and the runtime ignores it.
    CdiIgnored,
    /// A container runs without its device.
    HookNotRun,
    /// The injector is not connected to the runtime.
    Runtime,
    /// The limit of open files is too low.
    Descriptors,
    /// The namespaces of virtual devices cannot be pinned.
    Pins,
    /// A device has another name on the host, because its own is in use.
    Name,
}

impl Kind {
    /// All kinds, and their names in metrics.
    pub(crate) const ALL: [(Self, &'static str); 10] = [
        (Self::Starting, "starting"),
        (Self::Hook, "hook"),
        (Self::Registration, "registration"),
        (Self::CdiConflict, "cdi_conflict"),
        (Self::CdiIgnored, "cdi_ignored"),
        (Self::HookNotRun, "hook_not_run"),
        (Self::Runtime, "runtime"),
        (Self::Descriptors, "descriptors"),
        (Self::Pins, "pins"),
        (Self::Name, "name"),
    ];

    /// Whether Pods get no device, or run without one, while the problem lasts.
    pub(crate) fn is_obstacle(self) -> bool {
        !matches!(self, Self::CdiIgnored | Self::Descriptors | Self::Pins | Self::Name)
    }
}

/// A problem, with what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}", if self.kind.is_obstacle() { "" } else { "warning: " }, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_and_warnings_say_that_they_are() {
        let text = |kind| Problem { kind, text: "x".into() }.to_string();
        let warnings: Vec<&str> =
            Kind::ALL.iter().filter(|(kind, _)| text(*kind) == "warning: x").map(|(_, name)| *name).collect();
        assert_eq!(warnings, ["cdi_ignored", "descriptors", "pins", "name"]);
    }
}
