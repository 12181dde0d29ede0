//! Registration of a device plugin, API v1beta1, on `device-plugins/kubelet.sock`.

use std::{path::Path, time::Duration};

use proto::deviceplugin::{DevicePluginOptions, RegisterRequest, VERSION, registration_client::RegistrationClient};
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::{connection::connect, error::Error};

/// A device plugin. It must serve already: the kubelet calls it before it answers the registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePlugin {
    /// The name of the extended resource.
    pub resource: String,
    /// The file name of the plugin's socket in the kubelet's directory, without that directory.
    pub endpoint: String,
    /// What the plugin can do. The kubelet ignores this and asks the plugin.
    pub options: DevicePluginOptions,
}

/// The kubelet, connected.
#[derive(Debug)]
pub struct DevicePluginRegistry {
    client: RegistrationClient<Channel>,
    deadline: Duration,
}

impl DevicePluginRegistry {
    /// Connects to the kubelet. The deadline is that of the connection, and again of the registration, within which the
    /// kubelet takes up to 10 s to connect to the plugin.
    ///
    /// # Errors
    ///
    /// When the kubelet does not listen on that socket.
    pub async fn connect(socket: &Path, deadline: Duration) -> Result<Self, Error> {
        let client = RegistrationClient::new(connect(socket, deadline).await?);
        Ok(Self { client, deadline })
    }

    /// Registers the plugin. The connection is not needed afterwards.
    ///
    /// # Errors
    ///
    /// When the kubelet refuses, or does not answer in time.
    pub async fn register(mut self, plugin: DevicePlugin) -> Result<(), Error> {
        let DevicePlugin { resource, endpoint, options } = plugin;
        let version = VERSION.into();
        let request = RegisterRequest { version, endpoint, resource_name: resource, options: Some(options) };
        match timeout(self.deadline, self.client.register(request)).await {
            Err(_) => Err(Error::RegisterTimedOut(self.deadline)),
            Ok(Err(status)) => Err(Error::RegisterRefused(Box::new(status))),
            Ok(Ok(_)) => Ok(()),
        }
    }
}
