//! The client of the API server, with what Kubernetes gives a Pod's containers: a token, a certificate, an address.
//!
//! It is there only while there is something to post, so that a node on which nothing happens pays nothing for it.

use std::{env, path::Path, sync::Arc};

use kube::Client;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem, pem::PemObject},
};
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tower::service_fn;

use super::transport::{Security, Server, Transport};

/// Where Kubernetes puts the certificates that the API server's is signed with.
const CERTIFICATES: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
/// The token of the Pod's service account.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// Where the API server is.
const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The cryptography is written for processors of about 2014 and later, and ends the process on others.
    #[error("this processor lacks instructions that TLS is done with here")]
    Processor,
    /// The environment does not say where the API server is.
    #[error("{HOST} and {PORT} do not say where the API server is")]
    Address,
    /// The address is no name that a certificate could be for.
    #[error("{HOST} is neither an address nor a name")]
    Host(#[source] InvalidDnsNameError),
    /// The certificates cannot be read.
    #[error("{CERTIFICATES} cannot be read")]
    Certificates(#[source] pem::Error),
    /// They are none that TLS can be done with.
    #[error("{CERTIFICATES} cannot be used")]
    Tls(#[source] rustls::Error),
}

/// Whether this process is in a Pod that has a service account's token.
pub(super) fn has_service_account() -> bool {
    env::var_os(HOST).is_some() && Path::new(TOKEN).exists()
}

/// The client of this Pod; nothing is sent yet.
pub(super) fn in_cluster() -> Result<Client, ConnectError> {
    if !is_processor_supported() {
        return Err(ConnectError::Processor);
    }
    let host = env::var(HOST).map_err(|_| ConnectError::Address)?;
    let port = env::var(PORT).ok().and_then(|port| port.parse().ok()).ok_or(ConnectError::Address)?;
    let name = ServerName::try_from(host.clone()).map_err(ConnectError::Host)?;
    let security = Security::Tls(TlsConnector::from(Arc::new(tls()?)), name);
    Ok(client(Server { host, port, security, token: Path::new(TOKEN).into() }))
}

/// A client; nothing is sent yet.
pub(super) fn client(server: Server) -> Client {
    let transport = Arc::new(Mutex::new(Transport::new(server)));
    let service = service_fn(move |request| {
        let transport = transport.clone();
        async move { transport.lock().await.send(request).await }
    });
    Client::new(service, "default")
}

/// TLS with a server whose certificate the cluster signed.
fn tls() -> Result<ClientConfig, ConnectError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(CERTIFICATES).map_err(ConnectError::Certificates)? {
        roots.add(certificate.map_err(ConnectError::Certificates)?).map_err(ConnectError::Tls)?;
    }
    let provider = Arc::new(rustls_graviola::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(ConnectError::Tls)?.with_root_certificates(roots).with_no_client_auth())
}

/// What graviola asserts of the processor.
#[cfg(target_arch = "x86_64")]
fn is_processor_supported() -> bool {
    std::arch::is_x86_feature_detected!("adx")
        && std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("avx")
        && std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("bmi1")
        && std::arch::is_x86_feature_detected!("bmi2")
        && std::arch::is_x86_feature_detected!("pclmulqdq")
}

/// What graviola asserts of the processor.
#[cfg(target_arch = "aarch64")]
fn is_processor_supported() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
        && std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull")
        && std::arch::is_aarch64_feature_detected!("sha2")
}
