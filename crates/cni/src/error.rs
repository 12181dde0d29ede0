//! What can go wrong between this runtime and its plugins.

use std::{fmt, path::PathBuf, time::Duration};

use crate::{
    cache::CacheError, call::Verb, capability::CapabilityError, configuration::Plugin, delegate::DelegateError,
    name::NetworkName, result::ResultError, version::Version,
};

/// A call of a plugin that failed.
#[derive(Debug)]
pub struct PluginFailure {
    /// The plugin's type.
    pub plugin: String,
    /// The call.
    pub verb: Verb,
    /// Why.
    pub reason: Reason,
    /// What it wrote to standard error, at most the last 16 KiB.
    pub stderr: String,
}

/// Why a call of a plugin failed.
#[derive(Debug)]
pub enum Reason {
    /// An error object of the specification (section 5).
    Refused {
        /// 1 to 99 are the specification's, from 100 on the plugin's own.
        code: u64,
        /// One line.
        msg: String,
        /// More, if there is more.
        details: String,
    },
    /// It exited with this status and wrote no error object, but perhaps something else.
    Exited(i32, String),
    /// This signal ended it.
    Signalled(i32),
    /// It took longer than that.
    TimedOut(Duration),
    /// This program was asked to end.
    Stopped,
    /// It wrote more than a mebibyte.
    TooLong,
    /// It exited with status 0, and its result cannot be used.
    Result(ResultError),
    /// It is in none of the directories.
    NotFound(Vec<PathBuf>),
    /// It cannot be started, or not be waited for.
    Start(std::io::Error),
    /// It does not speak the version of the network.
    Version {
        /// Those that the network may be used in.
        wanted: Vec<Version>,
        /// Those that the plugin says.
        supported: Vec<String>,
    },
}

impl Reason {
    /// What a code of the specification means.
    fn meaning(code: u64) -> Option<&'static str> {
        Some(match code {
            1 => "incompatible CNI version",
            2 => "unsupported field in the network configuration",
            3 => "container unknown or does not exist",
            4 => "invalid environment variables",
            5 => "I/O failure",
            6 => "failed to decode content",
            7 => "invalid network configuration",
            8 => "invalid network namespace",
            11 => "try again later",
            50 => "the plugin is not available",
            51 => "the plugin is not available, and existing containers may have limited connectivity",
            _ => return None,
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, msg, details } => {
                write!(out, "code {code}")?;
                if let Some(meaning) = Self::meaning(*code) {
                    write!(out, " ({meaning})")?;
                }
                let parts = [msg.as_str(), details.as_str()].into_iter().filter(|part| !part.is_empty());
                parts.into_iter().try_for_each(|part| write!(out, ": {part}"))
            }
            Self::Exited(status, output) if output.is_empty() => write!(out, "exit status {status}"),
            Self::Exited(status, output) => {
                write!(out, "exit status {status}, and its output is no error object: {output:?}")
            }
            Self::Signalled(signal) => write!(out, "ended by signal {signal}"),
            Self::TimedOut(time) => write!(out, "no answer within {time:?}: it was killed"),
            Self::Stopped => write!(out, "killed, because this program was asked to end"),
            Self::TooLong => write!(out, "its output is longer than 1 MiB: it was killed"),
            Self::Result(error) => write!(out, "{error}"),
            Self::NotFound(directories) => {
                let directories: Vec<String> = directories.iter().map(|path| path.display().to_string()).collect();
                write!(out, "no such plugin in {}", directories.join(":"))
            }
            Self::Start(error) => write!(out, "cannot run it: {error}"),
            Self::Version { wanted, supported } => {
                let wanted: Vec<&str> = wanted.iter().map(|version| version.as_str()).collect();
                write!(out, "it supports CNI versions {}, not {}", supported.join(", "), wanted.join(", "))
            }
        }
    }
}

impl fmt::Display for PluginFailure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "plugin {}: {} failed: {}", self.plugin, self.verb, self.reason)?;
        match (&self.reason, self.stderr.as_str()) {
            (Reason::Refused { msg, details, .. }, _) if !msg.is_empty() || !details.is_empty() => Ok(()),
            (_, "") => Ok(()),
            (_, stderr) => write!(out, "; standard error: {stderr}"),
        }
    }
}

impl std::error::Error for PluginFailure {}

impl PluginFailure {
    pub(crate) fn new(plugin: &Plugin, verb: Verb, reason: Reason) -> Self {
        Self { plugin: plugin.kind().to_owned(), verb, reason, stderr: String::new() }
    }
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A plugin.
    #[error(transparent)]
    Plugin(#[from] Box<PluginFailure>),
    /// An argument that no plugin takes.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The program that runs the plugins.
    #[error(transparent)]
    Delegate(#[from] DelegateError),
    /// Its result.
    #[error("network {network}: invalid result: {error}")]
    Result {
        /// The network.
        network: NetworkName,
        /// What is wrong.
        error: ResultError,
    },
    /// CHECK compares with the result of ADD.
    #[error("there is no result of an ADD to check")]
    NoResult,
    /// Before version 0.4.0 plugins know no CHECK, before 1.1.0 no STATUS and GC.
    #[error("network {network} is of CNI version {version}, which has no {verb}")]
    NoVerb {
        /// The network.
        network: NetworkName,
        /// Its version.
        version: Version,
        /// The operation.
        verb: Verb,
    },
    /// Several plugins of a DEL or GC failed; the first one is the reason.
    #[error("{first} (and {} more: {})", others.len(), others.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several {
        /// The first.
        first: Box<PluginFailure>,
        /// The others.
        others: Vec<PluginFailure>,
    },
}

impl From<PluginFailure> for Error {
    fn from(failure: PluginFailure) -> Self {
        Self::Plugin(Box::new(failure))
    }
}

impl Error {
    /// Of the plugins that failed, if any did.
    pub(crate) fn of_all(failures: Vec<PluginFailure>) -> Result<(), Self> {
        let mut failures = failures.into_iter();
        match (failures.next(), failures.collect::<Vec<_>>()) {
            (None, _) => Ok(()),
            (Some(only), others) if others.is_empty() => Err(only.into()),
            (Some(first), others) => Err(Self::Several { first: Box::new(first), others }),
        }
    }
}

/// Why an ADD failed. What its plugins had made is undone, unless [`AddError::undo`] says otherwise.
#[derive(Debug, thiserror::Error)]
#[error("{error}{}", undone(undo.as_deref()))]
pub struct AddError {
    /// The failure.
    pub error: Box<Error>,
    /// What of the undoing failed: the cache has an entry, and a DEL tries again.
    pub undo: Option<Box<Error>>,
}

impl AddError {
    /// Whether a plugin refused its DEL in the words of its ADD: it refuses its configuration, and has made nothing that a
    /// later DEL could delete.
    pub fn is_refused_twice(&self) -> bool {
        let refusal = |error: &Error| match error {
            Error::Plugin(failure) => match &failure.reason {
                Reason::Refused { code, msg, details } => {
                    Some((failure.plugin.clone(), *code, msg.clone(), details.clone()))
                }
                _ => None,
            },
            _ => None,
        };
        let added = refusal(&self.error);
        added.is_some() && added == self.undo.as_deref().and_then(refusal)
    }
}

fn undone(undo: Option<&Error>) -> String {
    undo.map_or_else(String::new, |error| format!("; undoing it failed too, del tries again: {error}"))
}

impl<T: Into<Error>> From<T> for AddError {
    fn from(error: T) -> Self {
        Self { error: Box::new(error.into()), undo: None }
    }
}
