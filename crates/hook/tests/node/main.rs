//! The hook in real namespaces: each test makes a host and sandboxes of its own, starts the real program as a runtime
//! does, and compares the host before and after completely.

mod home;
mod hostile;
mod input;
mod kill;
mod routes;
mod sandboxes;
mod support;
mod uplink;
