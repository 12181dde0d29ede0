//! The client of the API server, with what Kubernetes gives a Pod's containers: a token, a certificate, an address.
//!
//! It is there only while there is something to post, so that a node on which nothing happens pays nothing for it.

use std::{env, path::Path, time::Duration};

use kube::{Client, Config};

/// The token of the Pod's service account.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// How long a connection may take, and silence on it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The cryptography is written for processors of about 2014 and later, and ends the process on others.
    #[error("this processor lacks instructions that TLS is done with here")]
    Processor,
    /// What Kubernetes gives is not there, or not whole.
    #[error("the service account cannot be used")]
    ServiceAccount(#[source] kube::config::InClusterError),
    /// What it gives does not make a client.
    #[error("no connection to the API server can be prepared")]
    Client(#[source] kube::Error),
}

/// Whether this process is in a Pod that has a service account's token.
pub(super) fn has_service_account() -> bool {
    env::var_os("KUBERNETES_SERVICE_HOST").is_some() && Path::new(TOKEN).exists()
}

/// The client of this Pod.
pub(super) fn in_cluster() -> Result<Client, ConnectError> {
    client(Config::incluster().map_err(ConnectError::ServiceAccount)?)
}

/// A client; nothing is sent yet.
pub(super) fn client(mut config: Config) -> Result<Client, ConnectError> {
    if !is_processor_supported() {
        return Err(ConnectError::Processor);
    }
    // whoever installed it first has installed the same
    let _ = rustls_graviola::default_provider().install_default();
    let timeout = Some(TIMEOUT);
    // we try again ourselves: less often, and only while nobody wants the agent to end
    config.default_retry = false;
    (config.connect_timeout, config.read_timeout, config.write_timeout) = (timeout, timeout, timeout);
    Client::try_from(config).map_err(ConnectError::Client)
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
