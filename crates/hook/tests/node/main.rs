//! The hook in real namespaces: each test makes a host and sandboxes of its own, starts the real program as a runtime
//! does, and compares the host before and after completely.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // outside #[test] functions too: all of it is a test

mod announce;
mod claims;
mod command;
mod configured;
mod created;
mod devices;
mod home;
mod hostile;
mod input;
mod kept;
mod kill;
mod kill_command;
mod kill_configured;
mod leftovers;
mod pins;
mod routes;
mod sandboxes;
mod settings;
mod support;
mod uplink;
