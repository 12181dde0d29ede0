//! Where Kubernetes puts what a container needs to use the API server.

/// Environment variables with the address of the API server.
pub(super) const HOST: &str = "KUBERNETES_SERVICE_HOST";
pub(super) const PORT: &str = "KUBERNETES_SERVICE_PORT";
/// The certificates that the API server's is signed with.
pub(super) const CERTIFICATES: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
/// The token of the Pod's service account. The kubelet replaces it before it expires.
pub(super) const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
