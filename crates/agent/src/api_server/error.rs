//! Errors of requests to the API server.

use std::io;

use hyper::header::InvalidHeaderValue;
use rustls::pki_types::{InvalidDnsNameError, pem};
use tokio::time::error::Elapsed;

use super::{
    container::{CERTIFICATES, HOST, PORT},
    limits::{MAX_ANSWER, MAX_OBJECT, TIMEOUT, WATCH_TIMEOUT},
};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The cryptography is written for processors of about 2014 and later, and ends the process on others.
    #[error("this processor lacks instructions that TLS needs here (AES, AVX2, BMI2, ADX or their ARM equivalents)")]
    Processor,
    /// The environment does not say where the API server is.
    #[error("{HOST} and {PORT} are not set to the address of the API server")]
    Address,
    /// The address is not a name that a certificate could be for.
    #[error("{HOST} is neither an IP address nor a DNS name")]
    Host(#[source] InvalidDnsNameError),
    /// The certificates cannot be read.
    #[error("cannot read {CERTIFICATES}")]
    Certificates(#[source] pem::Error),
    /// TLS cannot use the certificates.
    #[error("cannot use the certificates in {CERTIFICATES}")]
    Tls(#[source] rustls::Error),
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("cannot read the token of the service account")]
    Token(#[source] io::Error),
    #[error("the address of the API server or the token cannot be in a header")]
    Header(#[source] InvalidHeaderValue),
    #[error("cannot read the body of the request")]
    Request(#[source] Box<kube::Error>),
    #[error("cannot connect to the API server")]
    Connect(#[source] io::Error),
    #[error("the connection to the API server failed")]
    Http(#[source] hyper::Error),
    #[error("the API server did not answer within {} s", TIMEOUT.as_secs())]
    Timeout(#[source] Elapsed),
}

/// Why an answer is not complete.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    #[error("the connection to the API server failed")]
    Http(#[source] hyper::Error),
    #[error("the API server's answer was not complete within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("the API server did not end the watch within {} s", WATCH_TIMEOUT.as_secs())]
    WatchTimeout,
    #[error("the API server's answer is larger than {MAX_ANSWER} bytes")]
    TooLong,
    #[error("an object in the API server's watch is larger than {MAX_OBJECT} bytes")]
    ObjectTooLong,
}
