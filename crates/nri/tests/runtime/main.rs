//! A plugin beside the stand-in for a runtime, over real sockets.
//!
//! Time stands still while anybody has something to do, and jumps to the next deadline when nobody has: no test depends
//! on how fast the machine is, and what hangs fails at once.

#![allow(clippy::unwrap_used, reason = "what sets a test up fails with the test")]

mod faults;
mod handshake;
mod plugin;
mod pre_launched;
mod requests;
mod rig;
mod synchronize;
