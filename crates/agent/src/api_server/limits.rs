//! Limits of time and size for requests and answers.

use std::time::Duration;

/// How long one request may take, from the wait for a connection to the end of the answer; of a watch, to its beginning.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a watch may last: kube asks the API server to end it after less than 295 s.
pub(super) const WATCH_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest answer in bytes, except for a watch.
pub(super) const MAX_ANSWER: usize = 8 << 20;
/// Longest object in a watch, in bytes: etcd takes 1.5 MiB.
pub(super) const MAX_OBJECT: usize = 2 << 20;
