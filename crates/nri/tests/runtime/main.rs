//! A plugin beside the stand-in for a runtime, over real sockets.

#![allow(clippy::unwrap_used, reason = "what sets a test up fails with the test")]

mod faults;
mod handshake;
mod plugin;
mod pre_launched;
mod requests;
mod rig;
mod synchronize;
