//! The driver against a kubelet and an API server that are played by the test.

mod collect;
mod hanging;
pub(crate) mod killed;
mod prepare;
mod sockets;
mod unprepare;
mod world;
