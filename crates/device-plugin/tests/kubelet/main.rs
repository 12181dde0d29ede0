//! The plugin against a kubelet that speaks the real protocol. `defect_N` is a regression test of that number in the
//! list of the original plugin's defects.

#![allow(clippy::unwrap_used, reason = "what sets a test up fails with the test")]

mod allocation;
mod cdi;
mod listing;
mod node;
mod recovery;
mod registration;
