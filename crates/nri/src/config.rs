//! How a plugin connects to its runtime, and under which name.

use std::{ffi::OsString, os::unix::net::UnixStream, path::PathBuf};

use crate::{
    error::Error,
    identity::{PluginIndex, PluginName},
    pre_launched,
};

/// Where runtimes listen by default.
pub const DEFAULT_SOCKET: &str = "/var/run/nri/nri.sock";

/// A plugin's identity and how it connects to the runtime.
#[derive(Debug)]
pub struct Config {
    pub(crate) name: PluginName,
    pub(crate) index: PluginIndex,
    pub(crate) way: Way,
}

/// Which of the two started the other.
#[derive(Debug)]
pub(crate) enum Way {
    /// The plugin connects, and again after each end of a connection.
    External(PathBuf),
    /// The runtime started the plugin with a connected socket; both end together.
    PreLaunched(UnixStream),
}

impl Config {
    /// A plugin that connects to a runtime's socket, and again whenever the connection ended.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] and [`Error::InvalidIndex`].
    pub fn external(name: &str, index: &str, socket: PathBuf) -> Result<Self, Error> {
        Ok(Self { name: name.try_into()?, index: index.try_into()?, way: Way::External(socket) })
    }

    /// A plugin that the runtime started, if the environment says so: `NRI_PLUGIN_NAME`, `NRI_PLUGIN_IDX` and
    /// `NRI_PLUGIN_SOCKET`, the number of a connected socket. `None` without that number.
    ///
    /// Takes that file descriptor over: to be called once, before the process opens or closes others.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], [`Error::InvalidIndex`], and [`Error::AdoptFailed`] when there is no such socket.
    pub fn pre_launched(environment: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, Error> {
        let text = |name| environment(name).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(socket) = environment("NRI_PLUGIN_SOCKET") else { return Ok(None) };
        let (name, index) = (text("NRI_PLUGIN_NAME"), text("NRI_PLUGIN_IDX"));
        let (name, index) = (name.as_str().try_into()?, index.as_str().try_into()?);
        Ok(Some(Self { name, index, way: Way::PreLaunched(pre_launched::adopt(&socket)?) }))
    }

    /// A plugin on a socket that is connected already, as if the runtime had started it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] and [`Error::InvalidIndex`].
    pub fn connected(name: &str, index: &str, socket: UnixStream) -> Result<Self, Error> {
        Ok(Self { name: name.try_into()?, index: index.try_into()?, way: Way::PreLaunched(socket) })
    }
}
