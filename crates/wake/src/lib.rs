//! When a task runs again: after a change on disk ([`Directories`], [`FileIdentity`]), after a tick ([`Ticks`]), or
//! after the pause that follows a failure ([`Backoff`]).
//!
//! A crate of its own because the device plugin, the NRI plugin and the agent need it and must not depend on each other.
//! An idle process wakes up once in a few seconds and has no thread for any of this.

mod backoff;
mod directories;
mod identity;
mod ticks;

pub use backoff::Backoff;
pub use directories::{Changes, Directories};
pub use identity::FileIdentity;
pub use ticks::Ticks;
