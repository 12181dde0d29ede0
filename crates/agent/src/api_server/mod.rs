//! The API server: the only module of the agent that knows its address and protocol.
//!
//! A [`Client`] of kube makes requests and reads answers; its `Api` gets, lists, watches and patches objects. This module
//! sends them: connections with TLS, the token of the service account, limits of time and size. Nothing is retried, except
//! for a request whose token was replaced meanwhile: the caller decides on the pause after a failure.

mod connection;
mod container;
mod credentials;
mod error;
mod idle;
mod limits;
mod pool;
mod response;
#[cfg(test)]
pub(crate) mod stand_in;
#[cfg(test)]
mod tests;

use std::{
    env,
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use kube::Client;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tower::service_fn;

use connection::{Security, Server};
use container::{HOST, PORT, TOKEN};
pub(crate) use error::ConnectError;
use pool::Pool;

/// The API server of the cluster.
///
/// Its clients share connections, which end with the last client: an agent without requests has no connection.
#[derive(Debug, Clone)]
pub(crate) struct ApiServer {
    source: Source,
    pool: Arc<Mutex<Weak<Pool>>>,
}

/// Where it is.
#[derive(Debug, Clone)]
enum Source {
    /// At the address in the environment, with the service account of this Pod.
    Cluster,
    /// A server of a test, without TLS, with the token of that file.
    #[cfg(test)]
    Test { port: u16, token: Arc<Path> },
}

impl ApiServer {
    /// That of the cluster; none where this process has no service account.
    pub(crate) fn in_cluster() -> Option<Self> {
        let has_service_account = env::var_os(HOST).is_some() && Path::new(TOKEN).exists();
        has_service_account.then(|| Self { source: Source::Cluster, pool: Arc::default() })
    }

    /// One on a port of this machine.
    #[cfg(test)]
    pub(crate) fn of_test(port: u16, token: &Path) -> Self {
        Self { source: Source::Test { port, token: token.into() }, pool: Arc::default() }
    }

    /// Whether a client is left that may hold connections.
    #[cfg(test)]
    fn has_connections(&self) -> bool {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0
    }

    /// A client; nothing is sent yet.
    pub(crate) fn client(&self) -> Result<Client, ConnectError> {
        let mut shared = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = match shared.upgrade() {
            Some(pool) => pool,
            None => Pool::new(self.source.server()?),
        };
        *shared = Arc::downgrade(&pool);
        drop(shared);
        let send = service_fn(move |request| {
            let pool = pool.clone();
            async move { pool.send(request).await }
        });
        Ok(Client::new(send, "default"))
    }
}

impl Source {
    fn server(&self) -> Result<Server, ConnectError> {
        match self {
            Self::Cluster => {
                if !credentials::is_processor_supported() {
                    return Err(ConnectError::Processor);
                }
                let host = env::var(HOST).map_err(|_| ConnectError::Address)?;
                let port = env::var(PORT).ok().and_then(|port| port.parse().ok()).ok_or(ConnectError::Address)?;
                let name = ServerName::try_from(host.clone()).map_err(ConnectError::Host)?;
                let security = Security::Tls(TlsConnector::from(Arc::new(credentials::tls()?)), name);
                Ok(Server { host, port, security, token: Path::new(TOKEN).into() })
            }
            #[cfg(test)]
            Self::Test { port, token } => {
                Ok(Server { host: "127.0.0.1".into(), port: *port, security: Security::None, token: token.clone() })
            }
        }
    }
}
