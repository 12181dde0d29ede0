//! What Kubernetes gives the containers of a Pod: certificates and a token.

use std::{path::Path, sync::Arc};

use hyper::header::HeaderValue;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{
    container::CERTIFICATES,
    error::{ConnectError, SendError},
};

/// The header that a token is sent in; read anew each time.
pub(super) fn bearer(token: &Path) -> Result<HeaderValue, SendError> {
    let token = std::fs::read_to_string(token).map_err(SendError::Token)?;
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.trim())).map_err(SendError::Header)?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

/// TLS with a server whose certificate the cluster signed.
pub(super) fn tls() -> Result<ClientConfig, ConnectError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(CERTIFICATES).map_err(ConnectError::Certificates)? {
        roots.add(certificate.map_err(ConnectError::Certificates)?).map_err(ConnectError::Tls)?;
    }
    let provider = Arc::new(rustls_graviola::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(ConnectError::Tls)?.with_root_certificates(roots).with_no_client_auth())
}

/// Whether graviola, which asserts these instructions, can be used.
#[cfg(target_arch = "x86_64")]
pub(super) fn is_processor_supported() -> bool {
    std::arch::is_x86_feature_detected!("adx")
        && std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("avx")
        && std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("bmi1")
        && std::arch::is_x86_feature_detected!("bmi2")
        && std::arch::is_x86_feature_detected!("pclmulqdq")
}

/// Whether graviola, which asserts these instructions, can be used.
#[cfg(target_arch = "aarch64")]
pub(super) fn is_processor_supported() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
        && std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull")
        && std::arch::is_aarch64_feature_detected!("sha2")
}
